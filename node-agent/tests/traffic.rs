//! Standing traffic between all pods of a mixed cluster while the agents are disturbed: not one packet and
//! not one connection may be lost where the agent alone has trouble; where the data path itself is
//! damaged, the loss is bounded by the time of its repair.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Cluster, PATIENCE, host_gw, lease, vxlan, wait_until_reaches};
use serde_json::Value;
use tartan_lab::{
    Pod, eventually,
    traffic::{Echo, Load, LoadOptions, Report},
};

const PORT: u16 = 7000;

/// node1 and node2 route directly, node3 behind the router tunnels.
fn mixed(number: usize) -> Value {
    if number < 3 { host_gw(number) } else { vxlan(number) }
}

/// A load, from this node's pod or the node itself, to that node's pod.
struct Flowing {
    from: String,
    to: String,
    load: Load,
}

struct Traffic {
    loads: Vec<Flowing>,
    _echoes: Vec<Echo>,
    _pods: Vec<Pod>,
}

impl Traffic {
    /// Between every ordered pair of pods, and from every node to every remote pod: 8 TCP flows and 1,000
    /// UDP packets a second between pods, less from the nodes.
    fn start(cluster: &Cluster) -> Self {
        let pods: Vec<Pod> = cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect();
        let echoes = pods.iter().map(|pod| Echo::start(pod, PORT).unwrap()).collect();
        let mut loads = vec![];
        for (node, from) in cluster.fabric.nodes().iter().zip(&pods) {
            for (other, to) in cluster.fabric.nodes().iter().zip(&pods) {
                if other.name() == node.name() {
                    continue;
                }
                wait_until_reaches(from, to);
                let name = format!("to-{}", to.ip());
                let many = Load::start(from, &name, (to.ip(), PORT), &LoadOptions::default()).unwrap();
                let few = LoadOptions { udp_rate: 100, tcp_flows: 2, ..LoadOptions::default() };
                let few = Load::start(node, &name, (to.ip(), PORT), &few).unwrap();
                for load in [many, few] {
                    loads.push(Flowing { from: node.name().to_owned(), to: other.name().to_owned(), load });
                }
            }
        }
        Self { loads, _echoes: echoes, _pods: pods }
    }

    /// From which node, to which, and what happened.
    fn finish(self) -> Vec<(String, String, Report)> {
        self.loads
            .into_iter()
            .map(|flowing| (flowing.from, flowing.to, flowing.load.finish().unwrap()))
            .collect()
    }
}

fn let_flow(time: Duration) {
    let start = Instant::now();
    eventually("enough traffic", time * 3, || start.elapsed() >= time).unwrap();
}

fn assert_nothing_lost(from: &str, report: &Report) {
    assert!(report.sent() > 300, "{from}: {report}");
    assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{from}: {report}");
}

#[test]
fn nothing_is_lost_while_agents_die_and_peers_come_and_go() {
    let mut cluster = Cluster::leased(&[2, 1], mixed);
    cluster.start_all();
    cluster.wait_until_joined();
    let traffic = Traffic::start(&cluster);

    // Killed without warning, and started again.
    for name in cluster.names() {
        cluster.agents.remove(&name).unwrap().kill().unwrap();
        let_flow(Duration::from_millis(300));
        cluster.start_agent(&name);
    }
    // A peer that has nothing to do with the others appears and goes.
    cluster.create(&lease(77, "elsewhere", "none", &vxlan(77)));
    let there = |there: bool| {
        let route = cluster.node("node1").exec(&["ip", "route", "show", "10.244.77.0/24"]).unwrap().stdout;
        route.is_empty() != there
    };
    eventually("its route", PATIENCE, || there(true)).unwrap();
    cluster.api.kubectl(&["delete", "subnetlease", "10.244.77.0-24"]).unwrap().ok().unwrap();
    eventually("its route to go", PATIENCE, || there(false)).unwrap();
    // Stopped in order, while the API server is away, and started again.
    cluster.api.stop().unwrap();
    cluster.stop_agent("node2");
    cluster.start_agent("node2");
    let_flow(Duration::from_secs(1));
    cluster.api.resume().unwrap();
    // The tables that pods' own traffic doesn't need.
    cluster.node("node1").script("nft delete table inet tartan").unwrap();
    let_flow(Duration::from_secs(2));
    for name in cluster.names() {
        cluster.wait_for_condition(&name, "Ready", "True", "AsExpected");
    }

    for (from, _, report) in traffic.finish() {
        assert_nothing_lost(&from, &report);
    }
}

#[test]
fn a_deleted_device_costs_no_connection_and_pairs_without_it_lose_nothing() {
    let mut cluster = Cluster::leased(&[2, 1], mixed);
    cluster.start_all();
    cluster.wait_until_joined();
    let traffic = Traffic::start(&cluster);

    cluster.node("node1").script("ip link delete tartan-vxlan").unwrap();
    let_flow(Duration::from_secs(2));

    for (from, to, report) in traffic.finish() {
        if [&from, &to].map(String::as_str).iter().all(|name| ["node1", "node3"].contains(name)) {
            assert_eq!(report.connections_lost(), 0, "{from}: {report}");
            println!(
                "{from} to {to}: {} of {} lost, gap {} ms",
                report.lost(),
                report.sent(),
                report.max_gap_ms()
            );
        } else {
            // node1 and node2 need no tunnel, and those of the others are whole.
            assert_nothing_lost(&from, &report);
        }
    }
}

#[test]
fn nothing_is_lost_when_nodes_move_between_plain_routes_and_the_tunnel() {
    let mut cluster = Cluster::leased(&[2, 1], mixed);
    cluster.start_all();
    cluster.wait_until_joined();
    let traffic = Traffic::start(&cluster);
    for (kind, device) in [("vxlan", "dev tartan-vxlan"), ("host-gw", "dev eth0")] {
        for number in [1, 2] {
            let name = format!("10.244.{number}.0-24");
            // As the operator does it: a node of an overlay receives no plain routes, and so has to publish
            // first that it does.
            let accepts = if kind == "vxlan" { r#"["vxlan"]"# } else { r#"["host-gw","vxlan"]"# };
            let patch = format!(r#"{{"spec":{{"backend":{{"type":"{kind}","accepts":{accepts}}}}}}}"#);
            cluster
                .api
                .kubectl(&["patch", "subnetlease", &name, "--type=merge", "-p", &patch])
                .unwrap()
                .ok()
                .unwrap();
            let_flow(Duration::from_millis(500));
        }
        for (node, subnet) in [("node1", "10.244.2.0/24"), ("node2", "10.244.1.0/24")] {
            eventually(&format!("{node} to send by {kind}"), PATIENCE, || {
                cluster.node(node).exec(&["ip", "route", "show", subnet]).unwrap().stdout.contains(device)
            })
            .unwrap();
        }
        let_flow(Duration::from_secs(1));
    }
    for (from, to, report) in traffic.finish() {
        println!(
            "{from} to {to}: {} of {} lost, gap {} ms",
            report.lost(),
            report.sent(),
            report.max_gap_ms()
        );
        assert_nothing_lost(&from, &report);
    }
}
