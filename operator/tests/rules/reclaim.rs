//! Leases and Nodes that do not fit together: by hand, by a backup, by another machine.

use tartan_crds::{Cidr, SubnetLeaseSpec};
use tartan_operator::execute::said;

use super::*;

fn three() -> Store {
    let mut store = small();
    for node in ["a", "b", "c"] {
        store.add_node(node);
    }
    store.settle();
    for node in ["a", "b", "c"] {
        store.use_leases_of(node);
    }
    store
}

fn spec(store: &Store, name: &str) -> SubnetLeaseSpec {
    store.leases[name].spec.clone().unwrap()
}

#[test]
fn what_somebody_edits_in_a_lease_is_put_right() {
    type Edit = fn(&mut SubnetLeaseSpec);
    let edits: [(&str, Edit); 6] = [
        ("nodeUID", |spec| spec.node_uid = "stranger".into()),
        ("pool", |spec| spec.pool = "nonsense".into()),
        ("primary", |spec| spec.primary = false),
        ("backend", |spec| spec.backend.accepts.clear()),
        ("mtu", |spec| spec.mtu = Some(600)),
        ("releasedAt", |spec| {
            spec.released_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                "2025-01-01T00:00:00Z".parse().unwrap(),
            ));
        }),
    ];
    for (what, edit) in edits {
        let mut store = three();
        let before = spec(&store, "10.0.1.0-24");
        store.change_lease("10.0.1.0-24", |lease| edit(lease.spec.as_mut().unwrap()));
        check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
        assert_eq!(spec(&store, "10.0.1.0-24"), before, "{what}");
    }
}

/// The second entry is what the pool's nodes get blocks of, and nobody else.
fn with_a_pool_of_its_own() -> Store {
    let entries = vec![entry("main", "10.0.0.0/23", 24), entry("racks", "10.8.0.0/22", 24)];
    let mut store = Store::default().with_network(network(entries));
    store.set_pool(
        "racks",
        json!({ "nodeSelector": { "matchLabels": { "rack": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["racks"] }),
    );
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    // The same machine under a new Node, in the pool by now.
    store.remove_node("a");
    store.settle();
    store.add_node_with("a", |node| drop(node.labels.insert("rack".into(), String::new())));
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24\nb: 10.0.1.0/24");
    store
}

/// Its pods may be there still, whatever its agent tells of or doesn't.
#[test]
fn what_a_node_has_left_behind_is_held_as_long_as_that_may_be_and_is_no_room() {
    let mut store = with_a_pool_of_its_own();
    store.add_node("c");
    growth::report(&mut store, "a", &[("10.8.0.0/24", 3, None)]);
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.leased_condition("c"), "False Exhausted");
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    store.remove_node("b");
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24\nc: 10.0.1.0/24");
    store.add_node("d");
    store.pass(4000);
    check(&mut store, "a: 10.8.0.0/24\nc: 10.0.1.0/24\nd: 10.0.0.0/24");
}

/// Each block is reserved for the other node, and both Nodes are made anew at once. What runs there without a drain, as
/// the pods of a DaemonSet, has addresses of the old blocks still.
#[test]
fn two_nodes_come_back_with_each_others_blocks_once_their_agents_tell_of_no_pods_there() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/23", 24)]));
    for node in ["a", "b"] {
        store.add_node(node);
    }
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    let mut main = entry("main", "10.0.0.0/23", 24);
    main["reserved"] =
        json!([{ "cidr": "10.0.0.0/24", "nodeName": "b" }, { "cidr": "10.0.1.0/24", "nodeName": "a" }]);
    store.set_network(network(vec![main]));
    store.settle();
    for node in ["a", "b"] {
        store.remove_node(node);
        store.add_node(node);
    }
    let waiting = "a: ~10.0.0.0/24\nb: ~10.0.1.0/24";
    check(&mut store, waiting);
    store.pass(60);
    check(&mut store, waiting);
    growth::report(&mut store, "a", &[("10.0.0.0/24", 1, None)]);
    growth::report(&mut store, "b", &[]);
    check(&mut store, "a: ~10.0.0.0/24 10.0.1.0/24");
    assert_eq!(store.leased_condition("b"), "False ReservedBlockTaken");
    growth::report(&mut store, "a", &[("10.0.1.0/24", 1, None)]);
    check(&mut store, "a: 10.0.1.0/24\nb: 10.0.0.0/24");
}

/// Until now its agent may only not have told of pods yet.
#[test]
fn what_is_reserved_for_another_is_not_given_up_in_the_moment_in_which_its_node_comes_back() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/22", 24)]));
    store.add_node("a");
    store.settle();
    let mut main = entry("main", "10.0.0.0/22", 24);
    main["reserved"] = json!([{ "cidr": "10.0.0.0/24", "nodeName": "z" }]);
    store.set_network(network(vec![main]));
    store.remove_node("a");
    store.add_node("a");
    store.add_node("z");
    store.settle();
    growth::report(&mut store, "a", &[]);
    store.settle();
    let wake = store.settle().wake_at.expect("time alone changes something");
    assert_eq!((wake - store.now).get_seconds(), 60);
    check(&mut store, "a: ~10.0.0.0/24 10.0.1.0/24");
    store.pass(60);
    check(&mut store, "a: 10.0.1.0/24\nz: 10.0.0.0/24");
}

/// Another program's finalizer holds what was the node's: it needn't wait for that, whether it was released before.
#[test]
fn a_node_that_comes_back_while_its_old_lease_cannot_go_gets_another_block() {
    for (mode, released) in [("Ignore", true), ("Mirror", true), ("Ignore", false), ("Mirror", false)] {
        let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
        spec["podCIDRMode"] = json!(mode);
        let mut store = Store::default().with_network(spec);
        store.add_node("a");
        store.settle();
        if !released {
            store.change_lease("10.0.0.0-24", |lease| lease.deleting = true);
        }
        store.remove_node("a");
        store.settle();
        store.change_lease("10.0.0.0-24", |lease| lease.deleting = true);
        store.add_node("a");
        let held = if released { "~" } else { "" };
        check(&mut store, &format!("a: {held}10.0.0.0/24 10.0.1.0/24"));
        assert_eq!(store.leased_condition("a"), "True AsExpected", "{mode}");
    }
}

/// The agent's word came after the round had decided.
#[test]
fn a_lease_is_not_deleted_of_which_the_agent_tells_by_then() {
    let mut store = with_a_pool_of_its_own();
    store.pass(4000);
    let before = store.world();
    growth::report(&mut store, "a", &[("10.8.0.0/24", 1, None), ("10.0.0.0/24", 2, None)]);
    let decisions = decide(&before, store.now);
    let deletes = |action: &&Action| matches!(action, Action::DeleteLease { .. });
    assert_eq!(decisions.actions.iter().filter(deletes).count(), 1);
    store.obey(&mut store.world(), &decisions);
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24\nb: 10.0.1.0/24");
}

#[test]
fn what_a_node_has_left_behind_and_its_pods_use_is_not_taken_for_a_reservation_either() {
    let mut store = with_a_pool_of_its_own();
    growth::report(&mut store, "a", &[("10.8.0.0/24", 1, None), ("10.0.0.0/24", 2, None)]);
    let mut main = entry("main", "10.0.0.0/23", 24);
    main["reserved"] = json!([{ "cidr": "10.0.0.0/24", "nodeName": "z" }]);
    store.set_network(network(vec![main, entry("racks", "10.8.0.0/22", 24)]));
    store.add_node("z");
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.leased_condition("z"), "False ReservedBlockTaken");
    store.pass(2 * 3600);
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24\nb: 10.0.1.0/24");
    growth::report(&mut store, "a", &[("10.8.0.0/24", 3, None)]);
    check(&mut store, "a: 10.8.0.0/24\nb: 10.0.1.0/24\nz: 10.0.0.0/24");
}

/// The leases of a backup, with the Nodes of today: each Node has the podCIDR that it was given since.
#[test]
fn leases_of_an_old_backup_do_not_get_between_nodes_and_their_podcidrs() {
    let mut store = three();
    let backup: Vec<SubnetLeaseSpec> =
        store.leases.values().map(|lease| lease.spec.clone().unwrap()).collect();
    // Since then b went and its block was given to d; a was made anew; c stayed.
    store.remove_node("b");
    store.settle();
    store.pass(4000);
    store.settle();
    store.add_node("d");
    store.remove_node("a");
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/24\nc: 10.0.2.0/24\nd: 10.0.1.0/24");
    let names: Vec<String> = store.leases.keys().cloned().collect();
    names.iter().for_each(|name| store.remove_lease(name));
    for spec in backup {
        store.insert_lease(spec, Default::default());
    }
    check(&mut store, "a: 10.0.0.0/24\nc: 10.0.2.0/24\nd: 10.0.1.0/24");
    for (name, node) in [("10.0.0.0-24", "a"), ("10.0.1.0-24", "d"), ("10.0.2.0-24", "c")] {
        assert_eq!(spec(&store, name).node_uid, store.nodes[node].meta.uid, "{name}");
    }
}

/// The other way round: the Nodes of a backup, one of which has the podCIDR that another holds today.
#[test]
fn two_nodes_with_one_podcidr_keep_one_holder_and_say_so() {
    let mut store = three();
    store.add_node_with("old", |node| {
        node.pod_cidrs = vec!["10.0.1.0/24".into()];
        node.mirrored = Some("10.0.1.0/24".into());
    });
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
    assert_eq!(store.leased_condition("old"), "False PodCIDRTaken");
    assert_eq!(store.leased_condition("b"), "True AsExpected");
}

#[test]
fn leases_of_an_old_backup_beside_newer_ones_of_their_nodes_go_when_nothing_uses_them() {
    let mut store = three();
    let mut old = spec(&store, "10.0.0.0-24");
    old.subnet = "10.0.3.0/24".parse::<Cidr>().unwrap();
    old.node_uid = "of before".into();
    store.insert_lease(old, Default::default());
    store.settle();
    assert_eq!(store.leased(), "a: 10.0.0.0/24 ~10.0.3.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
    store.pass(4000);
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
}

/// A machine that was set up anew under another name, with the address that it had.
#[test]
fn an_address_that_a_newer_node_took_over_is_told_on_the_older() {
    let mut store = three();
    let publish = |store: &mut Store, name: &str, address: &str| {
        let address = address.parse().unwrap();
        store.change_lease(name, |lease| lease.public_ips = vec![address]);
    };
    publish(&mut store, "10.0.0.0-24", "192.0.2.1");
    publish(&mut store, "10.0.1.0-24", "192.0.2.2");
    store.pass(60);
    store.add_node("new");
    store.settle();
    publish(&mut store, "10.0.3.0-24", "192.0.2.1");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24\nnew: 10.0.3.0/24");
    assert_eq!(store.leased_condition("a"), "True AddressTakenOver");
    let said = &store.node_networks["a"].leased.as_ref().unwrap().message;
    assert!(said.contains("192.0.2.1") && said.contains("node new"), "{said}");
    for other in ["b", "c", "new"] {
        assert_eq!(store.leased_condition(other), "True AsExpected", "{other}");
    }
    store.remove_node("a");
    check(&mut store, "a: ~10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24\nnew: 10.0.3.0/24");
}

#[test]
fn an_entry_that_is_drained_names_who_still_uses_it_and_says_when_it_may_go() {
    let mut store = Store::default().with_network(network(vec![entry("old", "10.0.0.0/22", 24)]));
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    assert_eq!(store.network_condition("Draining"), "False AsExpected");
    store.set_network(network(vec![draining("old", "10.0.0.0/22", 24), entry("new", "10.8.0.0/22", 24)]));
    let message = |store: &Store| store.network_message("Draining");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.network_condition("Draining"), "True EntryInUse");
    assert!(message(&store).contains("2 leases in use by a, b"), "{}", message(&store));
    assert_eq!(store.network.as_ref().unwrap().status.cidrs[0].used_by, ["a", "b"]);
    store.remove_node("a");
    store.remove_node("b");
    store.settle();
    assert_eq!(store.network_condition("Draining"), "True EntryInUse");
    assert!(message(&store).contains("held since their Nodes went (a, b)"), "{}", message(&store));
    store.pass(3600);
    store.settle();
    assert_eq!(store.network_condition("Draining"), "True EntryEmpty");
    store.set_network(network(vec![entry("new", "10.8.0.0/22", 24)]));
    store.settle();
    assert_eq!(store.network_condition("Draining"), "False AsExpected");
}

#[test]
fn a_node_moved_between_pools_keeps_its_block_and_is_told_what_a_drain_would_change() {
    let entries = vec![entry("main", "10.0.0.0/22", 24), entry("own", "10.9.0.0/22", 26)];
    let mut store = Store::default().with_network(network(entries));
    store.add_node("a");
    store.settle();
    let pool = json!({ "nodeSelector": { "matchLabels": { "p": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["own"] });
    store.set_pool("p", pool);
    store.change_node("a", |node| drop(node.labels.insert("p".into(), String::new())));
    check(&mut store, "a: 10.0.0.0/24");
    assert_eq!(store.leased_condition("a"), "True OutsidePool");
    let said = store.node_networks["a"].leased.as_ref().unwrap().message.clone();
    assert!(said.contains("10.0.0.0/24") && said.contains("a /26 of entry own (10.9.0.0/22)"), "{said}");
    store.remove_node("a");
    store.settle();
    store.add_node_with("a", |node| drop(node.labels.insert("p".into(), String::new())));
    check(&mut store, "a: ~10.0.0.0/24 10.9.0.0/26");
}

/// Both in one round, as in a large cluster or while no operator leads.
#[test]
fn a_node_that_is_made_anew_at_once_leaves_a_block_that_it_should_not_have() {
    let main = |change: fn(&mut serde_json::Value)| {
        let mut entry = entry("main", "10.0.0.0/22", 24);
        change(&mut entry);
        entry
    };
    let reserve = |entry: &mut serde_json::Value| entry["reserved"] = json!([{ "cidr": "10.0.1.0/24" }]);
    let cases = [
        ("drained", main(|entry| entry["drain"] = json!(true)), "10.1.0.0/24"),
        ("reserved", main(reserve), "10.0.3.0/24"),
    ];
    for (what, entry_now, block) in cases {
        let mut store = three();
        store.set_network(network(vec![entry_now, entry("new", "10.1.0.0/16", 24)]));
        check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
        store.remove_node("b");
        store.add_node("b");
        check(&mut store, &format!("a: 10.0.0.0/24\nb: ~10.0.1.0/24 {block}\nc: 10.0.2.0/24"));
        assert_eq!(store.leased_condition("b"), "True AsExpected", "{what}");
    }
    // Where nothing is amiss with its block, it goes on with it, and is not released meanwhile.
    let mut store = three();
    store.remove_node("b");
    store.add_node("b");
    let world = store.world();
    let releases = |action: &Action| matches!(action, Action::ReleaseLease { .. });
    assert!(!decide(&world, store.now).actions.iter().any(releases));
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
}

/// What is written again and again is written ever more seldom; a machine that goes is something new.
#[test]
fn that_another_machine_under_the_name_went_is_not_said_again() {
    let mut store = three();
    let mut releases = vec![];
    for _ in 0..2 {
        store.remove_node("b");
        let actions = decide(&store.world(), store.now).actions;
        let released = |action: &&Action| matches!(action, Action::ReleaseLease { .. });
        releases.extend(actions.iter().filter(released).map(|action| said(action).unwrap()));
        store.settle();
        store.add_node("b");
        store.settle();
    }
    assert_eq!(releases.len(), 2);
    assert_ne!(releases[0], releases[1]);
}
