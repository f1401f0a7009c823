//! Families that come and go while the real operator and real agents run: the cluster's, and a node's addresses. What
//! flows in a family that stays loses nothing.
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

use std::net::IpAddr;

use cluster::{Cluster, PATIENCE, time_until};
use serde_json::{Value, json};
use tartan_lab::{
    FabricOptions, Namespace, Node, Pod, eventually,
    traffic::{Echo, Load, LoadOptions, Report},
};

fn four() -> Value {
    json!({ "name": "four", "cidr": "10.244.0.0/16", "nodeMaskSize": 24 })
}

fn six() -> Value {
    json!({ "name": "six", "cidr": "fd00:10:244::/48", "nodeMaskSize": 64 })
}

fn network(spec: Value) -> Value {
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": spec,
    })
}

/// The operator, agents, and all of them ready.
fn started(options: FabricOptions, spec: Value, environment: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::bare_on(options);
    cluster.create(&network(spec));
    cluster.start_operator();
    for name in cluster.names() {
        let mut command = cluster.command(&name);
        command.envs(environment.iter().copied());
        cluster.start_command(&name, &command);
    }
    cluster.names().iter().for_each(|name| cluster.wait_until_ready(name));
    cluster
}

fn pod(cluster: &Cluster, node: &str, name: &str) -> Pod {
    cluster.node(node).pod(name).unwrap()
}

fn of(pod: &Pod, v4: bool) -> IpAddr {
    *pod.ips().iter().find(|address| address.is_ipv4() == v4).unwrap()
}

fn wait_for_ping(from: &Namespace, to: IpAddr) {
    eventually(&format!("{} reaches {to}", from.name()), PATIENCE, || {
        from.exec(&["ping", "-n", "-c1", "-W1", &to.to_string()]).unwrap().success()
    })
    .unwrap();
}

fn flow(from: &Pod, to: IpAddr) -> Load {
    wait_for_ping(from, to);
    let options = LoadOptions { udp_rate: 300, tcp_flows: 2, ..LoadOptions::default() };
    Load::start(from, &format!("to-{to}").replace([':', '.'], "-"), (to, 7000), &options).unwrap()
}

#[track_caller]
fn assert_whole(report: &Report) {
    assert!(report.sent() > 100, "{report}");
    assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
}

/// The device, and the gateway's family, by which a node leads to an address.
fn way(node: &Node, to: IpAddr) -> String {
    let said = node.exec(&["ip", "-json", "route", "get", &to.to_string()]).unwrap().stdout;
    let routes: Value = serde_json::from_str(&said).unwrap_or_default();
    routes[0]["dev"].as_str().unwrap_or("none").to_owned()
}

fn wait_for_way(node: &Node, to: IpAddr, device: &str) {
    let took = time_until(&format!("{} leads to {to} by {device}", node.name()), PATIENCE, || {
        way(node, to) == device
    });
    println!("{} leads to {to} by {device} after {took:?}", node.name());
}

#[test]
fn a_cluster_of_ipv4_gains_ipv6_while_pods_talk() {
    gains([four(), six()], "10.244.0.0/24", "FLANNEL_SUBNET=10.244.0.1/24", "fd00:10:244:");
}

#[test]
fn a_cluster_of_ipv6_gains_ipv4_while_pods_talk() {
    gains([six(), four()], "fd00:10:244::/64", "FLANNEL_IPV6_SUBNET=fd00:10:244::1/64", "10.244.");
}

/// The first entry is there from the beginning, and gives node1 `subnet`, which its subnet.env goes on to name so;
/// addresses of the second begin with `gained`.
fn gains([first, second]: [Value; 2], subnet: &str, named: &str, gained: &str) {
    let options = FabricOptions::with_segments(&[1, 1]);
    let cluster = started(options, json!({ "cidrs": [first] }), &[]);
    let told = json!([subnet]).to_string();
    let pod_cidrs = || cluster.field("node", "node1", ".spec.podCIDRs");
    eventually("the Node to be told", PATIENCE, || pod_cidrs() == told).unwrap();
    let old = ["node1", "node2"].map(|node| pod(&cluster, node, "old"));
    let _echo = Echo::start(&old[1], 7000).unwrap();
    let load = flow(&old[0], old[1].ip());
    let lease = subnet.replace([':', '/'], "-");
    let uid = || cluster.field("subnetlease", &lease, ".metadata.uid");
    let before = uid();
    assert!(!before.is_empty(), "no lease {lease}");

    cluster.create(&network(json!({ "cidrs": [first, second] })));
    for node in cluster.fabric.nodes() {
        let took = time_until("new pods to be offered both", PATIENCE, || {
            node.read("/etc/cni/net.d/05-tartan.conflist").unwrap().contains(gained)
        });
        println!("{}: new pods get both families after {took:?}", node.name());
    }
    let new = ["node1", "node2"].map(|node| pod(&cluster, node, "new"));
    for (from, to) in [(&new[0], &new[1]), (&new[1], &new[0])] {
        assert_eq!((from.ips().len(), of(from, true).is_ipv4()), (2, true), "{:?}", from.ips());
        for address in to.ips() {
            wait_for_ping(from, *address);
        }
    }
    for node in cluster.fabric.nodes() {
        for address in new.iter().flat_map(Pod::ips) {
            wait_for_ping(node, *address);
        }
    }
    wait_for_ping(&new[0], old[1].ip());
    let report = load.finish().unwrap();
    println!("{subnet} meanwhile: {report}");
    assert_whole(&report);

    assert_eq!(uid(), before);
    assert_eq!(pod_cidrs(), told, "they can't be changed");
    assert_eq!(cluster.condition("node1", "Leased"), ("True".to_owned(), "AsExpected".to_owned()));
    assert_eq!(cluster.condition("node1", "Ready").0, "True");
    let env = cluster.node("node1").read("/run/flannel/subnet.env").unwrap();
    assert!(env.contains(named), "{env}");
    assert!(
        env.contains("FLANNEL_SUBNET=10.244.") && env.contains("FLANNEL_IPV6_SUBNET=fd00:10:244:"),
        "{env}"
    );
    let metrics = cluster.http("node1", "/metrics");
    for family in ["IPv4", "IPv6"] {
        let series =
            format!("tartan_agent_peers{{family=\"{family}\",backend=\"vxlan\",state=\"same-backend\"}} 1");
        assert!(metrics.contains(&series), "no {series} in\n{metrics}");
    }
}

#[test]
fn a_node_that_loses_its_ipv6_address_is_reached_through_a_tunnel_until_it_has_one_again() {
    let spec = json!({ "cidrs": [four(), six()], "defaultBackend": { "type": "host-gw" } });
    let cluster = started(FabricOptions::with_segments(&[2]), spec, &[]);
    let pods = ["node1", "node2"].map(|node| pod(&cluster, node, "a"));
    let (v4, v6) = (of(&pods[1], true), of(&pods[1], false));
    let (one, two) = (cluster.node("node1"), cluster.node("node2"));
    wait_for_way(one, v6, "eth0");
    let _echo = Echo::start(&pods[1], 7000).unwrap();
    let (stays, moves) = (flow(&pods[0], v4), flow(&pods[0], v6));

    let address = format!("{}/64", two.address_v6());
    two.script(&format!("ip -6 address del {address} dev eth0")).unwrap();
    wait_for_way(one, v6, "tartan-vxlan");
    wait_for_way(two, of(&pods[0], false), "tartan-vxlan");
    wait_for_ping(&pods[0], v6);
    assert_eq!(way(one, v4), "eth0", "the other family stays where it is");

    two.script(&format!("ip -6 address add {address} dev eth0 nodad")).unwrap();
    wait_for_way(one, v6, "eth0");
    wait_for_way(two, of(&pods[0], false), "eth0");
    wait_for_ping(&pods[0], v6);
    let report = stays.finish().unwrap();
    println!("IPv4 meanwhile: {report}");
    assert_whole(&report);
    let report = moves.finish().unwrap();
    println!("IPv6, which moved twice: {report}");
    assert_eq!(report.connections_lost(), 0, "{report}");
}

/// node1 has both, node2 gains and loses IPv4, node3 never has any: each pair has the family that both ends have.
#[test]
fn each_pair_is_joined_over_a_family_that_both_nodes_have() {
    let options = FabricOptions { without_v4: true, ..FabricOptions::with_segments(&[3]) };
    let cluster = started(options, json!({ "cidrs": [four(), six()] }), &[]);
    let names = ["node1", "node2", "node3"];
    let pods = names.map(|node| pod(&cluster, node, "a"));
    let [one, two, three] = names.map(|name| cluster.node(name));
    let mtu = |node: &str| cluster.field("nodenetwork", node, ".status.podMTU");
    assert_eq!(mtu("node1"), "1430", "70 bytes go to the tunnel over IPv6");
    for to in pods[1].ips() {
        wait_for_way(one, *to, "tartan-vxlan6");
    }
    let _echoes = [&pods[1], &pods[2]].map(|pod| Echo::start(pod, 7000).unwrap());
    let through: Vec<Load> = pods[2].ips().iter().map(|to| flow(&pods[0], *to)).collect();

    let gain = |node: &Node| {
        let address = node.address();
        node.script(&format!("ip address add {address}/24 dev eth0; ip route add default via 198.18.0.1"))
            .unwrap();
    };
    gain(one);
    eventually("node1 to have room for more", PATIENCE, || mtu("node1") == "1450").unwrap();
    for to in pods[1].ips().iter().chain(pods[2].ips()) {
        assert_eq!(way(one, *to), "tartan-vxlan6", "the others have no IPv4");
        wait_for_ping(&pods[0], *to);
    }
    gain(two);
    for to in pods[1].ips() {
        wait_for_way(one, *to, "tartan-vxlan");
        wait_for_ping(&pods[0], *to);
    }
    for to in pods[2].ips() {
        assert_eq!((way(one, *to).as_str(), way(two, *to).as_str()), ("tartan-vxlan6", "tartan-vxlan6"));
        wait_for_ping(&pods[1], *to);
    }
    // As much as that path carries, and the kernel knows it.
    let route = one.exec(&["ip", "route", "get", &of(&pods[2], true).to_string()]).unwrap().stdout;
    assert!(route.contains("mtu 1430"), "{route}");

    two.script(&format!("ip address del {}/24 dev eth0", two.address())).unwrap();
    for to in pods[1].ips() {
        wait_for_way(one, *to, "tartan-vxlan6");
        wait_for_ping(&pods[0], *to);
    }
    let left = two.exec(&["ip", "link", "show", "tartan-vxlan"]).unwrap();
    assert!(!left.success(), "nothing is sent by it any more: {}", left.stdout);
    assert_eq!(way(three, of(&pods[1], true)), "tartan-vxlan6");
    for load in through {
        let report = load.finish().unwrap();
        println!("node1 to node3, over IPv6 all the time: {report}");
        assert_whole(&report);
    }
}

/// Five addresses of IPv4 in a block, six of IPv6.
#[test]
fn a_node_grows_in_both_families_and_gives_back_in_both() {
    let entries = json!([
        { "name": "four", "cidr": "10.244.0.0/24", "nodeMaskSize": 29 },
        { "name": "six", "cidr": "fd00:10:244::/112", "nodeMaskSize": 125 },
    ]);
    let growth =
        json!({ "grantBelowFree": 20, "coolDown": "1s", "returnEmptyAfter": "2s", "maxBlocksPerNode": 2 });
    let spec = json!({ "cidrs": entries, "growth": growth });
    let cluster = started(FabricOptions::with_segments(&[1, 1]), spec, &[("TARTAN_POD_START_LIMIT", "2s")]);
    let leases = || cluster.api.kubectl(&["get", "subnetleases", "-oname"]).unwrap().ok().unwrap().stdout;
    assert_eq!(leases().lines().count(), 4, "{}", leases());
    let far = pod(&cluster, "node2", "far");
    let first: Vec<Pod> = (0..5).map(|number| pod(&cluster, "node1", &format!("p{number}"))).collect();
    eventually("a further block of each family", PATIENCE, || leases().lines().count() == 6).unwrap();
    let offered = || {
        cluster.node("node1").read("/etc/cni/net.d/05-tartan.conflist").unwrap().matches("\"subnet\"").count()
    };
    eventually("new pods may get both", PATIENCE, || offered() == 4).unwrap();
    let further: Vec<Pod> = (5..8).map(|number| pod(&cluster, "node1", &format!("p{number}"))).collect();
    let all: std::collections::BTreeSet<IpAddr> =
        first.iter().chain(&further).flat_map(Pod::ips).copied().collect();
    assert_eq!(all.len(), 16, "no address twice: {all:?}");
    for to in further.iter().flat_map(Pod::ips) {
        wait_for_ping(&far, *to);
        wait_for_ping(cluster.node("node2"), *to);
    }
    for from in &further {
        far.ips().iter().for_each(|to| wait_for_ping(from, *to));
    }
    for pod in first.into_iter().skip(1).chain(further) {
        pod.remove(cluster.node("node1")).unwrap();
    }
    eventually("both further blocks to go back", PATIENCE, || leases().lines().count() == 4).unwrap();
    eventually("neither to be offered", PATIENCE, || offered() == 2).unwrap();
}
