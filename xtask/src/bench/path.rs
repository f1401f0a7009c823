//! What a pod's packets lose to the path, beside the nodes' own in the same run: throughput, processor time, latency.
//!
//! WireGuard is the process in user space: kernels that have it themselves are in a virtual machine here (`machine`).

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;
use tartan_lab::{
    ApiServer, ApiServerOptions, Fabric, FabricOptions, Namespace, Process, eventually_ok,
    traffic::{Amount, Costs, Target, compare},
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
        let targets =
            [(&*from, Target::start(&to, to.ip())?), (&**one, Target::start(two, two.address().into())?)];
        let amount = Amount { seconds: SECONDS, round_trips: 5000 };
        report_costs(name, compare(&targets, options.rounds, amount)?);
    }
    from.remove(one)?;
    to.remove(two)
}

/// Of one measurement of throughput.
pub(super) const SECONDS: u32 = 2;

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

/// Of pods and, in turns with them, of their nodes.
fn report_costs(name: &str, [pods, nodes]: [Costs; 2]) {
    for (what, unit, figure) in [
        ("one TCP stream", "Gb/s", (|costs| &costs.throughput) as fn(&Costs) -> &Vec<f64>),
        ("processors of the machine", "ms/GB", |costs| &costs.processor),
        ("round trip over TCP, median", "us", |costs| &costs.tcp),
        ("round trip over UDP, median", "us", |costs| &costs.udp),
    ] {
        report(&format!("pod to pod by {name}, {what}"), unit, figure(&pods).clone());
        report("node to node in the same run", unit, figure(&nodes).clone());
    }
}
