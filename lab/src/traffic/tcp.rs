//! One TCP flow of a load: questions and their echoes over one connection, and how many segments it lost.

use std::io::{ErrorKind, Read as _, Write as _};
use std::mem::{offset_of, size_of};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::libc::{self, tcp_info};
use nix::sys::socket::getsockopt;
// The first and `libc` are named by what the second becomes.
use nix::{getsockopt_impl, sockopt_impl};

use super::load::{DRAIN, POLL};
use super::report::{Account, BULK, Flow};
use crate::wait::pause;

/// After this long without an answer a connection counts as lost: the kernel would go on for many minutes.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a kernel may take to learn that what it sent again had come after all.
const VERDICT: Duration = Duration::from_millis(500);

/// Where in the struct, and until where it is read: kernels know less of it than libc does.
const SENT_AGAIN: usize = offset_of!(tcp_info, tcpi_total_retrans);
const CAME_TWICE: usize = offset_of!(tcp_info, tcpi_dsack_dups);
const READ: usize = CAME_TWICE + size_of::<u32>();

sockopt_impl!(
    /// The first part of `struct tcp_info` (linux/tcp.h).
    Info, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; READ]
);

/// A connection, and how many segments it had lost when the counting began.
struct Connection {
    stream: TcpStream,
    before: u64,
}

/// `length`: bytes of each question, the number among them.
pub(super) fn flow(
    to: SocketAddr,
    (length, interval): (usize, Duration),
    ready: &Barrier,
    stop: &AtomicBool,
) -> Result<Flow> {
    let mut connection = connect(to, stop);
    ready.wait();
    let name = if length > size_of::<u64>() { BULK } else { "tcp" };
    let mut account = Account::new(name, Instant::now());
    let mut number = 0;
    while let (Some(open), false) = (&connection, stop.load(Ordering::Relaxed)) {
        let question = question(number, length);
        let begin = Instant::now();
        account.sent(number, begin);
        match ask(&open.stream, &question, stop) {
            Ok(true) => account.received(number, Instant::now()),
            Ok(false) => break,
            Err(_) => {
                account.connection_lost();
                account.segments_lost(open.lost()?);
                connection = connect(to, stop);
            }
        }
        number += 1;
        pause(interval.saturating_sub(begin.elapsed()));
    }
    let stopped = Instant::now();
    if let Some(open) = connection {
        account.segments_lost(open.lost()?);
    }
    Ok(account.close(stopped))
}

/// The number, and bytes that differ from place to place and from one question to the next.
fn question(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    let mut pattern: Vec<u8> = (0..=250).collect();
    pattern.rotate_left(usize::try_from(number % 251).unwrap_or_default());
    while bytes.len() < length {
        bytes.extend(pattern.iter().take(length - bytes.len()));
    }
    bytes
}

/// Sends a question and waits for its echo. `false`: it did not come back before the end of the load.
fn ask(stream: &TcpStream, question: &[u8], stop: &AtomicBool) -> std::io::Result<bool> {
    let mut writing = stream;
    if question.len() <= size_of::<u64>() {
        writing.write_all(question)?;
        return read(stream, question, stop);
    }
    // Beside the reading: both ends could wait for room with the other.
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || writing.write_all(question));
        let answered = read(stream, question, stop);
        if !matches!(answered, Ok(true)) {
            // So that the writer ends, too. Whether there still was a connection doesn't matter any more.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let written = writer.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()));
        answered.and_then(|came| if came { written.map(|()| true) } else { Ok(false) })
    })
}

fn read(mut stream: &TcpStream, question: &[u8], stop: &AtomicBool) -> std::io::Result<bool> {
    let mut echo = vec![0; question.len()];
    let mut have = 0;
    let (mut progress, mut end) = (Instant::now(), None);
    while have < echo.len() {
        match stream.read(echo.get_mut(have..).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                have += length;
                (progress, end) = (Instant::now(), None);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if progress.elapsed() > PATIENCE {
                    return Err(ErrorKind::TimedOut.into());
                }
                if stop.load(Ordering::Relaxed) && end.get_or_insert_with(Instant::now).elapsed() > DRAIN {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
    if echo == question { Ok(true) } else { Err(ErrorKind::InvalidData.into()) }
}

fn connect(to: SocketAddr, stop: &AtomicBool) -> Option<Connection> {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(stream) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
            stream.set_nodelay(true).ok()?;
            stream.set_read_timeout(Some(POLL)).ok()?;
            let before = segments_lost(&stream).ok()?;
            return Some(Connection { stream, before });
        }
        pause(POLL);
    }
    None
}

impl Connection {
    /// Segments, by the last word of the kernel: of what was sent again last it may not know yet that it had come.
    fn lost(&self) -> Result<u64> {
        let start = Instant::now();
        loop {
            let lost = segments_lost(&self.stream)?.saturating_sub(self.before);
            if lost == 0 || start.elapsed() > VERDICT {
                return Ok(lost);
            }
            pause(POLL);
        }
    }
}

/// What this end sent again, without what the other end says that it then had twice (RFC 2883): that was late, not
/// lost. One more where the other end's word is lost or it refuses by its time stamp what was overtaken (PAWS), one less
/// where the network doubled a segment.
fn segments_lost(stream: &TcpStream) -> Result<u64> {
    let info = getsockopt(stream, Info).context("read TCP_INFO")?;
    let at = |place: usize| {
        let bytes = info.get(place..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)))
    };
    Ok(at(SENT_AGAIN).saturating_sub(at(CAME_TWICE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_begins_with_its_number_and_is_like_no_other() {
        assert_eq!(question(7, 8), 7_u64.to_be_bytes());
        let (one, two) = (question(1, 1000), question(2, 1000));
        assert_eq!((one.len(), two.len()), (1000, 1000));
        assert_eq!((one[8], one[9], one[8 + 251], two[8]), (1, 2, 1, 2));
    }
}
