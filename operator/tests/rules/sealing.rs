//! When pairs of encrypting nodes stop to take packets in clear, and when they begin again.

use super::{
    transition::{backend_of, ending, hears, kinds, lease_of, pool_of_three, report, set_backend},
    *,
};
use tartan_crds::BackendType::{Vxlan, Wireguard};

pub(super) fn sealed(store: &Store) -> Vec<bool> {
    let of = |node: &&str| lease_of(store, node).spec.as_ref().unwrap().backend.sealed;
    ["a", "b", "c", "d"].iter().map(of).collect()
}

const OPEN: [bool; 4] = [false; 4];
const SEALED: [bool; 4] = [true, true, true, false];

/// What the agent of a node says of its peers: so many in clear, so many sealed.
pub(super) fn peers(store: &mut Store, node: &str, clear: i64, sealed: i64) {
    let report = &mut store.node_networks.get_mut(node).unwrap().report;
    (report.clear_peers, report.sealed_peers) = (clear, sealed);
}

/// Pool p sends by vxlan, and all can receive wireguard.
pub(super) fn before() -> Store {
    let mut store = pool_of_three("vxlan", json!({}));
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &[Vxlan, Wireguard]);
        peers(&mut store, node, 3, 0);
    }
    store.settle();
    store
}

/// Pool p sends by wireguard and is sealed, as all have said.
pub(super) fn after() -> Store {
    let mut store = before();
    set_backend(&mut store, "wireguard", json!({}));
    store.settle();
    for node in ["a", "b", "c"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 0, 3);
    }
    peers(&mut store, "d", 0, 3);
    store.settle();
    store
}

#[test]
fn a_pool_is_sealed_when_every_node_has_left_clear_paths_to_it_and_not_before() {
    let mut store = before();
    set_backend(&mut store, "wireguard", json!({}));
    store.settle();
    assert_eq!(kinds(&store), [Wireguard, Wireguard, Wireguard, Vxlan]);
    assert_eq!(sealed(&store), OPEN);
    for node in ["a", "b"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 0, 0);
    }
    store.settle();
    assert_eq!((sealed(&store), store.pool_condition("p", "Sealed")), (OPEN.into(), "False Moving".into()));
    report(&mut store, "c", Wireguard, &[Vxlan, Wireguard]);
    peers(&mut store, "c", 0, 0);
    store.settle();
    assert_eq!(sealed(&store), OPEN, "d is of no pool, and has not said that it left the clear paths");
    assert_eq!(store.pool_condition("p", "Progressing"), "True Moving");
    assert_eq!(store.pools["p"].status.transition.as_ref().unwrap().waiting_for, ["d"]);
    peers(&mut store, "d", 0, 0);
    store.settle();
    assert_eq!(
        (sealed(&store), store.pool_condition("p", "Sealed")),
        (SEALED.into(), "True AsExpected".into())
    );
    assert_eq!(store.pool_condition("p", "Progressing"), "False AsExpected");
    assert_eq!(store.network_condition("Sealed"), "", "nodes in no pool don't encrypt");
}

/// What an agent said before it was held may be older than a lease that said clear and says so no more.
#[test]
fn a_pool_is_sealed_when_every_agent_has_heard_that_all_of_it_encrypt() {
    let mut store = after();
    let all = ["a", "b", "c", "d"];
    // On the way out, as far as that one may send in clear, and back.
    set_backend(&mut store, "vxlan", json!({ "maxInFlight": 1 }));
    store.settle();
    for node in all {
        peers(&mut store, node, 0, 0);
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!((kinds(&store)[0], sealed(&store)), (Vxlan, OPEN.into()));
    set_backend(&mut store, "wireguard", json!({}));
    store.settle();
    let waiting = |store: &Store| store.pools["p"].status.transition.as_ref().unwrap().waiting_for.clone();
    assert_eq!((sealed(&store), waiting(&store)), (OPEN.into(), all.map(str::to_owned).to_vec()));
    for node in ["b", "c", "d"] {
        hears(&mut store, node);
    }
    store.settle();
    assert_eq!((sealed(&store), waiting(&store)), (OPEN.into(), vec!["a".to_owned()]));
    assert!(ending(&store, "d")[0].starts_with("clear:p:") && ending(&store, "d").len() == 1);
    hears(&mut store, "a");
    // A part of it is written.
    let decisions = decide(&store.world(), store.now);
    store.carry_out(&decisions.actions[0], Fault::None);
    assert_eq!(sealed(&store), [true, false, false, false]);
    // Nobody has heard of that yet, and nothing can have been in clear since.
    store.settle();
    assert_eq!(sealed(&store), SEALED);
    assert_eq!(all.map(|node| ending(&store, node).len()), [0; 4]);
}

/// What an agent said before it was held may be older than a seal of which it has not heard yet, nor of its end.
#[test]
fn nothing_is_sent_in_clear_before_every_agent_has_heard_that_the_pool_is_unsealed() {
    let mut store = after();
    let all = ["a", "b", "c", "d"];
    for node in all {
        peers(&mut store, node, 0, 0);
        hears(&mut store, node);
    }
    set_backend(&mut store, "vxlan", json!({}));
    store.settle();
    assert_eq!((kinds(&store)[..3].to_vec(), sealed(&store)), (vec![Wireguard; 3], OPEN.into()));
    let told = ending(&store, "d");
    assert!(told.len() == 1 && told[0].starts_with("sealed:"), "{told:?}");
    for node in ["a", "b", "c"] {
        let own = told[0].replace("sealed:", "ends:");
        let [ends, told_too, unsealed] = &ending(&store, node)[..] else {
            panic!("{:?}", ending(&store, node))
        };
        assert_eq!((ends, told_too, unsealed), (&own, &told[0], &format!("unsealed:3:{:.0}", store.now)));
    }
    for node in ["a", "b", "c"] {
        hears(&mut store, node);
    }
    store.settle();
    let waiting = |store: &Store| store.pools["p"].status.transition.as_ref().unwrap().waiting_for.clone();
    assert_eq!((kinds(&store)[0], waiting(&store)), (Wireguard, vec!["d".to_owned()]));
    hears(&mut store, "d");
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

/// All others keep clear paths to a node that does not answer.
#[test]
fn a_member_that_does_not_follow_is_waited_for_and_not_those_who_wait_for_it() {
    let mut store = before();
    set_backend(&mut store, "wireguard", json!({}));
    store.settle();
    for node in ["a", "b"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 1, 0);
    }
    peers(&mut store, "d", 1, 0);
    store.settle();
    let waiting = |store: &Store| store.pools["p"].status.transition.as_ref().unwrap().waiting_for.clone();
    assert_eq!((sealed(&store), waiting(&store)), (OPEN.into(), vec!["c".to_owned()]));
    // It follows, and they have not answered each other yet.
    report(&mut store, "c", Wireguard, &[Vxlan, Wireguard]);
    peers(&mut store, "c", 0, 0);
    store.settle();
    assert_eq!((sealed(&store), waiting(&store)), (OPEN.into(), ["a", "b", "d"].map(str::to_owned).to_vec()));
    for node in ["a", "b", "d"] {
        peers(&mut store, node, 0, 0);
    }
    store.settle();
    assert_eq!(sealed(&store), SEALED);
}

/// With a deadline all of the pool have followed, and d, which is of none, has not left clear paths to it.
fn all_but_d() -> Store {
    let mut store = before();
    set_backend(&mut store, "wireguard", json!({ "deadline": "10m" }));
    store.settle();
    for node in ["a", "b", "c"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 0, 0);
    }
    store
}

#[test]
fn who_lags_is_passed_over_after_the_deadline() {
    let mut store = all_but_d();
    let decisions = store.settle();
    assert_eq!((decisions.wake_at.unwrap() - store.now).get_seconds(), 600);
    assert_eq!(sealed(&store), OPEN);
    store.pass(600);
    store.settle();
    assert_eq!(sealed(&store), SEALED);
}

#[test]
fn a_member_that_is_gone_is_passed_over_and_the_pool_stays_sealed_for_good() {
    let mut store = before();
    set_backend(&mut store, "wireguard", json!({ "deadline": "10m" }));
    store.settle();
    for node in ["a", "b"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 0, 0);
    }
    store.settle();
    assert_eq!(sealed(&store), OPEN);
    store.pass(600);
    store.settle();
    assert_eq!(sealed(&store), SEALED);
    for _ in 0..4 {
        store.pass(600);
        store.settle();
        assert_eq!(sealed(&store), SEALED, "c reports as before, and d has clear paths");
        assert_eq!(store.pool_condition("p", "Sealed"), "True AsExpected");
    }
    // c follows at last; d lags on.
    report(&mut store, "c", Wireguard, &[Vxlan, Wireguard]);
    peers(&mut store, "c", 0, 0);
    store.settle();
    assert_eq!(store.pools["p"].status.transition, None);
    store.pass(600);
    store.settle();
    assert_eq!(
        (sealed(&store), store.pool_condition("p", "Sealed")),
        (SEALED.into(), "True AsExpected".into())
    );
}

/// Past the deadline the others went on without a: they have not answered each other yet.
fn without_a() -> Store {
    let mut store = before();
    report(&mut store, "a", Vxlan, &[Vxlan]);
    for node in ["b", "c", "d"] {
        store.change_node(node, |node| node.ready = true);
    }
    set_backend(&mut store, "wireguard", json!({ "deadline": "10m" }));
    store.settle();
    store.pass(600);
    store.settle();
    assert_eq!(kinds(&store), [Wireguard, Wireguard, Wireguard, Vxlan]);
    for node in ["b", "c"] {
        report(&mut store, node, Wireguard, &[Vxlan, Wireguard]);
        peers(&mut store, node, 1, 0);
    }
    peers(&mut store, "d", 0, 0);
    store
}

#[test]
fn past_the_deadline_nodes_that_are_there_still_lose_nothing() {
    let mut store = without_a();
    store.settle();
    assert_eq!(sealed(&store), OPEN, "b and c would drop what they send each other");
    let status = store.pools["p"].status.clone();
    assert_eq!(status.transition.unwrap().waiting_for, ["a", "b", "c"]);
    for node in ["b", "c"] {
        peers(&mut store, node, 0, 0);
    }
    store.settle();
    assert_eq!(sealed(&store), SEALED, "a is passed over, whatever it said last");
}

#[test]
fn nodes_that_are_there_and_send_in_clear_have_as_long_again() {
    let mut store = without_a();
    let decisions = store.settle();
    assert_eq!((decisions.wake_at.unwrap() - store.now).get_seconds(), 600);
    let told = &store.pools["p"].status.conditions;
    let told = &told.iter().find(|condition| condition.type_ == "Progressing").unwrap().message;
    assert!(told.ends_with("in clear: b, c; past the deadline and not waited for: a"), "{told}");
    store.pass(599);
    store.settle();
    assert_eq!(sealed(&store), OPEN);
    store.pass(1);
    store.settle();
    assert_eq!(sealed(&store), SEALED);
}

#[test]
fn who_joins_a_pool_that_still_waits_for_one_has_as_long_as_the_others_had() {
    let mut store = without_a();
    store.settle();
    store.pass(600);
    store.settle();
    assert_eq!(sealed(&store), SEALED);
    store.pass(86400);
    store.change_node("d", |node| {
        node.labels.insert("in".into(), "p".into());
    });
    store.settle();
    assert_eq!((backend_of(&store, "d").0, sealed(&store)), (Wireguard, SEALED.into()));
    store.pass(599);
    store.settle();
    assert_eq!(sealed(&store), SEALED, "d has not said that it follows");
    store.pass(1);
    store.settle();
    assert_eq!(sealed(&store), [true; 4]);
}

#[test]
fn a_seal_of_which_only_a_part_was_written_is_not_decided_anew() {
    let mut store = all_but_d();
    store.settle();
    store.pass(600);
    let decisions = decide(&store.world(), store.now);
    store.carry_out(&decisions.actions[0], Fault::None);
    store.write_status(&decisions);
    assert_eq!(sealed(&store).iter().filter(|sealed| **sealed).count(), 1);
    store.settle();
    assert_eq!(sealed(&store), SEALED, "d lags, as it did when that was decided");
    assert_eq!(store.pools["p"].status.transition, None);
}

#[test]
fn figures_that_are_a_second_old_open_no_pool_when_a_node_in_clear_goes() {
    let mut store = after();
    store.add_node("e");
    store.settle();
    store.use_leases_of("e");
    store.settle();
    report(&mut store, "e", Vxlan, &[Vxlan, Wireguard]);
    for node in ["d", "e"] {
        peers(&mut store, node, 1, 3);
    }
    store.settle();
    assert_eq!(sealed(&store), SEALED);
    store.remove_node("e");
    store.settle();
    assert_eq!(sealed(&store), SEALED, "d has not said yet that a peer in clear is gone");
    assert_eq!(store.pool_condition("p", "Sealed"), "True AsExpected");
    assert_eq!(store.pool_condition("p", "Progressing"), "False AsExpected");
}

#[test]
fn a_sealed_pool_stays_so_whatever_is_reported_and_whoever_joins() {
    let mut store = after();
    assert_eq!(sealed(&store), SEALED);
    peers(&mut store, "d", 9, 0);
    peers(&mut store, "a", 9, 0);
    store.change_node("d", |node| {
        node.labels.insert("in".into(), "p".into());
    });
    store.settle();
    assert_eq!(backend_of(&store, "d").0, Wireguard);
    assert_eq!(sealed(&store), SEALED, "d is one of the pool that has not said that it follows");
    report(&mut store, "d", Wireguard, &[Vxlan, Wireguard]);
    for node in ["a", "d"] {
        peers(&mut store, node, 0, 3);
    }
    store.settle();
    assert_eq!(sealed(&store), [true; 4]);
}

#[test]
fn before_a_pool_leaves_encryption_every_node_takes_clear_packets_again() {
    let mut store = after();
    set_backend(&mut store, "vxlan", json!({ "deadline": "10m" }));
    store.settle();
    assert_eq!(sealed(&store), OPEN);
    assert_eq!(kinds(&store), [Wireguard, Wireguard, Wireguard, Vxlan], "nothing moves before they say so");
    assert_eq!(store.pool_condition("p", "Progressing"), "True WaitingForReception");
    for node in ["a", "b", "c"] {
        peers(&mut store, node, 0, 0);
    }
    store.settle();
    assert_eq!(store.pools["p"].status.transition.as_ref().unwrap().waiting_for, ["d"]);
    assert_eq!(kinds(&store)[0], Wireguard);
    peers(&mut store, "d", 0, 0);
    store.settle();
    assert_eq!(kinds(&store), [Vxlan; 4]);
}

#[test]
fn a_network_that_encrypts_from_the_start_is_sealed_at_once() {
    let mut store = small();
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["defaultBackend"] = json!({ "type": "wireguard" });
    store.set_network(spec);
    store.add_node("a");
    store.settle();
    let of = |store: &Store, node: &str| {
        let lease = store.leases.values().find(|lease| lease.node() == Some(node)).unwrap();
        lease.spec.as_ref().unwrap().backend.sealed
    };
    assert!(of(&store, "a"));
    store.use_leases_of("a");
    store.add_node("b");
    store.settle();
    assert!(of(&store, "a") && of(&store, "b"));
    assert_eq!(store.network_condition("Sealed"), "True AsExpected");
}
