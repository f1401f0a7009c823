//! Pods of two families, and of IPv6 alone, over an IPv4 underlay and over one of both families.
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
#[path = "bad_input/elsewhere.rs"]
mod elsewhere;

use std::net::IpAddr;

use cluster::{Cluster, PATIENCE, host_gw, vxlan};
use elsewhere::MTU_TOO_SMALL;
use serde_json::{Value, json};
use tartan_lab::{Namespace, Pod, eventually, eventually_ok};

/// IPv6 subnets beside the IPv4 ones, or alone: fd00:10:244:N::/64.
fn leased(segments: &[usize], v4: bool, backend: impl Fn(usize) -> Value) -> Cluster {
    let cluster = Cluster::bare(segments);
    let mut entries = vec![json!({ "name": "six", "cidr": "fd00:10:244::/48", "nodeMaskSize": 64 })];
    if v4 {
        entries.push(json!({ "name": "four", "cidr": "10.244.0.0/16", "nodeMaskSize": 24 }));
    }
    cluster.create(&json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork",
        "metadata": { "name": "default" }, "spec": { "cidrs": entries },
    }));
    for node in cluster.fabric.nodes() {
        let number = node.number();
        cluster.create_node_network(node.name());
        if v4 {
            cluster.create_lease(number, node.name(), &backend(number));
        }
        let uid = cluster.field("node", node.name(), ".metadata.uid");
        let mut six = cluster::lease(number, node.name(), &uid, &backend(number));
        six["metadata"]["name"] = format!("fd00-10-244-{number}---64").into();
        six["spec"]["subnet"] = format!("fd00:10:244:{number}::/64").into();
        cluster.create(&six);
    }
    cluster
}

fn pings(from: &Namespace, to: IpAddr) -> bool {
    from.exec(&["ping", "-n", "-c1", "-W1", &to.to_string()]).unwrap().success()
}

/// Every pod and every node reaches every remote pod by every address.
fn all_reach_all(cluster: &Cluster, pods: &[Pod], families: usize) {
    for (node, from) in cluster.fabric.nodes().iter().zip(pods) {
        assert_eq!(from.ips().len(), families, "{:?}", from.ips());
        for to in pods.iter().filter(|to| to.ip() != from.ip()) {
            for address in to.ips() {
                for place in [from as &Namespace, node] {
                    eventually(&format!("{} reaches {address}", place.name()), PATIENCE, || pings(place, *address))
                        .unwrap_or_else(|error| {
                            let script = "ip -6 route; ip -6 neigh show dev tartan-vxlan; ip -6 addr show dev tartan0; nft list table inet tartan";
                            panic!("{error:#}\n{}\n{}", node.script(script).unwrap().stdout, cluster.log(node.name()))
                        });
                }
            }
        }
    }
}

fn route(cluster: &Cluster, node: &str, subnet: &str) -> String {
    let family = if subnet.contains(':') { "-6" } else { "-4" };
    cluster.node(node).exec(&["ip", family, "route", "show", subnet]).unwrap().ok().unwrap().stdout
}

fn ready(cluster: &Cluster) {
    for name in cluster.names() {
        eventually_ok(&format!("{name} is ready"), PATIENCE, || {
            let found = cluster.condition(&name, "Ready");
            anyhow::ensure!(found.0 == "True", "{found:?}\n{}", cluster.log(&name));
            let degraded = cluster.field(
                "nodenetwork",
                &name,
                ".status.conditions[?(@.type==\"Degraded\")]['status','message']",
            );
            anyhow::ensure!(degraded.starts_with("False"), "{degraded}\n{}", cluster.log(&name));
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn pods_of_two_families_reach_each_other_by_tunnels_and_by_plain_routes() {
    let mixed = |number: usize| if number < 3 { host_gw(number) } else { vxlan(number) };
    let mut cluster = leased(&[2, 1], true, mixed);
    cluster.start_all();
    ready(&cluster);
    let pods: Vec<Pod> = cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect();
    all_reach_all(&cluster, &pods, 2);
    // Each family's plain route goes by a gateway of its own; the tunnel carries both.
    assert!(route(&cluster, "node1", "10.244.2.0/24").contains("dev eth0"));
    let six = route(&cluster, "node1", "fd00:10:244:2::/64");
    assert!(six.contains("via fd18:") && six.contains("dev eth0"), "{six}");
    assert!(route(&cluster, "node1", "fd00:10:244:3::/64").contains("dev tartan-vxlan"));
    let env = cluster.node("node1").script("cat /run/flannel/subnet.env").unwrap().stdout;
    assert!(env.contains("FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64"), "{env}");

    // What somebody removes comes back, of this family too.
    cluster
        .node("node1")
        .script("ip -6 route del fd00:10:244:3::/64; ip -6 address del fd00:10:244:1::1/64 dev tartan0")
        .unwrap();
    all_reach_all(&cluster, &pods, 2);
    let (code, text, _) = cluster.agent("node1", &["diff"]);
    assert_eq!(code, 0, "{text}");
    drop(pods);
    cluster.stop_agent("node1");
    assert_eq!(cluster.agent("node1", &["cleanup"]).0, 0);
    let left = cluster
        .node("node1")
        .script("ip -6 route show proto 84; ip link | grep tartan || true")
        .unwrap()
        .stdout;
    assert_eq!(left.trim(), "");
}

/// Bad input that takes a cluster with IPv6, which that of tests/bad_input has not.
#[test]
fn a_pod_mtu_that_ipv6_cannot_live_with_is_told_and_pods_have_what_it_takes() {
    let mut cluster = leased(&[2], true, vxlan);
    cluster.start_all();
    ready(&cluster);
    let ask = |mtu: Value| {
        let patch = json!({ "spec": { "mtu": mtu } }).to_string();
        let words = ["patch", "clusternetwork", "default", "--type=merge", "-p", &patch];
        cluster.api.kubectl(&words).unwrap().ok().unwrap();
    };
    ask(1000.into());
    let row = &MTU_TOO_SMALL;
    for name in cluster.names() {
        eventually_ok(&format!("{name} tells of it"), PATIENCE, || {
            let (status, reason, message) = cluster.condition_of("nodenetwork", &name, "Degraded");
            anyhow::ensure!((status.as_str(), reason.as_str()) == ("True", row.reason), "{status}: {reason}");
            for part in [row.names, row.remedy] {
                anyhow::ensure!(message.contains(part), "{part:?} is not in: {message}");
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(cluster.condition(&name, "Ready").0, "True");
        assert_eq!(cluster.field("nodenetwork", &name, ".status.podMTU"), "1280");
    }
    let pods: Vec<Pod> = cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect();
    all_reach_all(&cluster, &pods, 2);
    // In full packets.
    for address in pods[1].ips() {
        let fits = |more: u32| {
            let headers = if address.is_ipv4() { 28 } else { 48 };
            let size = (1280 - headers + more).to_string();
            let address = address.to_string();
            let ping = ["ping", "-n", "-c1", "-W1", "-M", "do", "-s", &size, &address];
            pods[0].exec(&ping).unwrap().success()
        };
        assert!(fits(0) && !fits(1), "{address}");
    }

    ask(Value::Null);
    ready(&cluster);
    for name in cluster.names() {
        assert_eq!(cluster.field("nodenetwork", &name, ".status.podMTU"), "1450");
    }
}

#[test]
fn pods_of_ipv6_alone_reach_each_other() {
    let mut cluster = leased(&[1, 1], false, vxlan);
    cluster.start_all();
    ready(&cluster);
    let pods: Vec<Pod> = cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect();
    all_reach_all(&cluster, &pods, 1);
}
