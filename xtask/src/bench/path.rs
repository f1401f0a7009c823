//! What a pod's packets lose to the path, beside the nodes' own in the same run: throughput, processor time, latency.
//!
//! WireGuard is the process in user space: kernels that have it themselves are in a virtual machine here, whose times
//! tell nothing.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tartan_lab::{
    ApiServer, ApiServerOptions, Fabric, FabricOptions, Namespace, Process, eventually_ok,
    traffic::{Echo, round_trips},
};

use super::{Options, Programs, create, node, prepare, report};

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let scene = Scene::start(programs, &["vxlan", "host-gw", "udp", "wireguard"])?;
    let (one, two) = (scene.fabric.node(NODES[0]), scene.fabric.node(NODES[1]));
    let (from, to) = (one.pod("from")?, two.pod("to")?);
    let beside = [("forwarder", &programs.forwarder), ("wireguard", &programs.wireguard)];
    let beside = beside.into_iter().flat_map(|program| [(one, program), (two, program)]);
    let _beside: Vec<Process> = beside
        .map(|(host, (name, program))| host.start(name, &host.command(&program.display().to_string())))
        .collect::<Result<_>>()?;
    for name in ["vxlan", "host-gw", "udp", "wireguard"] {
        scene.go_by(name, (&from, to.ip()))?;
        let _server = to.spawn("iperf", &["iperf3", "--server", "--port", "5201"])?;
        let _other = two.spawn("iperf", &["iperf3", "--server", "--port", "5202"])?;
        let _echoes = [Echo::start_pinned(&to, ECHO)?, Echo::start_pinned(two, ECHO)?];
        let mut figures = Figures::default();
        for _ in 0..options.rounds {
            figures.measure((&from, to.ip()), (one, two.address().into()))?;
        }
        figures.report(name);
    }
    from.remove(one)?;
    to.remove(two)
}

/// Of one measurement of throughput.
const SECONDS: u32 = 2;

pub(super) const NODES: [&str; 2] = ["node1", "node2"];

/// Two nodes with their agents.
pub(super) struct Scene {
    pub(super) fabric: Fabric,
    api: ApiServer,
    agents: Vec<Process>,
    /// Backends that both nodes receive.
    accepts: &'static [&'static str],
}

impl Scene {
    pub(super) fn start(programs: &Programs, accepts: &'static [&'static str]) -> Result<Self> {
        let mut fabric = Fabric::start(FabricOptions::with_segments(&[2]))?;
        let api = fabric.api_server(ApiServerOptions::default())?;
        prepare(&api)?;
        for (number, name) in NODES.iter().enumerate() {
            create(
                &api,
                &[
                    node(name),
                    json!({
                        "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": name }, "spec": {},
                    }),
                ],
            )?;
            let uid = api.kubectl(&["get", "node", name, "-o", "jsonpath={.metadata.uid}"])?.ok()?.stdout;
            create(&api, &[super::lease(number, name, &uid)])?;
        }
        let mut agents = vec![];
        for name in NODES {
            let host = fabric.node(name);
            let mut command = host.command(&programs.agent.display().to_string());
            command.env("NODE_NAME", name).env("KUBECONFIG", api.kubeconfig());
            command.env("TARTAN_USER_WIREGUARD", "auto");
            agents.push(host.start("agent", &command)?);
            eventually_ok("a CNI configuration", Duration::from_secs(60), || {
                host.exec(&["test", "-e", "/etc/cni/net.d/05-tartan.conflist"])?.ok()
            })?;
        }
        Ok(Self { fabric, api, agents, accepts })
    }

    /// Has both nodes send by `kind`, and returns when a pod's packets go that way.
    pub(super) fn go_by(&self, kind: &str, (from, to): (&Namespace, IpAddr)) -> Result<()> {
        let backend = json!({ "type": kind, "accepts": self.accepts });
        let patch = json!({ "spec": { "backend": backend } }).to_string();
        for name in ["10.0.0.0-24", "10.0.1.0-24"] {
            self.api.kubectl(&["patch", "subnetlease", name, "--type=merge", "-p", &patch])?.ok()?;
        }
        let device = match kind {
            "host-gw" => "dev eth0".to_owned(),
            "wireguard" => "dev tartan-wg".to_owned(),
            other => format!("dev tartan-{other}"),
        };
        let address = to.to_string();
        eventually_ok("the path", Duration::from_secs(60), || {
            let route = self.fabric.node(NODES[0]).exec(&["ip", "route", "get", &address])?.ok()?.stdout;
            anyhow::ensure!(route.contains(&device), "{route}");
            from.exec(&["ping", "-c1", "-W1", &address])?.ok()
        })
        .with_context(|| self.agents.iter().map(Process::output).collect::<String>())?;
        Ok(())
    }
}

/// Of one TCP stream, in Gb/s.
pub(super) fn throughput(from: &Namespace, to: &str, port: &str) -> Result<f64> {
    let client = ["iperf3", "--client", to, "--port", port, "--time", &SECONDS.to_string(), "--json"];
    let output = eventually_ok("iperf3", Duration::from_secs(20), || from.exec(&client)?.ok())?;
    let answer: Value = serde_json::from_str(&output.stdout)?;
    let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gave no figure")?;
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

const ECHO: u16 = 5203;

/// Of pods and, in turns with them, of their nodes.
#[derive(Default)]
struct Figures {
    throughput: [Vec<f64>; 2],
    processor: [Vec<f64>; 2],
    tcp: [Vec<f64>; 2],
    udp: [Vec<f64>; 2],
}

impl Figures {
    fn measure(&mut self, pods: (&Namespace, IpAddr), nodes: (&Namespace, IpAddr)) -> Result<()> {
        let Self { throughput: gigabits, processor, tcp, udp } = self;
        for (at, port, (from, to)) in [(0, "5201", pods), (1, "5202", nodes)] {
            let before = busy()?;
            let rate = throughput(from, &to.to_string(), port)?;
            let gigabytes = rate * f64::from(SECONDS) / 8.0;
            processor[at].push((busy()? - before) / gigabytes * 1e3);
            gigabits[at].push(rate);
        }
        for (times, by_udp) in [(tcp, false), (udp, true)] {
            for (at, (from, to)) in [pods, nodes].into_iter().enumerate() {
                times[at].push(round_trips(from, (to, ECHO), by_udp, 5000)?.median);
            }
        }
        Ok(())
    }

    fn report(self, name: &str) {
        let Self { throughput, processor, tcp, udp } = self;
        for (what, unit, [pods, nodes]) in [
            ("one TCP stream", "Gb/s", throughput),
            ("processors of the machine", "ms/GB", processor),
            ("round trip over TCP, median", "us", tcp),
            ("round trip over UDP, median", "us", udp),
        ] {
            report(&format!("pod to pod by {name}, {what}"), unit, pods);
            report("node to node in the same run", unit, nodes);
        }
    }
}
