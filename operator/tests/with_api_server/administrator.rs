//! An administrator beside the operator, at a real API server: who edits leases, and who asks why.

use std::process::Command;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tartan_crds::{ClusterNetwork, NetworkPool, NodeNetwork, PodCidrModeInForce, SubnetLease};

use super::lab::{self, Lab, entry};

const OF_A: &str = "10.0.0.0-24";

fn contested(operator: &lab::Operator) -> Option<f64> {
    operator.metric("tartan_invariant_violations{invariant=\"lease-contested\"}")
}

/// What the agent of the node publishes once it is up.
fn publish(lab: &Lab, lease: &str, address: &str) {
    let status = json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease", "metadata": { "name": lease },
        "status": { "publicIPs": [address], "endpoints": [{ "type": "vxlan" }] },
    });
    let leases = lab.all::<SubnetLease>();
    let params = PatchParams::apply("tartan-node-agent");
    lab.runtime.block_on(leases.patch_status(lease, &params, &Patch::Apply(&status))).unwrap();
}

fn kubectl_patch(lab: &Lab, lease: &str, patch: Value) {
    let arguments = ["patch", "subnetlease", lease, "--type=merge", "-p", &patch.to_string()];
    lab.api.kubectl(&arguments).unwrap().ok().unwrap();
}

fn version(lab: &Lab, lease: &str) -> String {
    lab.get::<SubnetLease>(lease).unwrap().metadata.resource_version.unwrap()
}

#[test]
fn a_lease_that_is_given_to_another_node_by_hand_is_reported_and_not_touched_until_it_is_put_right() {
    let lab = Lab::start();
    let operator = lab.operator();
    lab.network(json!({ "cidrs": [entry("main", "10.0.0.0/22", 24)], "reclaimAfter": "1s" }));
    for (node, subnet) in [("a", "10.0.0.0/24"), ("b", "10.0.1.0/24")] {
        lab.node(node, json!({}));
        lab.until_leased(node, subnet);
    }
    publish(&lab, OF_A, "192.0.2.7");
    publish(&lab, "10.0.1.0-24", "192.0.2.8");
    lab.until("nothing is wrong", || contested(&operator) == Some(0.0));

    let edit = json!({ "spec": { "nodeName": "b" } }).to_string();
    let refused = lab.api.kubectl(&["patch", "subnetlease", OF_A, "--type=merge", "-p", &edit]).unwrap();
    assert!(
        refused.stderr.contains("spec.nodeName") && refused.stderr.contains("never changes"),
        "{refused:?}"
    );

    // By force, while nobody puts back what is deleted.
    drop(operator);
    let mut lease = serde_json::to_value(lab.get::<SubnetLease>(OF_A).unwrap()).unwrap();
    lease["spec"]["nodeName"] = "b".into();
    let metadata = lease["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| ["name", "labels"].contains(&field.as_str()));
    lab.delete::<SubnetLease>(OF_A);
    lab.create::<SubnetLease>(lease).unwrap();
    publish(&lab, OF_A, "192.0.2.7");
    let operator = lab.operator();
    lab.until("the network says so", || {
        lab.condition::<ClusterNetwork>("default", "Consistent") == "False LeaseEdited"
    });
    assert_eq!(contested(&operator), Some(1.0));
    let conditions = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap().conditions;
    let said = &conditions.iter().find(|condition| condition.type_ == "Consistent").unwrap().message;
    for part in ["10.0.0.0-24", "spec.nodeName says b", "that of a", "delete it"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    lab.until("the node says so", || lab.condition::<NodeNetwork>("a", "Leased") == "False LeaseEdited");
    lab.until("an event tells it", || {
        lab.events_about("ClusterNetwork", "default").contains(&"LeaseEdited".to_owned())
    });
    lab.stays("nobody writes to the lease", || version(&lab, OF_A));
    lab.node("c", json!({}));
    lab.until_leased("c", "10.0.2.0/24");
    assert_eq!(lab.lease_of("a"), None, "and its node gets no other");

    lab.delete::<SubnetLease>(OF_A);
    lab.until("all is well", || {
        lab.condition::<ClusterNetwork>("default", "Consistent") == "True AsExpected"
            && lab.condition::<NodeNetwork>("a", "Leased") == "True AsExpected"
    });
    lab.until_leased("a", "10.0.0.0/24");
    assert_eq!(contested(&operator), Some(0.0));
}

#[test]
fn what_is_edited_in_a_lease_without_another_holder_is_put_back_with_an_event() {
    let lab = Lab::start();
    let operator = lab.operator();
    lab.network(json!({ "cidrs": [entry("main", "10.0.0.0/22", 24)] }));
    lab.node("a", json!({}));
    lab.until_leased("a", "10.0.0.0/24");
    let before = lab.get::<SubnetLease>(OF_A).unwrap().spec;
    let keys = ["hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="];
    let edit = json!({ "mtu": 9000, "primary": false, "nodeUID": "nonsense", "wireguardKeys": keys });
    kubectl_patch(&lab, OF_A, json!({ "spec": edit }));
    lab.until("it says again what was decided", || lab.get::<SubnetLease>(OF_A).unwrap().spec == before);
    kubectl_patch(&lab, OF_A, json!({ "spec": { "pool": "nowhere" } }));
    lab.until("the pool too", || lab.get::<SubnetLease>(OF_A).unwrap().spec == before);
    lab.until("an event tells it", || {
        lab.events_about("SubnetLease", OF_A).contains(&"LeaseEdited".to_owned())
    });
    lab.until("no trace is left", || {
        operator.metric("tartan_invariant_violations{invariant=\"lease-edited\"}") == Some(0.0)
    });
}

/// The names of pools were not bounded once, and a label's value is.
#[test]
fn what_somebody_adds_to_a_node_network_or_leaves_in_a_label_is_taken_out_and_then_all_is_quiet() {
    let lab = Lab::start();
    let _operator = lab.operator();
    lab.network(json!({ "cidrs": [entry("main", "10.0.0.0/22", 24)] }));
    let selects = json!({ "nodeSelector": { "matchLabels": { "in": "p" } }, "backend": { "type": "vxlan" } });
    lab.pool("short", selects.clone());
    lab.node("a", json!({ "metadata": { "labels": { "in": "p" } } }));
    lab.until_leased("a", "10.0.0.0/24");
    lab.until("the node is told", || lab.condition::<NodeNetwork>("a", "Leased") == "True AsExpected");
    let of = |lab: &Lab| lab.get::<NodeNetwork>("a").unwrap();
    let before = of(&lab).spec;

    let edit = json!({ "spec": { "masquerade": false, "publicIPs": ["192.0.2.9"], "uplink": { "interface": "x" } } });
    lab.api.kubectl(&["patch", "nnet", "a", "--type=merge", "-p", &edit.to_string()]).unwrap().ok().unwrap();
    lab.until("it says again what was decided", || of(&lab).spec == before);
    lab.stays("nobody writes it any more", || of(&lab).metadata.resource_version);

    let long = "a".repeat(63) + ".b";
    let rules = "/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations";
    let loosened = json!([{ "op": "remove", "path": rules }]).to_string();
    let crd = ["patch", "crd", "networkpools.tartan.network", "--type=json", "-p", &loosened];
    lab.api.kubectl(&crd).unwrap().ok().unwrap();
    let pool = json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": long }, "spec": selects,
    });
    lab.until("the long name is taken", || lab.create::<NetworkPool>(pool.clone()).is_ok());
    lab.delete::<NetworkPool>("short");
    let lease = || lab.get::<SubnetLease>(OF_A).unwrap();
    lab.until("the lease is of the other pool", || lease().spec.pool == long);
    lab.until("without a label of it", || {
        !lease().metadata.labels.unwrap().contains_key("tartan.network/pool")
    });
    lab.stays("nobody writes it any more", || version(&lab, OF_A));
}

#[test]
fn who_takes_our_annotation_from_a_node_makes_nobody_else_the_owner_of_podcidrs() {
    let lab = Lab::start();
    let _operator = lab.operator();
    lab.network(json!({ "cidrs": [entry("main", "10.0.0.0/22", 24)] }));
    lab.node("a", json!({}));
    lab.until("the Node is told its block", || {
        let node = lab.get::<Node>("a").unwrap();
        node.spec.and_then(|spec| spec.pod_cidrs) == Some(vec!["10.0.0.0/24".to_owned()])
    });
    let annotation = json!({ "metadata": { "annotations": { "tartan.network/mirrored-pod-cidrs": null } } });
    lab.patch::<Node>("a", annotation);
    lab.node("b", json!({}));
    lab.until_leased("b", "10.0.1.0/24");
    let mode = || lab.get::<ClusterNetwork>("default").unwrap().status.unwrap().pod_cidr_mode;
    assert_eq!(mode(), Some(PodCidrModeInForce::Mirror));
}

#[test]
fn explain_asks_the_api_server_and_answers_with_words_json_and_an_exit_code() {
    let lab = Lab::start();
    let operator = lab.operator();
    lab.network(json!({ "cidrs": [entry("main", "10.0.0.0/24", 24), entry("edge", "10.1.0.0/24", 26)] }));
    lab.pool(
        "edge",
        json!({ "nodeSelector": { "matchLabels": { "edge": "yes" } }, "backend": { "type": "host-gw" }, "cidrs": ["edge"] }),
    );
    lab.node("a", json!({}));
    lab.until_leased("a", "10.0.0.0/24");
    lab.node("b", json!({}));
    lab.until("the second node gets none", || {
        lab.condition::<NodeNetwork>("b", "Leased") == "False Exhausted"
    });
    drop(operator);
    let explain = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tartan-operator"));
        let output = command
            .arg("explain")
            .args(arguments)
            .args(["--kubeconfig", lab.api.kubeconfig().to_str().unwrap()])
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let before: Vec<String> =
        lab.list::<SubnetLease>().into_iter().filter_map(|lease| lease.metadata.resource_version).collect();

    let (code, said, _) = explain(&["a"]);
    assert!(code == 0 && said.starts_with("node a holds 10.0.0.0/24\n"), "{code} {said}");
    assert!(
        said.contains("pool      none: no nodeSelector of the 1 NetworkPools selects the node"),
        "{said}"
    );
    let lease =
        "lease     10.0.0.0/24 of entry main, primary; leased just now as the lowest free block of its entry";
    assert!(said.contains(lease), "{said}");
    let (code, said, _) = explain(&["b"]);
    assert!(code == 1 && said.contains("\n  Exhausted: no free IPv4 block is left"), "{code} {said}");
    let (code, said, _) = explain(&["b", "--labels", "edge=yes", "-o", "json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, json["state"].as_str(), json["pool"].as_str()), (0, Some("pending"), Some("edge")));
    assert_eq!(json["next"][0], "lease 10.1.0.0/26: the lowest free block of entry edge");
    let (code, said, error) = explain(&["nobody"]);
    assert!(code == 2 && said.is_empty() && error.contains("there is no Node nobody"), "{code} {error}");
    let (code, _, error) = explain(&["a", "--labels", "edge"]);
    assert!(code == 2 && error.contains("\"edge\" is not KEY=VALUE"), "{code} {error}");

    let after: Vec<String> =
        lab.list::<SubnetLease>().into_iter().filter_map(|lease| lease.metadata.resource_version).collect();
    assert_eq!(before, after, "it writes nothing");
}
