//! Real agents on nodes whose kernel has no WireGuard, which this machine's has not: a process beside each does it.
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

use std::collections::BTreeMap;

use cluster::{Cluster, PATIENCE, reaches, routes, wait_until_reaches};
use serde_json::{Value, json};
use tartan_lab::{Pod, Process, eventually, eventually_ok, program};

/// node1 sends by wireguard, the others by vxlan and receive both.
fn first_encrypts(number: usize) -> Value {
    let backend = if number == 1 { "wireguard" } else { "vxlan" };
    json!({ "type": backend, "accepts": ["vxlan", "wireguard"] })
}

struct Scene {
    // Before the nodes that they run on.
    processes: BTreeMap<String, Process>,
    cluster: Cluster,
    started: usize,
}

impl Scene {
    fn set() -> Self {
        let mut cluster = Cluster::leased(&[3], first_encrypts);
        for name in cluster.names() {
            let mut command = cluster.command(&name);
            command.env("TARTAN_USER_WIREGUARD", "auto");
            cluster.start_command(&name, &command);
        }
        Self { processes: BTreeMap::new(), cluster, started: 0 }
    }

    fn serve(&mut self, node: &str) {
        self.started += 1;
        let program = program("tartan-wireguard").unwrap();
        let mut command = self.cluster.node(node).command(program.to_str().unwrap());
        command.args(["--log", "trace"]);
        let process =
            self.cluster.node(node).start(&format!("wireguard-{}", self.started), &command).unwrap();
        self.processes.insert(node.to_owned(), process);
    }

    fn joined() -> Self {
        let mut scene = Self::set();
        for name in scene.cluster.names() {
            scene.serve(&name);
        }
        scene.cluster.wait_until_joined();
        for name in scene.cluster.names() {
            scene.cluster.wait_for_condition(&name, "Degraded", "False", "AsExpected");
        }
        scene
    }

    /// `kill -9`.
    fn kill(&mut self, node: &str) {
        self.processes.remove(node).unwrap().kill().unwrap();
    }

    fn route(&self, from: &str, to: usize) -> String {
        let all = routes(self.cluster.node(from));
        let subnet = format!("10.244.{to}.0/24");
        all.lines().find(|line| line.contains(&subnet)).unwrap_or_default().to_owned()
    }

    fn wait_for_route(&self, from: &str, to: usize, part: &str) {
        eventually_ok(&format!("{from} has a route with {part}"), PATIENCE, || {
            let route = self.route(from, to);
            anyhow::ensure!(route.contains(part), "it is {route:?}");
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.cluster.log(from)));
    }

    fn pods(&self) -> Vec<Pod> {
        self.cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect()
    }
}

#[test]
fn nodes_whose_kernel_has_no_wireguard_join_by_a_process_and_say_so() {
    let mut scene = Scene::set();
    // Without the process that is told, costs no other pair, and nothing goes in clear.
    for name in ["node1", "node2", "node3"] {
        scene.cluster.wait_for_condition(name, "Degraded", "True", "WireguardNotRunning");
        scene.cluster.wait_for_condition(name, "Ready", "True", "AsExpected");
        assert_eq!(scene.cluster.field("nodenetwork", name, ".status.unavailable"), "[\"wireguard\"]");
    }
    scene.wait_for_route("node2", 3, "dev tartan-vxlan");
    scene.wait_for_route("node1", 2, "unreachable");
    scene.wait_for_route("node2", 1, "unreachable");

    for name in scene.cluster.names() {
        scene.serve(&name);
    }
    scene.cluster.wait_until_joined();
    let pods = scene.pods();
    for from in &pods {
        for to in pods.iter().filter(|to| to.name() != from.name()) {
            wait_until_reaches(from, to);
        }
    }
    assert!(scene.route("node1", 2).contains("dev tartan-wg0"), "{}", scene.route("node1", 2));
    assert!(scene.route("node2", 3).contains("dev tartan-vxlan"), "{}", scene.route("node2", 3));
    for name in ["node1", "node2", "node3"] {
        scene.cluster.wait_for_condition(name, "Degraded", "False", "AsExpected");
        assert_eq!(scene.cluster.field("nodenetwork", name, ".status.wireguard"), "user-space");
    }
    let metrics = scene.cluster.http("node1", "/metrics");
    assert!(metrics.contains("tartan_agent_wireguard{in=\"user-space\"} 1"), "{metrics}");
    let url = "http://127.0.0.1:9475/metrics";
    let served = scene.cluster.node("node1").exec(&["curl", "-sS", url]).unwrap().ok().unwrap().stdout;
    for expected in [
        "tartan_wireguard_peers{device=\"tartan-wg0\"} 2",
        "tartan_wireguard_sessions{device=\"tartan-wg0\"} 2",
        "tartan_wireguard_sent_bytes_total{device=\"tartan-wg0\"}",
    ] {
        assert!(served.contains(expected), "no {expected} in\n{served}");
    }
    let mut diff = scene.cluster.command("node1");
    let diff = diff.env("TARTAN_USER_WIREGUARD", "auto").arg("diff").output().unwrap();
    let text = String::from_utf8(diff.stdout).unwrap();
    assert!(text.contains("WireGuard: user-space") && text.contains("Nothing to change."), "{text}");

    // No key of a node is in anything that either process said.
    for name in scene.cluster.names() {
        let key = scene.cluster.node(&name).exec(&["cat", "/run/tartan/wireguard-0.key"]).unwrap();
        let key = key.ok().unwrap().stdout.trim().to_owned();
        let said = scene.cluster.log(&name) + &scene.processes[&name].output();
        assert!(key.len() == 44 && said.contains("waiting for keys and peers"), "{said}");
        assert!(!said.contains(&key));
    }
}

#[test]
fn a_process_that_is_killed_is_back_without_a_word_to_peers_and_missed_when_it_stays_away() {
    let mut scene = Scene::joined();
    let pods = scene.pods();
    wait_until_reaches(&pods[1], &pods[0]);
    let index = |scene: &Scene| {
        scene.cluster.node("node1").script("ip -o link show tartan-wg0 | cut -d: -f1").unwrap()
    };
    let (device, versions) =
        (index(&scene), scene.cluster.field("subnetlease", "10.244.1.0-24", ".metadata.resourceVersion"));
    scene.kill("node1");
    scene.serve("node1");
    // Packets from the other end find a session again, though that end wasn't told.
    wait_until_reaches(&pods[1], &pods[0]);
    wait_until_reaches(&pods[0], &pods[2]);
    scene.cluster.wait_for_condition("node1", "Degraded", "False", "AsExpected");
    assert_eq!(index(&scene).stdout, device.stdout, "the device stayed");
    assert_eq!(scene.cluster.field("subnetlease", "10.244.1.0-24", ".metadata.resourceVersion"), versions);

    // The agent is away meanwhile: packets don't notice.
    scene.cluster.stop_agent("node1");
    assert!(reaches(&pods[1], &pods[0]));
    let mut command = scene.cluster.command("node1");
    command.env("TARTAN_USER_WIREGUARD", "auto");
    scene.cluster.start_command("node1", &command);
    eventually("a round", PATIENCE, || scene.cluster.says_ok("node1", "/readyz")).unwrap();
    assert!(reaches(&pods[1], &pods[0]));
    assert_eq!(index(&scene).stdout, device.stdout, "the device stayed");

    // It stays away: what it can't do any more is withdrawn, and nothing else.
    scene.kill("node1");
    scene.cluster.wait_for_condition("node1", "Degraded", "True", "WireguardNotRunning");
    scene.wait_for_route("node2", 1, "unreachable");
    scene.wait_for_route("node1", 2, "unreachable");
    scene.cluster.wait_for_condition("node1", "Ready", "True", "AsExpected");
    assert!(reaches(&pods[1], &pods[2]), "a pair without it");
    scene.serve("node1");
    scene.cluster.wait_until_joined();
    wait_until_reaches(&pods[1], &pods[0]);
    scene.cluster.wait_for_condition("node1", "Degraded", "False", "AsExpected");

    // At the end nothing is left, though the process has ended before.
    scene.cluster.stop_agent("node1");
    scene.kill("node1");
    let mut cleanup = scene.cluster.command("node1");
    let cleanup = cleanup.env("TARTAN_USER_WIREGUARD", "auto").arg("cleanup").output().unwrap();
    assert!(cleanup.status.success(), "{}", String::from_utf8_lossy(&cleanup.stderr));
    let links = scene.cluster.node("node1").exec(&["ip", "link"]).unwrap().ok().unwrap().stdout;
    assert!(!links.contains("tartan"), "{links}");
}
