//! Two families: pairs of podCIDRs in any order, and families that a cluster gains and loses.

use super::*;

fn dual() -> serde_json::Value {
    network(vec![entry("main", "10.0.0.0/22", 24), entry("six", "fd00::/60", 64)])
}

#[test]
fn a_family_that_the_cluster_gains_is_leased_beside_the_pod_cidrs_that_were_told_before() {
    let mut store = small();
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    for node in ["a", "b"] {
        store.use_leases_of(node);
    }
    let before = store.leases["10.0.0.0-24"].clone();
    store.set_network(dual());
    check(&mut store, "a: 10.0.0.0/24 fd00::/64\nb: 10.0.1.0/24 fd00:0:0:1::/64");
    assert_eq!(store.leases["10.0.0.0-24"], before, "what is in use is not touched");
    assert!(store.leases["fd00---64"].spec.as_ref().unwrap().primary);
    assert_eq!(store.nodes["a"].pod_cidrs, ["10.0.0.0/24"], "podCIDRs can't be changed");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    assert_eq!(store.network_condition("Allocated"), "True AsExpected");
    // A node that is new is told both, and so is one that joins again.
    store.add_node("c");
    check(
        &mut store,
        "a: 10.0.0.0/24 fd00::/64\nb: 10.0.1.0/24 fd00:0:0:1::/64\nc: 10.0.2.0/24 fd00:0:0:2::/64",
    );
    assert_eq!(store.nodes["c"].pod_cidrs, ["10.0.2.0/24", "fd00:0:0:2::/64"]);
    store.remove_node("a");
    store.settle();
    store.add_node("a");
    store.settle();
    assert_eq!(store.nodes["a"].pod_cidrs, ["10.0.0.0/24", "fd00::/64"]);
}

#[test]
fn a_family_that_the_cluster_loses_stays_with_the_nodes_that_have_it_until_they_join_again() {
    let mut store = Store::default().with_network(dual());
    store.add_node("a");
    store.settle();
    store.use_leases_of("a");
    store.set_network(network(vec![entry("main", "10.0.0.0/22", 24), draining("six", "fd00::/60", 64)]));
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/24 fd00::/64\nb: 10.0.1.0/24");
    assert_eq!(store.nodes["b"].pod_cidrs, ["10.0.1.0/24"]);
    assert_eq!(store.leased_condition("b"), "True AsExpected");
    // At once, and not only when what it had is held no more.
    store.remove_node("a");
    store.settle();
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/24 ~fd00::/64\nb: 10.0.1.0/24");
    assert_eq!(store.nodes["a"].pod_cidrs, ["10.0.0.0/24"]);
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    store.pass(3600);
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert_eq!(store.network_condition("Draining"), "True EntryEmpty");
}

/// The Node was made anew while nobody looked.
#[test]
fn a_node_that_moves_to_a_pool_without_a_family_joins_again_without_it() {
    let mut store = Store::default().with_network(network(vec![
        entry("main", "10.0.0.0/22", 24),
        entry("six", "fd00::/60", 64),
        entry("racks", "10.8.0.0/22", 24),
    ]));
    store.set_pool(
        "racks",
        json!({ "nodeSelector": { "matchLabels": { "rack": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["racks"] }),
    );
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/24 fd00::/64");
    store.remove_node("a");
    store.add_node_with("a", |node| drop(node.labels.insert("rack".into(), String::new())));
    check(&mut store, "a: ~10.0.0.0/24 10.8.0.0/24 ~fd00::/64");
    assert_eq!(store.nodes["a"].pod_cidrs, ["10.8.0.0/24"]);
}

#[test]
fn whatever_pairs_another_ipam_gives_are_adopted_as_they_are() {
    let mut store = Store::default().with_network(dual());
    let pairs = [
        ("four-six", vec!["10.0.0.0/24", "fd00:0:0:3::/64"]),
        ("six-four", vec!["fd00:0:0:2::/64", "10.0.2.0/24"]),
        ("four", vec!["10.0.3.0/24"]),
        ("six", vec!["fd00::/64"]),
    ];
    for (name, pair) in &pairs {
        let pair = pair.iter().map(|cidr| (*cidr).to_owned()).collect();
        store.add_node_with(name, |node| node.pod_cidrs = pair);
    }
    check(
        &mut store,
        "four: 10.0.3.0/24\nfour-six: 10.0.0.0/24 fd00:0:0:3::/64\nsix: fd00::/64\nsix-four: 10.0.2.0/24 fd00:0:0:2::/64",
    );
    assert!(store.leases.values().all(|lease| lease.spec.as_ref().unwrap().primary));
    assert_eq!(store.leased_condition("six-four"), "True AsExpected");
    // The block would be the other IPAM's to give to somebody else.
    for (node, family) in [("four", "IPv6"), ("six", "IPv4")] {
        assert_eq!(store.leased_condition(node), "True FamilyWithoutPodCIDR");
        let said = store.node_networks[node].leased.as_ref().unwrap().message.clone();
        assert!(said.contains(&format!("have no {family} block and podCIDRMode is Adopt")), "{said}");
    }
}

#[test]
fn a_family_that_was_gained_before_another_ipam_is_met_stays_where_pods_may_use_it() {
    let mut store = small();
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.set_network(dual());
    store.settle();
    store.use_leases_of("a");
    store.add_node_with("foreign", |node| {
        node.pod_cidrs = vec!["10.0.3.0/24".into(), "fd00:0:0:1::/64".into()];
    });
    // What b does not use is the other IPAM's; it gave it to somebody else.
    check(&mut store, "a: 10.0.0.0/24 fd00::/64\nb: 10.0.1.0/24\nforeign: 10.0.3.0/24 fd00:0:0:1::/64");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    assert_eq!(store.leased_condition("b"), "True FamilyWithoutPodCIDR");
}

#[test]
fn a_pod_cidr_of_a_family_that_the_network_lacks_is_said_with_what_to_do() {
    let mut store = Store::default().with_network(network(vec![entry("six", "fd00::/60", 64)]));
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.0.0/24".into(), "fd00::/64".into()]);
    store.add_node_with("b", |node| node.pod_cidrs = vec!["10.0.1.0/24".into()]);
    check(&mut store, "a: fd00::/64");
    for node in ["a", "b"] {
        assert_eq!(store.leased_condition(node), "False PodCIDROutsideEntries");
    }
    let said = store.node_networks["b"].leased.as_ref().unwrap().message.clone();
    assert!(
        said.contains("10.0.1.0/24 is not a block of any entry") && said.contains("append an entry"),
        "{said}"
    );
}
