//! Ping-pong: one message at a time, the next when its echo is back.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(5);

/// Round trips in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RoundTrips {
    pub median: f64,
    /// 99 of 100 are shorter.
    pub p99: f64,
}

/// Round trips of single bytes over one TCP connection, or of UDP packets with one byte.
pub(super) fn run(to: SocketAddr, udp: bool, count: usize) -> Result<()> {
    pin()?;
    let mut times = if udp { by_udp(to, count) } else { by_tcp(to, count) }?;
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().context("no round trip was made");
    let answer = RoundTrips { median: at(50)?, p99: at(99)? };
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&answer)?)?;
    Ok(())
}

/// Keeps this process on the first processor. With both ends there, a round trip is what the path costs; on two,
/// it is mostly the time that a sleeping processor takes to wake, which differs eightfold from run to run.
pub(super) fn pin() -> Result<()> {
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first).context("stay on one processor")
}

fn by_tcp(to: SocketAddr, count: usize) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    measure(count, || {
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])
    })
}

fn by_udp(to: SocketAddr, count: usize) -> Result<Vec<f64>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    measure(count, || {
        socket.send(&[0])?;
        socket.recv(&mut [0]).map(drop)
    })
}

/// The first tenth is for caches and clocks to settle, and is not counted.
fn measure(count: usize, mut exchange: impl FnMut() -> std::io::Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(count);
    for number in 0..count + count / 10 {
        let begin = Instant::now();
        exchange().context("an echo")?;
        if number >= count / 10 {
            times.push(begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}
