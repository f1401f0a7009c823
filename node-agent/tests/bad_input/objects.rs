//! Rows about API objects: what admission can judge it refuses, the operator answers the rest.

use serde_json::{Value, json};

use super::{
    scene::{Scene, entry, pods_entry},
    table::{Answer, Row, refused},
};

const NO_PODS: &str =
    "must not meet a range that no pod can have an address of: loopback, link-local, multicast";

fn cidrs(scene: &Scene, entries: &[Value]) -> String {
    scene.network_refusal(&json!({ "cidrs": entries }))
}

/// A pool, until it is deleted again.
fn pool(
    input: &'static str,
    name: &'static str,
    answer: (&'static str, &'static str, &'static str),
    (names, remedy): (&'static str, &'static str),
    provoke: fn(&mut Scene) -> String,
) -> Row {
    let (condition, status, reason) = answer;
    let answer = Answer::Condition("networkpool", name, condition, status);
    Row {
        input,
        at: "condition of the NetworkPool",
        answer,
        reason,
        names,
        remedy,
        provoke,
        mend: |scene| {
            scene.delete_pools();
            scene.entries(&[]);
        },
    }
}

pub fn rows() -> Vec<Row> {
    [admission(), pools(), operator()].into_iter().flatten().collect()
}

fn admission() -> Vec<Row> {
    vec![
        refused("two CIDR entries overlap", "spec.cidrs", "entries must not overlap", |scene| {
            cidrs(scene, &[pods_entry(), entry("more", "10.244.128.0/17", 24)])
        }),
        refused("a CIDR with host bits", "spec.cidrs[1].cidr", "must be a CIDR in canonical form", |scene| {
            cidrs(scene, &[pods_entry(), entry("more", "10.245.0.1/16", 24)])
        }),
        refused(
            "a CIDR that is not in canonical form",
            "spec.cidrs[1].cidr",
            "must be a CIDR in canonical form",
            |scene| cidrs(scene, &[pods_entry(), entry("more", "FD00::/48", 64)]),
        ),
        refused(
            "blocks larger than their entry",
            "spec.cidrs[1]",
            "nodeMaskSize must lie between the entry's own length and 30",
            |scene| cidrs(scene, &[pods_entry(), entry("more", "10.245.0.0/16", 15)]),
        ),
        refused(
            "blocks without room for a pod",
            "spec.cidrs[1]",
            "nodeMaskSize must lie between the entry's own length and 30",
            |scene| cidrs(scene, &[pods_entry(), entry("more", "10.245.0.0/16", 31)]),
        ),
        refused(
            "an IPv6 entry with the mask of an IPv4 one",
            "spec.cidrs[1]",
            "nodeMaskSize must lie between the entry's own length and 30 (IPv4) or 126 (IPv6)",
            |scene| cidrs(scene, &[pods_entry(), entry("six", "fd00:10:244::/48", 24)]),
        ),
        refused(
            "IPv6 blocks without room for a pod",
            "spec.cidrs[1].nodeMaskSize",
            "should be less than or equal to 126",
            |scene| cidrs(scene, &[pods_entry(), entry("six", "fd00:10:244::/120", 127)]),
        ),
        refused(
            "a range of which no pod can have an address (loopback)",
            "spec.cidrs[1]",
            NO_PODS,
            |scene| cidrs(scene, &[pods_entry(), entry("more", "127.16.0.0/16", 24)]),
        ),
        refused(
            "a range of which no pod can have an address (link-local)",
            "spec.cidrs[1]",
            NO_PODS,
            |scene| cidrs(scene, &[pods_entry(), entry("more", "fe80::/64", 80)]),
        ),
        refused("a range in which some addresses are multicast", "spec.cidrs[1]", NO_PODS, |scene| {
            cidrs(scene, &[pods_entry(), entry("more", "192.0.0.0/2", 22)])
        }),
        refused(
            "an entry of more blocks than can be kept count of",
            "spec.cidrs[1]",
            "an entry may hold at most 2^20 blocks: choose a smaller nodeMaskSize",
            |scene| cidrs(scene, &[pods_entry(), entry("more", "fd00:10:244::/48", 69)]),
        ),
        refused("an entry is changed", "spec.cidrs", "append a new entry, and drain the old one", |scene| {
            cidrs(scene, &[entry("pods", "10.244.0.0/16", 25)])
        }),
        refused(
            "an entry is removed that is not drained",
            "spec.cidrs",
            "set drain first, and wait until no lease is left in it",
            |scene| cidrs(scene, &[entry("other", "10.245.0.0/16", 24)]),
        ),
        refused(
            "a reserved range outside of its entry",
            "spec.cidrs[0]",
            "reserved ranges must lie inside of the entry's cidr",
            |scene| cidrs(scene, &[reserving(json!([{ "cidr": "10.9.0.0/24" }]))]),
        ),
        refused(
            "half a block reserved for a node",
            "spec.cidrs[0]",
            "its length must be the entry's nodeMaskSize",
            |scene| cidrs(scene, &[reserving(json!([{ "cidr": "10.244.9.0/25", "nodeName": "node9" }]))]),
        ),
        refused(
            "an unknown backend",
            "spec.defaultBackend.type",
            "supported values: \"vxlan\", \"ipip\", \"wireguard\", \"ipsec\", \"udp\", \"host-gw\", \"alloc\", \"extension\"",
            |scene| scene.network_refusal(&json!({ "defaultBackend": { "type": "gre" } })),
        ),
        refused(
            "a VNI that VXLAN does not have",
            "spec.backends.vxlan.vni",
            "should be greater than or equal to 1",
            |scene| scene.network_refusal(&json!({ "backends": { "vxlan": { "vni": 0 } } })),
        ),
        refused(
            "an MTU that IPv4 does not allow",
            "spec.mtu",
            "should be greater than or equal to 576",
            |scene| scene.network_refusal(&json!({ "mtu": 500 })),
        ),
        refused(
            "VNI or port changed while nodes use them",
            "spec.backends.vxlan",
            "keep them, or move every node to a pool with another backend",
            |scene| scene.network_refusal(&json!({ "backends": { "vxlan": { "port": 4789 } } })),
        ),
    ]
}

/// The entry of the pods, with ranges kept back.
fn reserving(reserved: Value) -> Value {
    let mut entry = pods_entry();
    entry["reserved"] = reserved;
    entry
}

fn rack(more: Value) -> Value {
    let mut spec = json!({ "backend": { "type": "host-gw" } });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn pools() -> Vec<Row> {
    vec![
        pool(
            "a selector that matches no node",
            "nobody",
            ("Accepted", "True", "NoNodesMatch"),
            ("no node is in the pool", "see spec.nodeSelector"),
            |scene| {
                scene.pool("nobody", &rack(json!({ "nodeSelector": { "matchLabels": { "no": "one" } } })));
                String::new()
            },
        ),
        pool(
            "a selector with an unknown operator",
            "odd",
            ("Accepted", "False", "InvalidSelector"),
            ("spec.nodeSelector", "In, NotIn, Exists"),
            |scene| {
                let selector =
                    json!({ "matchExpressions": [{ "key": "x", "operator": "Near", "values": ["y"] }] });
                scene.pool("odd", &rack(json!({ "nodeSelector": selector })));
                String::new()
            },
        ),
        pool(
            "two pools of one priority select the same nodes",
            "second",
            ("Consistent", "False", "SamePriority"),
            ("pool first", "give one of the pools a higher priority"),
            |scene| {
                let both =
                    rack(json!({ "nodeSelector": { "matchLabels": { "kubernetes.io/os": "linux" } } }));
                scene.kubectl(&["label", "node", "node2", "kubernetes.io/os=linux", "--overwrite"]);
                scene.pool("first", &both);
                scene.pool("second", &both);
                String::new()
            },
        ),
        pool(
            "a pool of a higher priority takes all nodes of another",
            "first",
            ("Accepted", "True", "NoNodesMatch"),
            ("no node is in the pool", "see spec.nodeSelector and priority"),
            |scene| {
                let linux = json!({ "matchLabels": { "kubernetes.io/os": "linux" } });
                scene.kubectl(&["label", "node", "node2", "kubernetes.io/os=linux", "--overwrite"]);
                scene.pool("first", &rack(json!({ "nodeSelector": linux })));
                scene.pool("greedy", &rack(json!({ "nodeSelector": linux, "priority": 5 })));
                String::new()
            },
        ),
        pool(
            "two pools claim one entry",
            "second",
            ("Accepted", "False", "EntryClaimedTwice"),
            ("spec.cidrs: entry spare", "take it out of one of the two pools"),
            |scene| {
                scene.entries(&[entry("spare", "10.245.0.0/16", 24)]);
                let claim = |name: &str| {
                    rack(json!({ "nodeSelector": { "matchLabels": { "no": name } }, "cidrs": ["spare"] }))
                };
                scene.pool("first", &claim("one"));
                scene.pool("second", &claim("other"));
                String::new()
            },
        ),
        pool(
            "a pool names an entry that is not there",
            "second",
            ("Accepted", "False", "UnknownEntry"),
            ("spec.cidrs: entry missing", "append it to ClusterNetwork.spec.cidrs"),
            |scene| {
                scene.pool(
                    "second",
                    &rack(
                        json!({ "nodeSelector": { "matchLabels": { "no": "one" } }, "cidrs": ["missing"] }),
                    ),
                );
                String::new()
            },
        ),
    ]
}

fn operator() -> Vec<Row> {
    let network = |condition| Answer::Condition("clusternetwork", "default", condition, "False");
    vec![
        Row {
            input: "an entry overlaps the range of Services",
            at: "condition of the ClusterNetwork",
            answer: network("Accepted"),
            reason: "OverlapsServiceCIDR",
            names: "entry services",
            remedy: "append another entry and drain this one",
            provoke: |scene| {
                scene.entries(&[entry("services", "10.96.0.0/14", 24)]);
                String::new()
            },
            mend: |scene| scene.entries(&[]),
        },
        Row {
            input: "an entry covers the address of a node",
            at: "condition of the ClusterNetwork",
            answer: network("Accepted"),
            reason: "OverlapsNodeAddress",
            names: "entry around (10.246.0.0/16) contains 10.246.0.5 of node node9",
            remedy: "append an entry that no node's address is in, and drain this one",
            provoke: |scene| {
                scene.add_node("node9", &json!({}), &json!({}));
                scene.has_addresses("node9", &json!([{ "type": "InternalIP", "address": "10.246.0.5" }]));
                scene.entries(&[entry("around", "10.246.0.0/16", 24)]);
                String::new()
            },
            mend: |scene| {
                scene.entries(&[]);
                scene.kubectl(&["delete", "node", "node9"]);
            },
        },
        Row {
            input: "a reservation covers a living lease",
            at: "condition of the ClusterNetwork",
            answer: network("Consistent"),
            reason: "ReservedRangeInUse",
            names: "entry pods: reserved range",
            remedy: "take the range out of reserved",
            provoke: |scene| {
                let leased = scene.cluster.field("node", "node2", ".spec.podCIDR");
                scene.patch_network(&json!({ "cidrs": [reserving(json!([{ "cidr": leased }]))] }));
                String::new()
            },
            mend: |scene| scene.entries(&[]),
        },
        Row {
            input: "a pool with entries of its own takes a node that has a lease elsewhere",
            at: "condition of the NodeNetwork",
            answer: Answer::Condition("nodenetwork", "node2", "Leased", "True"),
            reason: "OutsidePool",
            names: "does not belong to the entries of pool taker",
            remedy: "until it is drained and its Node deleted; then it gets a /24 of entry spare",
            provoke: |scene| {
                scene.kubectl(&["label", "node", "node2", "kubernetes.io/os=linux", "--overwrite"]);
                scene.entries(&[entry("spare", "10.245.0.0/16", 24)]);
                let selector = json!({ "matchLabels": { "kubernetes.io/os": "linux" } });
                scene.pool("taker", &rack(json!({ "nodeSelector": selector, "cidrs": ["spare"] })));
                String::new()
            },
            mend: |scene| {
                scene.delete_pools();
                scene.entries(&[]);
            },
        },
        Row {
            input: "a pool claims the entry that nodes outside of it have leases of",
            at: "condition of the NodeNetwork",
            answer: Answer::Condition("nodenetwork", "node2", "Leased", "True"),
            reason: "OutsidePool",
            names: "does not belong to the entries of pool default",
            remedy: "until it is drained and its Node deleted; then it gets no IPv4 addresses, since the pool has no entry of them",
            provoke: |scene| {
                let nobody = json!({ "matchLabels": { "no": "one" } });
                scene.pool("claimer", &rack(json!({ "nodeSelector": nobody, "cidrs": ["pods"] })));
                String::new()
            },
            mend: |scene| scene.delete_pools(),
        },
        Row {
            input: "an annotation that can't be read",
            at: "condition of the NodeNetwork",
            answer: Answer::Condition("nodenetwork", "node2", "Leased", "True"),
            reason: "InvalidAnnotation",
            names: "annotation tartan.network/uplink",
            remedy: "interface=",
            provoke: |scene| {
                scene.annotate("tartan.network/uplink", "the-fast-one");
                String::new()
            },
            mend: |scene| scene.annotate("tartan.network/uplink", ""),
        },
    ]
}
