//! One TCP flow of a load: questions and their echoes over one connection, and what the connection had to repeat.

use std::io::{ErrorKind, Read as _, Write as _};
use std::mem::{offset_of, size_of};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::libc::{self, tcp_info};
use nix::sys::socket::getsockopt;
// The first and `libc` are named by what the second becomes.
use nix::{getsockopt_impl, sockopt_impl};

use super::load::{DRAIN, POLL};
use super::report::{Account, Flow};
use crate::wait::pause;

/// After this long without an answer a connection counts as lost: the kernel would go on for many minutes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where in the struct, and until where it is read: kernels know less of it than libc does.
const SENT_AGAIN: usize = offset_of!(tcp_info, tcpi_total_retrans);
const CAME_TWICE: usize = offset_of!(tcp_info, tcpi_dsack_dups);
const READ: usize = CAME_TWICE + size_of::<u32>();

sockopt_impl!(
    /// The first part of `struct tcp_info` (linux/tcp.h; all of it since Linux 4.18).
    Info, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, [u8; READ]
);

/// `length`: bytes of each question, the number among them.
pub(super) fn flow(
    to: SocketAddr,
    (length, interval): (usize, Duration),
    ready: &Barrier,
    stop: &AtomicBool,
) -> Result<Flow> {
    let mut stream = connect(to, stop);
    ready.wait();
    let mut account = Account::new("tcp", Instant::now());
    let mut number = 0;
    while let (Some(open), false) = (&stream, stop.load(Ordering::Relaxed)) {
        let begin = Instant::now();
        account.sent(number, begin);
        match ask(open, &question(number, length), stop) {
            Ok(true) => account.received(number, Instant::now()),
            Ok(false) => break,
            Err(_) => {
                account.connection_lost();
                account.repeated(repeated(open));
                stream = connect(to, stop);
            }
        }
        number += 1;
        pause(interval.saturating_sub(begin.elapsed()));
    }
    account.repeated(stream.as_ref().map(repeated).unwrap_or_default());
    Ok(account.close(Instant::now()))
}

/// The number, and bytes that differ from place to place and from one question to the next.
fn question(number: u64, length: usize) -> Vec<u8> {
    let filling = (0_u8..=250).cycle().skip(usize::try_from(number % 251).unwrap_or_default());
    number.to_be_bytes().into_iter().chain(filling).take(length.max(size_of::<u64>())).collect()
}

/// Sends a question and waits for its echo. `false`: it did not come back before the end of the load.
fn ask(stream: &TcpStream, question: &[u8], stop: &AtomicBool) -> std::io::Result<bool> {
    std::thread::scope(|scope| {
        let mut writing = stream;
        // Beside the reading, where both ends could wait for room with the other.
        let large = question.len() > size_of::<u64>();
        let writer = large.then(|| scope.spawn(move || writing.write_all(question)));
        if !large {
            writing.write_all(question)?;
        }
        let answered = read(stream, question, stop);
        if !matches!(answered, Ok(true)) {
            // So that the writer ends, too. Whether the connection still was one doesn't matter any more.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let written =
            writer.map_or(Ok(()), |writer| writer.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())));
        answered.and_then(|came| if came { written.map(|()| true) } else { Ok(false) })
    })
}

fn read(mut stream: &TcpStream, question: &[u8], stop: &AtomicBool) -> std::io::Result<bool> {
    let mut echo = vec![0; question.len()];
    let mut have = 0;
    let (start, mut end) = (Instant::now(), None);
    while have < echo.len() {
        match stream.read(echo.get_mut(have..).unwrap_or_default()) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => have += length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if start.elapsed() > PATIENCE {
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

/// Segments that this end sent again, without those that the other end then had twice (RFC 2883): they were late, not
/// lost.
fn repeated(stream: &TcpStream) -> u64 {
    let Ok(info) = getsockopt(stream, Info) else { return 0 };
    let at = |place: usize| {
        let bytes = info.get(place..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)))
    };
    at(SENT_AGAIN).saturating_sub(at(CAME_TWICE))
}

fn connect(to: SocketAddr, stop: &AtomicBool) -> Option<TcpStream> {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(stream) = TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
            stream.set_nodelay(true).ok()?;
            stream.set_read_timeout(Some(POLL)).ok()?;
            return Some(stream);
        }
        pause(POLL);
    }
    None
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
