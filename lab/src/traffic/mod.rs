//! Standing traffic with packet accounting: what a scenario looks at while it disturbs things.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # let fabric = tartan_lab::Fabric::start(tartan_lab::FabricOptions::with_segments(&[2]))?;
//! use tartan_lab::traffic::{Echo, Load, LoadOptions};
//!
//! let (one, two) = (fabric.node("node1"), fabric.node("node2"));
//! let echo = Echo::start(two, 7000)?;
//! let load = Load::start(one, "one-to-two", (two.address(), 7000), &LoadOptions::default())?; // it flows now
//! // ... kill the agent ...
//! let report = load.finish()?;
//! assert_eq!(report.lost(), 0, "{report}");
//! # drop(echo);
//! # Ok(())
//! # }
//! ```
//!
//! One program, `tartan-lab-traffic`, is both ends: `serve` echoes UDP and TCP, `load` sends numbered messages and
//! counts what comes back, `latency` measures single round trips. Messages are of eight bytes. On request some UDP
//! packets are as large as the path should carry, and neither end lets anybody cut a packet. On request one more TCP
//! flow asks with many bytes. A packet counts as lost when its echo does not arrive, whichever way it was lost. Counting
//! starts when every flow has been answered once, so that the first packet's address resolution is no loss.

mod cost;
mod latency;
mod load;
mod report;
mod serve;
mod stream;
mod tcp;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

pub use cost::{Amount, Costs, Target, compare, throughput};
pub use latency::RoundTrips;
pub use report::{Flow, Report};
pub use stream::stream;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::wait::eventually_ok;

#[derive(Parser)]
#[command(about = "Standing traffic with packet accounting")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Echo UDP packets and TCP bytes, in both families
    Serve {
        #[arg(long)]
        port: u16,
        /// Listen on this address only: on a machine with several, an answer then comes from the right one
        #[arg(long)]
        bind: Option<IpAddr>,
        /// Run on the first processor only
        #[arg(long)]
        pin: bool,
    },
    /// Send numbered messages to an echo and count what comes back, until a signal or the end of the time
    Load {
        #[arg(long)]
        to: SocketAddr,
        /// UDP packets in a second
        #[arg(long, default_value_t = 1000)]
        udp_rate: u32,
        /// Bytes that one in ten of these packets has, headers and all
        #[arg(long)]
        udp_mtu: Option<u16>,
        #[arg(long, default_value_t = 8)]
        tcp_flows: usize,
        /// Milliseconds between the questions of a TCP flow
        #[arg(long, default_value_t = 10)]
        tcp_interval: u64,
        /// Bytes of each question of one more TCP flow; without, there is none
        #[arg(long, default_value_t = 0)]
        tcp_bulk: usize,
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Exchange one message at a time with a pinned echo, on the same processor, and tell how long it took
    Latency {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        udp: bool,
        #[arg(long, default_value_t = 5000)]
        count: usize,
    },
}

/// The program `tartan-lab-traffic`.
pub fn main() -> Result<()> {
    match Arguments::parse().role {
        Role::Serve { port, bind, pin } => {
            if pin {
                latency::pin()?;
            }
            serve::run(bind, port)
        }
        Role::Load { to, udp_rate, udp_mtu, tcp_flows, tcp_interval, tcp_bulk, seconds } => {
            let tcp_interval = Duration::from_millis(tcp_interval);
            let options = LoadOptions { udp_rate, udp_mtu, tcp_flows, tcp_interval, tcp_bulk };
            load::run(to, &options, seconds.map(Duration::from_secs))
        }
        Role::Latency { to, udp, count } => latency::run(to, udp, count),
    }
}

/// The path of `tartan-lab-traffic`, which is built when it is first asked for.
pub fn program() -> Result<PathBuf> {
    crate::built::program("tartan-lab-traffic")
}

/// A running echo. Dropping it ends it.
#[derive(Debug)]
pub struct Echo {
    _process: Process,
}

impl Echo {
    /// Echoes on every address of `place`.
    pub fn start(place: &Namespace, port: u16) -> Result<Self> {
        Self::start_with(place, port, &[])
    }

    /// Echoes on one address of `place`.
    pub fn start_on(place: &Namespace, address: IpAddr, port: u16) -> Result<Self> {
        Self::start_with(place, port, &["--bind", &address.to_string()])
    }

    /// Echoes on the processor that [`round_trips`] runs on.
    pub fn start_pinned(place: &Namespace, port: u16) -> Result<Self> {
        Self::start_with(place, port, &["--pin"])
    }

    fn start_with(place: &Namespace, port: u16, more: &[&str]) -> Result<Self> {
        let mut command = place.command(&program()?.display().to_string());
        command.args(["serve", "--port", &port.to_string()]).args(more);
        let process = place.start(&format!("echo-{port}"), &command)?;
        wait_for_line(&process, "listening")?;
        Ok(Self { _process: process })
    }
}

/// Of so many UDP packets one is full, where [`LoadOptions::udp_mtu`] says of how many bytes.
pub const FULL_EVERY: u64 = 10;

/// How much traffic; the default is 1,000 UDP packets a second and 8 TCP flows of 100 questions a second.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Packets in a second.
    pub udp_rate: u32,
    /// Bytes that one in [`FULL_EVERY`] of them has, headers and all; the others have eight of data. Without: all have.
    pub udp_mtu: Option<u16>,
    pub tcp_flows: usize,
    /// A TCP flow is one question and its answer, this often.
    pub tcp_interval: Duration,
    /// Bytes of each question of a TCP flow that comes on top of those, and fills segments; none where that is 0.
    pub tcp_bulk: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            udp_rate: 1000,
            udp_mtu: None,
            tcp_flows: 8,
            tcp_interval: Duration::from_millis(10),
            tcp_bulk: 0,
        }
    }
}

/// Traffic that flows.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Starts sending from `place` and waits until every flow has been answered. `name` is that of its log.
    pub fn start(
        place: &Namespace,
        name: &str,
        to: impl Into<SocketAddr>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let LoadOptions { udp_rate, udp_mtu, tcp_flows, tcp_interval, tcp_bulk } = options;
        let mut command = place.command(&program()?.display().to_string());
        command.args(["load", "--to", &to.into().to_string()]);
        command.args(["--udp-rate", &udp_rate.to_string(), "--tcp-flows", &tcp_flows.to_string()]);
        command.args(udp_mtu.map(|mtu| format!("--udp-mtu={mtu}")));
        command.args(["--tcp-interval", &tcp_interval.as_millis().to_string()]);
        command.args(["--tcp-bulk", &tcp_bulk.to_string()]);
        let process = place.start(&format!("load-{name}"), &command)?;
        wait_for_line(&process, "flowing")?;
        Ok(Self { process })
    }

    /// Stops sending. Many loads are stopped together before the first report is waited for.
    pub fn stop(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Stops sending, waits for what is under way, and tells what happened.
    pub fn finish(mut self) -> Result<Report> {
        self.stop();
        self.process.wait(Duration::from_secs(30))?;
        let output = self.process.output();
        let line = output.lines().rev().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("{} did not report:\n{output}", self.process.name()))?;
        serde_json::from_str(line).context("read a report")
    }
}

/// Makes `count` round trips from `place` to an echo of [`Echo::start_pinned`], by UDP or TCP.
pub fn round_trips(
    place: &Namespace,
    to: impl Into<SocketAddr>,
    udp: bool,
    count: usize,
) -> Result<RoundTrips> {
    let (program, to, count) = (program()?.display().to_string(), to.into().to_string(), count.to_string());
    let mut words = vec![program.as_str(), "latency", "--to", &to, "--count", &count];
    words.extend(udp.then_some("--udp"));
    serde_json::from_str(&place.exec(&words)?.ok()?.stdout).context("read the times of round trips")
}

/// Room for seconds of packets: on a busy machine whoever reads may not get its turn for long, and what the
/// kernel then throws away would look like a loss of the network.
fn make_room(socket: &UdpSocket) -> Result<()> {
    const ROOM: usize = 16 << 20;
    setsockopt(socket, sockopt::RcvBufForce, &ROOM).context("enlarge a receive buffer")?;
    setsockopt(socket, sockopt::SndBufForce, &ROOM).context("enlarge a send buffer")
}

/// What doesn't fit is refused or dropped, here and on the way: cut and put together, it would come as if it did.
fn refuse_to_cut(socket: &UdpSocket) -> Result<()> {
    // A socket of the newer family sends packets of the older one, too.
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO).context("refuse fragments")?;
    if socket.local_addr()?.is_ipv6() {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO).context("refuse fragments")?;
    }
    Ok(())
}

fn wait_for_line(process: &Process, line: &str) -> Result<()> {
    let what = format!("`{line}` of {}", process.name());
    eventually_ok(&what, Duration::from_secs(30), || {
        let output = process.output();
        anyhow::ensure!(output.lines().any(|printed| printed == line), "it printed: {output}");
        Ok(())
    })
}
