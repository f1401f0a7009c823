//! Hosts and networks as they are found: reverse-path filters, a FORWARD chain that drops, unequal MTUs with
//! routers that tell nothing, a node that reboots into another lease.
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

use cluster::{Cluster, PATIENCE, host_gw, lease, reaches, vxlan, wait_until_reaches};
use serde_json::Value;
use tartan_lab::{Pod, eventually, eventually_ok};

fn mixed(number: usize) -> Value {
    if number < 3 { host_gw(number) } else { vxlan(number) }
}

fn pods(cluster: &Cluster) -> Vec<Pod> {
    cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect()
}

fn everybody_reaches_everybody(pods: &[Pod]) {
    for from in pods {
        for to in pods.iter().filter(|to| to.ip() != from.ip()) {
            wait_until_reaches(from, to);
        }
    }
}

#[test]
fn pods_reach_each_other_under_every_reverse_path_filter_and_a_forward_chain_that_drops() {
    for filter in ["0", "1", "2"] {
        let mut cluster = Cluster::leased(&[2, 1], mixed);
        for node in cluster.fabric.nodes() {
            node.script(&format!(
                "sysctl -qw net.ipv4.conf.all.rp_filter={filter} net.ipv4.conf.default.rp_filter={filter} \
                 net.ipv4.conf.eth0.rp_filter={filter}
                 iptables-nft -P FORWARD DROP"
            ))
            .unwrap();
        }
        cluster.start_all();
        cluster.wait_until_joined();
        everybody_reaches_everybody(&pods(&cluster));
    }
}

#[test]
fn a_smaller_mtu_on_the_way_is_known_at_the_source_though_no_router_tells() {
    let mut cluster = Cluster::leased(&[1, 1], vxlan);
    cluster.node("node2").set_mtu(1400).unwrap();
    // No "fragmentation needed" of the underlay ever arrives.
    cluster.fabric.router().script("nft add table inet t; nft 'add chain inet t f { type filter hook forward priority 0; }'; nft add rule inet t f icmp type destination-unreachable drop; nft 'add chain inet t o { type filter hook output priority 0; }'; nft add rule inet t o icmp type destination-unreachable drop").unwrap();
    cluster.start_all();
    cluster.wait_until_joined();
    let pods = pods(&cluster);
    wait_until_reaches(&pods[0], &pods[1]);
    let mtu = |name: &str| cluster.field("nodenetwork", name, ".status.podMTU");
    assert_eq!((mtu("node1"), mtu("node2")), ("1450".to_owned(), "1350".to_owned()));
    eventually("the route to carry the smaller MTU", PATIENCE, || {
        cluster
            .node("node1")
            .exec(&["ip", "route", "show", "10.244.2.0/24"])
            .unwrap()
            .stdout
            .contains("mtu 1350")
    })
    .unwrap();
    let address = pods[1].ip().to_string();
    let ping = |size: &str| pods[0].exec(&["ping", "-c1", "-W1", "-M", "do", "-s", size, &address]).unwrap();
    // 28 bytes of headers: 1350 in all passes, and one more is refused at the source with the right size.
    ping("1322").ok().unwrap();
    let refused = ping("1323");
    assert!(!refused.success(), "{}", refused.stdout);
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("mtu = 1350") || said.contains("mtu=1350"), "{said}");
    let _server = pods[1].spawn("iperf", &["iperf3", "--server", "--one-off"]).unwrap();
    eventually_ok("a megabyte by TCP", PATIENCE, || {
        pods[0].exec(&["iperf3", "--client", &address, "--bytes", "1M"])?.ok()
    })
    .unwrap();
}

#[test]
fn a_node_that_reboots_into_another_lease_is_reached_there_and_nowhere_else() {
    let mut cluster = Cluster::leased(&[2], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let witness = cluster.node("node1").pod("a").unwrap();
    {
        let old = cluster.node("node2").pod("old").unwrap();
        wait_until_reaches(&witness, &old);
    }
    cluster.agents.remove("node2").unwrap().kill().unwrap();
    cluster.fabric.reboot_node("node2").unwrap();
    cluster.api.kubectl(&["delete", "subnetlease", "10.244.2.0-24"]).unwrap().ok().unwrap();
    let uid = cluster.field("node", "node2", ".metadata.uid");
    cluster.create(&lease(9, "node2", &uid, &vxlan(9)));
    // After a reboot no CNI configuration is there until the agent has programmed the node.
    assert!(
        !cluster.node("node2").exec(&["test", "-e", "/etc/cni/net.d/05-tartan.conflist"]).unwrap().success()
    );
    cluster.start_agent("node2");
    eventually("a CNI configuration", PATIENCE, || {
        cluster.node("node2").exec(&["test", "-e", "/etc/cni/net.d/05-tartan.conflist"]).unwrap().success()
    })
    .unwrap();
    let new = cluster.node("node2").pod("new").unwrap();
    assert!(new.ip().to_string().starts_with("10.244.9."), "{}", new.ip());
    wait_until_reaches(&witness, &new);
    assert!(reaches(&new, &witness));
    eventually("the old subnet to be forgotten", PATIENCE, || {
        cluster.node("node1").exec(&["ip", "route", "show", "10.244.2.0/24"]).unwrap().stdout.is_empty()
    })
    .unwrap();
}

/// VXLAN believes anyone; we believe only addresses that nodes publish.
#[test]
fn tunnel_packets_of_a_stranger_are_dropped_and_counted() {
    let mut cluster = Cluster::leased(&[2], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let pods = pods(&cluster);
    everybody_reaches_everybody(&pods);
    let dropped = || {
        let text =
            cluster.node("node1").exec(&["nft", "-j", "list", "counters"]).unwrap().ok().unwrap().stdout;
        let listing: Value = serde_json::from_str(&text).unwrap();
        let counters = listing["nftables"].as_array().unwrap().iter().filter_map(|item| item.get("counter"));
        let ours: Vec<&Value> = counters.filter(|counter| counter["name"] == "foreign_vxlan").collect();
        ours[0]["packets"].as_u64().unwrap()
    };
    assert_eq!(dropped(), 0, "peers are no strangers");
    // The header of RFC 7348 with VNI 1, and one with VNI 2, which is another's business.
    let send = |vni: u8| {
        let to = cluster.node("node1").address();
        let script = format!(r"printf '\x08\x00\x00\x00\x00\x00\x0{vni}\x00frame' > /dev/udp/{to}/8472");
        cluster.fabric.router().exec(&["bash", "-c", &script]).unwrap().ok().unwrap();
    };
    send(2);
    send(1);
    send(1);
    eventually("two packets to be counted", PATIENCE, || dropped() == 2).unwrap();
    everybody_reaches_everybody(&pods);
    assert_eq!(dropped(), 2);
}

/// What a kernel can't do costs the pairs that need it, and nothing else.
#[test]
fn a_backend_that_the_kernel_lacks_is_reported_and_the_rest_goes_on() {
    let receives_ipip = |number: usize| {
        let mut backend = vxlan(number);
        backend["accepts"] = serde_json::json!(["vxlan", "ipip"]);
        backend
    };
    let mut cluster = Cluster::leased(&[2], receives_ipip);
    let probe = "ip link add probe type ipip local 198.18.0.99 && ip link delete probe";
    let has_ipip = cluster.node("node1").script(probe).is_ok();
    cluster.start_all();
    cluster.wait_until_joined();
    everybody_reaches_everybody(&pods(&cluster));
    let field = |path: &str| cluster.field("nodenetwork", "node1", path);
    if has_ipip {
        assert_eq!(field(".status.receives"), r#"["vxlan","ipip"]"#);
        return;
    }
    cluster.wait_for_condition("node1", "Degraded", "True", "BackendUnavailable");
    assert_eq!(cluster.condition("node1", "Ready").0, "True");
    assert_eq!(
        (field(".status.receives"), field(".status.unavailable")),
        (r#"["vxlan"]"#.into(), r#"["ipip"]"#.into())
    );
    let endpoints = cluster.field("subnetlease", "10.244.1.0-24", ".status.endpoints[*].type");
    assert_eq!(endpoints, "vxlan");
}
