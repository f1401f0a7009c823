//! The operator against a real API server: blocks of nodes that are gone, and of nodes that come back; leases that are
//! deleted under pods.

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use serde_json::json;
use tartan_crds::{NodeNetwork, SubnetLease};

use super::lab::{Lab, assert_disjoint, entry};

#[test]
fn when_no_block_is_free_the_one_that_was_released_first_is_taken_and_an_event_tells_it() {
    let lab = Lab::start();
    lab.network(json!({ "reclaimAfter": "1h", "cidrs": [entry("main", "10.9.0.0/23", 24)] }));
    let _operator = lab.operator();
    for (node, block) in [("a", "10.9.0.0/24"), ("b", "10.9.1.0/24")] {
        lab.node(node, json!({}));
        lab.until_leased(node, block);
    }
    // The higher block first: of two that went at one time the lower would be taken.
    lab.delete::<Node>("b");
    lab.until_leased("b", "~10.9.1.0/24");
    let released = lab.get::<SubnetLease>("10.9.1.0-24").unwrap().spec.released_at.unwrap();
    lab.until("another second", || Timestamp::now().as_second() > released.0.as_second());
    lab.delete::<Node>("a");
    lab.until_leased("a", "~10.9.0.0/24");

    lab.node("c", json!({}));
    lab.until_leased("c", "10.9.1.0/24");
    assert_eq!(lab.leases().len(), 2, "{:?}", lab.leases());
    let taken = |block: &str, node: &str| {
        format!("Exhausted: {block}, held for node {node} that is gone, was needed before its time")
    };
    lab.until("an event tells it", || lab.network_events().contains(&taken("10.9.1.0/24", "b")));
    assert!(!lab.network_events().contains(&taken("10.9.0.0/24", "a")), "the other one is held");

    lab.node("d", json!({}));
    lab.until_leased("d", "10.9.0.0/24");
    lab.until("an event tells that too", || lab.network_events().contains(&taken("10.9.0.0/24", "a")));
    lab.node("b", json!({}));
    lab.until("nothing is left for who comes back", || {
        lab.condition::<NodeNetwork>("b", "Leased") == "False Exhausted"
    });
    assert_eq!((lab.lease_of("c").as_deref(), lab.lease_of("b")), (Some("10.9.1.0/24"), None));
    assert_disjoint(&lab.leases());
}

#[test]
fn a_node_that_comes_back_with_another_uid_while_its_block_is_held_has_the_same_lease_again() {
    let lab = Lab::start();
    lab.network(json!({ "reclaimAfter": "1h", "cidrs": [entry("main", "10.9.0.0/22", 24)] }));
    let mut operator = lab.operator();
    lab.node("b", json!({}));
    lab.until_leased("b", "10.9.0.0/24");
    let of_b = || lab.get::<SubnetLease>("10.9.0.0-24").unwrap();
    let before = of_b();
    lab.delete::<Node>("b");
    lab.until_leased("b", "~10.9.0.0/24");

    // Both come while no operator runs, and it remembers nothing.
    operator.kill();
    lab.node("a", json!({}));
    lab.node("b", json!({}));
    let _operator = lab.operator();
    lab.until_leased("a", "10.9.1.0/24");
    lab.until_leased("b", "10.9.0.0/24");
    let (after, node) = (of_b(), lab.get::<Node>("b").unwrap());
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_ne!(after.spec.node_uid, before.spec.node_uid);
    assert_eq!(Some(&after.spec.node_uid), node.metadata.uid.as_ref());
    lab.until("its Node is told", || {
        let spec = lab.get::<Node>("b").unwrap().spec.unwrap_or_default();
        spec.pod_cidr.as_deref() == Some("10.9.0.0/24")
    });
    lab.until("nothing is left to say", || lab.condition::<NodeNetwork>("b", "Leased") == "True AsExpected");
}

#[test]
fn leases_that_are_deleted_under_pods_are_their_nodes_again_though_another_node_asks_first() {
    let lab = Lab::start();
    // No podCIDR says whose a block was.
    lab.network(json!({
        "podCIDRMode": "Ignore", "cidrs": [entry("main", "10.9.0.0/26", 28)],
        "growth": { "maxBlocksPerNode": 2, "grantBelowFree": 20, "coolDown": "1s", "returnEmptyAfter": "1h" },
    }));
    let mut operator = lab.operator();
    lab.node("b", json!({}));
    lab.until_leased("b", "10.9.0.0/28");
    lab.until("it has a NodeNetwork", || lab.condition::<NodeNetwork>("b", "Leased") == "True AsExpected");
    lab.report("b", &[("10.9.0.0/28", 13, None)]);
    lab.until("a further block", || lab.leases()["b"] == ["10.9.0.0/28", "10.9.0.16/28"]);
    lab.report("b", &[("10.9.0.0/28", 9, None), ("10.9.0.16/28", 3, None)]);

    operator.kill();
    for lease in ["10.9.0.0-28", "10.9.0.16-28"] {
        lab.delete::<SubnetLease>(lease);
    }
    lab.node("a", json!({}));
    let _operator = lab.operator();
    lab.until_leased("a", "10.9.0.32/28");
    lab.until("both are there", || lab.leases().get("b").is_some_and(|blocks| blocks.len() == 2));
    assert_eq!(lab.leases()["b"], ["10.9.0.0/28", "10.9.0.16/28"]);
    let is_primary = |lease: &str| lab.get::<SubnetLease>(lease).unwrap().spec.primary;
    assert!(is_primary("10.9.0.0-28") && !is_primary("10.9.0.16-28"));
    lab.stays("nobody gets more", || lab.leases());
    assert_disjoint(&lab.leases());
}
