//! The operator against a real API server: blocks that are kept back, further blocks, and their return, with the
//! operator killed at every step. What the agent would say is written by the test.
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

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use lab::{Lab, Operator, assert_disjoint, entry};
use serde_json::{Value, json};
use tartan_crds::{ClusterNetwork, NodeNetwork, SubnetLease, wellknown::field_manager};

/// What a node's agent says of its blocks: subnet, used, and since when it is empty.
fn report(lab: &Lab, node: &str, uses: &[(&str, i64, Option<&str>)]) {
    let uses: Vec<Value> = uses
        .iter()
        .map(|(subnet, used, since)| {
            let mut figures = json!({ "subnet": subnet, "capacity": 13, "used": used });
            if let Some(since) = since {
                figures["emptySince"] = json!(since);
            }
            figures
        })
        .collect();
    apply_status::<NodeNetwork>(lab, "NodeNetwork", node, &json!({ "addressUse": uses }));
}

/// The agent answers a request, or (`None`) takes its answer back.
fn answer(lab: &Lab, lease: &str, since: Option<Value>) {
    let mut status = json!({ "pairingVersion": 0 });
    if let Some(since) = since {
        status["emptied"] = since;
    }
    apply_status::<SubnetLease>(lab, "SubnetLease", lease, &status);
}

fn apply_status<K>(lab: &Lab, kind: &str, name: &str, status: &Value)
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let object = json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": kind, "metadata": { "name": name }, "status": status,
    });
    let params = PatchParams::apply(field_manager::AGENT).force();
    lab.runtime.block_on(lab.all::<K>().patch_status(name, &params, &Patch::Apply(&object))).unwrap();
}

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
    report(&lab, "a", &[("10.0.0.0/28", 13, None)]);
    operator = lab.operator();
    lab.until("a further block", || lab.leases()["a"] == ["10.0.0.0/28", "10.0.0.32/28"]);
    restart(&lab, &mut operator);
    lab.stays("one and not two", || lab.leases()["a"].clone());
    let further = lab.get::<SubnetLease>("10.0.0.32-28").unwrap().spec;
    assert!(!further.primary && further.returning.is_none());
    assert_eq!(lab.get::<Node>("a").unwrap().spec.unwrap().pod_cidrs, Some(vec!["10.0.0.0/28".to_owned()]));

    // Empty long enough: asked back; the block stays in force until the agent answers.
    report(&lab, "a", &[("10.0.0.0/28", 3, None), ("10.0.0.32/28", 0, Some("2026-01-01T00:00:00Z"))]);
    lab.until("it is asked back", || returning(&lab, "10.0.0.32-28").is_some());
    let first = returning(&lab, "10.0.0.32-28");
    restart(&lab, &mut operator);
    lab.stays("the request is the same, the lease is there", || returning(&lab, "10.0.0.32-28"));
    answer(&lab, "10.0.0.32-28", Some(json!("2026-01-01T00:00:00Z")));
    lab.stays("an answer to another request releases nothing", || lab.leases()["a"].clone());

    // Pods come after all: the request is withdrawn, and the answer to it, which comes late, is void.
    report(&lab, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.32/28", 0, Some("2026-01-01T00:00:00Z"))]);
    lab.until("it is asked back no more", || returning(&lab, "10.0.0.32-28").is_none());
    answer(&lab, "10.0.0.32-28", first.clone());
    lab.stays("a late answer releases nothing", || lab.leases()["a"].clone());
    report(&lab, "a", &[("10.0.0.0/28", 3, None), ("10.0.0.32/28", 0, Some("2026-01-01T00:00:00Z"))]);
    lab.until("it is asked back again", || returning(&lab, "10.0.0.32-28").is_some());
    assert_ne!(returning(&lab, "10.0.0.32-28"), first);

    // Answered while no operator runs.
    operator.kill();
    answer(&lab, "10.0.0.32-28", returning(&lab, "10.0.0.32-28"));
    operator = lab.operator();
    lab.until("it is released", || lab.leases()["a"] == ["10.0.0.0/28"]);
    lab.until("the node's event says so", || {
        lab.events_about("Node", "a").contains(&"BlockReturned".to_owned())
    });
    assert_disjoint(&lab.leases());
    drop(operator);
}

#[test]
fn reserved_blocks_are_kept_and_a_reservation_over_a_lease_is_told() {
    let lab = Lab::start();
    let mut main = entry("main", "10.0.0.0/22", 24);
    main["reserved"] =
        json!([{ "cidr": "10.0.0.0/25", "comment": "routers" }, { "cidr": "10.0.2.0/24", "nodeName": "z" }]);
    network(&lab, vec![main.clone()]);
    let _operator = lab.operator();
    lab.node("a", json!({}));
    lab.node("z", json!({}));
    lab.until_leased("a", "10.0.1.0/24");
    lab.until_leased("z", "10.0.2.0/24");
    lab.until("the figures tell", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        status.cidrs.first().is_some_and(|usage| (usage.used, usage.reserved, usage.free) == (2, 1, 1))
    });
    main["reserved"] = json!([{ "cidr": "10.0.1.0/24" }]);
    lab.patch::<ClusterNetwork>("default", json!({ "spec": { "cidrs": [main] } }));
    lab.until("the lease that it covers is named", || {
        lab.condition::<ClusterNetwork>("default", "Consistent") == "False ReservedRangeInUse"
    });
    assert_eq!(lab.lease_of("a").as_deref(), Some("10.0.1.0/24"));
}
