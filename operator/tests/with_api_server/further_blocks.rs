//! The operator against a real API server: blocks that are kept back, further blocks, and their return, with the
//! operator killed at every step. What the agent would say is written by the test.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tartan_crds::{ClusterNetwork, NodeNetwork, SubnetLease};

use super::lab::{Lab, Operator, assert_disjoint, entry};

fn returning(lab: &Lab, lease: &str) -> Option<Value> {
    let lease = serde_json::to_value(lab.get::<SubnetLease>(lease)?).unwrap();
    lease.pointer("/spec/returning").cloned()
}

fn network(lab: &Lab, cidrs: Vec<Value>) {
    lab.network(json!({ "cidrs": cidrs, "growth": {
        "maxBlocksPerNode": 2, "grantBelowFree": 20, "coolDown": "1s", "returnEmptyAfter": "2s",
    } }));
}

/// Kills the operator and starts another.
fn restart(lab: &Lab, operator: &mut Operator) {
    operator.kill();
    *operator = lab.operator();
}

#[test]
fn a_block_is_granted_asked_back_and_released_though_the_operator_dies_at_every_step() {
    let lab = Lab::start();
    network(&lab, vec![entry("main", "10.0.0.0/24", 28)]);
    let mut operator = lab.operator();
    for node in ["a", "b"] {
        lab.node(node, json!({}));
    }
    lab.until_leased("a", "10.0.0.0/28");
    lab.until_leased("b", "10.0.0.16/28");
    lab.until("the NodeNetwork", || lab.condition::<NodeNetwork>("a", "Leased") == "True AsExpected");

    operator.kill();
    lab.report("a", &[("10.0.0.0/28", 13, None)]);
    operator = lab.operator();
    lab.until("a further block", || lab.leases()["a"] == ["10.0.0.0/28", "10.0.0.32/28"]);
    restart(&lab, &mut operator);
    lab.stays("one and not two", || lab.leases()["a"].clone());
    let further = lab.get::<SubnetLease>("10.0.0.32-28").unwrap().spec;
    assert!(!further.primary && further.returning.is_none());
    assert_eq!(lab.get::<Node>("a").unwrap().spec.unwrap().pod_cidrs, Some(vec!["10.0.0.0/28".to_owned()]));

    // No third one, of which the node is told.
    let leased = || lab.condition::<NodeNetwork>("a", "Leased");
    lab.report("a", &[("10.0.0.0/28", 13, None), ("10.0.0.32/28", 13, None)]);
    lab.until("its addresses run low", || leased() == "True AddressesLow");
    let said = lab.condition_message::<NodeNetwork>("a", "Leased");
    assert!(said.contains("it has the 2 that growth.maxBlocksPerNode allows"), "{said}");
    lab.report("a", &[("10.0.0.0/28", 13, None), ("10.0.0.32/28", 3, None)]);
    lab.until("it has room again", || leased() == "True AsExpected");

    // Empty long enough: asked back; the block stays in force until the agent answers.
    lab.report("a", &[("10.0.0.0/28", 3, None), ("10.0.0.32/28", 0, Some("2026-01-01T00:00:00Z"))]);
    lab.until("it is asked back", || returning(&lab, "10.0.0.32-28").is_some());
    let first = returning(&lab, "10.0.0.32-28");
    restart(&lab, &mut operator);
    lab.stays("the request is the same, the lease is there", || returning(&lab, "10.0.0.32-28"));
    lab.answer("10.0.0.32-28", Some(json!("2026-01-01T00:00:00Z")));
    lab.stays("an answer to another request releases nothing", || lab.leases()["a"].clone());

    // Pods come after all: the request is withdrawn, and the answer to it, which comes late, is void.
    lab.report("a", &[("10.0.0.0/28", 13, None), ("10.0.0.32/28", 0, Some("2026-01-01T00:00:00Z"))]);
    lab.until("it is asked back no more", || returning(&lab, "10.0.0.32-28").is_none());
    lab.answer("10.0.0.32-28", first.clone());
    lab.stays("a late answer releases nothing", || lab.leases()["a"].clone());
    lab.report("a", &[("10.0.0.0/28", 3, None), ("10.0.0.32/28", 0, Some("2026-01-01T00:00:00Z"))]);
    lab.until("it is asked back again", || returning(&lab, "10.0.0.32-28").is_some());
    assert_ne!(returning(&lab, "10.0.0.32-28"), first);

    // Answered while no operator runs.
    operator.kill();
    lab.answer("10.0.0.32-28", returning(&lab, "10.0.0.32-28"));
    operator = lab.operator();
    lab.until("it is released", || lab.leases()["a"] == ["10.0.0.0/28"]);
    lab.until("the node's event says so", || {
        lab.events_about("Node", "a").contains(&"BlockReturned".to_owned())
    });
    assert_disjoint(&lab.leases());
    drop(operator);
}

#[test]
fn reserved_blocks_are_kept_and_who_has_one_or_waits_for_one_is_told() {
    let lab = Lab::start();
    let mut main = entry("main", "10.0.0.0/22", 24);
    main["reserved"] =
        json!([{ "cidr": "10.0.0.0/25", "comment": "routers" }, { "cidr": "10.0.2.0/24", "nodeName": "z" }]);
    network(&lab, vec![main]);
    let _operator = lab.operator();
    lab.node("a", json!({}));
    lab.node("z", json!({}));
    lab.until_leased("a", "10.0.1.0/24");
    lab.until_leased("z", "10.0.2.0/24");
    lab.until("the figures tell", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        status.cidrs.first().is_some_and(|usage| (usage.used, usage.reserved, usage.free) == (2, 1, 1))
    });
    let reserve = |reserved: Value| {
        let mut main = entry("main", "10.0.0.0/22", 24);
        main["reserved"] = reserved;
        lab.patch::<ClusterNetwork>("default", json!({ "spec": { "cidrs": [main] } }));
    };
    let leased = |node: &str| lab.condition::<NodeNetwork>(node, "Leased");
    reserve(json!([
        { "cidr": "10.0.1.0/24", "nodeName": "y" }, { "cidr": "10.0.3.0/24", "nodeName": "z" },
    ]));
    lab.until("the lease that one covers is named", || {
        lab.condition::<ClusterNetwork>("default", "Consistent") == "False ReservedRangeInUse"
    });
    lab.until("who holds another block is told", || leased("z") == "True ReservedBlockElsewhere");
    lab.node("y", json!({}));
    lab.until("who waits is told", || leased("y") == "False ReservedBlockTaken");
    let said = lab.condition_message::<NodeNetwork>("y", "Leased");
    assert!(
        said.contains("10.0.1.0/24, reserved for node y, is taken by lease 10.0.1.0-24 of node a"),
        "{said}"
    );
    assert_eq!((lab.lease_of("a").as_deref(), lab.lease_of("y")), (Some("10.0.1.0/24"), None));
    lab.delete::<Node>("a");
    lab.until_leased("y", "10.0.1.0/24");
    lab.until("nothing is wrong", || {
        lab.condition::<ClusterNetwork>("default", "Consistent") == "True AsExpected"
            && leased("y") == "True AsExpected"
    });
}

#[test]
fn a_reservation_where_its_nodes_pool_takes_no_blocks_is_told_and_keeps_nothing_from_the_node() {
    let lab = Lab::start();
    let mut own = entry("own", "10.8.0.0/22", 24);
    own["reserved"] = json!([{ "cidr": "10.8.1.0/24", "nodeName": "a" }]);
    network(&lab, vec![entry("main", "10.0.0.0/22", 24), own.clone()]);
    lab.pool(
        "p",
        json!({
            "nodeSelector": { "matchLabels": { "p": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["own"],
        }),
    );
    let _operator = lab.operator();
    lab.node("a", json!({}));
    lab.until_leased("a", "10.0.0.0/24");
    let accepted = || lab.condition::<ClusterNetwork>("default", "Accepted");
    lab.until("it is told", || accepted() == "False InvalidReservation");
    let said = lab.condition_message::<ClusterNetwork>("default", "Accepted");
    assert!(said.contains("entry own: 10.8.1.0/24 is reserved for node a, but pool"), "{said}");
    own["reserved"] = json!([]);
    let corrected = json!({ "spec": { "cidrs": [entry("main", "10.0.0.0/22", 24), own] } });
    lab.patch::<ClusterNetwork>("default", corrected);
    lab.until("nothing is wrong", || accepted() == "True AsExpected");
}
