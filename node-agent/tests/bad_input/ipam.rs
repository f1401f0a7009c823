//! Rows about podCIDRs that another IPAM writes. What it does to one Node costs that one, and no other.

use serde_json::{Value, json};
use tartan_lab::eventually;

use super::{
    cluster::PATIENCE,
    scene::{Scene, entry, pods_entry},
    table::{Answer, Row, refused},
};

/// A Node of this name with podCIDRs that are not ours.
fn told(scene: &Scene, node: &str, pod_cidrs: &[&str]) {
    scene.add_node(node, &json!({}), &spec(pod_cidrs));
}

fn spec(pod_cidrs: &[&str]) -> Value {
    json!({ "podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs })
}

/// Makes the other IPAM the one that is right.
fn adopt(scene: &Scene, entries: &[Value]) {
    scene.patch_network(&json!({ "podCIDRMode": "Adopt", "cidrs": entries }));
}

/// Nodes first: their leases stand in the entries. Then the entries, while nobody gets blocks of them.
fn mend(scene: &mut Scene) {
    scene.kubectl(&["delete", "node", "node8", "node9", "--ignore-not-found"]);
    scene.entries(&[]);
    scene.patch_network(&json!({ "podCIDRMode": "Mirror" }));
}

pub fn rows() -> Vec<Row> {
    [vec![first_seen(), kept_from_leasing()], adopted(), against_ours()].into_iter().flatten().collect()
}

/// The mode is the default one; no row before this changes it.
fn first_seen() -> Row {
    Row {
        input: "another IPAM writes podCIDRs before tartan does, in mode Auto",
        at: "event of the ClusterNetwork",
        answer: Answer::Event("ClusterNetwork"),
        reason: "PodCIDRModeChanged",
        names: "the podCIDR mode in force was Mirror and is Adopt",
        remedy: "where there is none, set spec.podCIDRMode to Mirror",
        provoke: |scene| {
            told(scene, "node9", &["10.244.98.0/24"]);
            String::new()
        },
        mend,
    }
}

/// Who is allowed to keeps the operator from leasing, as a webhook could. The node is one that has never had a lease.
fn kept_from_leasing() -> Row {
    Row {
        input: "a policy of the administrator refuses the leases of a node",
        at: "condition of the NodeNetwork",
        answer: Answer::Condition("nodenetwork", "node7", "Leased", "False"),
        reason: "LeaseRefused",
        names: "a lease of the node can't be written, and is tried again",
        remedy: "no lease for node7: ask who made this policy",
        provoke: |scene| {
            let refuses = json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": { "name": "no-lease" },
                "spec": {
                    "matchConstraints": { "resourceRules": [{
                        "apiGroups": ["tartan.network"], "apiVersions": ["*"], "resources": ["subnetleases"],
                        "operations": ["CREATE"],
                    }] },
                    "validations": [{
                        "expression": "object.spec.nodeName != 'node7'",
                        "message": "no lease for node7: ask who made this policy",
                    }],
                },
            });
            let binding = json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": { "name": "no-lease" },
                "spec": { "policyName": "no-lease", "validationActions": ["Deny"] },
            });
            scene.cluster.create(&refuses);
            scene.cluster.create(&binding);
            eventually("the policy is in force", PATIENCE, || {
                scene
                    .make_lease("10.244.111.0/24", ("node7", "u"), true)
                    .stderr
                    .contains("ask who made this policy")
            })
            .unwrap();
            scene.add_node("node7", &json!({}), &json!({}));
            String::new()
        },
        mend: |scene| {
            scene.kubectl(&[
                "delete",
                "validatingadmissionpolicybinding,validatingadmissionpolicy",
                "no-lease",
            ]);
            mend(scene);
        },
    }
}

fn adopted() -> Vec<Row> {
    let waits = |input, reason, names, remedy, provoke| Row {
        input,
        at: "condition of the NodeNetwork",
        answer: Answer::Condition("nodenetwork", "node9", "Leased", "False"),
        reason,
        names,
        remedy,
        provoke,
        mend,
    };
    vec![
        waits(
            "another IPAM gives a Node a podCIDR that is no block of an entry",
            "PodCIDROutsideEntries",
            "the Node's podCIDR 10.99.0.0/24 is not a block of any entry",
            "append an entry that has it as one of its blocks",
            |scene| {
                adopt(scene, &[pods_entry()]);
                told(scene, "node9", &["10.99.0.0/24"]);
                String::new()
            },
        ),
        waits(
            "another IPAM gives a Node podCIDRs of a family that no entry has",
            "PodCIDROutsideEntries",
            "the Node's podCIDR fd00:99::/64 is not a block of any entry",
            "append an entry that has it as one of its blocks",
            |scene| {
                adopt(scene, &[pods_entry()]);
                told(scene, "node9", &["10.244.99.0/24", "fd00:99::/64"]);
                String::new()
            },
        ),
        waits(
            "another IPAM gives a Node the podCIDR of another Node",
            "PodCIDRTaken",
            "is leased to node node2: two IPAMs give out one range",
            "turn one off, delete this Node and let it join again",
            |scene| {
                adopt(scene, &[pods_entry()]);
                let taken = scene.cluster.field("node", "node2", ".spec.podCIDR");
                told(scene, "node9", &[&taken]);
                String::new()
            },
        ),
        waits(
            "another IPAM gives a Node a podCIDR that is kept back",
            "PodCIDRReserved",
            "the Node's podCIDR 10.244.112.0/24 meets the range 10.244.112.0/20 that entry pods keeps back",
            "take that out of reserved, or keep the other IPAM from giving it out and make the Node anew",
            |scene| {
                let mut reserving = pods_entry();
                reserving["reserved"] = json!([{ "cidr": "10.244.112.0/20" }]);
                adopt(scene, &[reserving]);
                told(scene, "node9", &["10.244.112.0/24"]);
                String::new()
            },
        ),
        waits(
            "another IPAM is to give podCIDRs, and a Node has none",
            "WaitingForPodCIDR",
            "podCIDRMode is Adopt",
            "when the other IPAM has set the Node's podCIDRs",
            |scene| {
                adopt(scene, &[pods_entry()]);
                scene.add_node("node9", &json!({}), &json!({}));
                String::new()
            },
        ),
        Row {
            answer: Answer::Condition("nodenetwork", "node9", "Leased", "True"),
            ..waits(
                "another IPAM gives a Node a podCIDR of one family, and there are entries of two",
                "FamilyWithoutPodCIDR",
                "the Node's podCIDRs have no IPv6 block and podCIDRMode is Adopt",
                "give the other IPAM an IPv6 range too, drain the node, delete its Node and let it join again",
                |scene| {
                    adopt(scene, &[pods_entry(), entry("six", "fd00:10:244::/48", 64)]);
                    told(scene, "node9", &["10.244.99.0/24"]);
                    String::new()
                },
            )
        },
    ]
}

/// podCIDRs are ours to write, and another writes them too.
fn against_ours() -> Vec<Row> {
    vec![
        Row {
            input: "another IPAM writes podCIDRs before tartan does, in mode Mirror",
            at: "condition of the ClusterNetwork",
            answer: Answer::Condition("clusternetwork", "default", "Consistent", "False"),
            reason: "SecondIPAM",
            names: "another IPAM wrote the podCIDRs of 1 node: node9",
            remedy: "turn it off (kube-controller-manager: --allocate-node-cidrs=false) or set podCIDRMode to Adopt",
            provoke: |scene| {
                told(scene, "node9", &["10.244.99.0/24"]);
                String::new()
            },
            mend,
        },
        refused(
            "another IPAM writes podCIDRs after tartan has",
            "node updates may not change podCIDR",
            "except from \"\" to valid",
            |scene| {
                let patch = json!({ "spec": spec(&["10.99.0.0/24"]) }).to_string();
                scene.refusal(&["patch", "node", "node2", "--type=merge", "-p", &patch])
            },
        ),
        Row {
            input: "another IPAM writes podCIDRs that are not the lease which the node uses",
            at: "condition of the NodeNetwork",
            answer: Answer::Condition("nodenetwork", "node8", "Leased", "False"),
            reason: "PodCIDRMismatch",
            names: "but its Node's podCIDRs are 10.244.97.0/24",
            remedy: "drain the node, delete the Node and let it join again",
            provoke: |scene| {
                scene.patch_network(&json!({ "podCIDRMode": "Ignore" }));
                scene.add_node("node8", &json!({}), &json!({}));
                let status = json!({ "status": { "endpoints": [{ "type": "host-gw" }] } }).to_string();
                let lease = scene.lease_of("node8");
                scene.kubectl(&["patch", &lease, "--subresource=status", "--type=merge", "-p", &status]);
                let patch = json!({ "spec": spec(&["10.244.97.0/24"]) }).to_string();
                scene.kubectl(&["patch", "node", "node8", "--type=merge", "-p", &patch]);
                scene.patch_network(&json!({ "podCIDRMode": "Mirror" }));
                String::new()
            },
            mend,
        },
    ]
}
