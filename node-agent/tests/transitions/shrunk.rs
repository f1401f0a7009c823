//! Changes after which packets have less room than when their pods started: a connection in full packets goes on, and the
//! nodes say which pods are to be restarted.

use std::time::Duration;

use serde_json::Value;
use tartan_crds::{
    BackendType::{self, Ipsec, Vxlan, Wireguard},
    conditions::reason,
};
use tartan_lab::{Namespace, Process};

use super::{
    scene::{Pool, Scene},
    standing::let_flow,
    wait_for,
};

const POOL: &str = "all";
const NODES: [&str; 2] = ["node1", "node2"];
/// Of an uplink of 1500 bytes without any tunnel but vxlan's.
const AT_THE_START: u32 = 1450;

#[test]
#[ignore = "needs a kernel with WireGuard and IPsec: machine.rs runs it in one"]
fn a_connection_in_full_packets_outlives_changes_that_leave_it_less_room() {
    let scene = Scene::with_the_usual_mtu(&[2], &[Pool { name: POOL, nodes: &[1, 2], backend: Vxlan }]);
    for node in NODES {
        assert_eq!(mtu(&scene.end(node).pod), AT_THE_START);
    }
    // One: the answers to another would count as if they were of its packets.
    let stream = Stream::start(&scene, NODES[0], NODES[1]);
    for (from, to) in [(Vxlan, Wireguard), (Wireguard, Ipsec), (Ipsec, Vxlan)] {
        scene.change(POOL, from, to);
        for node in NODES {
            scene.wait_until_told(node, to);
        }
        stream.assert_flows(&format!("after {from} to {to}"));
        scene.tell(&format!("{from} to {to}: the stream goes on"));
    }
    println!("shrunk: 3 changes, the stream went on");
}

fn mtu(pod: &Namespace) -> u32 {
    let link = pod.exec(&["ip", "-j", "link", "show", "eth0"]).unwrap().stdout;
    let link: Value = serde_json::from_str(&link).unwrap();
    link[0]["mtu"].as_u64().unwrap().try_into().unwrap()
}

impl Scene {
    /// The node says that its pods' MTU is too large for this backend, or no more.
    fn wait_until_told(&self, node: &str, backend: BackendType) {
        wait_for(&format!("what {node} says of its pods' MTU by {backend}"), || {
            let (_, reason, message) = self.degraded(node);
            let told = reason == reason::PODS_EXCEED_MTU;
            anyhow::ensure!(told == backend.encrypts(), "{reason}: {message}");
            Ok(())
        });
    }
}

/// One TCP connection that sends full packets, from a node's pod to the other's.
struct Stream<'s> {
    client: Process,
    _server: Process,
    to: &'s Namespace,
}

impl<'s> Stream<'s> {
    fn start(scene: &'s Scene, from: &str, to: &str) -> Self {
        let (from, to) = (scene.end(from), scene.end(to));
        let server = to.pod.spawn("iperf-server", &["iperf3", "--server", "--one-off"]).unwrap();
        let address = to.address().to_string();
        wait_for("the server", || {
            // Port 5201, as the kernel writes it.
            to.pod.script("grep -q ':1451 ' /proc/net/tcp6")?.ok()
        });
        // Not more than an emulated machine can bear beside its agents.
        let words = ["iperf3", "--client", &address, "--time", "3600", "--bitrate", "2M"];
        let client = from.pod.spawn("iperf", &words).unwrap();
        let stream = Self { client, _server: server, to: &to.pod };
        stream.assert_flows("before any change");
        stream
    }

    /// The client has one connection, and ends with it.
    fn assert_flows(&self, when: &str) {
        let received = |to: &Namespace| -> u64 {
            let counted = to.exec(&["ip", "-j", "-s", "link", "show", "eth0"]).unwrap().stdout;
            let counted: Value = serde_json::from_str(&counted).unwrap();
            counted[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
        };
        let before = received(self.to);
        wait_for(&format!("a megabyte of the stream {when}"), || {
            let more = received(self.to) - before;
            anyhow::ensure!(more > 1 << 20, "{more} bytes\n{}", self.client.output());
            let_flow(Duration::from_millis(100));
            Ok(())
        });
        assert!(self.client.is_running(), "{when}: {}", self.client.output());
    }
}
