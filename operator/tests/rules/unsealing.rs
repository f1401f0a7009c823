//! What every agent must have heard before nodes are sealed or leave encryption, whichever pools they are in meanwhile.

use super::{
    sealing::{after, before, peers, sealed},
    transition::{ending, hears, kinds, lease_of, report, set_backend},
    *,
};
use tartan_crds::BackendType::{Alloc, Vxlan, Wireguard};

const ALL: [&str; 4] = ["a", "b", "c", "d"];

/// All have said that they hold nobody for sealed, and go by their leases as they are.
fn all_hear(store: &mut Store) {
    for node in ALL {
        peers(store, node, 0, 0);
        hears(store, node);
    }
}

/// Pool p sends by wireguard and is sealed, and so is pool q, in which c is.
fn two_pools() -> Store {
    let mut store = after();
    set_q(&mut store, "wireguard");
    store.change_node("c", |node| {
        node.labels.insert("in".into(), "q".into());
    });
    store.settle();
    assert_eq!((sealed(&store), kinds(&store)[2]), (vec![true, true, true, false], Wireguard));
    all_hear(&mut store);
    store
}

fn set_q(store: &mut Store, backend: &str) {
    let status = store.pools.get("q").map(|pool| pool.status.clone()).unwrap_or_default();
    let spec = json!({ "nodeSelector": { "matchLabels": { "in": "q" } }, "backend": { "type": backend } });
    store.set_pool("q", spec);
    store.pools.get_mut("q").unwrap().status = status;
}

#[test]
fn where_a_pool_is_deleted_its_nodes_leave_encryption_as_if_it_were_not() {
    let mut store = after();
    all_hear(&mut store);
    store.pools.remove("p");
    store.settle();
    assert_eq!((kinds(&store)[..3].to_vec(), sealed(&store)), (vec![Wireguard; 3], vec![false; 4]));
    for node in ["a", "b", "c"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!(kinds(&store)[..3], [Wireguard; 3], "d has not heard that nobody is sealed any more");
    hears(&mut store, "d");
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

#[test]
fn who_is_unsealed_meanwhile_is_to_be_heard_of_too() {
    let mut store = two_pools();
    set_backend(&mut store, "vxlan", json!({ "paused": true }));
    store.settle();
    all_hear(&mut store);
    store.settle();
    set_q(&mut store, "vxlan");
    store.settle();
    set_backend(&mut store, "vxlan", json!({}));
    store.settle();
    assert_eq!((kinds(&store)[..3].to_vec(), sealed(&store)), (vec![Wireguard; 3], vec![false; 4]));
    all_hear(&mut store);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

#[test]
fn one_that_left_has_heard_of_those_before_it_and_not_of_those_after() {
    let mut store = two_pools();
    set_backend(&mut store, "vxlan", json!({ "maxInFlight": 1 }));
    store.settle();
    all_hear(&mut store);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan, Wireguard, Wireguard, Vxlan]);
    set_q(&mut store, "vxlan");
    store.settle();
    report(&mut store, "a", Vxlan, &[Vxlan, Wireguard]);
    for node in ["b", "c", "d"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!(kinds(&store), [Vxlan, Wireguard, Wireguard, Vxlan], "a may hold c for sealed");
    assert_eq!(store.pools["q"].status.transition.as_ref().unwrap().waiting_for, ["a"]);
    // Of what it had heard before it left it need not say so again.
    hears(&mut store, "a");
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

#[test]
fn one_that_was_told_to_leave_holds_nobody_up_that_it_had_heard_of() {
    let mut store = after();
    set_backend(&mut store, "vxlan", json!({ "maxInFlight": 1 }));
    store.settle();
    all_hear(&mut store);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan, Wireguard, Wireguard, Vxlan]);
    report(&mut store, "a", Vxlan, &[Vxlan, Wireguard]);
    let seen = store.node_networks["a"].report.observed_lease.clone().unwrap();
    assert!(Some(seen.generation) < lease_of(&store, "a").generation);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan, Vxlan, Wireguard, Vxlan]);
}

#[test]
fn one_that_left_without_having_heard_is_waited_for_by_others() {
    let mut store = two_pools();
    set_backend(&mut store, "vxlan", json!({ "deadline": "10m" }));
    set_q(&mut store, "vxlan");
    store.settle();
    for node in ["b", "c", "d"] {
        hears(&mut store, node);
    }
    for node in ALL {
        peers(&mut store, node, 0, 0);
    }
    store.pass(600);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan, Vxlan, Wireguard, Vxlan], "the other pool has no deadline");
    // Their leases are others now.
    for node in ["b", "c", "d"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!(store.pools["q"].status.transition.as_ref().unwrap().waiting_for, ["a"]);
    hears(&mut store, "a");
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

#[test]
fn nodes_that_leave_for_paths_of_others_are_heard_of_once() {
    let mut store = after();
    set_backend(&mut store, "alloc", json!({ "maxInFlight": 1 }));
    store.settle();
    for node in ["a", "b", "c"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard, Alloc]);
    }
    store.settle();
    all_hear(&mut store);
    store.settle();
    assert_eq!(kinds(&store), [Alloc, Wireguard, Wireguard, Vxlan]);
    report(&mut store, "a", Alloc, &[Alloc]);
    store.settle();
    assert_eq!(kinds(&store), [Alloc, Alloc, Wireguard, Vxlan]);
}

/// Pool p encrypts, and a seal waits for d, which has not heard so.
fn waits_for_d() -> Store {
    let mut store = before();
    set_backend(&mut store, "wireguard", json!({}));
    store.settle();
    for node in ["a", "b", "c"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
    }
    all_hear(&mut store);
    store.settle();
    for node in ["a", "b", "c"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!(sealed(&store), [false; 4]);
    assert_eq!(store.pools["p"].status.transition.as_ref().unwrap().waiting_for, ["d"]);
    store
}

#[test]
fn a_node_that_comes_into_a_pool_before_it_is_sealed_is_to_be_heard_of_too() {
    let mut store = waits_for_d();
    store.set_network(network(vec![entry("main", "10.0.0.0/21", 24)]));
    store.add_node_with("e", |node| {
        node.labels.insert("in".into(), "p".into());
    });
    let decisions = decide(&store.world(), store.now);
    let mut world = store.world();
    store.obey(&mut world, &decisions);
    store.use_leases_of("e");
    // Of the others only.
    hears(&mut store, "d");
    store.settle();
    report(&mut store, "e", Wireguard, &[Vxlan, Wireguard]);
    peers(&mut store, "e", 0, 0);
    hears(&mut store, "e");
    store.settle();
    assert_eq!(sealed(&store), [false; 4]);
    all_hear(&mut store);
    store.settle();
    assert_eq!(sealed(&store), [true, true, true, false]);
    assert!(lease_of(&store, "e").spec.as_ref().unwrap().backend.sealed);
}

#[test]
fn nothing_leaves_encryption_while_a_lease_still_names_the_seal_that_was_to_come() {
    let mut store = waits_for_d();
    set_backend(&mut store, "vxlan", json!({}));
    let decisions = decide(&store.world(), store.now);
    // Of d none is written.
    for action in &decisions.actions {
        let place = store.leases.clone();
        store.carry_out(action, Fault::None);
        if lease_of(&store, "d").generation != place[&lease_of(&store, "d").meta.name].generation {
            store.leases = place;
        }
    }
    assert_eq!((kinds(&store)[..3].to_vec(), ending(&store, "d").len()), (vec![Wireguard; 3], 1));
    let decisions = decide(&store.world(), store.now);
    store.write_status(&decisions);
    assert_eq!(store.pools["p"].status.transition.as_ref().unwrap().waiting_for, ["d"]);
    store.obey(&mut store.world(), &decisions);
    assert_eq!(kinds(&store)[..3], [Wireguard; 3]);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}
