//! The sender: numbered messages, one thread for each flow, one account for each.

use std::io::Write as _;
use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};

use super::report::{Account, Flow, Report};
use super::{FULL_EVERY, LoadOptions, make_room, refuse_to_cut, tcp};
use crate::wait::pause;

/// The number of a packet that only asks whether somebody answers.
const GREETING: u64 = u64::MAX;
pub(super) const POLL: Duration = Duration::from_millis(50);
/// How long the last echoes may take.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

pub(super) fn run(to: SocketAddr, options: &LoadOptions, time: Option<Duration>) -> Result<()> {
    let LoadOptions { udp_rate, udp_mtu, tcp_flows, tcp_interval, tcp_bulk } = *options;
    let full = udp_mtu.map(|mtu| usize::from(mtu).saturating_sub(headers(to)));
    let stopped = stop_on_signal()?;
    let stop = Arc::new(AtomicBool::new(false));
    let udp_flows = usize::from(udp_rate > 0);
    let bulk_flows = usize::from(tcp_bulk > 0);
    let questions = iter::repeat_n(size_of::<u64>(), tcp_flows).chain(iter::repeat_n(tcp_bulk, bulk_flows));
    let ready = Arc::new(Barrier::new(udp_flows + tcp_flows + bulk_flows + 1));
    let mut flows = Vec::new();
    if udp_rate > 0 {
        let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
        flows.push(std::thread::spawn(move || udp_flow(to, (udp_rate, full), &ready, &stop)));
    }
    for length in questions {
        let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
        flows.push(std::thread::spawn(move || tcp::flow(to, (length, tcp_interval), &ready, &stop)));
    }
    ready.wait();
    let start = Instant::now();
    writeln!(std::io::stdout(), "flowing")?;
    // Either answer, a signal or the end of the time, is the end.
    let _ = match time {
        Some(time) => stopped.recv_timeout(time),
        None => stopped.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
    };
    let seconds = start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut report = Report { to: to.to_string(), seconds, flows: Vec::new() };
    for flow in flows {
        report.flows.push(flow.join().map_err(|_| anyhow::anyhow!("a flow panicked"))??);
    }
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

/// A message when SIGTERM or SIGINT comes. Threads that are started later do not see these signals.
fn stop_on_signal() -> Result<mpsc::Receiver<()>> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().context("block signals")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = signals.wait();
        let _ = sender.send(());
    });
    Ok(receiver)
}

/// What is no data in a UDP packet: RFC 791 section 3.1 or RFC 8200 section 3, and RFC 768.
fn headers(to: SocketAddr) -> usize {
    if to.is_ipv4() { 20 + 8 } else { 40 + 8 }
}

/// `full`: bytes of data that a full packet has.
fn udp_flow(
    to: SocketAddr,
    (rate, full): (u32, Option<usize>),
    ready: &Barrier,
    stop: &AtomicBool,
) -> Result<Flow> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    make_room(&socket)?;
    refuse_to_cut(&socket)?;
    socket.connect(to).with_context(|| format!("connect to {to}"))?;
    socket.set_read_timeout(Some(POLL))?;
    while !stop.load(Ordering::Relaxed) {
        let _ = socket.send(&message(GREETING, full));
        if receive(&socket, full).is_some() {
            break;
        }
    }
    ready.wait();

    let account = Mutex::new(Account::new("udp", Instant::now()));
    let with = |work: &mut dyn FnMut(&mut Account)| {
        work(&mut account.lock().unwrap_or_else(PoisonError::into_inner));
    };
    let stopped = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let start = Instant::now();
            let interval = Duration::from_secs(1) / rate;
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                // By the clock, not by the sleeps: a late one is made up for.
                let due = u64::try_from(start.elapsed().as_nanos() / interval.as_nanos()).unwrap_or(u64::MAX);
                while number < due {
                    with(&mut |account| account.sent(number, Instant::now()));
                    if socket.send(&message(number, full)).is_err() {
                        with(&mut |account| account.refused());
                    }
                    number += 1;
                }
                pause(interval.max(Duration::from_millis(1)));
            }
            Instant::now()
        });
        let mut end = None;
        loop {
            if let Some(number) = receive(&socket, full)
                && number != GREETING
            {
                with(&mut |account| account.received(number, Instant::now()));
            }
            if sender.is_finished() {
                let end = *end.get_or_insert_with(Instant::now);
                let mut complete = false;
                with(&mut |account| complete = account.is_complete());
                if complete || end.elapsed() > DRAIN {
                    break;
                }
            }
        }
        sender.join()
    });
    let stopped = stopped.map_err(|_| anyhow::anyhow!("the sender panicked"))?;
    Ok(account.into_inner().unwrap_or_else(PoisonError::into_inner).close(stopped))
}

/// The number, and zeros where the packet is to be full.
fn message(number: u64, full: Option<usize>) -> Vec<u8> {
    let mut bytes = number.to_be_bytes().to_vec();
    if let Some(full) = full
        && number != GREETING
        && number.is_multiple_of(FULL_EVERY)
    {
        bytes.resize(full.max(bytes.len()), 0);
    }
    bytes
}

/// The number of the next echo that is what was sent. Errors are those of earlier sends, by ICMP: they are counted as
/// loss.
fn receive(socket: &UdpSocket, full: Option<usize>) -> Option<u64> {
    // With room for more, so that what is too long is seen to be.
    let mut bytes = vec![0; full.unwrap_or(0).max(size_of::<u64>()) + 1];
    let length = socket.recv(&mut bytes).ok()?;
    bytes.truncate(length);
    let number = u64::from_be_bytes(*bytes.first_chunk()?);
    (bytes == message(number, full)).then_some(number)
}
