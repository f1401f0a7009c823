//! The fabric: nodes reach each other over segments, and the host does not notice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::net::IpAddr;
use std::time::Duration;

use tartan_lab::{ApiServerOptions, Fabric, FabricOptions, Namespace, Node, Tapped, eventually};

fn reaches(from: &Namespace, to: impl Into<IpAddr>) -> bool {
    from.exec(&["ping", "-n", "-c1", "-W1", &to.into().to_string()]).unwrap().success()
}

/// A pod network for one node, as flat as can be: one bridge, one block.
fn conflist(block: u8) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "lab", "plugins": [
            {{"type": "bridge", "bridge": "pods0", "isGateway": true,
              "ipam": {{"type": "host-local", "dataDir": "/run/cni",
                        "ranges": [[{{"subnet": "10.244.{block}.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#
    )
}

fn write_conflist(node: &Node) {
    let block = u8::try_from(node.number()).unwrap();
    node.write("/etc/cni/net.d/10-lab.conflist", &conflist(block)).unwrap();
}

#[test]
fn nodes_reach_each_other_over_segments_in_both_families() {
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[2, 1])).unwrap();
    for from in fabric.nodes() {
        for to in fabric.nodes() {
            assert!(reaches(from, to.address()), "{} to {}", from.name(), to.name());
            assert!(reaches(from, to.address_v6()), "{} to {} by IPv6", from.name(), to.name());
        }
    }

    let (one, two) = (fabric.node("node1"), fabric.node("node2"));
    fabric.disconnect("node1").unwrap();
    assert!(!reaches(two, one.address()));
    fabric.reconnect("node1").unwrap();
    assert!(reaches(two, one.address()));

    fabric.outside().unwrap();
    assert!(reaches(fabric.node("node3"), Fabric::OUTSIDE));
}

#[test]
fn a_node_has_files_devices_and_a_name_of_its_own() {
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[1])).unwrap();
    let node = fabric.node("node1");
    assert_eq!(node.exec(&["hostname"]).unwrap().stdout.trim(), "node1");
    let devices = node.exec(&["ls", "/sys/class/net"]).unwrap().stdout;
    assert!(devices.contains("eth0") && !devices.contains("seg0"), "{devices}");

    write_conflist(node);
    node.write("/run/volatile", "x").unwrap();
    node.script("ip link add pods1 type bridge").unwrap();
    assert_eq!(node.files().unwrap(), [std::path::Path::new("/etc/cni/net.d/10-lab.conflist")]);
    assert!(!std::path::Path::new("/etc/cni/net.d/10-lab.conflist").exists());
    let sleeper = node.spawn("sleeper", &["sleep", "600"]).unwrap();
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", sleeper.pid())).unwrap();
    assert_eq!(comm.trim(), "sleep", "the pid is the command's own");

    fabric.reboot_node("node1").unwrap();

    assert!(!sleeper.is_running());
    let node = fabric.node("node1");
    node.read("/etc/cni/net.d/10-lab.conflist").unwrap();
    assert!(node.read("/run/volatile").is_err());
    assert!(!node.exec(&["ip", "link", "show", "pods1"]).unwrap().success());
    assert!(reaches(node, [198, 18, 0, 1]));
}

#[test]
fn pods_are_wired_by_the_real_plugins() {
    let fabric = Fabric::start(FabricOptions::with_segments(&[1])).unwrap();
    let node = fabric.node("node1");
    assert!(node.pod("early").unwrap_err().to_string().contains("no CNI configuration"));
    write_conflist(node);

    let (a, b) = (node.pod("a").unwrap(), node.pod("b").unwrap());

    assert_eq!((a.ip().to_string(), b.ip().to_string()), ("10.244.1.2".to_owned(), "10.244.1.3".to_owned()));
    assert!(reaches(&a, b.ip()));
    assert!(reaches(node, a.ip()));
    a.remove(node).unwrap();
    let leased = node.exec(&["ls", "/run/cni/lab"]).unwrap().ok().unwrap().stdout;
    assert!(!leased.contains("10.244.1.2") && leased.contains("10.244.1.3"), "{leased}");
}

#[test]
fn a_control_plane_is_reached_from_nodes_and_from_the_host() {
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[1, 1])).unwrap();
    let api = fabric.api_server(ApiServerOptions::default()).unwrap();
    let url = format!("{}/readyz", api.url());
    for node in fabric.nodes() {
        let output = node.exec(&["curl", "-s", "-k", "-m", "5", &url]).unwrap();
        assert!(output.stdout.contains("ok") || output.stdout.contains("Unauthorized"), "{output:?}");
    }
    api.kubectl(&["get", "namespaces"]).unwrap().ok().unwrap();
}

#[test]
fn the_host_is_the_same_when_a_fabric_is_gone() {
    let look = || {
        ["ip -o link", "ip route show table all", "sysctl net.ipv4.ip_forward", "cat /proc/self/mountinfo"]
            .map(|words| {
                let words: Vec<&str> = words.split(' ').collect();
                let output = std::process::Command::new(words[0]).args(&words[1..]).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            })
    };
    // Other tests may have a veth here at this moment: only what belongs to this one is compared.
    let fabric = Fabric::start(FabricOptions::with_segments(&[1])).unwrap();
    let directory = fabric.node("node1").disk().to_owned();
    let (pid, with) = (fabric.node("node1").pid(), look());
    drop(fabric);
    eventually("the end of the namespaces", Duration::from_secs(5), || {
        !std::path::Path::new(&format!("/proc/{pid}/ns/net")).exists()
    })
    .unwrap();
    assert!(!directory.exists());
    let after = look();
    assert_eq!(with[2], after[2], "forwarding");
    assert_eq!(with[3], after[3], "mounts");
    assert!(!after[0].contains("seg0") && !after[0].contains("to-node1"), "{}", after[0]);
}

#[test]
fn a_tap_tells_pods_packets_and_tunnels_apart_and_outlives_a_reboot() {
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[2])).unwrap();
    fabric.tap("10.244.0.0/16").unwrap();
    fabric.reboot_node("node1").unwrap();
    let two = fabric.node("node2").address();
    let script = format!(
        "ip address add 10.244.1.1/32 dev lo
         ping -n -c1 -W1 {two} > /dev/null
         ping -n -c2 -i0.2 -W1 -I 10.244.1.1 {two} > /dev/null || true
         say() {{ printf \"$2\" > /dev/udp/{two}/$1; }}
         say 8472 '\\x08...'; say 8472 '\\x08...'; say 8285 '\\x45...'; say 51820 '\\x04...'; say 4500 'spi.'
         # Answers to flows that happened to get these ports.
         for port in 8472 8285 51820 4500; do say $port '\\0\\0\\0\\0\\0\\0\\0\\1'; done"
    );
    fabric.node("node1").exec(&["bash", "-euc", &script]).unwrap().ok().unwrap();

    let seen = fabric.tapped("node1").unwrap();

    assert_eq!(seen, Tapped { plain: 2, vxlan: 2, udp: 1, wireguard: 1, esp: 1, ipip: 0 });
    assert_eq!((seen.clear(), seen.encrypted()), (5, 2));
    // Answers to an address that it has no route to go to the router, as a node's would.
    assert_eq!(fabric.tapped("node2").unwrap().clear(), 2);
    fabric.tap("10.244.0.0/16").unwrap();
    assert_eq!(fabric.tapped("node1").unwrap(), Tapped::default());
}
