//! Rows about WireGuard's settings and keys; those about key files are with the programs'. A node that sends by it, and
//! of which there is no more than the Node, makes the others receive it; so they need keys, whatever their kernel can do.

use serde_json::json;
use tartan_lab::eventually;

use super::{
    cluster::{PATIENCE, PRESHARED_KEY},
    scene::Scene,
    table::{Answer, Row, refused},
};

const DEGRADED: &str = "condition Degraded of the NodeNetwork";

const fn degraded() -> Answer {
    Answer::Condition("nodenetwork", "node2", "Degraded", "True")
}

/// What that node's agent would publish.
fn publish_key(scene: &Scene, node: &str) {
    let endpoints = json!([{ "type": "wireguard", "publicKey": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", "port": 51820 }]);
    let patch = json!({ "status": { "endpoints": endpoints } }).to_string();
    scene.kubectl(&["patch", &scene.lease_of(node), "--subresource=status", "--type=merge", "-p", &patch]);
}

pub fn rows() -> Vec<Row> {
    let key = |input, names, remedy, provoke| Row {
        input,
        at: DEGRADED,
        answer: degraded(),
        reason: "BackendUnavailable",
        names,
        remedy,
        provoke,
        mend: |scene| scene.ask_no_more(),
    };
    vec![
        refused(
            "keys that are to be rotated all the time",
            "spec.backends.wireguard.rotateAfter",
            "must be a duration of at least 10m",
            |scene| scene.network_refusal(&json!({ "backends": { "wireguard": { "rotateAfter": "10s" } } })),
        ),
        refused(
            "a WireGuard port after which there is none for the second key",
            "spec.backends.wireguard.port",
            "should be less than or equal to 65534",
            |scene| scene.network_refusal(&json!({ "backends": { "wireguard": { "port": 65535 } } })),
        ),
        Row {
            mend: |scene| {
                scene.patch_network(&json!({ "backends": { "wireguard": { "presharedKey": false } } }));
                scene.ask_no_more();
            },
            ..key(
                "a preshared key is asked for, and its Secret is absent",
                "there is no preshared key at",
                "put one into the entry presharedKey of the Secret tartan-wireguard",
                |scene| {
                    scene.patch_network(&json!({ "backends": { "wireguard": { "presharedKey": true } } }));
                    scene.ask_for("wireguard");
                    String::new()
                },
            )
        },
        Row {
            mend: |scene| {
                scene.node2().script(&format!("rm {PRESHARED_KEY}")).unwrap();
                scene.patch_network(&json!({ "backends": { "wireguard": { "presharedKey": false } } }));
                scene.ask_no_more();
            },
            ..key(
                "the preshared key of WireGuard is none",
                "can't be used: no WireGuard preshared key: it must be 32 bytes in base64",
                "put one into the entry presharedKey of the Secret tartan-wireguard",
                |scene| {
                    scene.node2().script(&format!("(umask 077; echo short > {PRESHARED_KEY})")).unwrap();
                    scene.patch_network(&json!({ "backends": { "wireguard": { "presharedKey": true } } }));
                    scene.ask_for("wireguard");
                    String::new()
                },
            )
        },
        Row {
            input: "a node publishes the WireGuard key of another",
            at: DEGRADED,
            answer: degraded(),
            reason: "PeerInvalid",
            names: "its WireGuard key hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= is that of node node9, which published it first",
            remedy: "remove its key file and restart its agent",
            provoke: |scene| {
                // The one that sorts first is the intruder.
                for node in ["node9", "node8"] {
                    scene.add_node(node, &json!({}), &json!({}));
                    publish_key(scene, node);
                    if node == "node9" {
                        until_vouched_for(scene, node);
                    }
                }
                String::new()
            },
            mend: |scene| scene.kubectl(&["delete", "node", "node8", "node9"]),
        },
    ]
}

/// The operator has seen the node's key.
fn until_vouched_for(scene: &Scene, node: &str) {
    let path = format!("jsonpath={{.items[?(@.spec.nodeName==\"{node}\")].spec.wireguardKeys}}");
    eventually("the operator's word for the key", PATIENCE, || {
        let leases = scene.cluster.api.kubectl(&["get", "subnetleases", "-o", &path]).unwrap();
        leases.ok().unwrap().stdout.contains("hSDw")
    })
    .unwrap();
}
