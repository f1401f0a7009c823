//! Rows about what another node publishes, by mistake or by will: it costs that node, and no other.

use serde_json::{Value, json};
use tartan_lab::eventually_ok;

use super::{
    cluster::PATIENCE,
    scene::{Scene, nothing},
    table::{Answer, Row},
};

/// A node whose agent says this.
fn publish(scene: &Scene, node: &str, status: &Value) {
    scene.add_node(node, &json!({}), &json!({}));
    let said = patch(scene, node, status);
    assert!(said.success(), "{}", said.stderr);
}

fn patch(scene: &Scene, node: &str, status: &Value) -> tartan_lab::Output {
    // A file: a large one is longer than a command line may be.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({ "status": status }).to_string()).unwrap();
    let file = format!("--patch-file={}", file.path().display());
    let arguments = ["patch", &scene.lease_of(node), "--subresource=status", "--type=merge", &file];
    scene.api().kubectl(&arguments).unwrap()
}

/// Waits until the operator has told the agents.
fn vouched_for(scene: &Scene, node: &str, address: &str) {
    let label = format!("tartan.network/node={node}");
    let path = "jsonpath={.items[*].spec.nodeAddresses}";
    eventually_ok("the operator to vouch", PATIENCE, || {
        let said = scene.api().kubectl(&["get", "subnetleases", "-l", &label, "-o", path])?.ok()?.stdout;
        anyhow::ensure!(said.contains(address), "{said}");
        Ok(())
    })
    .unwrap();
}

fn go(scene: &mut Scene) {
    scene.kubectl(&["delete", "node", "node8", "node9", "--ignore-not-found"]);
}

pub fn rows() -> Vec<Row> {
    let invalid = |input, names, remedy, provoke| Row {
        input,
        at: "condition Degraded of the NodeNetwork of each other node",
        answer: Answer::Condition("nodenetwork", "node2", "Degraded", "True"),
        reason: "PeerInvalid",
        names,
        remedy,
        provoke,
        mend: go,
    };
    vec![
        Row {
            input: "a lease's status with ten thousand end points",
            at: "refused by the API server",
            answer: Answer::Refused,
            reason: "",
            names: "status.endpoints",
            remedy: "must have at most 16 items",
            provoke: |scene| {
                let endpoints = vec![json!({ "type": "host-gw" }); 10_000];
                patch(scene, "node2", &json!({ "endpoints": endpoints })).stderr
            },
            mend: nothing,
        },
        invalid(
            "two nodes with one MAC address of their tunnels",
            "its tunnel end point 02:00:00:00:00:09 is that of node node8",
            "until it publishes its own",
            |scene| {
                for node in ["node8", "node9"] {
                    let endpoints = json!([{ "type": "vxlan", "vtepMAC": "02:00:00:00:00:09" }]);
                    publish(scene, node, &json!({ "endpoints": endpoints }));
                }
                String::new()
            },
        ),
        Row {
            at: "condition of the NodeNetwork of the one that is not believed",
            answer: Answer::Condition("nodenetwork", "node9", "Leased", "True"),
            reason: "AddressTakenOver",
            ..invalid(
                "a node publishes the address of another",
                "which is that of node node1",
                "give this node an address of its own (annotation tartan.network/public-ips)",
                |scene| {
                    let address = scene.cluster.node("node1").address().to_string();
                    scene.has_addresses("node1", &json!([{ "type": "InternalIP", "address": address }]));
                    vouched_for(scene, "node1", &address);
                    publish(scene, "node9", &json!({ "publicIPs": [address] }));
                    String::new()
                },
            )
        },
    ]
}
