//! What `kubectl get` shows of our objects: the tables that an administrator looks at first.
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

use std::time::Duration;

use serde_json::{Value, json};
use support::{api, object, send};
use tartan_lab::{ApiServer, eventually_ok};

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" })
}

fn make(api: &ApiServer, resource: &str, object: &Value, status: &Value) {
    send(api, &["create"], object).ok().unwrap();
    let (name, patch) =
        (object["metadata"]["name"].as_str().unwrap(), json!({ "status": status }).to_string());
    let patch = ["patch", resource, name, "--subresource=status", "--type=merge", "-p", &patch];
    api.kubectl(&patch).unwrap().ok().unwrap();
}

/// The rows of a table as words, without the age, which is the last.
fn table(api: &ApiServer, arguments: &[&str]) -> Vec<Vec<String>> {
    let said = api.kubectl(&[&["get"], arguments].concat()).unwrap().ok().unwrap();
    let words = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words.pop();
        words
    };
    said.stdout.lines().map(words).collect()
}

fn check(api: &ApiServer, arguments: &[&str], expected: &[&str]) {
    let expected: Vec<Vec<String>> =
        expected.iter().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
    assert_eq!(table(api, arguments), expected, "kubectl get {}", arguments.join(" "));
}

#[test]
fn tables_show_what_an_administrator_looks_for_first() {
    let api = api();
    let entry = |name: &str, cidr: &str| json!({ "name": name, "cidr": cidr, "nodeMaskSize": 24 });
    let cidrs = json!([entry("a", "10.244.0.0/16"), entry("b", "10.245.0.0/16")]);
    make(
        &api,
        "cnet",
        &object("ClusterNetwork", "default", json!({ "cidrs": cidrs })),
        &json!({
            "family": "IPv4", "capacity": 512, "used": 3, "held": 1, "reserved": 6, "free": 502,
            "forecast": { "room": "Low", "exhaustedIn": "3d" }, "conditions": [condition("Accepted", "True", "AsExpected")],
        }),
    );
    // Of a list of objects kubectl's path shows the first only: the entry that is preferred.
    check(
        &api,
        &["cnet"],
        &[
            "NAME    CIDRS         BACKEND FAMILY CAPACITY USED HELD FREE EXHAUSTED-IN ACCEPTED",
            "default 10.244.0.0/16 vxlan   IPv4   512      3    1    502  3d           True",
        ],
    );
    check(
        &api,
        &["cnet", "-o", "wide"],
        &[
            "NAME    CIDRS         BACKEND FAMILY CAPACITY USED HELD RESERVED FREE EXHAUSTED-IN ACCEPTED",
            "default 10.244.0.0/16 vxlan   IPv4   512      3    1    6        502  3d           True",
        ],
    );

    let rack = json!({ "nodeSelector": {}, "backend": { "type": "host-gw" }, "priority": 5 });
    let accepted = json!({
        "nodes": 2, "leases": 2, "family": "IPv6", "capacity": 512, "used": 3, "held": 1, "reserved": 6, "free": 502,
        "forecast": { "room": "Ample", "exhaustedIn": "20w" }, "conditions": [condition("Accepted", "False", "SamePriority")],
        "transition": {
            "to": "host-gw", "since": "2026-01-01T00:00:00Z", "phase": "Moving",
            "nodes": 2, "receiving": 2, "moved": 1,
        },
    });
    make(&api, "npool", &object("NetworkPool", "rack", rack), &accepted);
    check(
        &api,
        &["networkpools"],
        &[
            "NAME BACKEND PRIORITY NODES LEASES FAMILY CAPACITY USED HELD FREE EXHAUSTED-IN CHANGING ACCEPTED",
            "rack host-gw 5        2     2      IPv6   512      3    1    502  20w          Moving   False",
        ],
    );
    check(
        &api,
        &["networkpools", "-o", "wide"],
        &[
            "NAME BACKEND DIRECT PRIORITY NODES LEASES FAMILY CAPACITY USED HELD RESERVED FREE EXHAUSTED-IN CHANGING ACCEPTED",
            "rack host-gw false  5        2     2      IPv6   512      3    1    6        502  20w          Moving   False",
        ],
    );

    let lease = |released: Option<&str>| {
        let mut spec = json!({
            "nodeName": "node1", "nodeUID": "u", "subnet": "10.244.7.0/24", "pool": "rack", "primary": true,
            "backend": { "type": "host-gw", "accepts": ["host-gw", "vxlan"] },
        });
        if let Some(time) = released {
            spec["releasedAt"] = time.into();
        }
        spec
    };
    let published = json!({ "publicIPs": ["192.0.2.1", "2001:db8::1"] });
    make(&api, "sl", &object("SubnetLease", "10.244.7.0-24", lease(None)), &published);
    let head = "NAME NODE SUBNET POOL BACKEND PUBLIC-IP RELEASED";
    check(&api, &["sl"], &[head, "10.244.7.0-24 node1 10.244.7.0/24 rack host-gw 192.0.2.1"]);
    let release = json!({ "spec": lease(Some("2026-01-01T00:00:00Z")) }).to_string();
    api.kubectl(&["patch", "sl", "10.244.7.0-24", "--type=merge", "-p", &release]).unwrap().ok().unwrap();
    let row = table(&api, &["sl"]).remove(1);
    assert!(row.len() == 7 && row[6].ends_with('d'), "RELEASED is a time since: {row:?}");

    let conditions =
        [condition("Ready", "False", "NoUplink"), condition("Degraded", "True", "CniConfigShadowed")];
    make(
        &api,
        "nnet",
        &object("NodeNetwork", "node1", json!({ "pool": "rack" })),
        &json!({
            "agentVersion": "0.1.0", "kernelVersion": "6.1", "podMTU": 1450, "peers": 2, "peersWithoutPathCount": 1,
            "uplink": { "interface": "eth0", "mtu": 1500 }, "conditions": conditions,
        }),
    );
    check(
        &api,
        &["nodenetworks"],
        &[
            "NAME  READY REASON   DEGRADED UPLINK MTU  PEERS NO-PATH",
            "node1 False NoUplink True     eth0   1450 2     1",
        ],
    );

    let all = api.kubectl(&["get", "tartan", "-o", "name"]).unwrap().ok().unwrap().stdout;
    assert_eq!(all.lines().count(), 4, "one category shows all kinds:\n{all}");
}

#[test]
fn explain_tells_what_a_kind_is() {
    let api = api();
    for (kind, words) in [
        ("clusternetwork", "must be the same on every node"),
        ("clusternetwork.spec.cidrs.nodeMaskSize", "Prefix length of a node's block"),
        ("networkpool", "Nodes that share a backend"),
        ("subnetlease", "One block of pod addresses"),
        ("nodenetwork", "One node's pod network"),
    ] {
        // A definition is served at once; the schemas that `explain` reads follow in the background.
        let explained =
            eventually_ok(kind, Duration::from_secs(30), || api.kubectl(&["explain", kind])?.ok());
        let said = explained.unwrap().stdout;
        let text = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{kind}: {said}");
    }
}
