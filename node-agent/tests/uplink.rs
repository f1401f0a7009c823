//! An uplink that changes while the agents run: its MTU, its address, the prefixes on it. All nodes follow, and what
//! a change leaves whole loses nothing.
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

use std::time::Duration;

use cluster::{Cluster, PATIENCE, lease, reaches, time_until, vxlan, wait_until_reaches};
use serde_json::{Value, json};
use tartan_lab::{
    Pod, eventually,
    traffic::{Echo, Load, LoadOptions, Report},
};

fn direct(_: usize) -> Value {
    json!({ "type": "vxlan", "accepts": ["vxlan", "host-gw"], "directRouting": true })
}

fn show(cluster: &Cluster, node: &str, words: &str) -> String {
    cluster.node(node).exec(&words.split(' ').collect::<Vec<_>>()).unwrap().stdout
}

fn joined(segments: &[usize], backend: impl Fn(usize) -> Value) -> (Cluster, [Pod; 2]) {
    let mut cluster = Cluster::leased(segments, backend);
    cluster.start_all();
    cluster.wait_until_joined();
    let pods = ["node1", "node2"].map(|node| cluster.node(node).pod("a").unwrap());
    wait_until_reaches(&pods[0], &pods[1]);
    (cluster, pods)
}

/// Runs `during` while packets flow from one pod to the other.
fn under_load(pods: &[Pod; 2], during: impl FnOnce()) -> Report {
    let _echo = Echo::start(&pods[1], 7000).unwrap();
    let options = LoadOptions { udp_rate: 500, tcp_flows: 2, ..LoadOptions::default() };
    let load = Load::start(&pods[0], "through", (pods[1].ip(), 7000), &options).unwrap();
    during();
    load.finish().unwrap()
}

#[track_caller]
fn assert_whole(report: &Report) {
    assert!(report.sent() > 100, "{report}");
    assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
}

#[test]
fn every_node_follows_an_uplinks_mtu_and_nothing_is_lost() {
    let (cluster, pods) = joined(&[1, 1], vxlan);
    let report = under_load(&pods, || {
        for (mtu, inside) in [(1400, 1350), (1500, 1450)] {
            cluster.node("node2").set_mtu(mtu).unwrap();
            let own = format!("mtu {inside} ");
            let took = time_until("the tunnel and the peer's route to follow", PATIENCE, || {
                show(&cluster, "node2", "ip link show tartan-vxlan").contains(&own)
                    && show(&cluster, "node1", "ip route show 10.244.2.0/24").contains(own.trim())
                    && cluster.field("nodenetwork", "node2", ".status.podMTU") == inside.to_string()
            });
            println!("uplink MTU {mtu}: followed everywhere after {took:?}");
        }
    });
    assert_whole(&report);
}

#[test]
fn a_node_whose_address_changes_is_reached_at_the_new_one() {
    let (cluster, pods) = joined(&[1, 1], vxlan);
    // Another address of the same link, and the old one is gone: what the agent had open to the API server hangs.
    cluster
        .node("node2")
        .script(
            "sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1
             ip address add 198.18.1.77/24 dev eth0
             ip address del 198.18.1.12/24 dev eth0
             ip route replace default via 198.18.1.1",
        )
        .unwrap();
    let took = time_until("the tunnel to be made anew", PATIENCE, || {
        show(&cluster, "node2", "ip -d link show tartan-vxlan").contains("local 198.18.1.77")
    });
    println!("the tunnel has the new address after {took:?}");
    let took =
        time_until("pods to be reached again", Duration::from_secs(90), || reaches(&pods[0], &pods[1]));
    println!("pods reach each other again after another {took:?}");
    let published = cluster.field("subnetlease", "10.244.2.0-24", ".status.publicIPs");
    assert!(published.starts_with(r#"["198.18.1.77""#), "{published}");
    assert!(show(&cluster, "node1", "bridge fdb show dev tartan-vxlan").contains("dst 198.18.1.77"));
    assert!(!show(&cluster, "node1", "bridge fdb show dev tartan-vxlan").contains("dst 198.18.1.12"));
    // And it hears of what happens from now on.
    cluster.create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node3" } }));
    let uid = cluster.field("node", "node3", ".metadata.uid");
    cluster.create(&lease(3, "node3", &uid, &vxlan(3)));
    let took = time_until("a new lease to be known", Duration::from_secs(120), || {
        show(&cluster, "node2", "ip route show proto 84").contains("10.244.3.0/24")
    });
    println!("it hears of a new lease after {took:?}");
}

#[test]
fn a_pair_moves_between_tunnel_and_plain_route_with_the_prefixes_of_its_uplinks() {
    let (cluster, pods) = joined(&[2], direct);
    let by = |word: &str| {
        eventually(&format!("both to go by {word}"), PATIENCE, || {
            show(&cluster, "node1", "ip route show 10.244.2.0/24").contains(word)
                && show(&cluster, "node2", "ip route show 10.244.1.0/24").contains(word)
        })
        .unwrap();
    };
    by("dev eth0");
    let report = under_load(&pods, || {
        // The address stays, and so does the way to the others; the prefix goes and comes back.
        cluster
            .node("node2")
            .script(
                "ip route add 198.18.0.0/24 dev eth0 metric 9
                 ip address add 198.18.0.12/32 dev eth0
                 ip address del 198.18.0.12/24 dev eth0",
            )
            .unwrap();
        by("dev tartan-vxlan");
        cluster.node("node2").script("ip address add 198.18.0.212/24 dev eth0").unwrap();
        by("dev eth0");
    });
    assert_whole(&report);
}
