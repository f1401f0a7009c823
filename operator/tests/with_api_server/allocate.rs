//! The operator against a real API server: allocation in every mode.

use std::time::Instant;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tartan_crds::{BackendType, ClusterNetwork, NetworkPool, NodeNetwork, PodCidrModeInForce, SubnetLease};

use super::lab::{Lab, assert_disjoint, entry, node_networks};

#[test]
fn every_node_gets_a_lease_a_node_network_and_its_pod_cidr() {
    let lab = Lab::start();
    let mut operator = lab.operator();
    lab.until("the operator is ready", || operator.is_ready());
    for name in ["a", "b", "c"] {
        lab.node(name, json!({}));
    }
    lab.stays("without a ClusterNetwork nothing is leased", || lab.leases());
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    for (node, subnet) in [("a", "10.244.0.0/24"), ("b", "10.244.1.0/24"), ("c", "10.244.2.0/24")] {
        lab.until_leased(node, subnet);
        lab.until("the podCIDR is written", || {
            let spec = lab.get::<Node>(node).unwrap().spec.unwrap();
            spec.pod_cidr.as_deref() == Some(subnet) && spec.pod_cidrs == Some(vec![subnet.to_owned()])
        });
        lab.until("the NodeNetwork says so", || {
            lab.condition::<NodeNetwork>(node, "Leased") == "True AsExpected"
        });
    }
    assert_eq!(node_networks(&lab), ["a", "b", "c"]);
    lab.until("status has the figures", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        (status.capacity, status.used, status.held, status.free) == (256, 3, 0, 253)
    });
    for kind in ["Accepted", "Allocated", "Consistent"] {
        assert_eq!(lab.condition::<ClusterNetwork>("default", kind), "True AsExpected");
    }
    let used = "tartan_cidr_blocks_used{entry=\"main\",cidr=\"10.244.0.0/16\"}";
    assert_eq!(operator.metric(used), Some(3.0));
    let versions = || {
        let network = lab.get::<ClusterNetwork>("default").unwrap();
        (network.metadata.resource_version, lab.list::<NodeNetwork>().len())
    };
    lab.stays("a quiet cluster is left alone", versions);
    let (took, good) = operator.terminate();
    assert!(good && took.as_secs() < 3, "SIGTERM took {took:?}, ended well: {good}");
}

#[test]
fn two_pools_give_their_nodes_their_entries_backends_and_settings() {
    let lab = Lab::start();
    lab.network(json!({
        "cidrs": [entry("main", "10.244.0.0/16", 24), entry("racks", "10.8.0.0/22", 24)],
        "mtu": 1450,
    }));
    lab.pool("racks", json!({
        "nodeSelector": { "matchLabels": { "rack": "yes" } }, "cidrs": ["racks"],
        "backend": { "type": "host-gw" }, "uplink": { "interface": "eth1" }, "mtu": 1500, "masquerade": false,
    }));
    let operator = lab.operator();
    lab.node("in", json!({ "metadata": { "labels": { "rack": "yes" } } }));
    lab.node(
        "out",
        json!({ "metadata": { "annotations": {
        "tartan.network/public-ips": "198.51.100.7", "tartan.network/uplink": "can-reach=192.0.2.1",
    } } }),
    );
    lab.until_leased("in", "10.8.0.0/24");
    lab.until_leased("out", "10.244.0.0/24");
    let racks = lab.get::<SubnetLease>("10.8.0.0-24").unwrap().spec;
    assert_eq!(
        (racks.pool.as_str(), racks.mtu, racks.backend.kind),
        ("racks", Some(1500), BackendType::HostGw)
    );
    assert_eq!(racks.backend.accepts, [BackendType::HostGw, BackendType::Vxlan]);
    let rest = lab.get::<SubnetLease>("10.244.0.0-24").unwrap();
    assert_eq!((rest.spec.pool.as_str(), rest.spec.mtu), ("default", Some(1450)));
    assert_eq!(rest.metadata.labels.unwrap()["tartan.network/node"], "out");
    lab.until("NodeNetworks say what concerns each node", || {
        let Some((inside, outside)) = lab.get::<NodeNetwork>("in").zip(lab.get::<NodeNetwork>("out")) else {
            return false;
        };
        inside.spec.uplink.unwrap().interface.as_deref() == Some("eth1")
            && inside.spec.masquerade == Some(false)
            && outside.spec.public_ips == ["198.51.100.7".parse::<std::net::IpAddr>().unwrap()]
            && outside.spec.uplink.unwrap().can_reach.is_some()
    });
    lab.until("the pool's status has its figures", || {
        let status = lab.get::<NetworkPool>("racks").unwrap().status.unwrap_or_default();
        (status.nodes, status.leases) == (1, 1)
    });

    lab.patch::<Node>("in", json!({ "metadata": { "labels": { "rack": null } } }));
    lab.until("the lease follows, its block stays", || {
        let spec = lab.get::<SubnetLease>("10.8.0.0-24").unwrap().spec;
        spec.pool == "default" && spec.backend.kind == BackendType::Vxlan && spec.mtu == Some(1450)
    });
    lab.until("what a drain would change is said", || {
        lab.condition::<NodeNetwork>("in", "Leased") == "True OutsidePool"
    });
    lab.delete::<NetworkPool>("racks");
    lab.until("figures of a pool that is gone are gone", || {
        operator.page("/metrics").is_some_and(|page| !page.contains("pool=\"racks\""))
    });
}

#[test]
fn an_exhausted_network_says_so_and_uses_an_appended_entry_at_once() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [entry("tiny", "10.9.0.0/24", 24)] }));
    let _operator = lab.operator();
    lab.node("a", json!({}));
    lab.until_leased("a", "10.9.0.0/24");
    for node in ["b", "c"] {
        lab.node(node, json!({}));
    }
    lab.until("nodes, network and events say so", || {
        lab.condition::<NodeNetwork>("b", "Leased") == "False Exhausted"
            && lab.condition::<NodeNetwork>("c", "Leased") == "False Exhausted"
            && lab.condition::<ClusterNetwork>("default", "Allocated") == "False Exhausted"
            && lab.events_about("Node", "b") == ["Exhausted"]
    });
    lab.stays("it is said once", || (lab.events_about("Node", "b"), lab.leases()));
    lab.patch::<ClusterNetwork>(
        "default",
        json!({
            "spec": { "cidrs": [entry("tiny", "10.9.0.0/24", 24), entry("more", "10.10.0.0/16", 24)] },
        }),
    );
    lab.until_leased("b", "10.10.0.0/24");
    lab.until_leased("c", "10.10.1.0/24");
    lab.until("all is well again", || {
        lab.condition::<NodeNetwork>("b", "Leased") == "True AsExpected"
            && lab.condition::<ClusterNetwork>("default", "Allocated") == "True AsExpected"
    });
}

#[test]
fn a_node_that_moves_to_a_pool_with_smaller_blocks_keeps_its_own_until_its_node_is_made_anew() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/22", 24), entry("edge", "10.8.0.0/24", 26)] }));
    lab.pool("edge", json!({
        "nodeSelector": { "matchLabels": { "site": "edge" } }, "cidrs": ["edge"], "backend": { "type": "vxlan" },
    }));
    let _operator = lab.operator();
    let at_the_edge = json!({ "metadata": { "labels": { "site": "edge" } } });
    let told = |node: &str| lab.get::<Node>(node).unwrap().spec.and_then(|spec| spec.pod_cidr);
    lab.node("far", at_the_edge.clone());
    lab.node("near", json!({}));
    for (node, block) in [("far", "10.8.0.0/26"), ("near", "10.244.0.0/24")] {
        lab.until_leased(node, block);
        lab.until("its Node is told", || told(node).as_deref() == Some(block));
    }
    lab.until("each entry counts blocks of its own size", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        let figures: Vec<_> = status.cidrs.iter().map(|usage| (usage.capacity, usage.used)).collect();
        figures == [(4, 1), (4, 1)]
    });

    lab.patch::<Node>("near", at_the_edge.clone());
    lab.until("it is told what a drain would change", || {
        lab.condition::<NodeNetwork>("near", "Leased") == "True OutsidePool"
    });
    let said = lab.condition_message::<NodeNetwork>("near", "Leased");
    assert!(said.contains("then it gets a /26 of entry edge (10.8.0.0/24)"), "{said}");
    assert_eq!(lab.get::<SubnetLease>("10.244.0.0-24").unwrap().spec.pool, "edge");
    assert_eq!(lab.leases()["near"], ["10.244.0.0/24"]);

    lab.delete::<Node>("near");
    lab.until_leased("near", "~10.244.0.0/24");
    lab.node("near", at_the_edge);
    lab.until("it has a block of its pool", || lab.leases()["near"] == ["~10.244.0.0/24", "10.8.0.64/26"]);
    lab.until("its Node is told that one", || told("near").as_deref() == Some("10.8.0.64/26"));
    lab.until("nothing is left to say", || {
        lab.condition::<NodeNetwork>("near", "Leased") == "True AsExpected"
    });
}

#[test]
fn an_entry_is_drained_while_nodes_move_on_and_removed_when_it_is_empty_and_not_before() {
    let lab = Lab::start();
    lab.protect_network();
    let (old, new) = (entry("old", "10.9.0.0/22", 24), entry("new", "10.10.0.0/22", 24));
    lab.network(json!({ "reclaimAfter": "1h", "cidrs": [old] }));
    let operator = lab.operator();
    let draining = || lab.condition::<ClusterNetwork>("default", "Draining");
    let usage = || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        let usage = status.cidrs.into_iter().find(|usage| usage.name == "old");
        usage.map(|usage| (usage.used, usage.held, usage.used_by))
    };
    let by_a = || vec!["a".to_owned()];
    lab.node("a", json!({}));
    lab.until_leased("a", "10.9.0.0/24");
    let mut drained = old;
    drained["drain"] = json!(true);
    lab.patch::<ClusterNetwork>("default", json!({ "spec": { "cidrs": [drained, new] } }));
    lab.until("it is in use", || draining() == "True EntryInUse" && usage() == Some((1, 0, by_a())));
    lab.node("b", json!({}));
    lab.until_leased("b", "10.10.0.0/24");
    assert_eq!(lab.lease_of("a").as_deref(), Some("10.9.0.0/24"));
    let removal = json!({ "spec": { "cidrs": [new] } });
    let is_refused = || lab.refusal(&removal).is_some_and(|said| said.contains("leases are left in old"));
    lab.until("the policy is in force", is_refused);

    lab.delete::<Node>("a");
    lab.until("it is held", || draining() == "True EntryInUse" && usage() == Some((0, 1, by_a())));
    let said = lab.condition_message::<ClusterNetwork>("default", "Draining");
    assert!(said.contains("1 block held since their Nodes went (a)"), "{said}");
    assert!(is_refused(), "{:?}", lab.refusal(&removal));

    lab.patch::<ClusterNetwork>("default", json!({ "spec": { "reclaimAfter": "1s" } }));
    lab.until("the lease is reclaimed", || lab.lease_of("a").is_none());
    lab.until("it is empty", || draining() == "True EntryEmpty" && usage() == Some((0, 0, vec![])));
    lab.node("a", json!({}));
    lab.until_leased("a", "10.10.1.0/24");
    assert_eq!(lab.refusal(&removal), None);
    lab.patch::<ClusterNetwork>("default", removal);
    lab.until("its figures are gone", || {
        operator.page("/metrics").is_some_and(|page| !page.contains("entry=\"old\""))
    });
    lab.until("nothing is drained", || draining() == "False AsExpected");
    assert_eq!(lab.condition::<ClusterNetwork>("default", "Consistent"), "True AsExpected");
}

#[test]
fn auto_adopts_what_another_ipam_wrote_and_stays_so() {
    let lab = Lab::start();
    let mut main = entry("main", "10.244.0.0/16", 24);
    main["reserved"] = json!([{ "cidr": "10.244.9.0/24" }]);
    lab.network(json!({ "cidrs": [main] }));
    lab.node("has", json!({ "spec": { "podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24"] } }));
    lab.node("waits", json!({}));
    lab.node("odd", json!({ "spec": { "podCIDR": "172.16.0.0/24", "podCIDRs": ["172.16.0.0/24"] } }));
    lab.node("kept", json!({ "spec": { "podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"] } }));
    let _operator = lab.operator();
    lab.until_leased("has", "10.244.7.0/24");
    lab.until("each node knows why it waits", || {
        lab.condition::<NodeNetwork>("waits", "Leased") == "False WaitingForPodCIDR"
            && lab.condition::<NodeNetwork>("odd", "Leased") == "False PodCIDROutsideEntries"
            && lab.condition::<NodeNetwork>("kept", "Leased") == "False PodCIDRReserved"
            && lab.events_about("Node", "odd") == ["PodCIDROutsideEntries"]
    });
    let mode =
        || lab.get::<ClusterNetwork>("default").unwrap().status.and_then(|status| status.pod_cidr_mode);
    lab.until("the mode is kept in status", || mode() == Some(PodCidrModeInForce::Adopt));
    lab.patch::<Node>(
        "waits",
        json!({ "spec": { "podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"] } }),
    );
    lab.until_leased("waits", "10.244.3.0/24");
    assert_eq!(lab.leases().len(), 2);
}

/// The status is written once in a second, and the lease of such a Node, which looks like one of ours, at once.
#[test]
fn auto_adopts_what_another_ipam_writes_right_after_the_status_was_written() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    let _operator = lab.operator();
    lab.node("ours", json!({}));
    lab.until_leased("ours", "10.244.0.0/24");
    let status = || lab.get::<ClusterNetwork>("default").unwrap().status.unwrap();
    lab.until("the lease is counted", || status().used == 1);
    assert_eq!(status().pod_cidr_mode, Some(PodCidrModeInForce::Mirror));
    lab.node("theirs", json!({ "spec": { "podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24"] } }));
    lab.until_leased("theirs", "10.244.7.0/24");
    assert_eq!(status().pod_cidr_mode, Some(PodCidrModeInForce::Adopt));
}

#[test]
fn ignore_leases_and_leaves_nodes_alone() {
    let lab = Lab::start();
    lab.network(json!({ "podCIDRMode": "Ignore", "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    let _operator = lab.operator();
    lab.node("a", json!({}));
    lab.node("b", json!({ "spec": { "podCIDR": "172.16.0.0/24", "podCIDRs": ["172.16.0.0/24"] } }));
    lab.until_leased("a", "10.244.0.0/24");
    lab.until_leased("b", "10.244.1.0/24");
    lab.stays("Nodes are not written", || lab.get::<Node>("a").unwrap().spec.and_then(|spec| spec.pod_cidr));
    assert_eq!(lab.get::<Node>("a").unwrap().spec.and_then(|spec| spec.pod_cidr), None);
}

#[test]
fn two_thousand_nodes_created_at_once_all_get_their_leases() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [entry("main", "10.0.0.0/8", 24)] }));
    let operator = lab.operator();
    lab.until("the operator is ready", || operator.is_ready());
    let start = Instant::now();
    lab.many_nodes(0..2000);
    let created = start.elapsed();
    // Answers are counted, and one may get lost of what was written; so lists tell in the end, which cost much.
    let done = |kind: &str| {
        let series = format!("tartan_operator_writes_total{{kind=\"{kind}\",result=\"done\"}}");
        operator.metric(&series) >= Some(1990.0)
    };
    lab.until("all leases", || done("create-lease") && lab.leases().len() == 2000);
    let leased = start.elapsed();
    let has_cidr = |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some());
    lab.until("podCIDRs", || done("mirror-pod-cidrs") && lab.list::<Node>().iter().all(has_cidr));
    lab.until("reports", || done("report-leased"));
    println!(
        "2,000 nodes created in {created:?}, leased after {leased:?}, everything after {:?}",
        start.elapsed()
    );
    println!("resident memory: {:?} MB", operator.metric("process_resident_memory_bytes").map(|b| b / 1e6));
    assert_disjoint(&lab.leases());
    assert_eq!(lab.leases().len(), 2000);
}
