//! A node that joins: from the creation of its lease to its answer to every other node.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tartan_lab::{ApiServer, ApiServerOptions, Fabric, FabricOptions, Node, Process, eventually_ok};

use super::{Options, Programs, create, lease, node, prepare, report};

/// Nodes on each of two segments before others join.
const NODES: usize = 4;

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[NODES, NODES]))?;
    let api = fabric.api_server(ApiServerOptions::default())?;
    prepare(&api)?;
    let mut agents = vec![];
    for host in fabric.nodes() {
        agents.push(start(&api, host, programs)?);
        create(&api, &[own_lease(&api, host)?])?;
    }
    let first = fabric.node("node1");
    for number in 2..=2 * NODES {
        reach(first, gateway(number))?;
    }
    let (mut all, mut alone) = (vec![], vec![]);
    for round in 0..options.rounds {
        let name = fabric.add_node(round % 2)?.name().to_owned();
        let newcomer = fabric.node(&name);
        agents.push(start(&api, newcomer, programs)?);
        eventually_ok("the agent waits for its lease", Duration::from_secs(60), || {
            newcomer.exec(&["curl", "-sSf", "--max-time", "5", "http://127.0.0.1:9472/healthz"])?.ok()
        })?;
        let address = gateway(newcomer.number());
        let others: Vec<&Node> = fabric.nodes().iter().filter(|node| node.name() != name).collect();
        let lease = [own_lease(&api, newcomer)?];
        let begin = Instant::now();
        let slowest = std::thread::scope(|scope| {
            let reached: Vec<_> = others
                .iter()
                .map(|other| {
                    scope.spawn(move || reach(other, address).map(|()| begin.elapsed().as_secs_f64()))
                })
                .collect();
            create(&api, &lease)?;
            alone.push(begin.elapsed().as_secs_f64());
            let mut slowest = 0_f64;
            for times in reached {
                slowest = slowest.max(times.join().map_err(|_| anyhow::anyhow!("a ping panicked"))??);
            }
            anyhow::Ok(slowest)
        })?;
        all.push(slowest);
    }
    report(&format!("lease creation to traffic with all of {} or more nodes", 2 * NODES), "s", all);
    report("of this, the client that creates the lease", "s", alone);
    Ok(())
}

/// Its Node and NodeNetwork, and its agent, which has no lease yet.
fn start(api: &ApiServer, host: &Node, programs: &Programs) -> Result<Process> {
    let name = host.name();
    create(
        api,
        &[
            node(name),
            json!({
                "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": name }, "spec": {},
            }),
        ],
    )?;
    let mut command = host.command(&programs.agent.display().to_string());
    command.env("NODE_NAME", name).env("KUBECONFIG", api.kubeconfig());
    host.start("agent", &command)
}

fn own_lease(api: &ApiServer, host: &Node) -> Result<Value> {
    let name = host.name();
    let uid = api.kubectl(&["get", "node", name, "-o", "jsonpath={.metadata.uid}"])?.ok()?.stdout;
    Ok(lease(host.number(), name, &uid))
}

/// The first address of the subnet: its node answers, once there is a path in both directions.
fn gateway(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, u8::try_from(number).unwrap_or(u8::MAX), 1)
}

/// Asks until it answers.
fn reach(from: &Node, address: Ipv4Addr) -> Result<()> {
    let script = format!("until ping -q -c1 -W0.1 {address} > /dev/null 2>&1; do sleep 0.02; done");
    let reached = from.exec(&["timeout", "60", "sh", "-c", &script])?;
    reached.ok().with_context(|| format!("{} does not reach {address}", from.name()))?;
    Ok(())
}
