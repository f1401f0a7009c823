//! The udp path beside vxlan, plain routes and a forwarder that takes one packet at a time; and how long packets
//! have no way while one forwarder takes another's place.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use tartan_lab::{
    Process, eventually_ok,
    traffic::{Echo, Load, LoadOptions, throughput},
};

use super::{
    Options, Programs,
    path::{NODES, SECONDS, Scene},
    plain::Plain,
    report,
};

const ECHO: u16 = 5203;

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let scene = Scene::start(programs, &["vxlan", "host-gw", "udp"])?;
    let (one, two) = (scene.fabric.node(NODES[0]), scene.fabric.node(NODES[1]));
    let (from, to) = (one.pod("from")?, two.pod("to")?);
    let start = |name: &str| -> Result<Process> {
        let host = scene.fabric.node(name);
        host.start("forwarder", &host.command(&programs.forwarder.display().to_string()))
    };
    let _server = to.spawn("iperf", &["iperf3", "--server", "--port", "5201"])?;
    let (address, mut rates) = (to.ip(), [vec![], vec![], vec![], vec![]]);
    let measure = |kind: &str| -> Result<f64> {
        scene.go_by(kind, (&from, address))?;
        throughput(&from, address, 5201, SECONDS)
    };
    for _ in 0..options.rounds {
        let mut forwarders = NODES.map(start).into_iter().collect::<Result<Vec<_>>>()?;
        let said = |forwarders: &[Process]| forwarders.iter().map(Process::output).collect::<String>();
        rates[0].push(measure("udp").with_context(|| said(&forwarders))?);
        forwarders.iter_mut().try_for_each(Process::kill)?;
        // A device that somebody is attached to keeps its offloads, and threads that were killed end one by one.
        for host in [one, two] {
            eventually_ok("the device to be left", Duration::from_secs(10), || {
                let left = host.exec(&["ip", "-d", "link", "show", "tartan-udp"])?.ok()?.stdout;
                anyhow::ensure!(left.contains("numqueues 0 "), "{left}");
                Ok(())
            })?;
        }
        let plain = [
            Plain::start(one, one.address(), two.address())?,
            Plain::start(two, two.address(), one.address())?,
        ];
        let measured = measure("udp");
        // Why one of them has ended tells more than that nothing came through.
        plain.into_iter().try_for_each(Plain::finish)?;
        rates[1].push(measured.context("by the plain forwarder")?);
        rates[2].push(measure("vxlan")?);
        rates[3].push(measure("host-gw")?);
    }
    let names = ["udp", "udp, one packet at a time", "vxlan", "host-gw"];
    for (name, rates) in names.into_iter().zip(rates) {
        report(&format!("pod to pod by {name}, in turns, one TCP stream"), "Gb/s", rates);
    }
    let other = start(NODES[1])?;
    let _echo = Echo::start(&to, ECHO)?;
    let (mut killed, mut beside) = (vec![], vec![]);
    for _ in 0..options.rounds {
        let mut old = start(NODES[0])?;
        scene.go_by("udp", (&from, address)).with_context(|| [old.output(), other.output()].concat())?;
        let load = |change: &mut dyn FnMut() -> Result<Process>| -> Result<(f64, Process)> {
            let load = Load::start(&from, "gap", (address, ECHO), &LoadOptions::default())?;
            let new = change()?;
            eventually_ok("the way", Duration::from_secs(20), || ping(&from, address))?;
            // Not TCP's: what it sends again after a loss it sends 200 ms later.
            let report = load.finish()?;
            let gaps = report.flows.iter().filter(|flow| flow.protocol == "udp").map(|flow| flow.max_gap_ms);
            Ok((gaps.max().unwrap_or_default() as f64, new))
        };
        let (gap, mut new) = load(&mut || {
            old.kill()?;
            start(NODES[0])
        })?;
        killed.push(gap);
        // As an upgrade does it: the next one is there before this one goes.
        let (gap, mut last) = load(&mut || {
            let next = start(NODES[0])?;
            eventually_ok("two forwarders", Duration::from_secs(20), || {
                let queues = one.exec(&["ip", "-d", "link", "show", "tartan-udp"])?.ok()?.stdout;
                anyhow::ensure!(
                    queues.contains(&format!("numqueues {}", 2 * super::cores().min(8))),
                    "{queues}"
                );
                Ok(())
            })?;
            new.kill()?;
            Ok(next)
        })?;
        beside.push(gap);
        last.kill()?;
    }
    report("udp forwarder killed and started anew, longest gap of 1,000 packets/s", "ms", killed);
    report("udp forwarder replaced by one beside it, longest gap of 1,000 packets/s", "ms", beside);
    from.remove(one)?;
    to.remove(two)
}

fn ping(from: &tartan_lab::Namespace, to: IpAddr) -> Result<tartan_lab::Output> {
    from.exec(&["ping", "-c1", "-W1", &to.to_string()])?.ok()
}
