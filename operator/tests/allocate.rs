//! The operator against a real API server: allocation in every mode.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod lab;

use std::time::Instant;

use k8s_openapi::{
    api::core::v1::{Event, Node},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::api::{Patch, PatchParams};
use lab::{Lab, assert_disjoint, entry, node_networks};
use serde_json::json;
use tartan_crds::{BackendType, ClusterNetwork, NetworkPool, NodeNetwork, PodCidrModeInForce, SubnetLease};

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
fn the_family_that_runs_out_is_foreseen_told_and_shown() {
    let lab = Lab::start();
    let (six, four) = (entry("six", "fd00:9::/48", 64), entry("four", "10.9.0.0/21", 24));
    lab.network(json!({ "cidrs": [six, four] }));
    lab.pool("all", json!({ "nodeSelector": {}, "backend": { "type": "vxlan" } }));
    unused_a_day_ago(&lab, &[("six", "fd00:9::/48"), ("four", "10.9.0.0/21")]);
    let operator = lab.operator();
    lab.until("the operator has counted too", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        status.cidrs.iter().all(|usage| usage.samples.len() == 2)
    });
    let seconds = |family| {
        operator.metric(&format!("tartan_pool_exhaustion_seconds{{pool=\"all\",family=\"{family}\"}}"))
    };

    for node in ["a", "b", "c", "d", "e"] {
        lab.node(node, json!({}));
    }
    // Three are left, at the rate of five in an hour.
    shows(&lab, "10 IPv4 8 5 0 3 30m", "False NearlyExhausted");
    lab.until("the metric says so", || seconds("IPv4").is_some_and(|s| (2159.0..=2160.0).contains(&s)));
    assert_eq!(seconds("IPv6"), None);
    assert_eq!(operator.metric("tartan_pool_blocks_free{pool=\"all\",family=\"IPv6\"}"), Some(65_531.0));
    tells(
        &lab,
        "NearlyExhausted",
        &[
            "HasRoom: the IPv4 blocks for pool all last",
            "HasRoom: the IPv4 blocks for the pool last",
            "entry four (10.9.0.0/21) lasts",
        ],
    );

    for node in ["f", "g", "h"] {
        lab.node(node, json!({}));
    }
    shows(&lab, "16 IPv4 8 8 0 0 now", "False Exhausted");
    lab.until("the metric says so", || seconds("IPv4") == Some(0.0));
    assert_eq!(seconds("IPv6"), None);
    tells(
        &lab,
        "Exhausted",
        &[
            "HasRoom: no IPv4 block is left for pool all",
            "HasRoom: no IPv4 block is left for the pool",
            "entry four (10.9.0.0/21) has no block left",
        ],
    );

    let entries = [
        entry("six", "fd00:9::/48", 64),
        entry("four", "10.9.0.0/21", 24),
        entry("more", "10.10.0.0/16", 24),
    ];
    lab.patch::<ClusterNetwork>("default", json!({ "spec": { "cidrs": entries } }));
    shows(&lab, "16 IPv4 264 8 0 256 4w", "True AsExpected");
}

/// What the operator would have written into the status a day ago. Without it an hour must pass before growth counts:
/// in the first one a cluster is set up.
fn unused_a_day_ago(lab: &Lab, entries: &[(&str, &str)]) {
    let yesterday = Time(Timestamp::now() - SignedDuration::from_hours(24));
    let usage: Vec<_> = entries
        .iter()
        .map(|(name, cidr)| {
            json!({
                "name": name, "cidr": cidr, "capacity": 0, "used": 0, "held": 0, "free": 0,
                "samples": [{ "at": yesterday, "used": 0 }],
            })
        })
        .collect();
    let networks = lab.all::<ClusterNetwork>();
    let patch = Patch::Merge(json!({ "status": { "cidrs": usage } }));
    lab.runtime.block_on(networks.patch_status("default", &PatchParams::default(), &patch)).unwrap();
}

/// Waits for the tables of a network and its pool `all`. `figures` are the columns from LEASES, which a network has not,
/// to EXHAUSTED-IN; `room` is the condition of both.
#[track_caller]
fn shows(lab: &Lab, figures: &str, room: &str) {
    let (leases, of_network) = figures.split_once(' ').unwrap();
    let nodes = leases.parse::<u32>().unwrap() / 2;
    let expected = [
        "NAME CIDRS BACKEND FAMILY CAPACITY USED HELD FREE EXHAUSTED-IN ACCEPTED".to_owned(),
        format!("default fd00:9::/48 vxlan {of_network} True"),
        "NAME BACKEND PRIORITY NODES LEASES FAMILY CAPACITY USED HELD FREE EXHAUSTED-IN CHANGING ACCEPTED"
            .to_owned(),
        format!("all vxlan 0 {nodes} {figures} True"),
    ];
    let table = |kind: &str| {
        let said = lab.api.kubectl(&["get", kind])?.ok()?.stdout;
        // Without AGE, which is the last.
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().split_last().unwrap().1.join(" ");
        anyhow::Ok(said.lines().map(line).collect::<Vec<String>>())
    };
    tartan_lab::eventually_ok("the tables", lab::PATIENCE, || {
        let found = [table("clusternetworks")?, table("networkpools")?].concat();
        anyhow::ensure!(found == expected, "{found:#?} is not {expected:#?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(lab.condition::<ClusterNetwork>("default", "HasRoom"), room);
    assert_eq!(lab.condition::<NetworkPool>("all", "HasRoom"), room);
}

/// Waits until the events of a reason begin with these words, and are no others.
#[track_caller]
fn tells(lab: &Lab, reason: &str, expected: &[&str]) {
    tartan_lab::eventually_ok("the events", lab::PATIENCE, || {
        let events = lab.list::<Event>().into_iter();
        let of_reason = events.filter(|event| event.reason.as_deref() == Some(reason));
        let mut notes: Vec<String> = of_reason.filter_map(|event| event.message).collect();
        notes.sort();
        let mut pairs = notes.iter().zip(expected);
        let good = notes.len() == expected.len() && pairs.all(|(note, begin)| note.starts_with(begin));
        anyhow::ensure!(good, "{reason}: {notes:#?} is not {expected:#?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn an_entry_is_drained_and_removed_while_nodes_move_on() {
    let lab = Lab::start();
    lab.network(json!({ "reclaimAfter": "1s", "cidrs": [entry("old", "10.9.0.0/22", 24)] }));
    let operator = lab.operator();
    lab.node("a", json!({}));
    lab.until_leased("a", "10.9.0.0/24");
    let mut old = entry("old", "10.9.0.0/22", 24);
    old["drain"] = json!(true);
    lab.patch::<ClusterNetwork>(
        "default",
        json!({ "spec": { "cidrs": [old, entry("new", "10.10.0.0/22", 24)] } }),
    );
    lab.node("b", json!({}));
    lab.until_leased("b", "10.10.0.0/24");
    assert_eq!(lab.lease_of("a").as_deref(), Some("10.9.0.0/24"));
    lab.delete::<Node>("a");
    lab.until("the lease is reclaimed", || lab.lease_of("a").is_none());
    lab.node("a", json!({}));
    lab.until_leased("a", "10.10.1.0/24");
    lab.patch::<ClusterNetwork>(
        "default",
        json!({ "spec": { "cidrs": [entry("new", "10.10.0.0/22", 24)] } }),
    );
    lab.until("its figures are gone", || {
        operator.page("/metrics").is_some_and(|page| !page.contains("entry=\"old\""))
    });
    assert_eq!(lab.condition::<ClusterNetwork>("default", "Consistent"), "True AsExpected");
}

#[test]
fn auto_adopts_what_another_ipam_wrote_and_stays_so() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    lab.node("has", json!({ "spec": { "podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24"] } }));
    lab.node("waits", json!({}));
    lab.node("odd", json!({ "spec": { "podCIDR": "172.16.0.0/24", "podCIDRs": ["172.16.0.0/24"] } }));
    let _operator = lab.operator();
    lab.until_leased("has", "10.244.7.0/24");
    lab.until("each node knows why it waits", || {
        lab.condition::<NodeNetwork>("waits", "Leased") == "False WaitingForPodCIDR"
            && lab.condition::<NodeNetwork>("odd", "Leased") == "False PodCIDROutsideEntries"
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
    let count = "tartan_operator_writes_total{kind=\"create-lease\",result=\"done\"}";
    lab.until("all leases", || operator.metric(count) == Some(2000.0));
    let leased = start.elapsed();
    lab.until("everything written", || {
        operator.metric("tartan_operator_writes_total{kind=\"mirror-pod-cidrs\",result=\"done\"}")
            == Some(2000.0)
            && operator.metric("tartan_operator_writes_total{kind=\"report-leased\",result=\"done\"}")
                >= Some(2000.0)
    });
    println!(
        "2,000 nodes created in {created:?}, leased after {leased:?}, everything after {:?}",
        start.elapsed()
    );
    println!("resident memory: {:?} MB", operator.metric("process_resident_memory_bytes").map(|b| b / 1e6));
    assert_disjoint(&lab.leases());
    assert_eq!(lab.leases().len(), 2000);
}
