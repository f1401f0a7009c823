//! What happens to a cluster in operation, and what its traffic may notice of it.

use std::time::Duration;

use serde_json::Value;
use tartan_lab::{Cluster, eventually};
use xtask::cluster::{self, PATIENCE};

use super::{VALUES, classes::Scene, kubectl, let_flow, watch};

/// Its nodes.
const RACK: [&str; 2] = ["node1", "node2"];

/// Programs are replaced and killed, one after the other. Returns the faults.
pub fn of_programs(cluster: &Cluster, scene: &Scene) -> Vec<String> {
    let mut faults = vec![];
    let mut during = |title: &str, disturb: &dyn Fn()| {
        faults.extend(watch::during(scene, title, Duration::ZERO, disturb));
    };

    during("nothing happens: what is lost here is lost by the machine", &|| {
        let_flow(Duration::from_secs(3));
    });
    during("the agents are replaced one by one, as by an upgrade", &|| {
        watch::roll(cluster, "tartan-node-agent");
    });
    during("all agents are killed", &|| watch::kill(cluster, "agent"));
    during("the operator is killed", &|| watch::kill(cluster, "operator"));
    faults
}

/// A node and a pool go from plain routes to the tunnel and back. Returns the faults.
pub fn of_pools(cluster: &Cluster, scene: &Scene) -> Vec<String> {
    let mut faults = vec![];
    let mut during = |title: &str, disturb: &dyn Fn()| {
        faults.extend(watch::during(scene, title, Duration::ZERO, disturb));
    };

    let move_node = |place: &str, device: &str| {
        kubectl(cluster, &["label", "node", "node2", "--overwrite", &format!("place={place}")]);
        watch::wait_for_path(scene, cluster, RACK, device);
    };
    during("a node moves to the pool that tunnels", &|| move_node("remote", "tartan-vxlan"));
    during("and back to that of plain routes", &|| move_node("rack", "eth0"));
    let edit_pool = |values: &str, device: &str| {
        cluster::helm(cluster, "upgrade", values).unwrap();
        watch::wait_for_path(scene, cluster, RACK, device);
        let settled = ["wait", "networkpool", "rack", "--for=condition=Progressing=False", "--timeout=60s"];
        kubectl(cluster, &settled);
    };
    let tunnelled = VALUES.replace("type: host-gw", "type: vxlan");
    during("a pool's backend becomes vxlan", &|| edit_pool(&tunnelled, "tartan-vxlan"));
    during("and host-gw again", &|| edit_pool(VALUES, "eth0"));
    during("a pool is to become ipip, and its backend is taken back", &|| ipip_and_back(cluster, scene));
    faults
}

/// Where the kernel has ipip the pool moves; where it hasn't, nothing moves, and both nodes are named.
fn ipip_and_back(cluster: &Cluster, scene: &Scene) {
    let probe = "ip link add probe type ipip local 198.18.0.99 && ip link delete probe";
    let has_ipip = cluster.node("node1").script(probe).is_ok();
    cluster::helm(cluster, "upgrade", &VALUES.replace("type: host-gw", "type: ipip")).unwrap();
    if has_ipip {
        watch::wait_for_path(scene, cluster, RACK, "tartan-ipip");
    } else {
        let waiting = serde_json::json!(["node1", "node2"]);
        eventually("both nodes of the pool to be waited for", PATIENCE, || {
            let text = kubectl(cluster, &["get", "networkpool", "rack", "-o", "json"]);
            let pool: Value = serde_json::from_str(&text).unwrap();
            let status = &pool["status"]["transition"];
            status["phase"] == "Preparing" && status["waitingFor"] == waiting
        })
        .unwrap();
        let wait = ["wait", "networkpool", "rack", "--for=condition=Progressing=True", "--timeout=10s"];
        kubectl(cluster, &wait);
        let said = kubectl(cluster, &["get", "nodenetwork", "node1", "-o", "jsonpath={.status.unavailable}"]);
        assert_eq!(said, r#"["ipip"]"#);
    }
    cluster::helm(cluster, "upgrade", VALUES).unwrap();
    watch::wait_for_path(scene, cluster, RACK, "eth0");
    eventually("ipip to be received no more", PATIENCE, || {
        let text = kubectl(cluster, &["get", "nodenetworks", "-o", "json"]);
        !text.contains("\"ipip\"")
    })
    .unwrap();
}
