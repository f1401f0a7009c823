//! Ranges that are kept back, and blocks that are kept for one node.

use super::*;

fn reserving(cidr: &str, mask: u8, reserved: serde_json::Value) -> serde_json::Value {
    let mut entry = entry("main", cidr, mask);
    entry["reserved"] = reserved;
    entry
}

fn kept(reserved: serde_json::Value) -> Store {
    Store::default().with_network(network(vec![reserving("10.0.0.0/22", 24, reserved)]))
}

#[track_caller]
fn network_says(store: &Store, parts: &[&str]) {
    let said = store.network_message("Consistent");
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[track_caller]
fn says(store: &Store, node: &str, part: &str) {
    let said = &store.node_networks[node].leased.as_ref().unwrap().message;
    assert!(said.contains(part), "{said}");
}

#[test]
fn a_reserved_range_is_given_to_nobody_and_counts_as_such() {
    let mut store = kept(json!([{ "cidr": "10.0.0.0/25" }, { "cidr": "10.0.2.7/32" }]));
    for node in ["a", "b", "c"] {
        store.add_node(node);
    }
    check(&mut store, "a: 10.0.1.0/24\nb: 10.0.3.0/24");
    assert_eq!(store.leased_condition("c"), "False Exhausted");
    let usage = &store.network.as_ref().unwrap().status.cidrs[0];
    assert_eq!((usage.capacity, usage.used, usage.reserved, usage.free), (4, 2, 2, 0));
    store.set_network(network(vec![entry("main", "10.0.0.0/22", 24)]));
    check(&mut store, "a: 10.0.1.0/24\nb: 10.0.3.0/24\nc: 10.0.0.0/24");
}

#[test]
fn a_block_that_is_kept_for_a_node_goes_to_it_alone() {
    let mut store = kept(json!([{ "cidr": "10.0.2.0/24", "nodeName": "z" }]));
    for node in ["a", "b", "c", "d"] {
        store.add_node(node);
    }
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.3.0/24");
    assert_eq!(store.leased_condition("d"), "False Exhausted");
    store.add_node("z");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.3.0/24\nz: 10.0.2.0/24");
    assert_eq!(store.nodes["z"].pod_cidrs, ["10.0.2.0/24"]);
    // Held for its return, it is not taken early either.
    store.remove_node("z");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.3.0/24\nz: ~10.0.2.0/24");
    store.pass(4000);
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.3.0/24");
    assert_eq!(store.network.as_ref().unwrap().status.cidrs[0].reserved, 1);
}

#[test]
fn a_reservation_that_covers_a_living_lease_takes_nothing_and_says_so() {
    let mut store = small();
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    let range = json!([{ "cidr": "10.0.0.0/24" }, { "cidr": "10.0.1.0/24", "nodeName": "z" }]);
    store.set_network(network(vec![reserving("10.0.0.0/22", 24, range)]));
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.network_condition("Consistent"), "False ReservedRangeInUse");
    let ranges = [
        "entry main: reserved range 10.0.0.0/24 covers 10.0.0.0/24 of node a,",
        "entry main: reserved range 10.0.1.0/24 covers 10.0.1.0/24 of node b;",
    ];
    network_says(&store, &ranges);
    network_says(&store, &["a node's first block stays until the node is drained"]);
    // The node that it is kept for waits for its block, and is told who has it.
    store.add_node("z");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.leased_condition("z"), "False ReservedBlockTaken");
    says(&store, "z", "taken by lease 10.0.1.0-24 of node b");
    // A held block is given up for it.
    store.remove_node("b");
    check(&mut store, "a: 10.0.0.0/24\nz: 10.0.1.0/24");
    // Who comes back does not come back into a reserved range.
    store.remove_node("a");
    store.settle();
    store.add_node("a");
    check(&mut store, "a: ~10.0.0.0/24 10.0.2.0/24\nz: 10.0.1.0/24");
}

#[test]
fn a_further_block_in_a_reserved_range_is_asked_back_and_stays_while_pods_use_it() {
    let mut store = growth::two_blocks();
    growth::report(&mut store, "a", &[("10.0.0.0/28", 5, None), ("10.0.0.16/28", 3, None)]);
    let range = json!([{ "cidr": "10.0.0.0/28" }, { "cidr": "10.0.0.16/28", "nodeName": "z" }]);
    store.set_network(growth::spec(vec![reserving("10.0.0.0/24", 28, range)]));
    store.add_node("z");
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert_eq!(growth::asked_back(&store), ["10.0.0.16-28"], "a first block never is");
    assert_eq!(store.network_condition("Consistent"), "False ReservedRangeInUse");
    let (first, further) =
        ("a node's first block stays", "a further block is asked back, and goes when no pod");
    let ranges = ["10.0.0.0/28 covers 10.0.0.0/28 of node a,", "10.0.0.16/28 covers 10.0.0.16/28 of node a;"];
    network_says(&store, &ranges);
    network_says(&store, &[first, further]);
    assert_eq!(store.leased_condition("z"), "False ReservedBlockTaken");
    says(&store, "z", "taken by lease 10.0.0.16-28 of node a: a further block is asked back");
    store.pass(100_000);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    growth::report(&mut store, "a", &[("10.0.0.0/28", 5, None), ("10.0.0.16/28", 0, Some(0))]);
    growth::meet(&mut store, "10.0.0.16-28");
    check(&mut store, "a: 10.0.0.0/28\nz: 10.0.0.16/28");
    network_says(&store, &["covers 10.0.0.0/28 of node a; a node's first block stays"]);
}

/// It is kept for nobody else.
#[test]
fn a_further_block_that_is_reserved_for_its_own_node_is_not_asked_back() {
    let mut store = growth::two_blocks();
    growth::report(&mut store, "a", &[("10.0.0.0/28", 5, None), ("10.0.0.16/28", 3, None)]);
    let range = json!([{ "cidr": "10.0.0.16/28", "nodeName": "a" }]);
    store.set_network(growth::spec(vec![reserving("10.0.0.0/24", 28, range)]));
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert!(growth::asked_back(&store).is_empty());
    assert_eq!(store.network_condition("Consistent"), "True AsExpected");
}

#[test]
fn a_node_that_holds_another_block_than_its_own_is_told_what_a_drain_would_change() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    let range = json!([{ "cidr": "10.0.3.0/24", "nodeName": "a" }]);
    store.set_network(network(vec![reserving("10.0.0.0/22", 24, range)]));
    check(&mut store, "a: 10.0.0.0/24");
    assert_eq!(store.leased_condition("a"), "True ReservedBlockElsewhere");
    says(&store, "a", "10.0.3.0/24 is reserved for it");
    store.remove_node("a");
    store.settle();
    store.add_node("a");
    check(&mut store, "a: ~10.0.0.0/24 10.0.3.0/24");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
}

#[test]
fn reservations_that_make_no_sense_are_named_and_take_nothing() {
    let range = json!([{ "cidr": "10.9.0.0/24" }, { "cidr": "10.0.1.0/25", "nodeName": "a" }]);
    let mut store = kept(range);
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/24");
    assert_eq!(store.network_condition("Accepted"), "False InvalidReservation");

    let mut own = entry("own", "10.8.0.0/22", 24);
    own["reserved"] = json!([{ "cidr": "10.8.1.0/24", "nodeName": "b" }]);
    store.set_network(network(vec![entry("main", "10.0.0.0/22", 24), own]));
    store.set_pool("p", json!({ "nodeSelector": { "matchLabels": { "p": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["own"] }));
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.network_condition("Accepted"), "False InvalidReservation");
}

#[test]
fn a_podcidr_of_another_ipam_in_a_reserved_range_is_refused_and_a_lease_that_is_there_stays() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/22", 24)]));
    store.add_node_with("old", |node| node.pod_cidrs = vec!["10.0.2.0/24".into()]);
    store.settle();
    let range = json!([{ "cidr": "10.0.2.0/23" }]);
    store.set_network(network(vec![reserving("10.0.0.0/22", 24, range)]));
    store.add_node_with("new", |node| node.pod_cidrs = vec!["10.0.3.0/24".into()]);
    check(&mut store, "old: 10.0.2.0/24");
    assert_eq!(store.leased_condition("new"), "False PodCIDRReserved");
    assert_eq!(store.leased_condition("old"), "True AsExpected");
}

fn reserved_by(store: &mut Store, reserved: serde_json::Value) {
    store.set_network(network(vec![reserving("10.0.0.0/22", 24, reserved)]));
}

#[test]
fn what_is_reserved_since_its_node_went_is_not_given_back_even_where_nothing_else_is_left() {
    let mut store = small();
    for node in ["a", "b", "c", "d"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("d");
    store.settle();
    reserved_by(&mut store, json!([{ "cidr": "10.0.3.0/24", "comment": "routers" }]));
    store.add_node("d");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24\nd: ~10.0.3.0/24");
    assert_eq!(store.leased_condition("d"), "False Exhausted");
    // Another's that is only held is taken early, as for any other node.
    store.remove_node("c");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nd: 10.0.2.0/24 ~10.0.3.0/24");
}

#[test]
fn a_node_that_comes_back_gets_the_block_that_is_kept_for_it_where_another_only_held_it() {
    let mut store = small();
    for node in ["a", "b", "c"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("b");
    store.remove_node("c");
    store.settle();
    reserved_by(&mut store, json!([{ "cidr": "10.0.1.0/24", "nodeName": "c" }]));
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/24\nc: 10.0.1.0/24 ~10.0.2.0/24");
}

/// Its Node's podCIDRs can't be written again.
#[test]
fn a_block_that_a_node_was_told_before_it_was_kept_back_is_the_nodes_again_when_its_lease_is_deleted() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/22", 24)]));
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/24");
    assert_eq!(store.nodes["a"].pod_cidrs, ["10.0.0.0/24"]);
    store.set_network(network(vec![reserving("10.0.0.0/22", 24, json!([{ "cidr": "10.0.0.0/24" }]))]));
    store.settle();
    store.remove_lease("10.0.0.0-24");
    check(&mut store, "a: 10.0.0.0/24");
    store.remove_node("a");
    store.add_node("a");
    check(&mut store, "a: ~10.0.0.0/24 10.0.1.0/24");
}
