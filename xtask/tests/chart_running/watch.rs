//! Traffic while something is done to a cluster, and what is done to it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tartan_lab::{Cluster, eventually, run};
use xtask::cluster::{self, NAMESPACE, PATIENCE};

use super::{chapter, classes::Scene, kubectl, let_flow};

/// Lets traffic of every class flow meanwhile. Returns the faults: see [`super::classes::Traffic::finish`].
pub fn during(scene: &Scene, title: &str, allowed: Duration, disturb: &dyn Fn()) -> Vec<String> {
    chapter(title);
    let traffic = scene.traffic();
    let begin = Instant::now();
    disturb();
    println!("   done after {:.1} s", begin.elapsed().as_secs_f64());
    // The effects of what was done last.
    let_flow(Duration::from_secs(2));
    traffic.finish(title, allowed)
}

/// Replaces the pods of a `DaemonSet` as its strategy says, and waits for it.
pub fn roll(cluster: &Cluster, name: &str) {
    let set = ["-n", NAMESPACE, &format!("daemonset/{name}")];
    kubectl(cluster, &[&["rollout", "restart"], &set[..]].concat());
    kubectl(cluster, &[&["rollout", "status", "--timeout=180s"], &set[..]].concat());
}

/// Kills every process of this component without warning, and waits until all are back.
pub fn kill(cluster: &Cluster, component: &str) {
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

/// Waits until both nodes send to each other by this device.
pub fn wait_for_path(scene: &Scene, cluster: &Cluster, [one, other]: [&str; 2], device: &str) {
    for (from, to) in [(one, other), (other, one)] {
        let address = scene.address_on(to).to_string();
        eventually(&format!("{from} to send to {to} by {device}"), PATIENCE, || {
            let route = cluster.node(from).exec(&["ip", "route", "get", &address]).unwrap().stdout;
            route.contains(&format!("dev {device} "))
        })
        .unwrap();
    }
}
