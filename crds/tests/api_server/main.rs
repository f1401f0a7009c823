//! What a real API server does with our definitions: which objects it takes, and what it answers to the others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod lease;
mod network;
mod pool;
#[path = "../support/mod.rs"]
mod support;

use serde_json::{Value, json};
use support::{api, check_refused, get, install, object, patch, refusal, send, with};
use tartan_crds::{ClusterNetwork, NetworkPool, SubnetLease};
use tartan_lab::{ApiServer, ApiServerOptions};

fn entry(name: &str, cidr: &str, mask: u8) -> Value {
    json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask })
}

fn network(change: &Value) -> Value {
    object("ClusterNetwork", "default", with(json!({ "cidrs": [entry("a", "10.244.0.0/16", 24)] }), change))
}

fn pool(change: &Value) -> Value {
    let base = json!({ "nodeSelector": { "matchLabels": { "zone": "a" } }, "backend": { "type": "vxlan" } });
    object("NetworkPool", "zone-a", with(base, change))
}

#[test]
fn the_definitions_are_taken_without_a_warning_and_are_structural() {
    let api = ApiServer::start(ApiServerOptions::default()).unwrap();
    let said = install(&api);
    assert_eq!(said.stderr, "", "kubectl apply warned");
    assert_eq!(said.stdout.lines().count(), 4, "{}", said.stdout);
    let directory = support::yaml_directory();
    let again = ["apply", "--server-side", "--force-conflicts", "-f", directory.to_str().unwrap()];
    assert_eq!(api.kubectl(&again).unwrap().ok().unwrap().stderr, "");

    for definition in get(&api, &["crd"])["items"].as_array().unwrap() {
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        let of = |kind: &str| conditions.iter().find(|c| c["type"] == kind).map(|c| c["status"].clone());
        assert_eq!(of("Established"), Some(json!("True")), "{definition}");
        assert_eq!(of("NonStructuralSchema"), None, "{definition}");
    }
}

#[test]
fn what_is_left_out_gets_the_defaults_of_the_types() {
    let api = api();
    let said = send(&api, &["create", "--dry-run=server", "-o", "json"], &network(&json!({}))).ok().unwrap();
    let stored: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        stored["spec"],
        json!({
            "cidrs": [{ "name": "a", "cidr": "10.244.0.0/16", "nodeMaskSize": 24, "drain": false }],
            "backends": { "vxlan": { "vni": 1, "port": 8472, "learning": false, "gbp": false, "txChecksumOffload": true },
                "wireguard": { "port": 51820, "persistentKeepalive": 0, "presharedKey": false },
                "udp": { "port": 8285 },
                "extension": { "timeoutSeconds": 10 },
                "ipsec": {
                    "authentication": "PresharedKey",
                    "espProposal": "aes128gcm16-sha256-prfsha256-ecp256",
                    "ikeProposal": "aes256-sha256-modp4096",
                    "udpEncapsulation": false,
                },
            },
            "defaultBackend": { "type": "vxlan", "directRouting": false },
            "fallbackBackend": "vxlan",
            "growth": { "maxBlocksPerNode": 4, "grantBelowFree": 15, "coolDown": "60s", "returnEmptyAfter": "3600s" },
            "masquerade": { "enabled": true, "fullyRandom": true },
            "podCIDRMode": "Auto",
            "reclaimAfter": "3600s",
            "transition": { "maxInFlight": 50, "paused": false },
        })
    );
    let written: ClusterNetwork = serde_json::from_value(network(&json!({}))).unwrap();
    let read: ClusterNetwork = serde_json::from_value(stored).unwrap();
    assert_eq!(read.spec, written.spec, "server and types have different defaults");

    let half = network(&json!({ "backends": { "vxlan": { "vni": 7 } }, "masquerade": { "enabled": false } }));
    let said = send(&api, &["create", "--dry-run=server", "-o", "json"], &half).ok().unwrap();
    let read: ClusterNetwork = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((read.spec.backends.vxlan.vni, read.spec.backends.vxlan.port), (7, 8472));
    assert!(!read.spec.masquerade.enabled && read.spec.masquerade.fully_random);

    let said = send(&api, &["create", "--dry-run=server", "-o", "json"], &pool(&json!({}))).ok().unwrap();
    let read: NetworkPool = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(read.spec, serde_json::from_value::<NetworkPool>(pool(&json!({}))).unwrap().spec);
}
