//! What a node publishes goes to every other node, so a real API server bounds it, whatever the node wants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{api, check_refused, get, object, refusal, send};

#[test]
fn a_status_that_would_burden_the_others_is_refused_and_the_last_one_stays() {
    let api = api();
    let spec = json!({
        "nodeName": "node1", "nodeUID": "uid", "subnet": "10.244.8.0/24", "pool": "default", "primary": true,
        "backend": { "type": "vxlan", "accepts": ["vxlan"] },
    });
    send(&api, &["create"], &object("SubnetLease", "10.244.8.0-24", spec)).ok().unwrap();
    let publish = |status: &Value| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json!({ "status": status }).to_string()).unwrap();
        let words = ["patch", "sl", "10.244.8.0-24", "--subresource=status", "--type=merge", "--patch-file"];
        api.kubectl(&[&words[..], &[file.path().to_str().unwrap()]].concat()).unwrap()
    };
    let good = json!({
        "publicIPs": ["192.0.2.1"], "endpoints": [{ "type": "host-gw" }], "pairingVersion": 1,
    });
    publish(&good).ok().unwrap();
    let addresses = |count: usize| (0..count).map(|n| format!("192.0.2.{n}")).collect::<Vec<_>>();
    let prefixes = |count: usize| (0..count).map(|n| format!("10.{n}.0.0/16")).collect::<Vec<_>>();
    let endpoints = |count: usize| vec![json!({ "type": "host-gw" }); count];
    for (what, status, expected) in [
        ("10,000 end points", json!({ "endpoints": endpoints(10_000) }), "endpoints"),
        ("9 tunnel sources", json!({ "tunnelSources": addresses(9) }), "tunnelSources"),
        ("17 prefixes", json!({ "uplinkPrefixes": prefixes(17) }), "uplinkPrefixes"),
        (
            "a long key",
            json!({ "endpoints": [{ "type": "wireguard", "publicKey": "A".repeat(45) }] }),
            "publicKey",
        ),
        ("no port", json!({ "endpoints": [{ "type": "wireguard", "port": 0 }] }), "port"),
        ("an MTU that nothing passes", json!({ "mtu": 575 }), "mtu"),
    ] {
        let said = publish(&status);
        assert!(!said.success(), "{what} were accepted");
        assert!(said.stderr.contains(expected), "{what}: {}", said.stderr);
        assert_eq!(get(&api, &["sl", "10.244.8.0-24"])["status"], good, "{what}");
    }
}

/// Who may write the ClusterNetwork chooses among the programs that a node offers, and no others.
#[test]
fn a_command_begins_with_the_name_of_a_program_and_never_with_a_path() {
    let api = api();
    let network = |extension: &Value| {
        let cidrs = json!([{ "name": "pods", "cidr": "10.244.0.0/16", "nodeMaskSize": 24 }]);
        object("ClusterNetwork", "default", json!({ "cidrs": cidrs, "backends": { "extension": extension } }))
    };
    for command in ["/bin/sh", "../sh", "", ".sh", "a b", "$SHELL"] {
        for field in ["preStartup", "postStartup", "subnetAdd", "subnetRemove"] {
            let what = format!("{field} {command:?}");
            check_refused(&api, &what, &network(&json!({ field: [command, "-c", "id"] })), "without a path");
        }
    }
    for (extension, expected) in [
        (json!({ "subnetAdd": vec!["word"; 33] }), "subnetAdd"),
        (json!({ "subnetAdd": ["route", "x".repeat(257)] }), "subnetAdd"),
        (json!({ "timeoutSeconds": 0 }), "timeoutSeconds"),
    ] {
        check_refused(&api, expected, &network(&extension), expected);
    }
    let good =
        json!({ "preStartup": [], "subnetAdd": ["route-add.sh", "--via", "$(x)"], "timeoutSeconds": 5 });
    assert_eq!(refusal(&api, &network(&good)), None);
}
