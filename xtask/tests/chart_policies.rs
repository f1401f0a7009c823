//! What a token of the chart's service accounts may do, and what it may not: each case is tried on a real API server
//! that has the chart's roles and admission policies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "support/mod.rs"]
mod support;

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Ask, Caller, How, Kind, NAMESPACE, get, install};
use tartan_lab::{ApiServer, ApiServerOptions, eventually, eventually_ok};

const LEASES: &str = "/apis/tartan.network/v1alpha1/subnetleases";
const NODE_NETWORKS: &str = "/apis/tartan.network/v1alpha1/nodenetworks";
const NODES: &str = "/api/v1/nodes";
const ASKED_BACK: &str = "2026-01-01T00:00:00Z";

fn server(options: ApiServerOptions) -> ApiServer {
    let api = ApiServer::start(options).unwrap();
    install(&api);
    api
}

fn apply(api: &ApiServer, object: &Value) {
    // The kinds are there, but not yet known to every part of the server.
    eventually_ok("an object of ours", Duration::from_secs(90), || api.apply(&object.to_string())?.ok())
        .unwrap();
}

fn lease(subnet: &str, node: &str) -> Value {
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
        "metadata": { "name": subnet.replace([':', '/'], "-") },
        "spec": {
            "nodeName": node, "nodeUID": "u", "subnet": subnet, "pool": "default", "primary": true,
            "backend": { "type": "vxlan", "accepts": ["vxlan"] },
        },
    })
}

fn node_network(node: &str) -> Value {
    json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": node }, "spec": { "pool": "default" } })
}

fn condition(kind: &str, status: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": "Test", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" })
}

/// A node as the kubelet would have registered it.
fn make_node(api: &ApiServer, name: &str) {
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "kept": "yes" } } });
    apply(api, &node);
    let status = json!({ "status": {
        "capacity": { "pods": "110" }, "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }],
        "conditions": [condition("Ready", "True")],
    } });
    let patch = ["patch", "node", name, "--subresource=status", "-p", &status.to_string()];
    api.kubectl(&patch).unwrap().ok().unwrap();
}

fn make_pod(api: &ApiServer, name: &str, node: Option<&str>) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "nodeName": node, "serviceAccountName": "tartan-node-agent", "automountServiceAccountToken": false,
            "containers": [{ "name": "c", "image": "none" }],
        },
    });
    apply(api, &pod);
}

/// A kubeconfig with a token of `account`, bound to an object or to none.
fn token(api: &ApiServer, account: &str, bound: Option<(&str, &str)>) -> std::path::PathBuf {
    let mut create = vec!["create", "token", account, "-n", NAMESPACE];
    if let Some((kind, name)) = bound {
        create.extend(["--bound-object-kind", kind, "--bound-object-name", name]);
    }
    let token = api.kubectl(&create).unwrap().ok().unwrap().stdout;
    api.kubeconfig_for_token(&format!("{account}-{}", bound.map_or("unbound", |(_, name)| name)), &token)
        .unwrap()
}

fn patch(path: &'static str, name: &str, kind: Kind, body: Value) -> Ask {
    Ask { path, name: name.into(), subresource: Some("status"), how: How::Patch(kind, body) }
}

fn main_resource(path: &'static str, name: &str, how: How) -> Ask {
    Ask { path, name: name.into(), subresource: None, how }
}

/// The status that an agent publishes in a lease.
fn lease_status(node: &str) -> Value {
    let (apply, kind) = ("tartan.network/v1alpha1", "SubnetLease");
    let name = format!("10.244.{}.0-24", node.trim_start_matches("node"));
    json!({ "apiVersion": apply, "kind": kind, "metadata": { "name": name }, "status": { "publicIPs": ["192.0.2.1"] } })
}

/// The agent's word that no pod has an address of a further block which was asked back.
fn emptied(lease: &str) -> Ask {
    let status = json!({ "emptied": ASKED_BACK });
    let body = json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease", "metadata": { "name": lease }, "status": status });
    patch(LEASES, lease, Kind::Apply, body)
}

fn network_unavailable(status: &str) -> Value {
    json!({ "status": { "conditions": [condition("NetworkUnavailable", status)] } })
}

#[derive(Debug)]
enum Expect {
    Allowed,
    Refused(&'static str),
}
use Expect::{Allowed, Refused};

/// The role gives no such right; the policies are not even asked.
const NO_RIGHT: Expect = Refused("cannot");
const UNBOUND: Expect = Refused("this token is not bound to a node");

#[test]
fn an_agents_token_writes_about_its_own_node_and_nothing_else() {
    let api = server(ApiServerOptions::default());
    for node in ["node1", "node2"] {
        make_node(&api, node);
        make_pod(&api, &format!("agent-{node}"), Some(node));
        apply(&api, &node_network(node));
        let leased = json!({ "status": { "conditions": [condition("Leased", "True")] } }).to_string();
        api.kubectl(&["patch", "nnet", node, "--subresource=status", "--type=merge", "-p", &leased])
            .unwrap()
            .ok()
            .unwrap();
    }
    make_pod(&api, "agent-pending", None);
    let entry = json!({ "name": "main", "cidr": "10.244.0.0/16", "nodeMaskSize": 24 });
    apply(
        &api,
        &json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" }, "spec": { "cidrs": [entry] } }),
    );
    for (subnet, node) in [("10.244.1.0/24", "node1"), ("10.244.2.0/24", "node2")] {
        apply(&api, &lease(subnet, node));
    }
    let (further, further_of_two) = ("10.244.11.0-24", "10.244.12.0-24");
    for (subnet, node) in [("10.244.11.0/24", "node1"), ("10.244.12.0/24", "node2")] {
        let mut lease = lease(subnet, node);
        lease["spec"]["primary"] = json!(false);
        lease["spec"]["returning"] = json!(ASKED_BACK);
        apply(&api, &lease);
    }
    let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let caller =
        |name: &'static str, bound| Caller::new(&runtime, name, &token(&api, "tartan-node-agent", bound));
    let one = caller("node1's pod", Some(("Pod", "agent-node1")));
    let two = caller("node2's pod", Some(("Pod", "agent-node2")));
    let node_bound = caller("node1 itself", Some(("Node", "node1")));
    let unbound = caller("nobody", None);
    let pending = caller("a pod without a node", Some(("Pod", "agent-pending")));

    let (mine, theirs) = ("10.244.1.0-24", "10.244.2.0-24");
    let foreign = patch(LEASES, theirs, Kind::Merge, lease_status("node2"));
    let refused = |ask: &Ask| one.ask(ask).is_err_and(|(_, said)| said.contains("ValidatingAdmissionPolicy"));
    eventually("the policies are in force", Duration::from_secs(30), || refused(&foreign)).unwrap();

    let other_lease =
        Refused("the agent of node node1 may not write the status of 10.244.2.0-24, a lease of node node2");
    let status = |body: Value| patch(LEASES, mine, Kind::Merge, body);
    let health = |node: &str, body: Value| patch(NODE_NETWORKS, node, Kind::Merge, body);
    let node = |name: &str, kind, body| patch(NODES, name, kind, body);
    let apply_health = |node: &str, conditions: Value| {
        json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": node },
                "status": { "conditions": conditions } })
    };
    let apply_node = |conditions: Value| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node1" }, "status": { "conditions": conditions } });
    let other_condition = Refused("writes no condition of a Node but NetworkUnavailable");
    let other_status = Refused("nothing of a Node's status but the condition NetworkUnavailable");
    let metadata =
        |change: Value| json!({ "metadata": change, "status": network_unavailable("False")["status"] });

    #[rustfmt::skip] // One case, one line.
    let table: Vec<(&str, &Caller, Ask, &Expect)> = vec![
        // Leases.
        ("its lease's status", &one, status(lease_status("node1")), &Allowed),
        ("its lease's status by server-side apply", &one, patch(LEASES, mine, Kind::Apply, lease_status("node1")), &Allowed),
        ("its lease's status, token bound to the Node", &node_bound, status(lease_status("node1")), &Allowed),
        ("another node's lease", &one, foreign.clone(), &other_lease),
        ("another node's lease, token bound to the Node", &node_bound, foreign.clone(), &other_lease),
        ("another node's lease by server-side apply", &one, patch(LEASES, theirs, Kind::Apply, lease_status("node2")), &other_lease),
        ("another node's lease, claimed in the body", &two, status(json!({ "spec": { "nodeName": "node2" }, "status": {} })), &Refused("a lease of node node1")),
        ("any lease, no token of a node", &unbound, status(lease_status("node1")), &UNBOUND),
        ("any lease, before the pod has a node", &pending, status(lease_status("node1")), &UNBOUND),
        ("a lease's spec", &one, main_resource(LEASES, mine, How::Patch(Kind::Merge, json!({ "spec": { "nodeName": "node2" } }))), &NO_RIGHT),
        ("a new lease", &one, main_resource(LEASES, "", How::Create(lease("10.244.3.0/24", "node1"))), &NO_RIGHT),
        ("a lease's end", &one, main_resource(LEASES, mine, How::Delete), &NO_RIGHT),
        ("a lease replaced", &one, main_resource(LEASES, mine, How::Replace(lease("10.244.1.0/24", "node1"))), &NO_RIGHT),
        ("its lease read", &one, main_resource(LEASES, mine, How::Get), &Allowed),
        ("the answer that a block is empty", &one, emptied(further), &Allowed),
        ("the answer for another node's block", &one, emptied(further_of_two), &Refused("may not write the status of 10.244.12.0-24, a lease of node node2")),
        ("the answer for another node's block, token bound to the Node", &node_bound, emptied(further_of_two), &Refused("a lease of node node2")),
        ("the answer, no token of a node", &unbound, emptied(further), &UNBOUND),
        ("the request for a block withdrawn", &one, main_resource(LEASES, further, How::Patch(Kind::Merge, json!({ "spec": { "returning": null } }))), &NO_RIGHT),
        // NodeNetworks.
        ("its NodeNetwork's status", &one, health("node1", json!({ "status": { "peers": 3 } })), &Allowed),
        ("its NodeNetwork's status by server-side apply", &one, patch(NODE_NETWORKS, "node1", Kind::Apply, apply_health("node1", json!([condition("Ready", "True")]))), &Allowed),
        ("another node's NodeNetwork", &one, health("node2", json!({ "status": { "peers": 3 } })), &Refused("may not write the status of NodeNetwork node2")),
        ("the operator's condition changed", &one, patch(NODE_NETWORKS, "node1", Kind::Apply, apply_health("node1", json!([condition("Leased", "False")]))), &Refused("the condition Leased is the operator's")),
        ("the operator's condition removed", &one, health("node1", json!({ "status": { "conditions": [condition("Ready", "True")] } })), &Refused("the condition Leased is the operator's")),
        ("any NodeNetwork, no token of a node", &unbound, health("node1", json!({ "status": { "peers": 3 } })), &UNBOUND),
        ("a NodeNetwork's spec", &one, main_resource(NODE_NETWORKS, "node1", How::Patch(Kind::Merge, json!({ "spec": { "pool": "x" } }))), &NO_RIGHT),
        ("a new NodeNetwork", &one, main_resource(NODE_NETWORKS, "", How::Create(node_network("node3"))), &NO_RIGHT),
        ("a NodeNetwork's end", &one, main_resource(NODE_NETWORKS, "node1", How::Delete), &NO_RIGHT),
        // Its Node's condition.
        ("the condition, strategic merge", &one, node("node1", Kind::Strategic, network_unavailable("False")), &Allowed),
        ("the condition turned", &one, node("node1", Kind::Strategic, network_unavailable("True")), &Allowed),
        ("the condition by server-side apply", &one, node("node1", Kind::Apply, apply_node(json!([condition("NetworkUnavailable", "False")]))), &Allowed),
        ("the condition, token bound to the Node", &node_bound, node("node1", Kind::Strategic, network_unavailable("False")), &Allowed),
        ("another Node's condition", &two, node("node1", Kind::Strategic, network_unavailable("False")), &Refused("the agent of node node2 may not write Node node1")),
        ("any Node's condition, no token of a node", &unbound, node("node1", Kind::Strategic, network_unavailable("False")), &UNBOUND),
        ("any Node's condition, before the pod has a node", &pending, node("node1", Kind::Strategic, network_unavailable("False")), &UNBOUND),
        // The rest of its Node.
        ("the list of conditions replaced", &one, node("node1", Kind::Merge, network_unavailable("False")), &other_condition),
        ("another condition", &one, node("node1", Kind::Strategic, json!({ "status": { "conditions": [condition("Ready", "False")] } })), &other_condition),
        ("another condition by server-side apply", &one, node("node1", Kind::Apply, apply_node(json!([condition("Ready", "False")]))), &other_condition),
        ("a condition of a new kind", &one, node("node1", Kind::Strategic, json!({ "status": { "conditions": [condition("Mine", "True")] } })), &other_condition),
        ("a condition removed", &one, node("node1", Kind::Strategic, json!({ "status": { "conditions": [{ "type": "Ready", "$patch": "delete" }] } })), &other_condition),
        ("addresses", &one, node("node1", Kind::Strategic, json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.9" }] } })), &other_status),
        ("capacity", &one, node("node1", Kind::Strategic, json!({ "status": { "capacity": { "example.org/card": "1" } } })), &other_status),
        ("labels", &one, node("node1", Kind::Strategic, metadata(json!({ "labels": { "x": "y" } }))), &Refused("changes no metadata of a Node")),
        ("annotations", &one, node("node1", Kind::Strategic, metadata(json!({ "annotations": { "x": "y" } }))), &Refused("changes no metadata of a Node")),
        ("finalizers", &one, node("node1", Kind::Strategic, metadata(json!({ "finalizers": ["example.org/x"] }))), &Refused("changes no metadata of a Node")),
        ("the Node's spec", &one, main_resource(NODES, "node1", How::Patch(Kind::Merge, json!({ "spec": { "podCIDRs": ["10.0.0.0/24"] } }))), &NO_RIGHT),
        ("the Node's labels, directly", &one, main_resource(NODES, "node1", How::Patch(Kind::Merge, json!({ "metadata": { "labels": { "x": "y" } } }))), &NO_RIGHT),
        ("the status replaced", &one, Ask { path: NODES, name: "node1".into(), subresource: Some("status"), how: How::Replace(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node1" } })) }, &NO_RIGHT),
        ("a new Node", &one, main_resource(NODES, "", How::Create(json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node3" } }))), &NO_RIGHT),
        ("the Node's end", &one, main_resource(NODES, "node1", How::Delete), &NO_RIGHT),
        // Everything else.
        ("Secrets", &one, main_resource("/api/v1/secrets", "", How::List), &NO_RIGHT),
        ("Secrets of its namespace", &one, main_resource("/api/v1/namespaces/tartan-system/secrets", "x", How::Get), &NO_RIGHT),
        ("ConfigMaps of its namespace", &one, main_resource("/api/v1/namespaces/tartan-system/configmaps", "tartan-config", How::Get), &NO_RIGHT),
        ("Pods", &one, main_resource("/api/v1/pods", "", How::List), &NO_RIGHT),
        ("a token of the operator", &one, Ask { path: "/api/v1/namespaces/tartan-system/serviceaccounts", name: "tartan-operator".into(), subresource: Some("token"), how: How::Create(json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] } })) }, &NO_RIGHT),
        ("pools", &one, main_resource("/apis/tartan.network/v1alpha1/networkpools", "", How::List), &NO_RIGHT),
        ("the ClusterNetwork's end", &one, main_resource("/apis/tartan.network/v1alpha1/clusternetworks", "default", How::Delete), &NO_RIGHT),
        ("its own role", &one, main_resource("/apis/rbac.authorization.k8s.io/v1/clusterroles", "tartan-node-agent", How::Get), &NO_RIGHT),
    ];
    let mut wrong = Vec::new();
    for (what, who, ask, expected) in &table {
        match (who.ask(ask), expected) {
            (Ok(_), Allowed) => {}
            (Err((403, said)), Refused(text)) if said.contains(text) => {}
            (answer, expected) => {
                wrong.push(format!("{what}, by {}: expected {expected:?}, got {answer:?}", who.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), table.len(), wrong.join("\n"));

    let answer = |lease: &str| get(&api, &["sl", lease])["status"].get("emptied").cloned();
    assert_eq!((answer(further), answer(further_of_two)), (Some(json!(ASKED_BACK)), None));

    // The role alone would let an agent relabel any Node: what refuses that is the policy, and nothing else.
    let relabel = node("node2", Kind::Strategic, metadata(json!({ "labels": { "x": "y" } })));
    assert!(one.ask(&relabel).is_err());
    let unbind = ["delete", "validatingadmissionpolicybinding", "tartan-node-agent-nodes"];
    api.kubectl(&unbind).unwrap().ok().unwrap();
    eventually("the role without the policy", Duration::from_secs(30), || one.ask(&relabel).is_ok()).unwrap();

    // What a status write takes along without a word is dropped without a word.
    let smuggled = json!({ "metadata": { "labels": { "x": "y" }, "finalizers": ["example.org/x"] }, "spec": { "pool": "x" }, "status": { "pairingVersion": 2 } });
    assert!(one.ask(&status(smuggled)).is_ok());
    let stored = get(&api, &["sl", mine]);
    assert_eq!((stored["metadata"].get("labels"), stored["metadata"].get("finalizers")), (None, None));
    assert_eq!(
        (&stored["spec"]["pool"], &stored["status"]["pairingVersion"]),
        (&json!("default"), &json!(2))
    );
    let spec = json!({ "spec": { "unschedulable": true, "podCIDRs": ["10.0.0.0/24"], "taints": [{ "key": "x", "effect": "NoExecute" }] }, "status": network_unavailable("False")["status"] });
    let _ = one.ask(&node("node1", Kind::Strategic, spec));
    let stored = get(&api, &["node", "node1"]);
    assert_eq!(stored["spec"].get("podCIDRs"), None);
    assert_ne!(stored["spec"]["unschedulable"], json!(true));
    assert!(!stored["spec"]["taints"].to_string().contains("\"x\""), "{stored}");
    assert_eq!(stored["metadata"]["labels"], json!({ "kept": "yes" }));
}

#[test]
fn the_policies_expressions_are_well_typed() {
    // The controller manager is who checks them.
    let options = ApiServerOptions { controller_manager: Some(Vec::new()), ..ApiServerOptions::default() };
    let api = server(options);
    eventually_ok("the check of all policies", Duration::from_secs(60), || {
        for policy in get(&api, &["validatingadmissionpolicies"])["items"].as_array().unwrap() {
            let (name, status) = (&policy["metadata"]["name"], &policy["status"]);
            anyhow::ensure!(
                status["observedGeneration"] == policy["metadata"]["generation"],
                "{name} is not checked yet"
            );
            assert_eq!(status["typeChecking"].get("expressionWarnings"), None, "{name}");
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(get(&api, &["validatingadmissionpolicies"])["items"].as_array().unwrap().len(), 5);
}

#[test]
fn a_network_in_use_is_neither_deleted_nor_robbed_of_an_entry() {
    let api = server(ApiServerOptions::default());
    let entry = |name: &str, cidr: &str, drain: bool| json!({ "name": name, "cidr": cidr, "nodeMaskSize": 24, "drain": drain });
    let network = |cidrs: Value| json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" }, "spec": { "cidrs": cidrs } });
    let (a, b) = (entry("a", "10.244.0.0/16", true), entry("b", "10.245.0.0/16", true));
    apply(&api, &network(json!([a, b])));
    let usage = |name: &str, used: i64, held: i64| json!({ "name": name, "cidr": "x", "capacity": 256, "used": used, "held": held, "free": 0 });
    let report = |cidrs: Value| {
        let status = json!({ "status": { "cidrs": cidrs } }).to_string();
        api.kubectl(&["patch", "cnet", "default", "--subresource=status", "--type=merge", "-p", &status])
            .unwrap()
            .ok()
            .unwrap();
    };
    report(json!([usage("a", 0, 1), usage("b", 0, 0)]));
    let delete = || api.kubectl(&["delete", "cnet", "default", "--dry-run=server"]).unwrap();
    eventually("the policy is in force", Duration::from_secs(30), || !delete().success()).unwrap();
    let said = delete().stderr;
    assert!(said.contains("leases are left in a: drain the entry"), "{said}");

    let said = api.apply(&network(json!([b])).to_string()).unwrap();
    assert!(said.stderr.contains("leases are left in a"), "{}", said.stderr);
    api.apply(&network(json!([a])).to_string()).unwrap().ok().expect("b is empty");
    report(json!([usage("a", 0, 0)]));
    api.kubectl(&["delete", "cnet", "default"]).unwrap().ok().expect("nothing is left");
}

/// A name locks a block only against blocks of the same size. So a create that was sent before the range was
/// cut anew, and arrives afterwards, is refused by the API server itself.
#[test]
fn a_lease_that_arrives_after_its_range_was_cut_anew_is_refused() {
    let api = server(ApiServerOptions::default());
    let network = |cidrs: Value| json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" }, "spec": { "cidrs": cidrs } });
    let entry = |name: &str, cidr: &str, mask: u8, drain: bool| json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask, "drain": drain });
    let create = |subnet: &str| api.apply(&lease(subnet, "node1").to_string()).unwrap();
    let is_refused = |subnet: &str, text: &str| {
        let said = create(subnet);
        let refused = !said.success() && said.stderr.contains(text);
        if !refused {
            println!("{subnet}: {}{}", said.stdout, said.stderr);
        }
        refused
    };
    let takes = |subnet: &str| {
        eventually_ok("the lease is taken", Duration::from_secs(60), || create(subnet).ok()).unwrap();
    };
    eventually("without a ClusterNetwork no lease is taken", Duration::from_secs(90), || {
        // Taken before the policy was in force: again.
        let taken = create("10.244.1.0/24").success();
        let gone = !taken || api.kubectl(&["delete", "sl", "10.244.1.0-24"]).unwrap().success();
        gone && is_refused("10.244.1.0/24", "no params found for policy binding")
    })
    .unwrap();
    let old = |drain: bool| entry("old", "10.244.0.0/16", 24, drain);
    apply(&api, &network(json!([old(false), entry("six", "fd00::/48", 64, false)])));
    takes("10.244.1.0/24");
    takes("fd00:0:0:7::/64");
    let no_block = "is not a block of any entry in ClusterNetwork.spec.cidrs: 10.244.0.0/16 in blocks of /24";
    for other in ["10.244.2.0/25", "10.244.2.0/23", "10.245.0.0/24", "fd00:0:1::/64", "fd00::/48"] {
        assert!(is_refused(other, no_block), "{other}");
    }

    apply(&api, &network(json!([old(true), entry("six", "fd00::/48", 64, false)])));
    takes("10.244.2.0/24");
    for subnet in ["10.244.1.0-24", "10.244.2.0-24"] {
        api.kubectl(&["delete", "sl", subnet]).unwrap().ok().unwrap();
    }
    let six = entry("six", "fd00::/48", 64, false);
    apply(&api, &network(json!([entry("new", "10.244.0.0/16", 25, false), six])));
    takes("10.244.3.0/25");
    // What was decided before an edit is refused, also where it would still be a block.
    let cut_by = |generation: i64| {
        let uid = get(&api, &["cnet", "default"])["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut lease = lease("10.244.4.0/25", "node1");
        lease["metadata"]["annotations"] = json!({ "tartan.network/cut-by": format!("{uid}/{generation}") });
        api.apply(&lease.to_string()).unwrap()
    };
    let now = get(&api, &["cnet", "default"])["metadata"]["generation"].as_i64().unwrap();
    let said = cut_by(now - 1).stderr;
    assert!(said.contains("the ClusterNetwork has changed since this lease was decided on"), "{said}");
    cut_by(now).ok().unwrap();
    assert!(is_refused("10.244.3.0/24", "is not a block of any entry"), "what was on its way lies over it");
    assert!(is_refused("10.244.9.0/24", "is not a block of any entry"));
}
