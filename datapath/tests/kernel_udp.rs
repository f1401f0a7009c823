//! The device of the udp path and its peers on the real kernel, with `ip` as oracle and what the forwarder reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{assert_clean, in_namespace, intent, json, remote, round, run, settle};
use tartan_datapath::{
    kernel::{Kernel, Options, udp::UdpWatch},
    model::{Backend, Deletions, Intent, Side},
};

fn open(folder: &tempfile::TempDir) -> Kernel {
    Kernel::open(Options { restore_dir: folder.path().into(), ..Options::default() }).expect("sockets")
}

fn by_udp(side: &mut Side) {
    side.backend = Backend::Udp;
    side.accepts.insert(Backend::Udp);
    side.endpoints.udp = Some(8285);
}

fn forwarding(peers: u32) -> Intent {
    let peers = (1..=peers).map(|number| {
        let mut peer = remote(number);
        by_udp(&mut peer.side);
        peer
    });
    let mut intent = intent(peers.collect());
    by_udp(&mut intent.local.side);
    intent
}

/// What the forwarder is told: where to receive, and its peers.
async fn orders() -> Option<(String, Vec<String>)> {
    let orders = UdpWatch::open().unwrap().read().await.unwrap()?;
    let mut routes: Vec<String> = orders
        .routes
        .iter()
        .map(|route| format!("{} via {} src {:?}", route.subnet, route.gateway, route.source.unwrap()))
        .collect();
    routes.sort();
    Some((orders.local.to_string(), routes))
}

#[test]
fn the_forwarder_reads_what_the_agent_asks_for() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        assert_eq!(orders().await, None);
        let mut intent = forwarding(2);
        settle(&mut kernel, &intent).await;
        let device = &json("ip -j -d link show tartan-udp")[0];
        assert_eq!(device["mtu"], 1472);
        let data = &device["linkinfo"]["info_data"];
        for flag in ["vnet_hdr", "multi_queue", "persist"] {
            assert_eq!(data[flag], true, "{flag} of {data}");
        }
        let shown = run("ip link show tartan-udp");
        assert!(shown.contains("NO-CARRIER") && shown.contains("qlen 1000"), "nobody is attached: {shown}");
        let expected = |subnet: u32| format!("10.64.{subnet}.0/24 via 198.51.0.{subnet} src 10.251.1.0");
        assert_eq!(orders().await, Some(("192.0.2.11:8285".into(), vec![expected(1), expected(2)])));
        assert!(run("ip route show 10.64.1.0/24").starts_with("10.64.1.0/24 dev tartan-udp proto 84"));
        // A peer that goes, and one whose address changes.
        intent.peers.remove(0);
        intent.peers[0].side.public_ips = vec!["198.51.0.77".parse().unwrap()];
        settle(&mut kernel, &intent).await;
        let moved = "10.64.2.0/24 via 198.51.0.77 src 10.251.1.0".to_owned();
        assert_eq!(orders().await, Some(("192.0.2.11:8285".into(), vec![moved.clone()])));
        // Another port is another device: nothing tells the threads of the old one.
        intent.udp.port = 9000;
        intent.peers[0].side.endpoints.udp = Some(9000);
        settle(&mut kernel, &intent).await;
        assert_eq!(orders().await, Some(("192.0.2.11:9000".into(), vec![moved])));
    });
}

#[test]
fn what_others_remove_comes_back_and_all_goes_at_the_end() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        let mut intent = forwarding(2);
        settle(&mut kernel, &intent).await;
        let whole = orders().await;
        for damage in [
            "ip route del 10.64.1.0/24 table 84",
            "ip route replace 10.64.1.0/24 via 203.0.113.9 dev tartan-udp onlink proto 84 table 84",
            "ip link delete tartan-udp",
            "ip link set tartan-udp down",
            "ip link set tartan-udp mtu 1000",
            "sysctl -qw net.ipv4.conf.tartan-udp.accept_local=0",
            "ip link delete tartan-udp; ip tuntap add dev tartan-udp mode tun multi_queue vnet_hdr",
        ] {
            run(damage);
            settle(&mut kernel, &intent).await;
            assert_eq!(orders().await, whole, "after {damage}");
        }
        // One of somebody else's in its table is none of ours.
        run("ip route add 203.0.113.0/24 via 198.51.0.9 dev tartan-udp onlink table 84");
        assert_eq!(orders().await, whole);
        intent.local.side.accepts.remove(&Backend::Udp);
        intent.local.side.backend = Backend::Vxlan;
        assert_clean(&round(&mut kernel, &intent, Deletions::Allowed).await);
        assert_eq!(orders().await, None);
        assert!(!run("ip link").contains("tartan-udp"));
    });
}

#[test]
fn a_device_of_somebody_else_is_left_alone() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        run("ip tuntap add dev tartan-udp mode tun; ip link set tartan-udp up alias theirs");
        let (_, plan, _) = round(&mut kernel, &forwarding(1), Deletions::Allowed).await;
        let conflicts: Vec<String> = plan.conflicts.iter().map(ToString::to_string).collect();
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        assert!(conflicts[0].starts_with("link tartan-udp is in the way"), "{conflicts:?}");
        assert_eq!(json("ip -j link show tartan-udp")[0]["ifalias"], "theirs");
        assert_eq!(orders().await, None);
    });
}
