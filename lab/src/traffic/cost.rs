//! What a path costs: the throughput of one TCP stream, the time that processors are busy for it, round trips.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Echo, round_trips};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::eventually_ok;

/// What is measured at once.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// For which a stream flows.
    pub seconds: u32,
    /// By each of TCP and UDP.
    pub round_trips: usize,
}

/// One value of each for every measurement.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Gb/s, as it is received.
    pub throughput: Vec<f64>,
    /// Milliseconds per gigabyte of all processors of the machine, softirqs and both ends included.
    pub processor: Vec<f64>,
    /// Microseconds of a round trip over TCP: the median.
    pub tcp: Vec<f64>,
    /// The same over UDP.
    pub udp: Vec<f64>,
}

/// The end to which is measured; it serves as long as this lives.
pub struct Target {
    address: IpAddr,
    _server: Process,
    _echo: Echo,
}

const STREAM: u16 = 5201;
const ECHO: u16 = 5203;

impl Target {
    pub fn start(place: &Namespace, address: IpAddr) -> Result<Self> {
        let server = place.spawn("iperf", &["iperf3", "--server", "--port", &STREAM.to_string()])?;
        Ok(Self { address, _server: server, _echo: Echo::start_pinned(place, ECHO)? })
    }
}

/// Measures several paths in turns.
pub fn compare<const PATHS: usize>(
    paths: &[(&Namespace, Target); PATHS],
    rounds: usize,
    amount: Amount,
) -> Result<[Costs; PATHS]> {
    let mut costs = std::array::from_fn(|_| Costs::default());
    for _ in 0..rounds {
        for ((from, to), costs) in paths.iter().zip(&mut costs) {
            costs.measure(from, to, amount)?;
        }
    }
    Ok(costs)
}

impl Costs {
    fn measure(&mut self, from: &Namespace, to: &Target, amount: Amount) -> Result<()> {
        let before = busy()?;
        let rate = throughput(from, to.address, STREAM, amount.seconds)?;
        let gigabytes = rate * f64::from(amount.seconds) / 8.0;
        self.processor.push((busy()? - before) / gigabytes * 1e3);
        self.throughput.push(rate);
        for (times, udp) in [(&mut self.tcp, false), (&mut self.udp, true)] {
            times.push(round_trips(from, (to.address, ECHO), udp, amount.round_trips)?.median);
        }
        Ok(())
    }
}

/// Of one TCP stream to an iperf3 server, in Gb/s.
pub fn throughput(from: &Namespace, to: IpAddr, port: u16, seconds: u32) -> Result<f64> {
    let (to, port, seconds) = (to.to_string(), port.to_string(), seconds.to_string());
    let client = ["iperf3", "--client", &to, "--port", &port, "--time", &seconds, "--json"];
    let output = eventually_ok("iperf3", Duration::from_secs(20), || from.exec(&client)?.ok())?;
    let answer: Value = serde_json::from_str(&output.stdout)?;
    let bits = answer.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    let bits = bits.context("iperf3 gave no figure")?;
    Ok(bits / 1e9)
}

/// Seconds that the machine's processors were busy since it started, for whomever: `/proc/stat` (proc(5)).
fn busy() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let times: Vec<u64> =
        stat.lines().next().into_iter().flat_map(str::split_whitespace).flat_map(str::parse).collect();
    // user nice system idle iowait irq softirq steal; guests' time is in the first two. A hundredth of a second each.
    let [user, nice, system, _, _, irq, softirq, ..] = times[..] else {
        bail!("/proc/stat begins with {times:?}")
    };
    Ok((user + nice + system + irq + softirq) as f64 / 100.0)
}
