//! What happens to a cluster in operation, and what its traffic may notice of it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tartan_lab::{Cluster, eventually, run};
use xtask::cluster::{self, NAMESPACE, PATIENCE};

use super::{VALUES, chapter, classes::Scene, kubectl, let_flow};

/// All of them, one after the other. Returns the faults.
pub fn all(cluster: &Cluster, scene: &Scene) -> Vec<String> {
    let mut faults = vec![];
    let mut during = |title: &str, disturb: &dyn Fn()| {
        chapter(title);
        let traffic = scene.traffic();
        let begin = Instant::now();
        disturb();
        println!("   done after {:.1} s", begin.elapsed().as_secs_f64());
        // The effects of what was done last.
        let_flow(Duration::from_secs(2));
        faults.extend(traffic.finish(title));
    };

    during("nothing happens: what is lost here is lost by the machine", &|| {
        let_flow(Duration::from_secs(3));
    });
    during("the agents are replaced one by one, as by an upgrade", &|| {
        let agents = ["-n", NAMESPACE, "daemonset/tartan-node-agent"];
        kubectl(cluster, &[&["rollout", "restart"], &agents[..]].concat());
        kubectl(cluster, &[&["rollout", "status", "--timeout=180s"], &agents[..]].concat());
    });
    during("all agents are killed", &|| kill(cluster, "agent"));
    during("the operator is killed", &|| kill(cluster, "operator"));
    let move_node = |place: &str, device: &str| {
        kubectl(cluster, &["label", "node", "node2", "--overwrite", &format!("place={place}")]);
        wait_for_path(scene, cluster, device);
    };
    during("a node moves to the pool that tunnels", &|| move_node("remote", "tartan-vxlan"));
    during("and back to that of plain routes", &|| move_node("rack", "eth0"));
    let edit_pool = |values: &str, device: &str| {
        cluster::helm(cluster, "upgrade", values).unwrap();
        wait_for_path(scene, cluster, device);
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
        wait_for_path(scene, cluster, "tartan-ipip");
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
    wait_for_path(scene, cluster, "eth0");
    eventually("ipip to be received no more", PATIENCE, || {
        let text = kubectl(cluster, &["get", "nodenetworks", "-o", "json"]);
        !text.contains("\"ipip\"")
    })
    .unwrap();
}

/// Kills every process of this component without warning, and waits until all are back.
fn kill(cluster: &Cluster, component: &str) {
    let before = containers(cluster, component);
    for (pod, ..) in &before {
        let process = cluster.pod(NAMESPACE, pod).unwrap().pid().to_string();
        run(std::process::Command::new("kill").args(["-KILL", &process])).unwrap().ok().unwrap();
    }
    eventually(&format!("every {component} to be back"), PATIENCE, || {
        let now = containers(cluster, component);
        let is_back = |(pod, restarts, _): &(String, u64, bool)| {
            now.iter().any(|(name, count, ready)| name == pod && count > restarts && *ready)
        };
        before.iter().all(is_back)
    })
    .unwrap();
    cluster::wait_ready(cluster).unwrap();
}

/// The pods of a component, how often each was restarted, and whether it is ready.
fn containers(cluster: &Cluster, component: &str) -> Vec<(String, u64, bool)> {
    let selector = format!("app.kubernetes.io/component={component}");
    let text = kubectl(cluster, &["get", "pods", "-n", NAMESPACE, "-l", &selector, "-o", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    let pods: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| {
            let container = &pod["status"]["containerStatuses"][0];
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            (name, container["restartCount"].as_u64().unwrap_or(0), container["ready"] == true)
        })
        .collect();
    assert!(!pods.is_empty(), "no {component} runs");
    pods
}

/// Waits until both nodes of the rack send to each other by this device.
fn wait_for_path(scene: &Scene, cluster: &Cluster, device: &str) {
    for (from, to) in [("node1", "node2"), ("node2", "node1")] {
        let address = scene.address_on(to).to_string();
        eventually(&format!("{from} to send to {to} by {device}"), PATIENCE, || {
            let route = cluster.node(from).exec(&["ip", "route", "get", &address]).unwrap().stdout;
            route.contains(&format!("dev {device} "))
        })
        .unwrap();
    }
}
