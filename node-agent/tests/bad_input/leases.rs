//! Rows about what leases stand on and say: entries and the network taken from under them, edits, other hands.

use serde_json::{Value, json};
use tartan_lab::eventually;

use super::{
    cluster::PATIENCE,
    policies::{OF_LEASES, OF_NETWORK},
    scene::{Scene, entry, nothing, pods_entry},
    table::{Answer, Row, refused},
};

pub fn rows() -> Vec<Row> {
    [ground(), spec(), others()].into_iter().flatten().collect()
}

fn of_network(condition: &'static str) -> Answer {
    Answer::Condition("clusternetwork", "default", condition, "False")
}

/// The entry of all leases is drained, and another is there.
fn drain_all(scene: &Scene) -> Value {
    let mut drained = pods_entry();
    drained["drain"] = true.into();
    let spare = entry("spare", "10.245.0.0/16", 24);
    scene.patch_network(&json!({ "cidrs": [drained, spare] }));
    json!({ "cidrs": [spare] })
}

fn ground() -> Vec<Row> {
    vec![
        Row {
            mend: |scene| scene.entries(&[]),
            ..refused(
                "an entry is drained and removed while leases are in it",
                "leases are left in pods",
                "drain the entry, and wait until the condition Draining of the ClusterNetwork says that it is empty",
                |scene| {
                    let removed = drain_all(scene);
                    scene.network_refusal(&removed)
                },
            )
        },
        refused(
            "the ClusterNetwork is deleted while leases are in it",
            "leases are left in pods",
            "drain the entry, and wait until the condition Draining of the ClusterNetwork says that it is empty",
            |scene| scene.refusal(&["delete", "clusternetwork", "default"]),
        ),
        Row {
            input: "an entry is drained and removed while leases are in it, without `policies.protectNetwork`",
            at: "condition of the ClusterNetwork; Degraded of each NodeNetwork concerned",
            answer: of_network("Consistent"),
            reason: "EntryInUse",
            names: "lie in no entry",
            remedy: "put the removed entry back with drain: true",
            provoke: |scene| {
                let removed = drain_all(scene);
                scene.without_policy(OF_NETWORK, |scene| scene.try_patch_network(&removed));
                scene.cluster.wait_for_condition("node2", "Degraded", "True", "EntryInUse");
                String::new()
            },
            mend: |scene| {
                scene.entries(&[]);
                scene.cluster.wait_for_condition("node2", "Degraded", "False", "AsExpected");
                scene.apply_policies();
            },
        },
    ]
}

fn spec() -> Vec<Row> {
    let event = |input, reason, names, remedy, provoke| Row {
        input,
        at: "event of the SubnetLease",
        answer: Answer::Event("SubnetLease"),
        reason,
        names,
        remedy,
        provoke,
        mend: nothing,
    };
    vec![
        refused(
            "a lease is given to another node by hand",
            "spec.nodeName",
            "drain that one and delete its Node, and the block is given to others",
            |scene| {
                let patch = json!({ "spec": { "nodeName": "node1" } }).to_string();
                scene.refusal(&["patch", &scene.lease_of("node2"), "--type=merge", "-p", &patch])
            },
        ),
        event(
            "pool, backend and keys of a lease are edited by hand; undone at once",
            "LeaseEdited",
            "was edited; it says again what was decided",
            "by ClusterNetwork and NetworkPools: change these",
            |scene| {
                let lease = scene.lease_of("node2");
                let said = || scene.api().kubectl(&["get", &lease, "-o", "jsonpath={.spec}"]).unwrap().stdout;
                let before = said();
                let keys = ["hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="];
                let edit = json!({ "pool": "mine", "backend": { "type": "vxlan" }, "wireguardKeys": keys });
                scene.kubectl(&["patch", &lease, "--type=merge", "-p", &json!({ "spec": edit }).to_string()]);
                eventually("the edit is undone", PATIENCE, || said() == before).unwrap();
                String::new()
            },
        ),
        Row {
            mend: |scene| scene.kubectl(&["delete", "node", "node9"]),
            ..event(
                "the lease of a Node is deleted by hand; made again at once",
                "LeaseRestored",
                "was gone while node node9 has the block, and was made again; others have no path there until its agent has published itself anew",
                "to take a block from a node, drain it and delete its Node",
                |scene| {
                    scene.add_node("node9", &json!({}), &json!({}));
                    let lease = scene.lease_of("node9");
                    let told = || !scene.cluster.field("node", "node9", ".spec.podCIDR").is_empty();
                    eventually("its Node is told the block", PATIENCE, told).unwrap();
                    scene.kubectl(&["delete", &lease]);
                    assert_eq!(scene.lease_of("node9"), lease);
                    String::new()
                },
            )
        },
    ]
}

/// Half of node2's block, for node9.
fn overlap(scene: &Scene) -> tartan_lab::Output {
    lease_for_node9(scene, &half_of_node2(scene))
}

/// All blocks of all nodes, for node9.
const ALL_BLOCKS: &str = "10.244.0.0/16";

fn lease_for_node9(scene: &Scene, subnet: &str) -> tartan_lab::Output {
    let uid = scene.cluster.field("node", "node9", ".metadata.uid");
    scene.make_lease(subnet, ("node9", &uid), false)
}

/// What is made by hand goes, and node9 with it.
fn unmake(scene: &Scene, subnet: &str) {
    scene.kubectl(&["delete", "subnetlease", &subnet.replace('/', "-")]);
    scene.kubectl(&["delete", "node", "node9"]);
    scene.apply_policies();
}

fn half_of_node2(scene: &Scene) -> String {
    scene.cluster.field("node", "node2", ".spec.podCIDR").replace("/24", "/25")
}

fn others() -> Vec<Row> {
    vec![
        refused(
            "a lease is made by hand that overlaps another",
            "is not a block of any entry in ClusterNetwork.spec.cidrs",
            "10.244.0.0/16 in blocks of /24",
            |scene| overlap(scene).stderr,
        ),
        Row {
            input: "a lease of half of another's block is made by hand, without `policies.protectNetwork`",
            at: "condition of the ClusterNetwork",
            answer: of_network("Consistent"),
            reason: "LeasesOverlap",
            names: "leases overlap",
            remedy: "delete the one whose node does not use it",
            provoke: |scene| {
                scene.add_node("node9", &json!({}), &json!({}));
                let _ = scene.lease_of("node9");
                scene.without_policy(OF_LEASES, overlap);
                String::new()
            },
            mend: |scene| unmake(scene, &half_of_node2(scene)),
        },
        Row {
            input: "a lease of all nodes' blocks is made by hand, without `policies.protectNetwork`",
            at: "condition of the ClusterNetwork",
            answer: of_network("Consistent"),
            reason: "LeasesOverlap",
            names: ALL_BLOCKS,
            remedy: "delete the one whose node does not use it",
            provoke: |scene| {
                scene.add_node("node9", &json!({}), &json!({}));
                let _ = scene.lease_of("node9");
                scene.without_policy(OF_LEASES, |scene| lease_for_node9(scene, ALL_BLOCKS));
                String::new()
            },
            mend: |scene| unmake(scene, ALL_BLOCKS),
        },
    ]
}
