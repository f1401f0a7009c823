//! Who owns the podCIDRs of Nodes: Adopt, Mirror, Ignore.

use std::collections::BTreeMap;

use tartan_crds::{LeaseBackend, SubnetLeaseSpec};

use super::*;

#[test]
fn adopt_leases_exactly_the_pod_cidrs_of_each_node() {
    let mut store = small();
    store.add_node("waits");
    store.add_node_with("has", |node| node.pod_cidrs = vec!["10.0.2.0/24".into()]);
    store.add_node_with("outside", |node| node.pod_cidrs = vec!["10.7.0.0/24".into()]);
    store.add_node_with("odd", |node| node.pod_cidrs = vec!["10.0.3.0/25".into()]);
    store.add_node_with("second", |node| node.pod_cidrs = vec!["10.0.2.0/24".into()]);
    check(&mut store, "has: 10.0.2.0/24");
    assert_eq!(store.network.as_ref().unwrap().status.pod_cidr_mode, Some(PodCidrModeInForce::Adopt));
    assert_eq!(store.leased_condition("waits"), "False WaitingForPodCIDR");
    assert_eq!(store.leased_condition("outside"), "False PodCIDROutsideEntries");
    assert_eq!(store.leased_condition("odd"), "False PodCIDROutsideEntries");
    assert_eq!(store.leased_condition("second"), "False PodCIDRTaken");
    store.change_node("waits", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
    check(&mut store, "has: 10.0.2.0/24\nwaits: 10.0.0.0/24");
    // The other IPAM gives the block of a node that is gone to another: so do we, at once.
    store.remove_node("has");
    check(&mut store, "second: 10.0.2.0/24\nwaits: 10.0.0.0/24");
    // Sticky, although no node shows it any more.
    for node in ["waits", "outside", "odd", "second"] {
        store.remove_node(node);
    }
    store.settle();
    store.add_node("fresh");
    store.settle();
    assert_eq!(store.leased_condition("fresh"), "False WaitingForPodCIDR");
}

/// As two operators at once may leave it: two primary leases of one node.
fn lease_two_blocks(store: &mut Store, node: &str) {
    for subnet in ["10.0.1.0/24", "10.0.2.0/24"] {
        let spec = SubnetLeaseSpec {
            node_name: node.into(),
            node_uid: store.nodes[node].meta.uid.clone(),
            subnet: subnet.parse().unwrap(),
            pool: "default".into(),
            primary: true,
            backend: LeaseBackend { accepts: vec![BackendType::Vxlan], ..LeaseBackend::default() },
            node_addresses: vec![],
            wireguard_keys: vec![],
            mtu: None,
            returning: None,
            released_at: None,
        };
        assert!(store.insert_lease(spec, BTreeMap::new()));
    }
}

#[test]
fn of_two_blocks_a_node_that_waits_for_pod_cidrs_keeps_one() {
    for (used, kept) in [(None, "10.0.1.0/24"), (Some("10.0.2.0-24"), "10.0.2.0/24")] {
        let mut store = small();
        store.add_node_with("other", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
        store.add_node("a");
        lease_two_blocks(&mut store, "a");
        if let Some(name) = used {
            store.change_lease(name, |lease| lease.in_use = true);
        }
        check(&mut store, &format!("a: {kept}\nother: 10.0.0.0/24"));
        assert_eq!(store.leased_condition("a"), "False WaitingForPodCIDR");
    }
}

#[test]
fn of_two_used_blocks_that_the_pod_cidrs_do_not_name_one_stays_primary() {
    let mut store = small();
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.3.0/24".into()]);
    lease_two_blocks(&mut store, "a");
    store.use_leases_of("a");
    check(&mut store, "a: 10.0.1.0/24 10.0.2.0/24");
    assert_eq!(store.leased_condition("a"), "False PodCIDRMismatch");
    let primaries: Vec<bool> =
        store.leases.values().map(|lease| lease.spec.as_ref().unwrap().primary).collect();
    assert_eq!(primaries, [true, false]);
}

/// In Ignore mode podCIDRs that happen to name one of our blocks hold nothing.
#[test]
fn a_surplus_block_goes_although_an_ignored_pod_cidr_names_it() {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Ignore");
    let mut store = Store::default().with_network(spec);
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.2.0/24".into()]);
    lease_two_blocks(&mut store, "a");
    check(&mut store, "a: 10.0.1.0/24");
}

#[test]
fn ignore_leases_and_never_touches_nodes() {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Ignore");
    let mut store = Store::default().with_network(spec);
    store.add_node("a");
    store.add_node_with("b", |node| node.pod_cidrs = vec!["172.16.0.0/24".into()]);
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
    assert!(store.nodes["a"].pod_cidrs.is_empty());
}

fn mode(store: &Store) -> Option<PodCidrModeInForce> {
    store.network.as_ref().unwrap().status.pod_cidr_mode
}

/// Anybody can take the annotation away that tells who wrote a Node's podCIDRs.
#[test]
fn a_node_that_lost_our_annotation_makes_no_other_ipam_of_us_and_one_with_another_block_does() {
    let mut store = small();
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.change_node("a", |node| node.mirrored = None);
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
    assert_eq!(mode(&store), Some(PodCidrModeInForce::Mirror));
    // A Node of the same name that another made, with the block of the one before.
    store.remove_node("a");
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
    store.settle();
    assert_eq!(mode(&store), Some(PodCidrModeInForce::Adopt));
}

/// A network that knows nothing of a time before can't know who wrote them.
#[test]
fn without_a_mode_before_podcidrs_without_our_annotation_are_anothers_whatever_is_leased() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    store.change_node("a", |node| node.mirrored = None);
    store.network.as_mut().unwrap().status.pod_cidr_mode = None;
    store.settle();
    assert_eq!(mode(&store), Some(PodCidrModeInForce::Adopt));
}

#[test]
fn nodes_that_another_ipam_told_their_blocks_before_mirror_are_no_second_ipam() {
    let mut store = small();
    store.add_node_with("old", |node| node.pod_cidrs = vec!["10.0.2.0/24".into()]);
    store.settle();
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Mirror");
    store.set_network(spec);
    store.pass(60);
    store.add_node("new");
    let decisions = store.settle();
    assert_eq!(store.leased(), "new: 10.0.0.0/24\nold: 10.0.2.0/24");
    assert_eq!(store.network_condition("Consistent"), "True AsExpected");
    assert_eq!(decisions.figures.violations["foreign-pod-cidrs"], 0);
    store.pass(60);
    store.settle();
    store.add_node_with("third", |node| node.pod_cidrs = vec!["10.0.3.0/24".into()]);
    let decisions = store.settle();
    assert_eq!(store.network_condition("Consistent"), "False SecondIPAM", "it is at work still");
    assert_eq!(decisions.figures.violations["foreign-pod-cidrs"], 1);
}

#[test]
fn a_lease_that_a_finalizer_holds_is_named_to_the_node_that_waits_for_its_block() {
    let mut store = small();
    store.add_node_with("old", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
    store.settle();
    store.remove_node("old");
    store.settle();
    store.change_lease("10.0.0.0-24", |lease| lease.deleting = true);
    store.add_node_with("new", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
    store.settle();
    assert_eq!(store.leased_condition("new"), "False LeaseHeldUp");
    let said = &store.node_networks["new"].leased.as_ref().unwrap().message;
    assert!(said.contains("lease 10.0.0.0-24 is being deleted"), "{said}");
    store.remove_lease("10.0.0.0-24");
    check(&mut store, "new: 10.0.0.0/24");
}

/// The same, where it is not podCIDRs that name the block: the only one that is not in use.
#[test]
fn a_lease_that_a_finalizer_holds_is_named_to_a_node_for_which_no_other_block_is_left() {
    let mut store = Store::default()
        .with_network(json!({ "cidrs": [entry("main", "10.0.0.0/23", 24)], "podCIDRMode": "Ignore" }));
    ["old", "other"].into_iter().for_each(|node| store.add_node(node));
    store.settle();
    store.remove_node("old");
    store.settle();
    store.change_lease("10.0.0.0-24", |lease| lease.deleting = true);
    store.add_node("new");
    store.settle();
    assert_eq!(store.leased_condition("new"), "False Exhausted");
    let said = &store.node_networks["new"].leased.as_ref().unwrap().message;
    assert!(said.contains("; lease 10.0.0.0-24 is being deleted, and a finalizer holds it"), "{said}");
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    store.remove_lease("10.0.0.0-24");
    check(&mut store, "new: 10.0.0.0/24\nother: 10.0.1.0/24");
}
