//! WireGuard keys of all nodes are rotated: when, and never before the last time is through.

use super::*;

/// Nodes a and b, which use wireguard, with keys of these generations.
fn two(parameters: serde_json::Value) -> Store {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["backends"] = json!({ "wireguard": parameters });
    spec["defaultBackend"] = json!({ "type": "wireguard" });
    let mut store = Store::default().with_network(spec);
    for name in ["a", "b"] {
        store.add_node(name);
    }
    store.settle();
    for name in ["a", "b"] {
        store.use_leases_of(name);
    }
    publish(&mut store, "a", &[0]);
    publish(&mut store, "b", &[0]);
    store
}

fn publish(store: &mut Store, node: &str, generations: &[i32]) {
    for lease in store.leases.values_mut().filter(|lease| lease.node() == Some(node)) {
        lease.wireguard_keys =
            generations.iter().map(|generation| (*generation, format!("{node}'s {generation}"))).collect();
    }
}

fn set(store: &mut Store, parameters: serde_json::Value) {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["backends"] = json!({ "wireguard": parameters });
    spec["defaultBackend"] = json!({ "type": "wireguard" });
    store.set_network(spec);
}

/// Generation, nodes that are behind, condition.
#[track_caller]
fn check(store: &mut Store, generation: i32, behind: &[&str], condition: &str) {
    store.settle();
    let keys = store.network.as_ref().unwrap().status.wireguard_keys.clone().unwrap();
    assert_eq!(
        (keys.generation, keys.waiting_for, keys.behind),
        (
            generation,
            behind.iter().map(|name| (*name).to_owned()).collect(),
            i64::try_from(behind.len()).unwrap(),
        )
    );
    assert_eq!(store.network_condition("KeysCurrent"), condition);
}

#[test]
fn a_network_without_wireguard_says_nothing_of_keys() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    assert_eq!(store.network.as_ref().unwrap().status.wireguard_keys, None);
}

#[test]
fn keys_are_rotated_by_command_once_for_each_change_of_the_text() {
    let mut store = two(json!({}));
    check(&mut store, 0, &[], "True AsExpected");
    set(&mut store, json!({ "rotate": "today" }));
    check(&mut store, 1, &["a", "b"], "False RotatingKeys");
    publish(&mut store, "a", &[0, 1]);
    check(&mut store, 1, &["a", "b"], "False RotatingKeys");
    publish(&mut store, "a", &[1]);
    check(&mut store, 1, &["b"], "False RotatingKeys");
    // Another change waits until all are through; then it is one rotation, however many there were.
    set(&mut store, json!({ "rotate": "again" }));
    check(&mut store, 1, &["b"], "False RotatingKeys");
    set(&mut store, json!({ "rotate": "and again" }));
    publish(&mut store, "b", &[1]);
    check(&mut store, 2, &["a", "b"], "False RotatingKeys");
    publish(&mut store, "a", &[2]);
    publish(&mut store, "b", &[2]);
    check(&mut store, 2, &[], "True AsExpected");
}

#[test]
fn keys_are_rotated_by_age_and_a_node_that_is_gone_holds_nothing_up() {
    let mut store = two(json!({ "rotateAfter": "24h" }));
    check(&mut store, 0, &[], "True AsExpected");
    let wake = store.settle().wake_at.expect("time alone will change something");
    assert_eq!(wake.duration_since(store.now).as_secs(), 24 * 3600);
    store.pass(24 * 3600 - 1);
    check(&mut store, 0, &[], "True AsExpected");
    store.pass(1);
    check(&mut store, 1, &["a", "b"], "False RotatingKeys");
    // A day later b has not followed: nothing more is asked of a.
    publish(&mut store, "a", &[1]);
    store.pass(24 * 3600);
    check(&mut store, 1, &["b"], "False RotatingKeys");
    store.remove_node("b");
    check(&mut store, 2, &["a"], "False RotatingKeys");
}

#[test]
fn a_status_that_was_lost_takes_no_keys_back() {
    let mut store = two(json!({}));
    publish(&mut store, "a", &[7]);
    publish(&mut store, "b", &[7]);
    store.network.as_mut().unwrap().status.wireguard_keys = None;
    set(&mut store, json!({}));
    check(&mut store, 7, &[], "True AsExpected");
}

fn held_by(store: &Store, node: &str) -> Vec<String> {
    let lease = store.leases.values().find(|lease| lease.node() == Some(node)).unwrap();
    lease.spec.as_ref().unwrap().wireguard_keys.clone()
}

#[test]
fn a_key_is_that_of_who_published_it_first_as_long_as_it_does() {
    let mut store = two(json!({}));
    store.settle();
    assert_eq!((held_by(&store, "a"), held_by(&store, "b")), (vec!["a's 0".into()], vec!["b's 0".into()]));
    // a, which sorts first and has the older lease, says that b's key is its own.
    let claim = |store: &mut Store, node: &str, keys: &[(i32, &str)]| {
        let lease = store.leases.values_mut().find(|lease| lease.node() == Some(node)).unwrap();
        lease.wireguard_keys =
            keys.iter().map(|(generation, key)| (*generation, (*key).to_owned())).collect();
    };
    claim(&mut store, "a", &[(0, "b's 0"), (1, "a's 1")]);
    store.settle();
    assert_eq!((held_by(&store, "a"), held_by(&store, "b")), (vec!["a's 1".into()], vec!["b's 0".into()]));
    // b has a new one: who publishes the old one may have it.
    claim(&mut store, "b", &[(1, "b's 1")]);
    store.settle();
    assert_eq!(held_by(&store, "a"), ["a's 1", "b's 0"]);
    assert_eq!(held_by(&store, "b"), ["b's 1"]);
}
