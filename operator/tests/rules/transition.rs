//! Nodes change their backend: when, at what pace, and what everybody receives meanwhile.

use std::collections::BTreeSet;

use tartan_crds::{
    BackendType::{self, Alloc, HostGw, Ipip, Vxlan},
    ObservedLease, TransitionPhase,
};

use super::*;
use tartan_operator::world::Lease;

/// Nodes a, b and c of pool p, which use their leases, and d of none.
pub(super) fn pool_of_three(backend: &str, transition: serde_json::Value) -> Store {
    let mut store = small();
    set_backend(&mut store, backend, transition);
    for name in ["a", "b", "c"] {
        store.add_node_with(name, |node| {
            node.labels.insert("in".into(), "p".into());
        });
    }
    store.add_node("d");
    store.settle();
    for name in ["a", "b", "c", "d"] {
        store.use_leases_of(name);
    }
    store.settle();
    store
}

pub(super) fn set_backend(store: &mut Store, backend: &str, transition: serde_json::Value) {
    set_backend_of(store, "p", backend, transition);
}

/// Nodes come into a pool by its name, and it keeps the status that it has.
pub(super) fn set_backend_of(store: &mut Store, pool: &str, backend: &str, transition: serde_json::Value) {
    let status = store.pools.get(pool).map(|pool| pool.status.clone()).unwrap_or_default();
    store.set_pool(
        pool,
        json!({
            "nodeSelector": { "matchLabels": { "in": pool } },
            "backend": { "type": backend },
            "transition": transition,
        }),
    );
    store.pools.get_mut(pool).unwrap().status = status;
}

/// What the agent of a node says.
pub(super) fn report(store: &mut Store, node: &str, sends_by: BackendType, receives: &[BackendType]) {
    let report = &mut store.node_networks.get_mut(node).unwrap().report;
    report.backend = Some(sends_by);
    report.receives = receives.iter().copied().collect();
    publish(store, node, receives);
}

/// What peers of a node know that it receives.
pub(super) fn publish(store: &mut Store, node: &str, endpoints: &[BackendType]) {
    let own = store.leases.values_mut().filter(|lease| lease.node() == Some(node));
    own.for_each(|lease| lease.endpoints = endpoints.iter().copied().collect());
}

pub(super) fn lease_of<'a>(store: &'a Store, node: &str) -> &'a Lease {
    store.leases.values().find(|lease| lease.node() == Some(node)).unwrap()
}

/// The agent of a node goes by its lease as it is.
pub(super) fn hears(store: &mut Store, node: &str) {
    let lease = lease_of(store, node);
    let seen = ObservedLease { uid: lease.meta.uid.clone(), generation: lease.generation.unwrap() };
    store.node_networks.get_mut(node).unwrap().report.observed_lease = Some(seen);
}

pub(super) fn ending(store: &Store, node: &str) -> Vec<String> {
    lease_of(store, node).spec.as_ref().unwrap().backend.ending.clone()
}

pub(super) fn backend_of(store: &Store, node: &str) -> (BackendType, BTreeSet<BackendType>) {
    let backend = &lease_of(store, node).spec.as_ref().unwrap().backend;
    (backend.kind, backend.accepts.iter().copied().collect())
}

pub(super) fn kinds(store: &Store) -> Vec<BackendType> {
    ["a", "b", "c", "d"].iter().map(|node| backend_of(store, node).0).collect()
}

fn phase(store: &Store) -> Option<(TransitionPhase, Vec<String>)> {
    let status = store.pools["p"].status.transition.clone()?;
    Some((status.phase, status.waiting_for))
}

#[test]
fn a_pool_in_use_moves_when_all_receive_and_at_its_pace_and_the_old_end_is_kept_till_nobody_uses_it() {
    let mut store = pool_of_three("ipip", json!({ "maxInFlight": 1 }));
    let both: BTreeSet<_> = [Vxlan, Ipip].into();
    assert_eq!(kinds(&store), [Ipip, Ipip, Ipip, Vxlan]);
    assert_eq!(backend_of(&store, "d"), (Vxlan, both.clone()), "any node may meet one of the pool");
    for node in ["a", "b", "c"] {
        report(&mut store, node, Ipip, &[Vxlan, Ipip]);
    }
    report(&mut store, "d", Vxlan, &[Vxlan, Ipip]);
    store.settle();
    assert_eq!(phase(&store), None);
    assert_eq!(store.pool_condition("p", "Progressing"), "False AsExpected");

    set_backend(&mut store, "host-gw", json!({ "maxInFlight": 1 }));
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Ipip, Ipip, Vxlan]);
    assert_eq!(backend_of(&store, "a"), (Ipip, [Vxlan, Ipip, HostGw].into()));
    assert_eq!(phase(&store), Some((TransitionPhase::Preparing, vec!["a".into(), "b".into(), "c".into()])));
    for node in ["a", "b"] {
        report(&mut store, node, Ipip, &[Vxlan, Ipip, HostGw]);
    }
    store.settle();
    assert_eq!(phase(&store), Some((TransitionPhase::Preparing, vec!["c".into()])));
    assert_eq!(store.pool_condition("p", "Progressing"), "True WaitingForReception");
    report(&mut store, "c", Ipip, &[Vxlan, Ipip, HostGw]);
    store.settle();
    assert_eq!(kinds(&store), [HostGw, Ipip, Ipip, Vxlan], "one at a time");
    report(&mut store, "a", HostGw, &[Vxlan, Ipip, HostGw]);
    store.settle();
    assert_eq!(kinds(&store), [HostGw, HostGw, Ipip, Vxlan]);
    assert_eq!(phase(&store), Some((TransitionPhase::Moving, vec!["b".into()])));
    report(&mut store, "b", HostGw, &[Vxlan, Ipip, HostGw]);
    store.settle();
    assert_eq!(kinds(&store), [HostGw, HostGw, HostGw, Vxlan]);
    assert_eq!(phase(&store), Some((TransitionPhase::Finishing, vec!["c".into()])));
    assert!(backend_of(&store, "d").1.contains(&Ipip), "c has not said that it follows");
    report(&mut store, "c", HostGw, &[Vxlan, Ipip, HostGw]);
    store.settle();
    assert_eq!(phase(&store), None);
    assert_eq!(backend_of(&store, "d"), (Vxlan, [Vxlan].into()), "ipip has ended everywhere");
    assert_eq!(backend_of(&store, "a"), (HostGw, [Vxlan, HostGw].into()));
}

#[test]
fn a_pause_holds_the_rest_back_and_the_old_backend_written_again_goes_back() {
    let mut store = pool_of_three("vxlan", json!({ "maxInFlight": 1 }));
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 1 }));
    store.settle();
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
    }
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Vxlan, Vxlan, Vxlan]);
    set_backend(&mut store, "ipip", json!({ "paused": true }));
    report(&mut store, "a", Ipip, &[Vxlan, Ipip]);
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Vxlan, Vxlan, Vxlan]);
    assert_eq!(store.pool_condition("p", "Progressing"), "True Paused");
    set_backend(&mut store, "vxlan", json!({}));
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
    assert!(backend_of(&store, "d").1.contains(&Ipip), "a still sends by it");
    report(&mut store, "a", Vxlan, &[Vxlan, Ipip]);
    store.settle();
    assert_eq!(phase(&store), None);
    assert_eq!(backend_of(&store, "d"), (Vxlan, [Vxlan].into()), "as it was");
}

/// An agent that is held finds first that it is to send by the new one, and then that it is not: its word of before says
/// nothing of the moment between.
#[test]
fn what_was_taken_back_is_received_until_every_agent_has_heard_so() {
    let mut store = pool_of_three("vxlan", json!({ "maxInFlight": 1 }));
    let all = ["a", "b", "c", "d"];
    let taken_back = |store: &mut Store| {
        set_backend(store, "ipip", json!({ "maxInFlight": 1 }));
        store.settle();
        for node in all {
            report(store, node, Vxlan, &[Vxlan, Ipip]);
            hears(store, node);
        }
        store.settle();
        assert_eq!(kinds(store), [Ipip, Vxlan, Vxlan, Vxlan]);
        set_backend(store, "vxlan", json!({}));
        store.settle();
        assert_eq!((kinds(store), phase(store)), (vec![Vxlan; 4], None));
    };
    let assert_kept = |store: &Store| {
        for node in all {
            assert_eq!(backend_of(store, node), (Vxlan, [Vxlan, Ipip].into()), "{node}");
            assert_eq!(ending(store, node), ["receive:ipip"], "{node}");
        }
    };
    taken_back(&mut store);
    assert_kept(&store);
    for node in ["b", "c", "d"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_kept(&store);
    // Asked for and taken back once more: who has heard of the first time has not heard of the second.
    taken_back(&mut store);
    assert_kept(&store);
    for node in ["a", "b", "c"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_kept(&store);
    hears(&mut store, "d");
    store.settle();
    for node in all {
        assert_eq!((backend_of(&store, node), ending(&store, node)), ((Vxlan, [Vxlan].into()), vec![]));
    }
    let decisions = store.settle();
    assert!(decisions.actions.is_empty());
}

/// Pool p was given ipip, which it takes back: all have heard of that but b and c.
fn ending_for_two() -> Store {
    let mut store = pool_of_three("vxlan", json!({ "maxInFlight": 1 }));
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 1 }));
    store.settle();
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
        hears(&mut store, node);
    }
    store.settle();
    set_backend(&mut store, "vxlan", json!({ "maxInFlight": 1 }));
    store.settle();
    for node in ["a", "d"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!(ending(&store, "d"), ["receive:ipip"]);
    store
}

/// What was heard of the first end must not count for a second one: nobody moves before all leases say that it is none.
#[test]
fn what_is_asked_for_again_while_it_ends_waits_until_no_lease_names_the_end() {
    let mut store = ending_for_two();
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 1 }));
    let decisions = decide(&store.world(), store.now);
    let (last, first) = decisions.actions.split_last().unwrap();
    for action in first {
        store.carry_out(action, Fault::None);
    }
    assert_eq!(kinds(&store), [Vxlan; 4]);
    for _ in 0..2 {
        // The last write fails.
        let decisions = decide(&store.world(), store.now);
        assert_eq!(format!("{:?}", decisions.actions), format!("{:?}", [last]));
        store.write_status(&decisions);
    }
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Vxlan, Vxlan, Vxlan]);
}

#[test]
fn what_ends_waits_for_no_node_that_is_gone_or_can_be_told_nothing() {
    let mut store = ending_for_two();
    let said = store.node_networks["c"].clone();
    store.remove_node("c");
    store.node_networks.insert("c".into(), said);
    store.settle();
    assert_eq!(ending(&store, "d"), ["receive:ipip"], "b is there");
    let lease = lease_of(&store, "b").meta.name.clone();
    // It goes by a version of before.
    store.change_lease(&lease, |lease| lease.deleting = true);
    store.settle();
    assert_eq!((backend_of(&store, "d"), ending(&store, "d")), ((Vxlan, [Vxlan].into()), vec![]));
}

#[test]
fn whoever_asks_is_told_what_ends_and_for_whom_that_waits() {
    let store = ending_for_two();
    let explained = tartan_operator::decide::explain(&store.world(), "d", false, store.now).unwrap();
    let expected = "ipip: received until these nodes have heard that no node sends by it: b, c";
    assert_eq!(explained.backend.unwrap().ending, [expected]);
}

/// Of an agent of before nothing is known; it says what it sends by.
#[test]
fn what_ends_waits_for_no_agent_that_does_not_say_which_lease_it_goes_by() {
    let mut store = ending_for_two();
    for node in ["b", "c"] {
        store.node_networks.get_mut(node).unwrap().report.observed_lease = None;
    }
    store.settle();
    assert_eq!((backend_of(&store, "d"), ending(&store, "d")), ((Vxlan, [Vxlan].into()), vec![]));
}

#[test]
fn who_lags_is_waited_for_until_the_deadline_and_who_cannot_in_another_pool_is_not() {
    let mut store = pool_of_three("vxlan", json!({}));
    set_backend(&mut store, "ipip", json!({ "deadline": "10m" }));
    store.settle();
    for node in ["a", "b"] {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
    }
    // d is of no pool, and its kernel has no ipip; c says nothing.
    report(&mut store, "d", Vxlan, &[Vxlan]);
    store.node_networks.get_mut("d").unwrap().report.unavailable = [Ipip].into();
    let decisions = store.settle();
    assert_eq!(phase(&store), Some((TransitionPhase::Preparing, vec!["c".into()])));
    assert_eq!((decisions.wake_at.unwrap() - store.now).get_seconds(), 600);
    store.pass(599);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
    store.pass(1);
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Ipip, Ipip, Vxlan]);
}

#[test]
fn nodes_that_are_gone_take_no_place_of_others_after_the_deadline_and_are_named() {
    let policy = json!({ "maxInFlight": 1, "deadline": "10m" });
    let mut store = pool_of_three("vxlan", policy.clone());
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan]);
    }
    for node in ["b", "c", "d"] {
        store.change_node(node, |node| node.ready = true);
    }
    set_backend(&mut store, "ipip", policy);
    store.settle();
    for node in ["b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
    }
    store.settle();
    assert_eq!(phase(&store), Some((TransitionPhase::Preparing, vec!["a".into()])));
    store.pass(600);
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Ipip, Vxlan, Vxlan], "a is passed over, and b goes at the pace");
    assert_eq!(phase(&store), Some((TransitionPhase::Moving, vec!["a".into(), "b".into()])));
    report(&mut store, "b", Ipip, &[Vxlan, Ipip]);
    store.settle();
    report(&mut store, "c", Ipip, &[Vxlan, Ipip]);
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Ipip, Ipip, Vxlan]);
    assert_eq!(phase(&store), Some((TransitionPhase::Finishing, vec!["a".into()])));
    let conditions = &store.pools["p"].status.conditions;
    let said = &conditions.iter().find(|condition| condition.type_ == "Progressing").unwrap().message;
    assert!(said.contains("not waited for: a"), "{said}");
}

#[test]
fn nodes_whose_agents_are_silent_hold_the_pace_no_longer_than_the_deadline() {
    let policy = json!({ "maxInFlight": 1, "deadline": "10m" });
    let mut store = pool_of_three("vxlan", policy.clone());
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan, Ipip]);
        store.change_node(node, |node| node.ready = true);
    }
    set_backend(&mut store, "ipip", policy);
    let decisions = store.settle();
    assert_eq!(kinds(&store), [Ipip, Vxlan, Vxlan, Vxlan]);
    assert_eq!((decisions.wake_at.unwrap() - store.now).get_seconds(), 600);
    store.pass(599);
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Vxlan, Vxlan, Vxlan], "a says nothing");
    store.pass(1);
    store.settle();
    assert_eq!(kinds(&store), [Ipip, Ipip, Vxlan, Vxlan], "one at a time all the same");
}

#[test]
fn leases_that_nobody_uses_yet_change_at_once() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["defaultBackend"] = json!({ "type": "ipip" });
    store.set_network(spec);
    store.settle();
    assert_eq!(backend_of(&store, "a"), (Ipip, [Vxlan, Ipip].into()));
    assert_eq!(store.network_condition("Progressing"), "False AsExpected");
}

#[test]
fn nobody_sends_to_a_node_whose_paths_are_anothers_and_it_receives_nothing() {
    let mut store = pool_of_three("vxlan", json!({}));
    set_backend(&mut store, "alloc", json!({}));
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4], "their agents have not said yet that they follow");
    for node in ["a", "b", "c"] {
        report(&mut store, node, Vxlan, &[Vxlan, Alloc]);
    }
    store.settle();
    assert_eq!(kinds(&store), [Alloc, Alloc, Alloc, Vxlan]);
    assert_eq!(backend_of(&store, "a"), (Alloc, [Alloc].into()));
    assert_eq!(backend_of(&store, "d"), (Vxlan, [Vxlan].into()));
    // And back.
    report(&mut store, "d", Vxlan, &[Vxlan]);
    for node in ["a", "b", "c"] {
        report(&mut store, node, Alloc, &[Alloc]);
    }
    set_backend(&mut store, "vxlan", json!({}));
    store.settle();
    assert_eq!(backend_of(&store, "a"), (Alloc, [Alloc, Vxlan].into()), "reception comes first");
    for node in ["a", "b", "c"] {
        report(&mut store, node, Alloc, &[Alloc, Vxlan]);
    }
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}
