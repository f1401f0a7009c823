//! An agent tells its peers by its lease and the operator by its NodeNetwork, and one may come later than the other.

use tartan_crds::BackendType::{Alloc, Ipip, Vxlan};

use super::*;
use transition::{backend_of, lease_of, pool_of_three, publish, report, set_backend, set_backend_of};

const POOL: [&str; 3] = ["a", "b", "c"];

/// All send by vxlan, and receive ipip too.
fn all_receive() -> Store {
    let mut store = pool_of_three("vxlan", json!({}));
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
    }
    store
}

#[test]
fn nobody_is_sent_to_by_what_only_the_operator_has_heard_of() {
    let mut store = all_receive();
    publish(&mut store, "b", &[Vxlan]);
    // Of another pool, which must receive an overlay too.
    publish(&mut store, "d", &[Vxlan]);
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 50 }));
    store.settle();
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Vxlan; 3]);
    let transition = store.pools["p"].status.transition.clone().unwrap();
    assert_eq!((transition.receiving, transition.waiting_for), (2, vec!["b".to_owned(), "d".to_owned()]));
    for node in ["b", "d"] {
        assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Vxlan; 3]);
        publish(&mut store, node, &[Vxlan, Ipip]);
        store.settle();
    }
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Ipip; 3]);
}

/// A primary lease of b beside its own, of the other family. Its name.
fn second_lease(store: &mut Store, node_uid: Option<&str>) -> &'static str {
    let mut spec = lease_of(store, "b").spec.clone().unwrap();
    spec.subnet = "fd00::/64".parse().unwrap();
    spec.node_uid = node_uid.map_or(spec.node_uid, str::to_owned);
    let labels = lease_of(store, "b").labels.clone();
    assert!(store.insert_lease(spec, labels));
    store.change_lease("fd00---64", |lease| lease.in_use = true);
    "fd00---64"
}

/// Peers of a node of two families go by the lease of a family of theirs.
#[test]
fn of_a_node_with_two_primary_leases_both_must_say_it() {
    let mut store = all_receive();
    let second = second_lease(&mut store, None);
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 50 }));
    store.settle();
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Vxlan; 3]);
    store.change_lease(second, |lease| lease.endpoints = [Vxlan, Ipip].into());
    store.settle();
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Ipip; 3]);
}

/// A finalizer may hold it, and its agent says nothing in it.
#[test]
fn the_lease_of_a_node_that_had_the_name_before_says_nothing_of_the_next_one() {
    let mut store = all_receive();
    let left = second_lease(&mut store, Some("of the Node before"));
    store.change_lease(left, |lease| lease.deleting = true);
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 50 }));
    store.settle();
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Ipip; 3]);
}

#[test]
fn a_node_of_another_pool_to_which_nobody_sends_is_not_waited_for() {
    let mut store = pool_of_three("vxlan", json!({}));
    for node in POOL {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
    }
    set_backend_of(&mut store, "q", "alloc", json!({}));
    report(&mut store, "d", Vxlan, &[Vxlan, Alloc]);
    store.change_node("d", |node| {
        node.labels.insert("in".into(), "q".into());
    });
    store.settle();
    report(&mut store, "d", Alloc, &[Alloc]);
    publish(&mut store, "d", &[]);
    store.settle();
    assert_eq!(backend_of(&store, "d"), (Alloc, [Alloc].into()));
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 50 }));
    store.settle();
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Ipip; 3]);
}
