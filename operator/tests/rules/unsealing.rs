//! What every agent must have heard before nodes are sealed or leave encryption, whichever pools they are in meanwhile.

use super::{
    sealing::{after, before, peers, sealed},
    transition::{backend_of, ending, hears, kinds, lease_of, report, set_backend, set_backend_of},
    *,
};
use tartan_crds::BackendType::{Alloc, Ipip, Vxlan, Wireguard};

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

/// Pool p leaves encryption one by one.
fn a_has_left(mut store: Store) -> Store {
    set_backend(&mut store, "vxlan", json!({ "maxInFlight": 1 }));
    store.settle();
    all_hear(&mut store);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan, Wireguard, Wireguard, Vxlan]);
    store
}

fn set_q(store: &mut Store, backend: &str) {
    set_backend_of(store, "q", backend, json!({}));
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
    hears(&mut store, "c");
    store.settle();
    assert_eq!((kinds(&store)[..3].to_vec(), sealed(&store)), (vec![Wireguard; 3], vec![false; 4]));
    all_hear(&mut store);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

#[test]
fn the_end_of_seals_is_told_of_when_the_last_one_is_unsealed() {
    let mut store = after();
    all_hear(&mut store);
    set_backend(&mut store, "vxlan", json!({}));
    let names_an_end = |store: &Store| ending(store, "d").iter().any(|end| end.starts_with("sealed:"));
    for written in 1..=3 {
        let decisions = decide(&store.world(), store.now);
        store.carry_out(&decisions.actions[0], Fault::None);
        assert_eq!(sealed(&store).iter().filter(|sealed| **sealed).count(), 3 - written);
        assert!(!names_an_end(&store), "each that is unsealed later would make another name");
    }
    store.settle();
    assert!(names_an_end(&store));
    assert_eq!(kinds(&store)[..3], [Wireguard; 3]);
}

#[test]
fn who_comes_into_a_pool_whose_deadline_has_passed_is_heard_of_all_the_same() {
    let mut store = two_pools();
    // A change of pool r that never comes to its end, since d is off.
    store.change_node("d", |node| {
        node.labels.insert("in".into(), "r".into());
    });
    for (kind, passes) in [("vxlan", 0), ("ipip", 0), ("ipip", 600), ("ipip", 86400)] {
        set_backend_of(&mut store, "r", kind, json!({ "deadline": "10m" }));
        store.pass(passes);
        store.settle();
    }
    assert_eq!(kinds(&store), [Wireguard, Wireguard, Wireguard, Ipip]);
    all_hear(&mut store);
    store.change_node("c", |node| {
        node.labels.insert("in".into(), "r".into());
    });
    report(&mut store, "c", Wireguard, &[Vxlan, Wireguard, Ipip]);
    store.settle();
    assert_eq!(kinds(&store)[2], Wireguard, "the others hold it for sealed");
    store.pass(599);
    store.settle();
    assert_eq!(kinds(&store)[2], Wireguard);
    store.pass(1);
    store.settle();
    assert_eq!(kinds(&store)[2], Ipip);
}

/// It may send in clear to nodes that are sealed meanwhile, or hold some that are unsealed.
#[test]
fn a_node_that_nobody_sends_to_is_waited_for_until_it_knows_that() {
    let mut store = before();
    set_q(&mut store, "alloc");
    store.change_node("d", |node| {
        node.labels.insert("in".into(), "q".into());
    });
    hears(&mut store, "d");
    report(&mut store, "d", Vxlan, &[Vxlan, Wireguard, Alloc]);
    store.settle();
    assert_eq!(kinds(&store)[3], Alloc);
    set_backend(&mut store, "wireguard", json!({}));
    for node in ["a", "b", "c"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 0, 0);
    }
    peers(&mut store, "d", 0, 0);
    store.settle();
    assert_eq!((kinds(&store)[0], sealed(&store)[0]), (Wireguard, false));
    assert_eq!(store.pools["p"].status.transition.as_ref().unwrap().waiting_for, ["d"]);
    hears(&mut store, "d");
    store.settle();
    assert_eq!(sealed(&store), [true, true, true, false]);
}

#[test]
fn one_that_left_has_heard_of_those_before_it_and_not_of_those_after() {
    let mut store = a_has_left(two_pools());
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
    let mut store = a_has_left(after());
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

#[test]
fn where_there_are_fewer_than_were_heard_of_nobody_is_asked_anew() {
    let mut store = a_has_left(after());
    let told = ending(&store, "d");
    store.remove_node("c");
    store.settle();
    assert_eq!((ending(&store, "d"), told.len()), (told, 1));
    report(&mut store, "a", Vxlan, &[Vxlan, Wireguard]);
    store.settle();
    assert_eq!(backend_of(&store, "b").0, Vxlan);
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

/// The operator goes on as long as there is anything to write, but nothing of d is written.
fn settle_but_d(store: &mut Store) {
    for _ in 0..20 {
        let decisions = decide(&store.world(), store.now);
        store.write_status(&decisions);
        for action in &decisions.actions {
            let (leases, before) = (store.leases.clone(), lease_of(store, "d").generation);
            store.carry_out(action, Fault::None);
            if lease_of(store, "d").generation != before {
                store.leases = leases;
            }
        }
    }
}

#[test]
fn who_heard_of_a_seal_that_was_to_come_has_not_heard_of_the_next_one() {
    let mut store = waits_for_d();
    for (kind, kinds_then) in [("vxlan", [Vxlan; 3]), ("wireguard", [Wireguard; 3])] {
        set_backend(&mut store, kind, json!({}));
        settle_but_d(&mut store);
        assert_eq!(kinds(&store)[..3], kinds_then);
    }
    // The one before.
    all_hear(&mut store);
    settle_but_d(&mut store);
    assert_eq!(sealed(&store), [false; 4], "d may send in clear to those that left encryption meanwhile");
    store.settle();
    all_hear(&mut store);
    store.settle();
    assert_eq!(sealed(&store), [true, true, true, false]);
}
