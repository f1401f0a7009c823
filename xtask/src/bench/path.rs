//! What a pod's packets lose to the path, beside the nodes' own in the same run.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tartan_lab::{
    ApiServer, ApiServerOptions, Fabric, FabricOptions, Namespace, Process, eventually_ok,
    traffic::{Echo, round_trips},
};

use super::{Options, Programs, create, node, prepare, report};

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let scene = Scene::start(programs)?;
    let (one, two) = (scene.fabric.node(NODES[0]), scene.fabric.node(NODES[1]));
    let (from, to) = (one.pod("from")?, two.pod("to")?);
    for name in ["vxlan", "host-gw"] {
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

pub(super) const NODES: [&str; 2] = ["node1", "node2"];

/// Two nodes with their agents.
pub(super) struct Scene {
    pub(super) fabric: Fabric,
    api: ApiServer,
    agents: Vec<Process>,
}

impl Scene {
    pub(super) fn start(programs: &Programs) -> Result<Self> {
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
            agents.push(host.start("agent", &command)?);
            eventually_ok("a CNI configuration", Duration::from_secs(60), || {
                host.exec(&["test", "-e", "/etc/cni/net.d/05-tartan.conflist"])?.ok()
            })?;
        }
        Ok(Self { fabric, api, agents })
    }

    /// Has both nodes send by `kind`, and returns when a pod's packets go that way.
    pub(super) fn go_by(&self, kind: &str, (from, to): (&Namespace, IpAddr)) -> Result<()> {
        let accepts = ["vxlan", "host-gw", "udp"];
        let patch = json!({ "spec": { "backend": { "type": kind, "accepts": accepts } } }).to_string();
        for name in ["10.0.0.0-24", "10.0.1.0-24"] {
            self.api.kubectl(&["patch", "subnetlease", name, "--type=merge", "-p", &patch])?.ok()?;
        }
        let device = if kind == "host-gw" { "dev eth0".to_owned() } else { format!("dev tartan-{kind}") };
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

pub(super) fn throughput(from: &Namespace, to: &str, port: &str) -> Result<f64> {
    let client = ["iperf3", "--client", to, "--port", port, "--time", "2", "--json"];
    let output = eventually_ok("iperf3", Duration::from_secs(20), || from.exec(&client)?.ok())?;
    let answer: Value = serde_json::from_str(&output.stdout)?;
    let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gave no figure")?;
    Ok(bits / 1e9)
}

const ECHO: u16 = 5203;

/// Of pods and, in turns with them, of their nodes.
#[derive(Default)]
struct Figures {
    throughput: [Vec<f64>; 2],
    tcp: [Vec<f64>; 2],
    udp: [Vec<f64>; 2],
}

impl Figures {
    fn measure(&mut self, pods: (&Namespace, IpAddr), nodes: (&Namespace, IpAddr)) -> Result<()> {
        let Self { throughput: gigabits, tcp, udp } = self;
        for (at, port, (from, to)) in [(0, "5201", pods), (1, "5202", nodes)] {
            gigabits[at].push(throughput(from, &to.to_string(), port)?);
        }
        for (times, by_udp) in [(tcp, false), (udp, true)] {
            for (at, (from, to)) in [pods, nodes].into_iter().enumerate() {
                times[at].push(round_trips(from, (to, ECHO), by_udp, 5000)?.median);
            }
        }
        Ok(())
    }

    fn report(self, name: &str) {
        let Self { throughput, tcp, udp } = self;
        for (what, unit, [pods, nodes]) in [
            ("one TCP stream", "Gb/s", throughput),
            ("round trip over TCP, median", "us", tcp),
            ("round trip over UDP, median", "us", udp),
        ] {
            report(&format!("pod to pod by {name}, {what}"), unit, pods);
            report("node to node in the same run", unit, nodes);
        }
    }
}
