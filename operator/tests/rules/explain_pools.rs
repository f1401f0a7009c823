//! Pools and entries, told: which pool has the node and by what, which nobody can be in, and what is left of entries.

use serde_json::Value;
use tartan_operator::{
    decide::{Explanation, explain},
    explain::text,
    world::ServiceRange,
};

use super::*;

fn about(store: &Store, node: &str) -> Explanation {
    explain(&store.world(), node, false, store.now).unwrap()
}

fn pool(selector: Value, priority: i32) -> Value {
    json!({ "nodeSelector": selector, "priority": priority, "backend": { "type": "vxlan" } })
}

/// The lines under `pool`.
#[track_caller]
fn check(pools: &[(&str, Value)], expected: &str) {
    let mut store = small();
    for (name, spec) in pools {
        store.set_pool(name, spec.clone());
    }
    store.add_node("a");
    store.settle();
    let said = text(&about(&store, "a"));
    let lines = said.split_once("  pool      ").unwrap().1.split_once("\n  entries ").unwrap().0;
    let lines: Vec<&str> = lines.lines().map(str::trim).collect();
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn of_two_pools_of_one_priority_the_name_decides_and_that_is_told() {
    check(
        &[("c", pool(json!({}), 5)), ("b", pool(json!({}), 10)), ("a", pool(json!({}), 10))],
        "a: it selects the node with priority 10, before b (10), c (5); of equal priorities the first name has the node",
    );
    check(
        &[("b", pool(json!({}), 5)), ("a", pool(json!({}), 10))],
        "a: it selects the node with priority 10, before b (5)",
    );
}

#[test]
fn a_pool_that_nobody_can_be_in_is_told_as_such() {
    let broken = || pool(json!({ "matchLabels": { "rack": "a b" } }), 10);
    let why = "broken: InvalidSelector: no node is in this pool: spec.nodeSelector: rack: \"a b\" can't be the value of a label";
    check(&[("broken", broken())], &format!("none: no NetworkPool is in force\n{why}"));
    let other = || pool(json!({ "matchLabels": { "rack": "b" } }), 0);
    check(
        &[("broken", broken()), ("other", other())],
        &format!("none: no nodeSelector of the 1 NetworkPools that are in force selects the node\n{why}"),
    );
    check(&[("other", other())], "none: no nodeSelector of the 1 NetworkPools selects the node");
    check(
        &[("broken", broken()), ("all", pool(json!({}), 0))],
        &format!("all: the only one that selects the node\n{why}"),
    );
    check(
        &[("odd", json!({ "nodeSelector": {} }))],
        "none: no NetworkPool is in force\n\
         odd: InvalidValues: no node is in this pool: the spec can't be read: missing field `backend`",
    );
}

#[test]
fn what_is_wrong_with_the_pool_of_the_node_is_told_and_of_a_pool_of_others_is_not() {
    let claiming = |selector: Value| {
        let mut spec = pool(selector, 0);
        spec["cidrs"] = json!(["main", "nowhere"]);
        spec
    };
    check(
        &[("mine", claiming(json!({})))],
        "mine: the only one that selects the node\n\
         mine: UnknownEntry: spec.cidrs: entry nowhere does not exist in the ClusterNetwork: append it to \
         ClusterNetwork.spec.cidrs, or take it out of the pool",
    );
    let others = || claiming(json!({ "matchLabels": { "rack": "b" } }));
    let mut store = Store::default()
        .with_network(network(vec![entry("main", "10.0.0.0/22", 24), entry("rest", "10.5.0.0/22", 24)]));
    store.set_pool("theirs", others());
    store.add_node("a");
    store.settle();
    let said = text(&about(&store, "a"));
    assert!(!said.contains("UnknownEntry"), "{said}");
    assert!(said.contains("\n            not for this node: main (claimed by pool theirs)\n"), "{said}");
}

#[test]
fn what_the_blocks_of_an_entry_are_taken_by() {
    let mut main = entry("main", "10.0.0.0/21", 24);
    main["reserved"] = json!([{ "cidr": "10.0.6.0/23" }]);
    let mut store = Store::default().with_network(network(vec![main]));
    store.services =
        vec![ServiceRange { meta: Default::default(), cidrs: vec!["10.0.5.0/25".parse().unwrap()] }];
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("b");
    store.settle();
    let entry = about(&store, "a").entries[0].clone();
    assert_eq!(
        (entry.capacity, entry.free, entry.used, entry.held, entry.reserved, entry.unfit),
        (8, 3, 1, 1, 2, 1)
    );
    let said = text(&about(&store, "a"));
    let line = "\n  entries   main: 10.0.0.0/21 in blocks of /24, 3 of 8 free (1 used, 1 held, 2 reserved, 1 met by Services, Nodes or leases of another size)\n";
    assert!(said.contains(line), "{said}");
}

#[test]
fn of_an_entry_that_is_free_nothing_is_said_to_be_taken() {
    let mut store = small();
    store.add_node("a");
    let said = text(&about(&store, "a"));
    assert!(said.contains("main: 10.0.0.0/22 in blocks of /24, 4 of 4 free\n"), "{said}");
}
