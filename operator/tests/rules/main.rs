//! What is decided, case by case: cluster in, leases and conditions out. No API server, no clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod backup;
mod edits;
mod explain;
mod explain_blocks;
mod explain_choices;
mod explain_pools;
mod families;
mod foresight;
mod growth;
mod keys;
mod node_addresses;
mod odd_objects;
mod pod_cidrs;
mod published;
mod reclaim;
mod reservations;
mod restore;
mod sealing;
#[path = "../store/mod.rs"]
mod store;
mod transition;
mod unsealing;

use serde_json::json;
use store::{Fault, Store, draining, entry, network};
use tartan_crds::{BackendType, PodCidrModeInForce};
use tartan_operator::{
    decide::{Action, decide},
    world::{Change, Delta},
};

fn small() -> Store {
    Store::default().with_network(network(vec![entry("main", "10.0.0.0/22", 24)]))
}

#[track_caller]
fn check(store: &mut Store, expected: &str) {
    store.settle();
    store.assert_disjoint();
    assert_eq!(store.leased(), expected);
}

#[test]
fn nodes_get_the_lowest_free_blocks_and_their_pod_cidrs() {
    let mut store = small();
    for node in ["b", "a"] {
        store.add_node(node);
    }
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.nodes["b"].pod_cidrs, ["10.0.1.0/24"]);
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    assert_eq!(store.network_condition("Allocated"), "True AsExpected");
    assert!(store.settle().network_status.is_none(), "a settled network is not written again");
}

#[test]
fn both_families_are_leased_before_the_node_is_told() {
    let entries = vec![entry("six", "fd00::/60", 64), entry("four", "10.0.0.0/22", 24)];
    let mut store = Store::default().with_network(network(entries));
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/24 fd00::/64");
    assert_eq!(store.nodes["a"].pod_cidrs, ["fd00::/64", "10.0.0.0/24"], "in the order of the entries");
}

/// A webhook, a quota or rights that are gone.
#[test]
fn a_node_whose_lease_the_api_server_refuses_waits_and_is_told_why() {
    let mut store = small();
    store.add_node("a");
    let mut world = store.world();
    store.write_status(&decide(&world, store.now));
    assert_eq!(store.network_message("Allocated"), "every node has its leases, or is about to get them");
    world.refused.insert("a".into(), "403 Forbidden: no".into());
    let decisions = decide(&world, store.now);
    let creates = |action: &Action| matches!(action, Action::CreateLease { .. });
    assert!(decisions.actions.iter().any(creates), "it is tried again");
    assert_eq!(decisions.figures.waiting.get("LeaseRefused"), Some(&1));
    store.write_status(&decisions);
    assert_eq!(store.network_condition("Allocated"), "False LeaseRefused");
    for action in decisions.actions.iter().filter(|action| !creates(action)) {
        store.carry_out(action, Fault::None);
    }
    world = store.world();
    world.refused.insert("a".into(), "403 Forbidden: no".into());
    for action in &decide(&world, store.now).actions {
        if let Action::ReportLeased { .. } = action {
            store.carry_out(action, Fault::None);
        }
    }
    assert_eq!(store.leased_condition("a"), "False LeaseRefused");
    // Whoever asks finds that, though the objects themselves say that it is about to get one.
    let explained = tartan_operator::decide::explain(&store.world(), "a", false, store.now).unwrap();
    assert!(explained.waiting.is_some_and(|why| why.message.contains("403 Forbidden: no")));
    check(&mut store, "a: 10.0.0.0/24");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    assert_eq!(store.network_message("Allocated"), "every node has its leases");
}

#[test]
fn a_node_that_comes_back_gets_its_subnet() {
    let mut store = small();
    for node in ["a", "b", "c"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("b");
    check(&mut store, "a: 10.0.0.0/24\nb: ~10.0.1.0/24\nc: 10.0.2.0/24");
    store.pass(3000);
    store.add_node("new");
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24\nnew: 10.0.3.0/24");
    assert_eq!(store.nodes["b"].pod_cidrs, ["10.0.1.0/24"]);
}

#[test]
fn a_block_is_free_again_when_reclaim_after_has_passed() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    store.remove_node("a");
    let wake = store.settle().wake_at.expect("time alone will change something");
    assert_eq!((wake - store.now).get_seconds(), 3600);
    store.pass(3599);
    check(&mut store, "a: ~10.0.0.0/24");
    store.pass(1);
    check(&mut store, "");
}

#[test]
fn when_nothing_else_is_free_the_block_that_is_held_longest_is_taken_first() {
    let mut store = small();
    for node in ["a", "b", "c", "d"] {
        store.add_node(node);
    }
    store.settle();
    for node in ["c", "a", "d"] {
        store.pass(60);
        store.remove_node(node);
        store.settle();
    }
    store.add_node("e");
    check(&mut store, "a: ~10.0.0.0/24\nb: 10.0.1.0/24\nd: ~10.0.3.0/24\ne: 10.0.2.0/24");
    store.add_node("f");
    check(&mut store, "b: 10.0.1.0/24\nd: ~10.0.3.0/24\ne: 10.0.2.0/24\nf: 10.0.0.0/24");
}

#[test]
fn an_empty_node_list_releases_nothing_that_lives() {
    let mut store = small();
    for node in ["a", "b", "c"] {
        store.add_node(node);
    }
    store.settle();
    let before = store.leased();
    let mut world = store.world();
    world.apply(Delta::Nodes(Change::Listed { objects: vec![], since: std::time::Instant::now() }));
    let decisions = decide(&world, store.now);
    let asked =
        decisions.actions.iter().filter(|action| matches!(action, Action::ReleaseLease { .. })).count();
    assert_eq!(asked, 3, "each is asked for");
    store.obey(&mut world, &decisions);
    check(&mut store, &before);
}

#[test]
fn an_empty_lease_list_gives_nobody_a_second_lease() {
    let mut store = small();
    for node in ["a", "b", "c"] {
        store.add_node(node);
    }
    store.settle();
    let before = store.leased();
    let mut world = store.world();
    world.apply(Delta::Leases(Change::Listed { objects: vec![], since: std::time::Instant::now() }));
    let decisions = decide(&world, store.now);
    store.obey(&mut world, &decisions);
    check(&mut store, &before);
}

#[test]
fn without_a_cluster_network_leases_stay_as_they_are() {
    let mut store = small();
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.network = None;
    store.remove_node("a");
    store.add_node("c");
    store.pass(1_000_000);
    let decisions = store.settle();
    assert_eq!(decisions.idle.unwrap().reason, "NoClusterNetwork");
    assert_eq!(store.leased(), "a: 10.0.0.0/24\nb: 10.0.1.0/24");
}

#[test]
fn a_draining_entry_keeps_its_leases_and_gives_out_no_more() {
    let mut store = Store::default().with_network(network(vec![entry("old", "10.0.0.0/22", 24)]));
    store.add_node("a");
    store.add_node("b");
    store.settle();
    store.set_network(network(vec![draining("old", "10.0.0.0/22", 24), entry("new", "10.8.0.0/22", 24)]));
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.8.0.0/24");
    // Rejoining moves a node out.
    store.remove_node("a");
    store.settle();
    store.add_node("a");
    check(&mut store, "a: ~10.0.0.0/24 10.8.1.0/24\nb: 10.0.1.0/24\nc: 10.8.0.0/24");
    // Removed too early: said, and nothing is taken from b.
    store.set_network(network(vec![entry("new", "10.8.0.0/22", 24)]));
    store.pass(4000);
    check(&mut store, "a: 10.8.1.0/24\nb: 10.0.1.0/24\nc: 10.8.0.0/24");
    assert_eq!(store.network_condition("Consistent"), "False EntryInUse");
}

#[test]
fn a_pool_change_updates_the_lease_and_leaves_the_block() {
    let entries = vec![entry("main", "10.0.0.0/22", 24), entry("own", "10.9.0.0/22", 24)];
    let mut store = Store::default().with_network(network(entries));
    store.add_node("a");
    store.settle();
    store.set_pool("p", json!({ "nodeSelector": {}, "backend": { "type": "host-gw" }, "cidrs": ["own"], "mtu": 1400, "masquerade": false }));
    check(&mut store, "a: 10.0.0.0/24");
    let spec = store.leases["10.0.0.0-24"].spec.clone().unwrap();
    assert_eq!((spec.pool.as_str(), spec.mtu, spec.backend.kind), ("p", Some(1400), BackendType::HostGw));
    assert_eq!(spec.backend.accepts, [BackendType::HostGw, BackendType::Vxlan]);
    assert_eq!(store.leased_condition("a"), "True OutsidePool");
    let node_network = store.node_networks["a"].spec.clone().unwrap();
    assert_eq!((node_network.pool.as_str(), node_network.masquerade), ("p", Some(false)));
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.9.0.0/24");
}

#[test]
fn pools_of_one_priority_are_told_apart_by_name_and_reported() {
    let entries = vec![
        entry("one", "10.1.0.0/22", 24),
        entry("two", "10.2.0.0/22", 24),
        entry("rest", "10.3.0.0/22", 24),
    ];
    let mut store = Store::default().with_network(network(entries));
    let pool = |priority: i32, cidrs: &[&str]| json!({ "nodeSelector": {}, "priority": priority, "backend": { "type": "vxlan" }, "cidrs": cidrs });
    store.set_pool("b", pool(5, &["one"]));
    store.set_pool("c", pool(5, &["two", "one", "none"]));
    store.set_pool("low", pool(1, &[]));
    store.set_pool("bad", json!({ "nodeSelector": { "matchExpressions": [{ "key": "x", "operator": "Is" }] }, "priority": 9, "backend": { "type": "vxlan" } }));
    store.add_node("n");
    check(&mut store, "n: 10.1.0.0/24");
    assert_eq!(store.pool_condition("b", "Consistent"), "False SamePriority");
    assert_eq!(store.pool_condition("c", "Consistent"), "False SamePriority");
    assert_eq!(store.pool_condition("b", "Accepted"), "True AsExpected");
    assert_eq!(store.pool_condition("c", "Accepted"), "False EntryClaimedTwice");
    assert_eq!(store.pool_condition("low", "Accepted"), "True NoNodesMatch");
    assert_eq!(store.pool_condition("low", "Consistent"), "True AsExpected");
    assert_eq!(store.pool_condition("bad", "Accepted"), "False InvalidSelector");
}

#[test]
fn bad_entries_are_left_out_and_said() {
    let check = |entries: Vec<serde_json::Value>, reason: &str, lease: &str| {
        let mut store = Store::default().with_network(network(entries));
        store.services.push(tartan_operator::world::ServiceRange {
            meta: Default::default(),
            cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        });
        store.add_node_with("a", |node| node.addresses.push("192.168.0.7".parse().unwrap()));
        store.settle();
        assert_eq!(store.network_condition("Accepted"), reason);
        assert_eq!(store.leased(), format!("a: {lease}"));
    };
    let good = || entry("good", "10.0.0.0/22", 24);
    check(vec![entry("bad", "10.9.0.1/22", 24), good()], "False InvalidCIDR", "10.0.0.0/24");
    check(vec![entry("bad", "nonsense", 24), good()], "False InvalidCIDR", "10.0.0.0/24");
    check(vec![entry("bad", "10.9.0.0/22", 20), good()], "False InvalidCIDR", "10.0.0.0/24");
    check(vec![entry("bad", "10.9.0.0/22", 31), good()], "False InvalidCIDR", "10.0.0.0/24");
    check(vec![good(), entry("good", "10.9.0.0/22", 24)], "False InvalidCIDR", "10.0.0.0/24");
    check(vec![good(), entry("bad", "10.0.1.0/24", 24)], "False OverlappingCIDRs", "10.0.0.0/24");
    check(vec![entry("over", "10.96.0.0/15", 24)], "False OverlapsServiceCIDR", "10.97.0.0/24");
    check(vec![entry("over", "192.168.0.0/22", 24)], "False OverlapsNodeAddress", "192.168.1.0/24");
}

#[test]
fn leases_that_fit_no_entry_are_never_overlapped() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    // The network was deleted and made again with other blocks in the same range.
    store.set_network(network(vec![entry("main", "10.0.0.0/22", 25)]));
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/25");
    assert_eq!(store.network_condition("Consistent"), "False EntryChanged");
}

#[test]
fn a_node_with_two_leases_keeps_the_older_one_or_the_one_in_use() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    store.change_node("a", |node| (node.pod_cidrs, node.mirrored) = (vec![], None));
    let mut second = store.leases["10.0.0.0-24"].spec.clone().unwrap();
    second.subnet = "10.0.1.0/24".parse().unwrap();
    store.pass(5);
    store.insert_lease(second.clone(), Default::default());
    check(&mut store, "a: 10.0.0.0/24");
    store.change_node("a", |node| (node.pod_cidrs, node.mirrored) = (vec![], None));
    store.insert_lease(second, Default::default());
    store.change_lease("10.0.1.0-24", |lease| lease.in_use = true);
    check(&mut store, "a: 10.0.1.0/24");
}

#[test]
fn a_lease_that_cannot_be_read_still_holds_its_block() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    store.change_lease("10.0.0.0-24", |lease| lease.spec = Err("nonsense".into()));
    store.add_node("b");
    store.settle();
    assert_eq!(store.leased(), "?: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.leased_condition("a"), "False LeaseUnreadable");
}

#[test]
fn five_thousand_nodes_are_decided_in_one_round() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/8", 24)]));
    store.set_pool(
        "p",
        json!({ "nodeSelector": { "matchLabels": { "p": "" } }, "backend": { "type": "vxlan" } }),
    );
    for number in 0..5000 {
        store.add_node_with(&format!("n-{number:04}"), |node| {
            if number % 2 == 0 {
                node.labels.insert("p".into(), String::new());
            }
        });
    }
    let mut world = store.world();
    let start = std::time::Instant::now();
    let decisions = decide(&world, store.now);
    let first = start.elapsed();
    assert_eq!(decisions.actions.iter().filter(|a| matches!(a, Action::CreateLease { .. })).count(), 5000);
    store.obey(&mut world, &decisions);
    store.settle();
    let world = store.world();
    let start = std::time::Instant::now();
    assert!(decide(&world, store.now).actions.is_empty());
    let idle = start.elapsed();
    println!("5,000 new nodes: {first:?}; 5,000 settled nodes: {idle:?}");
}
