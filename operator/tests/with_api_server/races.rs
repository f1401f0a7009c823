//! The operator against a real API server: two at once, restarts, failover, and what goes missing.

use std::time::Instant;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::Api;
use serde_json::json;
use tartan_crds::{ClusterNetwork, SubnetLease};

use super::lab::{self, Lab, assert_disjoint, entry};

fn main_network(lab: &Lab) {
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/16", 24), entry("more", "10.0.0.0/13", 24)] }));
}

#[test]
fn two_operators_without_election_give_500_nodes_500_disjoint_leases() {
    let mut lab = Lab::start();
    main_network(&lab);
    let operators = [lab.operator(), lab.operator()];
    lab.until("both are ready", || operators.iter().all(lab::Operator::is_ready));
    lab.many_nodes(0..250);
    lab.api.restart().unwrap();
    lab.many_nodes(250..500);
    lab.until("one lease for each node", || {
        let leases = lab.leases();
        leases.len() == 500 && leases.values().all(|subnets| subnets.len() == 1)
    });
    lab.until("every Node has its podCIDR", || {
        let leases = lab.leases();
        lab.list::<Node>().iter().all(|node| {
            let name = node.metadata.name.as_deref().unwrap();
            node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_ref()) == leases[name].first()
        })
    });
    assert_disjoint(&lab.leases());
    let conflicts: f64 = operators
        .iter()
        .filter_map(|o| o.metric("tartan_operator_conflicts_total{kind=\"create-lease\"}"))
        .sum();
    println!("create conflicts between the two: {conflicts}");
    lab.stays("500 leases stay", || lab.leases());
}

#[test]
fn when_the_leader_dies_another_takes_over_and_sigterm_hands_over_at_once() {
    let lab = Lab::start();
    main_network(&lab);
    let leases: Api<Lease> = Api::namespaced(lab.client.clone(), "tartan-system");
    let holder = || {
        let lease = lab.runtime.block_on(leases.get_opt("tartan-operator")).unwrap();
        lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    };
    let mut first = lab.operator_with(&["--identity", "first"]);
    lab.until("the first leads", || holder() == "first");
    let mut second = lab.operator_with(&["--identity", "second"]);
    lab.until("the standby is ready", || second.is_ready());
    lab.node("a", json!({}));
    lab.until_leased("a", "10.244.0.0/24");
    assert_eq!(first.metric("tartan_operator_leader"), Some(1.0));
    assert_eq!(second.metric("tartan_operator_leader"), Some(0.0));
    assert_eq!(second.metric("tartan_operator_writes_total{kind=\"create-lease\",result=\"done\"}"), None);

    first.kill();
    let start = Instant::now();
    lab.node("b", json!({}));
    lab.until_leased("b", "10.244.1.0/24");
    println!("lease {:?} after the leader was killed", start.elapsed());

    let mut third = lab.operator_with(&["--identity", "third"]);
    lab.until("the standby is ready", || third.is_ready());
    let (took, good) = second.terminate();
    println!("SIGTERM took {took:?}");
    assert!(good, "ended well");
    // It gives the lease back, unless the API server takes seconds to answer: then the lease expires.
    lab.until("the other leads", || holder() == "third");
    lab.node("c", json!({}));
    lab.until_leased("c", "10.244.2.0/24");
    assert!(third.is_running());
}

#[test]
fn an_api_server_that_is_away_stops_nothing_for_good() {
    let mut lab = Lab::start();
    main_network(&lab);
    let mut operator = lab.operator_with(&["--identity", "only"]);
    lab.node("a", json!({}));
    lab.until_leased("a", "10.244.0.0/24");
    lab.api.stop().unwrap();
    lab.until("leadership is laid down while nobody can renew it", || {
        operator.metric("tartan_operator_leader") == Some(0.0)
    });
    assert!(operator.is_running() && operator.page("/healthz").is_some());
    lab.api.resume().unwrap();
    lab.node("b", json!({}));
    lab.until_leased("b", "10.244.1.0/24");
    assert_eq!(lab.lease_of("a").as_deref(), Some("10.244.0.0/24"));
}

#[test]
fn a_deleted_cluster_network_leaves_the_leases_and_stops_allocation() {
    let lab = Lab::start();
    main_network(&lab);
    let operator = lab.operator();
    lab.node("a", json!({}));
    lab.until_leased("a", "10.244.0.0/24");
    lab.delete::<ClusterNetwork>("default");
    // Nodes are another watch: what is released before it is known that the network is gone is released rightly.
    lab.until("it is known", || operator.metric("tartan_operator_idle") == Some(1.0));
    lab.node("b", json!({}));
    lab.delete::<Node>("a");
    lab.until("it is told", || {
        lab.events_about("ClusterNetwork", "default").contains(&"NoClusterNetwork".to_owned())
    });
    lab.stays("nothing is leased, released or deleted", || lab.leases());
    assert_eq!(lab.lease_of("a").as_deref(), Some("10.244.0.0/24"));
    assert_eq!(operator.metric("tartan_operator_idle"), Some(1.0));
    assert_eq!(operator.metric("tartan_cidr_blocks_used{entry=\"main\",cidr=\"10.244.0.0/16\"}"), None);
    main_network(&lab);
    lab.until_leased("b", "10.244.1.0/24");
    lab.until_leased("a", "~10.244.0.0/24");
}

#[test]
fn deleted_crds_that_come_back_give_every_node_its_block_again() {
    let lab = Lab::start();
    lab.network(json!({ "podCIDRMode": "Ignore", "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    let mut operator = lab.operator();
    // Not in the order of their names, so that a new allocation would be another one.
    for (node, subnet) in [("c", "10.244.0.0/24"), ("a", "10.244.1.0/24"), ("b", "10.244.2.0/24")] {
        lab.node(node, json!({}));
        lab.until_leased(node, subnet);
    }
    let before = lab.leases();
    lab.delete_crds();
    lab.create_crds();
    lab.network(json!({ "podCIDRMode": "Ignore", "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    lab.until("the same leases", || lab.leases() == before);
    assert!(operator.is_running());
}

#[test]
fn a_node_held_by_a_finalizer_keeps_its_lease_until_it_is_gone_and_gets_it_again() {
    let lab = Lab::start();
    main_network(&lab);
    let _operator = lab.operator();
    lab.node("a", json!({ "metadata": { "finalizers": ["example.com/hold"] } }));
    lab.until_leased("a", "10.244.0.0/24");
    lab.delete::<Node>("a");
    lab.node("b", json!({}));
    lab.until_leased("b", "10.244.1.0/24");
    lab.stays("a is not released", || lab.lease_of("a"));
    lab.patch::<Node>("a", json!({ "metadata": { "finalizers": null } }));
    lab.until_leased("a", "~10.244.0.0/24");
    lab.node("c", json!({}));
    lab.until_leased("c", "10.244.2.0/24");
    lab.node("a", json!({}));
    lab.until_leased("a", "10.244.0.0/24");
    let lease = lab.get::<SubnetLease>("10.244.0.0-24").unwrap();
    assert_eq!(Some(lease.spec.node_uid), lab.get::<Node>("a").unwrap().metadata.uid);
}
