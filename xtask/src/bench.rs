//! `cargo xtask bench`: the figures that the documentation quotes, measured in one run.
//!
//! Nothing here passes or fails. Machines are noisy: each figure is the median of several rounds with the
//! least and the greatest, and what is compared is measured in turns.

mod agent;
mod join;
mod machine;
mod operator;
mod path;
mod plain;
mod scale;
mod udp;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tartan_lab::{ApiServer, Output, eventually_ok};

use crate::workspace;

/// How much.
#[derive(Args, Debug)]
pub struct Options {
    /// Peers and nodes of the large figures
    #[arg(long, default_value_t = 2000)]
    size: usize,
    /// Rounds of each figure
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Which parts, in this order
    #[arg(long = "part", value_enum, default_values = ["operator", "agent", "join", "path", "udp"])]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nodes that appear all at once
    Operator,
    /// One agent with many peers
    Agent,
    /// A node that joins
    Join,
    /// Throughput, processor time and latency of vxlan, host-gw, udp and WireGuard in user space
    Path,
    /// The udp backend beside others and a plain forwarder
    Udp,
    /// Every backend there is, in an emulated machine, whose kernel has them all
    Machine,
    /// Thousands of nodes, simulated agents and watchers: use --size 5000
    Scale,
}

/// Runs everything and prints a table.
pub fn run(options: &Options) -> Result<()> {
    let programs = Programs::build(&options.parts)?;
    println!(
        "machine: {} cores, Linux {}",
        cores(),
        std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()
    );
    println!("{:<64} {:>10} {:>10} {:>10}  unit", "figure", "median", "least", "greatest");
    for part in &options.parts {
        match part {
            Part::Operator => operator::run(options, &programs)?,
            Part::Agent => agent::run(options, &programs)?,
            Part::Join => join::run(options, &programs)?,
            Part::Path => path::run(options, &programs)?,
            Part::Scale => scale::run(options, &programs)?,
            Part::Udp => udp::run(options, &programs)?,
            Part::Machine => machine::run()?,
        }
    }
    Ok(())
}

/// The programs under test, optimised.
struct Programs {
    operator: PathBuf,
    agent: PathBuf,
    forwarder: PathBuf,
    wireguard: PathBuf,
}

impl Programs {
    fn build(parts: &[Part]) -> Result<Self> {
        let mut cargo = workspace::cargo();
        cargo.args(["build", "--release", "--locked"]);
        let mut any = false;
        for (package, parts_of_it) in [
            ("tartan-operator", &[Part::Operator, Part::Scale][..]),
            ("tartan-node-agent", &[Part::Agent, Part::Join, Part::Path, Part::Udp]),
            ("tartan-forwarder", &[Part::Path, Part::Udp]),
            ("tartan-wireguard", &[Part::Path]),
        ] {
            if parts.iter().any(|part| parts_of_it.contains(part)) {
                cargo.args(["-p", package]);
                any = true;
            }
        }
        // Without a package it would build them all.
        if any {
            println!("==> cargo build --release");
            ensure!(cargo.status()?.success(), "the programs could not be built");
        }
        let release = workspace::target().join("release");
        Ok(Self {
            operator: release.join("tartan-operator"),
            agent: release.join("tartan-node-agent"),
            forwarder: release.join("tartan-forwarder"),
            wireguard: release.join("tartan-wireguard"),
        })
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// One line of the table.
fn report(figure: &str, unit: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    if let (Some(least), Some(median), Some(greatest)) =
        (values.first(), values.get(values.len() / 2), values.last())
    {
        println!("{figure:<64} {median:>10.3} {least:>10.3} {greatest:>10.3}  {unit}");
    }
}

/// Resident memory of a process in MB.
fn resident(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1000.0)
}

/// Seconds until `done`, looked at every few milliseconds.
fn seconds_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<f64> {
    let start = std::time::Instant::now();
    loop {
        if done()? {
            return Ok(start.elapsed().as_secs_f64());
        }
        if start.elapsed() > Duration::from_secs(300) {
            bail!("{what} did not come in 300 s");
        }
    }
}

/// The kinds of tartan, and a network of 10.0.0.0/8.
fn prepare(api: &ApiServer) -> Result<()> {
    let crds = workspace::root().join("crds/yaml");
    api.kubectl(&["apply", "-f", crds.to_str().context("a path that is no text")?])?.ok()?;
    eventually_ok("the new kinds are served", Duration::from_secs(60), || {
        api.kubectl(&["get", "tartan"])?.ok()
    })?;
    eventually_ok("a network", Duration::from_secs(20), || {
        create(
            api,
            &[json!({
                "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
                "spec": { "cidrs": [{ "name": "all", "cidr": "10.0.0.0/8", "nodeMaskSize": 24 }] },
            })],
        )
    })?;
    Ok(())
}

/// Clients that create objects at the same time, so that the figure is the server's and not one client's.
const CLIENTS: usize = 8;

/// Creates many objects, as fast as several kubectl can.
fn create(api: &ApiServer, objects: &[Value]) -> Result<()> {
    std::thread::scope(|scope| {
        let parts = objects.chunks(objects.len().div_ceil(CLIENTS).max(1)).enumerate();
        let clients: Vec<_> = parts
            .map(|(number, part)| {
                scope.spawn(move || send(api, &["create"], &format!("bench-{number}"), part))
            })
            .collect();
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}

fn send(api: &ApiServer, verb: &[&str], name: &str, objects: &[Value]) -> Result<Output> {
    let path = api.directory().join(format!("{name}.json"));
    std::fs::write(&path, json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string())?;
    let mut arguments = verb.to_vec();
    arguments.extend(["-f", path.to_str().context("a path that is no text")?]);
    api.kubectl(&arguments)?.ok()
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } })
}

/// A lease of the `number`-th block.
fn lease(number: usize, node: &str, uid: &str) -> Value {
    let subnet = format!("10.{}.{}.0", number / 256, number % 256);
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease", "metadata": { "name": format!("{subnet}-24") },
        "spec": { "nodeName": node, "nodeUID": uid, "subnet": format!("{subnet}/24"), "pool": "default", "primary": true,
                  "backend": { "type": "vxlan", "accepts": ["vxlan"] } },
    })
}
