//! Why a node has what it has, in words: worlds in, text out.

use serde_json::json;
use tartan_operator::{
    decide::{State, explain},
    explain::{suppose, text},
};

use super::{
    small,
    store::{Store, draining, entry, network},
};

#[track_caller]
pub fn says(store: &Store, node: &str, expected: &str) {
    let explanation = explain(&store.world(), node, false, store.now).unwrap();
    assert_eq!(text(&explanation), expected.trim_start_matches('\n'));
}

pub fn labelled(store: &mut Store, name: &str, labels: &[(&str, &str)]) {
    store.add_node_with(name, |node| {
        node.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    });
}

pub fn pools() -> Store {
    let entries = vec![
        draining("old", "10.9.0.0/24", 26),
        entry("main", "10.0.0.0/22", 24),
        entry("edge", "10.1.0.0/24", 26),
    ];
    let mut store = Store::default().with_network(network(entries));
    let pool = |key: &str, priority: i32, backend: &str| {
        json!({
            "nodeSelector": { "matchLabels": { key: "yes" } }, "priority": priority, "backend": { "type": backend },
        })
    };
    store.set_pool("rack", pool("rack", 5, "host-gw"));
    let mut edge = pool("edge", 10, "wireguard");
    edge["cidrs"] = json!(["edge"]);
    store.set_pool("edge", edge);
    store
}

#[test]
fn a_node_in_no_pool() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    says(
        &store,
        "a",
        "
node a holds 10.0.0.0/24
  pool      none: there are no NetworkPools
  entries   main: 10.0.0.0/22 in blocks of /24, 3 of 4 free (1 used)
  podCIDRs  mode Mirror; the Node has 10.0.0.0/24
  lease     10.0.0.0/24 of entry main, primary; leased just now as the lowest free block of its entry, and then written into the Node's podCIDRs
  backend   vxlan: the network's defaultBackend: the node is in no pool
  accepts   vxlan
",
    );
}

#[test]
fn the_pool_that_wins_and_those_that_would_have() {
    let mut store = pools();
    labelled(&mut store, "a", &[("rack", "yes"), ("edge", "yes")]);
    labelled(&mut store, "b", &[("rack", "yes")]);
    store.settle();
    store.pass(3 * 3600);
    says(
        &store,
        "a",
        "
node a holds 10.1.0.0/26
  pool      edge: it selects the node with priority 10, before rack (5)
  entries   edge: 10.1.0.0/24 in blocks of /26, 3 of 4 free (1 used)
            not for this node: old (for pools that claim none), main (for pools that claim none)
  podCIDRs  mode Mirror; the Node has 10.1.0.0/26
  lease     10.1.0.0/26 of entry edge, primary; leased 3h ago as the lowest free block of its entry, and then written into the Node's podCIDRs
  backend   wireguard: pool edge asks for it
  accepts   wireguard, vxlan
",
    );
    says(
        &store,
        "b",
        "
node b holds 10.0.0.0/24
  pool      rack: the only one that selects the node
  entries   old: 10.9.0.0/24 in blocks of /26, draining, no block of it is given out
            main: 10.0.0.0/22 in blocks of /24, 3 of 4 free (1 used)
            not for this node: edge (claimed by pool edge)
  podCIDRs  mode Mirror; the Node has 10.0.0.0/24
  lease     10.0.0.0/24 of entry main, primary; leased 3h ago as the lowest free block of its entry, and then written into the Node's podCIDRs
  backend   host-gw: pool rack asks for it
  accepts   host-gw, vxlan, wireguard
",
    );
}

#[test]
fn a_node_that_gets_none_and_why() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/24", 24)]));
    store.add_node("a");
    store.settle();
    store.add_node("b");
    store.settle();
    says(
        &store,
        "b",
        "
node b holds no subnet
  Exhausted: no free IPv4 block is left for pool default: append an entry to the ClusterNetwork's spec.cidrs
  pool      none: there are no NetworkPools
  entries   main: 10.0.0.0/24 in blocks of /24, 0 of 1 free (1 used)
  podCIDRs  mode Mirror; the Node has none
  backend   vxlan: the network's defaultBackend: the node is in no pool
  accepts   vxlan
",
    );
}

#[test]
fn what_is_about_to_happen() {
    let mut store = small();
    store.add_node("a");
    says(
        &store,
        "a",
        "
node a is about to get what it needs
  pool      none: there are no NetworkPools
  entries   main: 10.0.0.0/22 in blocks of /24, 4 of 4 free
  podCIDRs  mode Mirror; the Node has none
  backend   vxlan: the network's defaultBackend: the node is in no pool
  accepts   vxlan
  next      lease 10.0.0.0/24: the lowest free block of entry main
",
    );
}

#[test]
fn a_block_that_is_held_and_one_that_is_taken_early() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/24", 24)]));
    store.add_node("a");
    store.settle();
    store.remove_node("a");
    store.settle();
    store.pass(1800);
    store.add_node("b");
    let of_b = text(&explain(&store.world(), "b", false, store.now).unwrap());
    let early = "  next      take 10.0.0.0/24 back early, which is held for a: no block is free\n";
    assert!(of_b.ends_with(early), "{of_b}");
    store.remove_node("b");
    store.add_node("a");
    let of_a = text(&explain(&store.world(), "a", false, store.now).unwrap());
    for part in ["held for the node, whose Node went 30m ago", "write lease 10.0.0.0/24 again: returned"] {
        assert!(of_a.contains(part), "{part} is not in:\n{of_a}");
    }
}

#[test]
fn blocks_that_another_ipam_gave() {
    let mut store = small();
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.3.0/24".into()]);
    store.add_node("b");
    store.settle();
    let of_a = text(&explain(&store.world(), "a", false, store.now).unwrap());
    assert!(of_a.contains("mode Adopt; the Node has 10.0.3.0/24"), "{of_a}");
    let why = "leased just now because it was in the Node's podCIDRs, which another IPAM wrote\n";
    assert!(of_a.contains(why), "{of_a}");
    let explanation = explain(&store.world(), "b", false, store.now).unwrap();
    assert_eq!(explanation.state, State::Waiting);
    assert_eq!(explanation.waiting.unwrap().reason, "WaitingForPodCIDR");
}

#[test]
fn a_backend_that_a_pool_changes_to() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    store.use_leases_of("a");
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["defaultBackend"] = json!({ "type": "wireguard" });
    store.set_network(spec);
    store.settle();
    let of_a = text(&explain(&store.world(), "a", false, store.now).unwrap());
    let backend = "  backend   vxlan: it changes to wireguard: 1 node must receive wireguard before any node sends by it: a;";
    assert!(of_a.contains(backend), "{of_a}");
    assert!(of_a.contains("  accepts   vxlan, wireguard\n"), "{of_a}");
}

#[test]
fn a_node_that_is_only_supposed() {
    let mut store = pools();
    store.settle();
    let mut world = store.world();
    suppose(&mut world, "new", [("edge".to_owned(), "yes".to_owned())].into());
    let explanation = explain(&world, "new", true, store.now).unwrap();
    let said = text(&explanation);
    assert!(said.starts_with("a node new with these labels would get what it needs\n"), "{said}");
    assert!(said.contains("pool      edge: the only one"), "{said}");
    assert!(said.contains("next      lease 10.1.0.0/26: the lowest free block of entry edge"), "{said}");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["state"], "pending");
    let edge = json!({ "name": "edge", "priority": 10, "inForce": true, "selects": true, "hasIt": true });
    assert_eq!(json["pools"][0], edge);
    assert_eq!(json["otherEntries"], json!([{ "name": "old" }, { "name": "main" }]));
}

#[test]
fn no_node_and_no_network() {
    let mut store = Store::default();
    assert!(explain(&store.world(), "a", false, store.now).is_none());
    store.add_node("a");
    says(
        &store,
        "a",
        "
node a holds no subnet
  NoClusterNetwork: there is no ClusterNetwork named default: no node gets a lease
",
    );
}

#[test]
fn a_block_that_is_reserved_for_the_node_and_an_annotation_that_is_ignored() {
    let mut main = entry("main", "10.0.0.0/22", 24);
    main["reserved"] = json!([{ "cidr": "10.0.2.0/24", "nodeName": "a" }]);
    let mut store = Store::default().with_network(network(vec![main]));
    store.add_node_with("a", |node| node.uplink = Some("the-fast-one".into()));
    let about = |store: &Store| explain(&store.world(), "a", false, store.now).unwrap();
    assert_eq!(about(&store).next, ["lease 10.0.2.0/24: which entry main reserves for it"]);
    store.settle();
    let said = about(&store);
    assert_eq!((said.state, said.waiting.clone()), (State::Leased, None));
    assert_eq!(said.remark.as_ref().map(|remark| remark.reason), Some("InvalidAnnotation"));
    assert!(text(&said).contains("\n  InvalidAnnotation: annotation tartan.network/uplink is ignored"));
}

#[test]
fn a_block_that_is_taken_early_is_told_of_the_node_that_gets_it_alone() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/23", 24)]));
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("a");
    store.settle();
    store.add_node("c");
    let next = |node: &str| explain(&store.world(), node, false, store.now).unwrap().next;
    assert_eq!(next("c"), ["take 10.0.0.0/24 back early, which is held for a: no block is free"]);
    assert_eq!(next("b"), [] as [String; 0]);
    let mut reserving = entry("main", "10.0.0.0/23", 24);
    reserving["reserved"] = json!([{ "cidr": "10.0.0.0/24", "nodeName": "c" }]);
    store.set_network(network(vec![reserving]));
    let next = explain(&store.world(), "c", false, store.now).unwrap().next;
    assert_eq!(next, ["take 10.0.0.0/24 back early, which is held for a: it is reserved for this node"]);
}
