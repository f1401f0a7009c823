//! Objects that are wrong, and the chart's values: each is answered in the right place, and stalls nobody. The whole
//! table of bad input is in node-agent/tests/bad_input, since it takes nodes; here is what needs many objects or odd ones.

use k8s_openapi::{
    api::core::v1::{ConfigMap, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use tartan_crds::{ClusterNetwork, NetworkPool, NodeNetwork, SubnetLease};

use super::lab::{self, Lab, entry};

#[test]
fn bad_pools_entries_and_annotations_stall_nobody() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [
        entry("services", "10.96.0.0/14", 24), entry("one", "10.1.0.0/22", 24), entry("two", "10.2.0.0/22", 24),
    ] }));
    let vxlan = json!({ "type": "vxlan" });
    lab.pool(
        "bad",
        json!({ "backend": vxlan, "priority": 100,
        "nodeSelector": { "matchExpressions": [{ "key": "x", "operator": "Near", "values": ["y"] }] } }),
    );
    lab.pool(
        "nobody",
        json!({ "backend": vxlan, "priority": 50, "nodeSelector": { "matchLabels": { "no": "one" } } }),
    );
    let all = |cidrs: &[&str]| json!({ "backend": vxlan, "nodeSelector": { "matchLabels": { "p": "q" } }, "cidrs": cidrs });
    lab.pool("first", all(&["one"]));
    lab.pool("second", all(&["one", "missing"]));
    // Pools and nodes are two watches: a node that is known before its pool has a block of any entry, and keeps it.
    let _operator = lab.operator();
    let annotations = json!({ "tartan.network/uplink": "the-fast-one" });
    lab.node("a", json!({ "metadata": { "labels": { "p": "q" }, "annotations": annotations } }));
    lab.node("b", json!({}));
    lab.until_leased("a", "10.1.0.0/24");
    lab.until("b has a lease that meets no service", || {
        lab.lease_of("b").is_some_and(|l| l == "10.97.0.0/24")
    });
    let pool = |name: &str, kind: &str| lab.condition::<NetworkPool>(name, kind);
    lab.until("each is told on its own object", || {
        pool("bad", "Accepted") == "False InvalidSelector"
            && pool("nobody", "Accepted") == "True NoNodesMatch"
            && pool("first", "Consistent") == "False SamePriority"
            && pool("second", "Consistent") == "False SamePriority"
            && pool("second", "Accepted").starts_with("False ")
            && lab.condition::<ClusterNetwork>("default", "Accepted") == "False OverlapsServiceCIDR"
            && lab.condition::<NodeNetwork>("a", "Leased") == "True InvalidAnnotation"
            && lab.events_about("NetworkPool", "bad") == ["InvalidSelector"]
    });
}

#[test]
fn objects_that_no_longer_parse_are_contained_one_by_one() {
    let lab = Lab::start();
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    let mut operator = lab.operator();
    lab.node("a", json!({}));
    lab.until_leased("a", "10.244.0.0/24");
    // As by a CRD that was loosened or is of another version.
    loosen(&lab, "subnetleases.tartan.network");
    loosen(&lab, "networkpools.tartan.network");
    let odd = json!({ "metadata": { "name": "10.244.1.0-24" }, "spec": { "nodeName": 7 } });
    lab.until("a lease that no one can read is taken by the API server", || raw::<SubnetLease>(&lab, &odd));
    let odd = json!({ "metadata": { "name": "odd" }, "spec": { "backend": "smoke" } });
    lab.until("a pool that no one can read too", || raw::<NetworkPool>(&lab, &odd));
    lab.node("b", json!({}));
    lab.until("b gets the next block", || {
        let leases = lab.api.kubectl(&["get", "subnetleases", "-o", "name"]).unwrap().stdout;
        leases.contains("10.244.2.0-24") && leases.contains("10.244.1.0-24")
    });
    lab.until("the pool is told", || {
        let status =
            lab.api.kubectl(&["get", "networkpool", "odd", "-o", "jsonpath={.status.conditions[*].reason}"]);
        status.unwrap().stdout.contains("InvalidValues")
    });
    assert!(operator.is_running() && operator.is_ready());
}

#[test]
fn chart_values_are_applied_and_a_users_edits_are_kept_and_told() {
    let lab = Lab::start();
    let values = |random: bool, mtu: u32, pools: &str| {
        format!(
            "clusterNetwork:\n  mtu: {mtu}\n  masquerade: {{ fullyRandom: {random} }}\n  cidrs:\n  - {{ name: main, cidr: 10.244.0.0/16, nodeMaskSize: 24 }}\npools: {pools}\n"
        )
    };
    let config: Api<ConfigMap> = Api::namespaced(lab.client.clone(), "tartan-system");
    let publish = |text: String| {
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "tartan-config" }, "data": { "network.yaml": text } });
        let params = PatchParams::apply("helm").force();
        lab.runtime.block_on(config.patch("tartan-config", &params, &Patch::Apply(&object))).unwrap();
    };
    let pool =
        "[{ name: racks, spec: { backend: { type: host-gw }, nodeSelector: { matchLabels: { r: s } } } }]";
    publish(values(false, 1400, pool));
    let mut operator = lab.operator();
    lab.node("a", json!({}));
    lab.until_leased("a", "10.244.0.0/24");
    let network = || lab.get::<ClusterNetwork>("default").unwrap().spec;
    let chart = || lab.condition::<ClusterNetwork>("default", "ChartApplied");
    lab.until("network and pool are as the values say", || {
        chart() == "True AsExpected"
            && lab.condition::<NetworkPool>("racks", "ChartApplied") == "True AsExpected"
    });
    assert_eq!((network().mtu, network().masquerade.fully_random), (Some(1400), false));

    lab.patch::<ClusterNetwork>("default", json!({ "spec": { "mtu": 1300 } }));
    publish(values(true, 1500, "[]"));
    lab.until("what changed arrives, what was edited stays", || {
        network().masquerade.fully_random && network().mtu == Some(1300)
    });
    lab.until("and is told", || {
        chart() == "False FieldConflict"
            && lab.events_about("ClusterNetwork", "default").contains(&"FieldConflict".to_owned())
    });
    lab.until("a pool that left the values is gone", || lab.get::<NetworkPool>("racks").is_none());

    publish(values(true, 1500, "[").replace("10.244", "10.245"));
    lab.until("nonsense is told and changes nothing", || chart() == "False InvalidValues");
    publish(values(true, 1500, "[]").replace("10.244", "10.245"));
    lab.until("what admission refuses is told", || chart() == "False InvalidValues");
    publish(values(true, 1300, "[]"));
    lab.until("agreement ends it", || chart() == "True AsExpected");
    assert_eq!(lab.lease_of("a").as_deref(), Some("10.244.0.0/24"));
    assert!(operator.is_running());
}

/// kubernetes#29058, antrea#7893: nodes that come and go fast.
#[test]
fn nodes_that_come_and_go_fast_never_share_a_block() {
    let lab = Lab::start();
    lab.network(json!({ "reclaimAfter": "1s", "cidrs": [entry("main", "10.244.0.0/19", 24)] }));
    let _operators = [lab.operator(), lab.operator()];
    for round in 0..6 {
        lab.many_nodes(0..20);
        for number in (0..20).filter(|number| number % 3 == round % 3 || round == 5) {
            lab.delete::<Node>(&format!("n-{number:04}"));
        }
        lab::assert_disjoint(&lab.leases());
        for number in (0..20).filter(|number| number % 3 != round % 3 && round != 5) {
            lab.delete::<Node>(&format!("n-{number:04}"));
        }
    }
    lab.many_nodes(0..20);
    lab.until("20 nodes, 20 leases", || {
        let leases = lab.leases();
        leases.len() == 20 && leases.values().all(|held| held.len() == 1 && !held[0].starts_with('~'))
    });
    lab::assert_disjoint(&lab.leases());
}

fn create<K>(lab: &Lab, object: Value) -> Result<(), String>
where
    K: kube::Resource<DynamicType = ()>,
{
    let api: Api<DynamicObject> = Api::all_with(lab.client.clone(), &ApiResource::erase::<K>(&()));
    let mut object = object;
    object["apiVersion"] = json!("tartan.network/v1alpha1");
    object["kind"] = json!(K::kind(&()));
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let created = lab.runtime.block_on(api.create(&PostParams::default(), &object));
    created.map(drop).map_err(|error| error.to_string())
}

fn raw<K>(lab: &Lab, object: &Value) -> bool
where
    K: kube::Resource<DynamicType = ()>,
{
    create::<K>(lab, object.clone()).is_ok()
}

/// Takes all rules out of a CRD.
fn loosen(lab: &Lab, name: &str) {
    let crds: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
    let schema =
        json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
    let patch = json!([
        { "op": "replace", "path": "/spec/versions/0/schema", "value": schema },
        { "op": "remove", "path": "/spec/versions/0/selectableFields" },
    ]);
    let patch = if name.starts_with("subnetleases") { patch } else { json!([patch[0]]) };
    let patch: Patch<CustomResourceDefinition> = Patch::Json(serde_json::from_value(patch).unwrap());
    lab.runtime.block_on(crds.patch(name, &PatchParams::default(), &patch)).unwrap();
}
