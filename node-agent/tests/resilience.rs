//! What may go wrong around an agent, and that pods don't notice.
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

use cluster::{Cluster, PATIENCE, exists, host_gw, reaches, routes, time_until, vxlan, wait_until_reaches};
use serde_json::{Value, json};
use tartan_lab::{HostView, Node, eventually};

/// The agent's promise is one second, which the benchmarks measure; a look alone may take as long on a busy machine.
const REPAIR: Duration = Duration::from_secs(10);

const DIRECTORIES: [&str; 3] = ["/etc/cni", "/run", "/var/lib/cni"];

/// What a look at the node shows of everything that is ours.
fn ours(node: &Node) -> String {
    let script = "ip -d -br link show tartan0; ip -d -br link show tartan-vxlan; ip -o -4 address | grep tartan | cut -d' ' -f2-7
         ip route show proto 84
         ip neighbour show dev tartan-vxlan nud permanent; bridge fdb show dev tartan-vxlan
         nft list table inet tartan | grep -v packets; cat /etc/cni/net.d/05-tartan.conflist /run/flannel/subnet.env
         sysctl net.ipv4.ip_forward net.ipv4.conf.tartan-vxlan.rp_filter net.ipv4.conf.tartan0.rp_filter";
    let output = node.exec(&["sh", "-c", script]).unwrap();
    // The kernel lists what was made last first.
    let mut lines: Vec<&str> = output.stdout.lines().chain(output.stderr.lines()).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn whatever_is_deleted_or_altered_is_repaired_within_a_second() {
    let mut cluster = Cluster::leased(&[2, 1], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let node = cluster.node("node1");
    let whole = ours(node);
    assert!(whole.contains("10.244.3.0/24") && whole.contains("FLANNEL_MTU"), "{whole}");
    let damages = [
        "ip route del 10.244.2.0/24",
        "ip route change 10.244.2.0/24 via 10.244.2.0 dev tartan-vxlan onlink proto 84 mtu 1000",
        "ip neighbour del 10.244.2.0 dev tartan-vxlan",
        "ip neighbour replace 10.244.2.0 dev tartan-vxlan lladdr 02:aa:aa:aa:aa:aa nud permanent",
        "bridge fdb del $(bridge fdb show dev tartan-vxlan | head -n1 | cut -d' ' -f1) dev tartan-vxlan",
        "bridge fdb add 02:bb:bb:bb:bb:bb dev tartan-vxlan dst 192.0.2.9 self permanent",
        "ip address del 10.244.1.1/24 dev tartan0",
        "ip address del 10.244.1.0/32 dev tartan0",
        "ip link set tartan-vxlan down",
        "ip link set tartan0 mtu 1000",
        "ip link del tartan-vxlan",
        "ip link del tartan0",
        "nft delete table inet tartan",
        "nft flush chain inet tartan guard",
        "nft delete element inet tartan entries4 { 10.244.0.0/16 }",
        "rm /etc/cni/net.d/05-tartan.conflist",
        "echo nonsense > /run/tartan/05-tartan.conflist",
        "rm -r /run/flannel",
    ];
    for damage in damages {
        node.script(damage).unwrap_or_else(|error| panic!("{error:#}\n{}", ours(node)));
        let mut last = String::new();
        let repaired = eventually(&format!("repair after `{damage}`"), REPAIR, || {
            last = ours(node);
            last == whole
        });
        assert!(
            repaired.is_ok(),
            "not repaired after `{damage}`\nwanted:\n{whole}\n\nfound:\n{last}\n{}",
            cluster.log("node1")
        );
    }
}

#[test]
fn a_setting_that_was_altered_is_put_right() {
    let mut cluster = Cluster::leased(&[1], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let node = cluster.node("node1");
    // The kernel tells nobody about settings: the next round sees it, whatever its cause.
    node.script("echo 0 > /proc/sys/net/ipv4/ip_forward; ip link add other type bridge; ip link del other")
        .unwrap();
    time_until("forwarding is on again", REPAIR, || {
        node.script("cat /proc/sys/net/ipv4/ip_forward").unwrap().stdout.trim() == "1"
    });
}

#[test]
fn a_foreign_route_in_the_way_is_reported_and_left_alone() {
    let mut cluster = Cluster::leased(&[2], vxlan);
    let foreign = "10.244.2.0/24 via 198.18.0.1 dev eth0 proto static";
    let gateway = cluster.node("node1").script("ip route show default | cut -d' ' -f3").unwrap().stdout;
    let foreign = foreign.replace("198.18.0.1", gateway.trim());
    cluster.node("node1").script(&format!("ip route add {foreign}")).unwrap();
    cluster.start_all();
    cluster.wait_for_condition("node1", "Degraded", "True", "ForeignObject");
    let there = || cluster.node("node1").script("ip route show 10.244.2.0/24").unwrap().stdout;
    assert!(there().contains("proto static"), "{}", there());
    let (code, text, _) = cluster.agent("node1", &["diff"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("conflict: route 10.244.2.0/24"), "{text}");
    cluster.node("node1").script(&format!("ip route del {foreign}")).unwrap();
    cluster.wait_for_condition("node1", "Degraded", "False", "AsExpected");
    assert!(there().contains("dev tartan-vxlan"), "{}", there());
}

#[test]
fn without_an_api_server_the_data_path_stays_and_is_repaired() {
    let mut cluster = Cluster::leased(&[1, 1], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let (one, two) = (cluster.node("node1").pod("a").unwrap(), cluster.node("node2").pod("b").unwrap());
    wait_until_reaches(&one, &two);
    cluster.api.stop().unwrap();
    cluster.node("node1").script("ip route del 10.244.2.0/24").unwrap();
    time_until("repair without an API server", REPAIR, || reaches(&one, &two));
    assert_eq!(cluster.http("node1", "/readyz"), "ok\n");
    // A restart without the API server changes nothing either.
    let before = ours(cluster.node("node1"));
    cluster.stop_agent("node1");
    cluster.start_agent("node1");
    eventually("the agent is up", PATIENCE, || cluster.says_ok("node1", "/healthz")).unwrap();
    assert!(reaches(&one, &two));
    assert_eq!(ours(cluster.node("node1")), before);
    cluster.api.resume().unwrap();
    cluster.wait_until_joined();
}

#[test]
fn when_the_network_is_deleted_the_data_path_stays() {
    let mut cluster = Cluster::leased(&[1, 1], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let (one, two) = (cluster.node("node1").pod("a").unwrap(), cluster.node("node2").pod("b").unwrap());
    wait_until_reaches(&one, &two);
    let before = ours(cluster.node("node1"));
    cluster.api.kubectl(&["delete", "clusternetwork", "default"]).unwrap().ok().unwrap();
    cluster.wait_for_condition("node1", "Degraded", "True", "DeletionsFrozen");
    cluster.api.kubectl(&["delete", "subnetleases", "--all"]).unwrap().ok().unwrap();
    cluster.node("node1").script("ip route del 10.244.2.0/24").unwrap();
    time_until("repair of what is held", REPAIR, || reaches(&one, &two));
    assert_eq!(ours(cluster.node("node1")), before);
    assert_eq!(cluster.condition("node1", "Ready").0, "True");
    // Also over a restart, which remembers nothing.
    cluster.stop_agent("node1");
    cluster.start_agent("node1");
    cluster.wait_for_condition("node1", "Ready", "False", "NoClusterNetwork");
    assert!(reaches(&one, &two));
    assert_eq!(ours(cluster.node("node1")), before);
}

#[test]
fn a_network_made_anew_with_other_entries_takes_no_path_away() {
    let mut cluster = Cluster::leased(&[1, 1], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let (one, two) = (cluster.node("node1").pod("a").unwrap(), cluster.node("node2").pod("b").unwrap());
    wait_until_reaches(&one, &two);
    let before = routes(cluster.node("node1"));
    cluster.api.kubectl(&["delete", "clusternetwork", "default"]).unwrap().ok().unwrap();
    cluster.create_network("10.99.0.0/16");
    cluster.wait_for_condition("node1", "Degraded", "True", "EntryInUse");
    for _ in ["this process", "one that remembers nothing"] {
        assert_eq!(routes(cluster.node("node1")), before);
        assert!(reaches(&one, &two));
        // Its packets are still none for the outside.
        let sets = cluster.node("node1").script("nft list set inet tartan entries4").unwrap().stdout;
        assert!(sets.contains("10.244.2.0/24") && sets.contains("10.99.0.0/16"), "{sets}");
        cluster.stop_agent("node1");
        cluster.start_agent("node1");
        eventually("the agent went round", PATIENCE, || cluster.says_ok("node1", "/readyz")).unwrap();
    }
}

#[test]
fn a_node_that_is_broken_for_good_says_so_to_the_scheduler_and_takes_it_back() {
    let mut cluster = Cluster::leased(&[2], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    let unavailable = |status: &str, reason: &str| {
        eventually(&format!("NetworkUnavailable={status} {reason}"), PATIENCE, || {
            let path = ".status.conditions[?(@.type==\"NetworkUnavailable\")]['status','reason']";
            cluster.field("node", "node1", path) == format!("{status} {reason}")
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.log("node1")));
    };
    unavailable("False", "TartanReady");
    let node = cluster.node("node1");
    // Someone else's device in our place, which we must not touch.
    let foreign = "ip link del tartan-vxlan; ip link add tartan-vxlan type vxlan id 99 dstport 4789 dev eth0";
    cluster.script_behind_the_agent("node1", foreign);
    cluster.wait_for_condition("node1", "Ready", "False", "ForeignObject");
    unavailable("True", "ForeignObject");
    assert!(cluster.http("node1", "/readyz").starts_with("ForeignObject"));
    node.script("ip link del tartan-vxlan").unwrap();
    unavailable("False", "TartanReady");
    cluster.wait_for_condition("node1", "Ready", "True", "AsExpected");
}

#[test]
fn a_peer_that_left_while_the_agent_was_down_is_removed_at_start() {
    let mut cluster = Cluster::leased(&[2, 1], vxlan);
    cluster.start_all();
    cluster.wait_until_joined();
    cluster.stop_agent("node1");
    let released = json!({ "spec": { "releasedAt": "2026-01-01T00:00:00Z" } }).to_string();
    let patch = ["patch", "subnetlease", "10.244.3.0-24", "--type=merge", "-p", &released];
    cluster.api.kubectl(&patch).unwrap().ok().unwrap();
    assert!(routes(cluster.node("node1")).contains("10.244.3.0/24"), "stopping an agent removes nothing");
    cluster.start_agent("node1");
    time_until("the peer is gone", PATIENCE, || {
        let all = ours(cluster.node("node1"));
        !all.contains("10.244.3.0") && all.contains("10.244.2.0/24")
    });
}

#[test]
fn most_leases_vanishing_at_once_are_removed_only_after_a_direct_list() {
    let mut cluster = Cluster::leased(&[1], vxlan);
    for n in 101..=110 {
        let peer = cluster::lease(n, &format!("ghost{n}"), "some-uid", &vxlan(n));
        cluster.create(&peer);
    }
    cluster.start_all();
    time_until("all ghosts have their refusing route", PATIENCE, || {
        routes(cluster.node("node1")).lines().filter(|line| line.contains("unreachable")).count() == 10
    });
    let ghosts: Vec<String> = (101..=110).map(|n| format!("10.244.{n}.0-24")).collect();
    let mut arguments = vec!["delete", "subnetlease"];
    arguments.extend(ghosts.iter().map(String::as_str));
    cluster.api.kubectl(&arguments).unwrap().ok().unwrap();
    time_until("all ghosts are gone", PATIENCE, || routes(cluster.node("node1")).is_empty());
    cluster.wait_for_condition("node1", "Degraded", "False", "AsExpected");
}

/// Versions of all objects, once none has changed for longer than an agent holds figures back.
fn settled_versions(cluster: &Cluster) -> String {
    let (mut last, mut since) = (String::new(), Instant::now());
    eventually("nobody writes any more", PATIENCE, || {
        let now = cluster.versions();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    })
    .unwrap();
    last
}

#[test]
fn a_restart_writes_nothing_to_the_api() {
    let mut cluster = Cluster::leased(&[2], host_gw);
    cluster.start_all();
    cluster.wait_until_joined();
    assert_eq!(cluster.condition("node1", "Leased").0, "True", "the operator's condition is left alone");
    let before = settled_versions(&cluster);
    cluster.stop_agent("node1");
    cluster.start_agent("node1");
    eventually("the agent went round", PATIENCE, || {
        let metrics = cluster.try_http("node1", "/metrics");
        metrics.is_ok_and(|metrics| metrics.contains("tartan_agent_rounds_total{result=\"ok\"}"))
    })
    .unwrap();
    assert_eq!(settled_versions(&cluster), before);
    let metrics = cluster.http("node1", "/metrics");
    assert!(!metrics.contains("tartan_agent_api_writes_total{"), "{metrics}");
    assert!(!metrics.contains("tartan_agent_steps_total{"), "{metrics}");
}

#[test]
fn cleanup_leaves_the_node_as_it_was() {
    let mut cluster = Cluster::leased(&[2], vxlan);
    let node = cluster.node("node1");
    // A host with settings and rules of its own.
    node.script(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter
         nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
         nft add rule ip filter FORWARD iifname lo accept
         ip route add 203.0.113.0/24 dev eth0",
    )
    .unwrap();
    let before = HostView::of(node, &DIRECTORIES).unwrap();
    cluster.start_all();
    cluster.wait_until_joined();
    cluster.node("node1").pod("a").unwrap().remove(cluster.node("node1")).unwrap();
    let (code, _, said) = cluster.agent("node1", &["cleanup"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("an agent runs on this node"), "{said}");
    cluster.stop_agent("node1");
    assert!(exists(cluster.node("node1"), "/run/tartan/05-tartan.conflist"));
    cluster.api.stop().unwrap();
    let node = cluster.node("node1");
    let (code, _, said) = cluster.agent("node1", &["cleanup"]);
    assert_eq!(code, 0, "{said}");
    let difference = before.diff(&HostView::of(node, &DIRECTORIES).unwrap());
    assert!(difference.is_empty(), "{difference}");
    let (code, _, said) = cluster.agent("node1", &["cleanup"]);
    assert_eq!(code, 0, "again: {said}");
    let difference = before.diff(&HostView::of(node, &DIRECTORIES).unwrap());
    assert!(difference.is_empty(), "{difference}");
}

#[test]
fn diff_names_what_would_change_and_changes_nothing() {
    let cluster = Cluster::leased(&[1], vxlan);
    cluster.create(&cluster::lease(9, "node9", "uid", &vxlan(9)));
    let before = HostView::of(cluster.node("node1"), &DIRECTORIES).unwrap();
    let (code, text, error) = cluster.agent("node1", &["diff"]);
    assert_eq!(code, 1, "{error}");
    assert!(text.contains("create link tartan0") && text.contains("no-address"), "{text}");
    let (code, text, error) = cluster.agent("node1", &["diff", "--output", "json"]);
    assert_eq!(code, 1, "{error}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["peers"][0]["node"], "node9");
    assert_eq!(answer["peers"][0]["reason"], "no-address");
    assert!(answer["steps"].as_array().unwrap().len() > 5, "{text}");
    let difference = before.diff(&HostView::of(cluster.node("node1"), &DIRECTORIES).unwrap());
    assert!(difference.is_empty(), "{difference}");
    cluster.api.kubectl(&["delete", "clusternetwork", "default"]).unwrap().ok().unwrap();
    let (code, _, error) = cluster.agent("node1", &["diff"]);
    assert_eq!(code, 2);
    assert!(error.contains("NoClusterNetwork"), "{error}");
}
