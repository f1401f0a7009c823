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

/// cilium#37759: two IPAMs at once.
#[test]
fn a_second_ipam_that_is_faster_wins_and_our_unused_lease_goes_back() {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Mirror");
    let mut store = Store::default().with_network(spec);
    store.add_node("a");
    let mut world = store.world();
    let decisions = decide(&world, store.now);
    store.obey(&mut world, &decisions);
    assert_eq!(store.leased(), "a: 10.0.0.0/24");
    store.change_node("a", |node| node.pod_cidrs = vec!["10.0.3.0/24".into()]);
    check(&mut store, "a: 10.0.3.0/24");
    assert_eq!(store.network_condition("Consistent"), "False SecondIPAM");
    // One that pods use stays, and is reported.
    store.add_node("b");
    store.settle();
    store.use_leases_of("b");
    store.change_node("b", |node| node.pod_cidrs = vec!["10.0.2.0/24".into()]);
    check(&mut store, "a: 10.0.3.0/24\nb: 10.0.0.0/24");
    assert_eq!(store.leased_condition("b"), "False PodCIDRMismatch");
}

/// Two operators gave a node two blocks at once; then another IPAM showed itself, and the mode is Adopt.
#[test]
fn of_two_blocks_a_node_that_waits_for_pod_cidrs_keeps_one() {
    for (used, kept) in [(None, "10.0.1.0/24"), (Some("10.0.2.0-24"), "10.0.2.0/24")] {
        let mut store = small();
        store.add_node_with("other", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
        store.add_node("a");
        for subnet in ["10.0.1.0/24", "10.0.2.0/24"] {
            let spec = SubnetLeaseSpec {
                node_name: "a".into(),
                node_uid: store.nodes["a"].meta.uid.clone(),
                subnet: subnet.parse().unwrap(),
                pool: "default".into(),
                primary: true,
                backend: LeaseBackend {
                    kind: BackendType::Vxlan,
                    accepts: vec![BackendType::Vxlan],
                    direct_routing: false,
                },
                mtu: None,
                released_at: None,
            };
            assert!(store.insert_lease(spec, BTreeMap::new()));
        }
        if let Some(name) = used {
            store.change_lease(name, |lease| lease.in_use = true);
        }
        check(&mut store, &format!("a: {kept}\nother: 10.0.0.0/24"));
        assert_eq!(store.leased_condition("a"), "False WaitingForPodCIDR");
    }
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
