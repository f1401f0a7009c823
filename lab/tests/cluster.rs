//! The whole cluster: it comes up without a pod network, runs pods once it has one, and leaves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tartan_lab::traffic::{Echo, Load, LoadOptions};
use tartan_lab::{Cluster, ClusterOptions, eventually_ok, images};

/// A pod network for a cluster of which only single nodes are looked at.
fn conflist(block: usize) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "lab", "plugins": [
            {{"type": "bridge", "bridge": "tartan0", "isGateway": true, "ipMasq": true,
              "ipam": {{"type": "host-local", "dataDir": "/run/cni",
                        "ranges": [[{{"subnet": "10.244.{block}.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#
    )
}

fn pod(name: &str, node: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{name}"}}}},
            "spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 0, "containers": [
                {{"name": "c", "image": "{}", "args": ["netexec", "--http-port=8080"]}}]}}}}"#,
        images::TEST_IMAGE
    )
}

/// What belongs to the kernel as a whole, and kubelet would like to set.
fn kernel_settings() -> String {
    let names = ["vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys"];
    let output =
        std::process::Command::new("sysctl").args(names).arg("net.ipv4.ip_forward").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_cluster_waits_for_a_pod_network_and_then_runs_pods() {
    let settings = kernel_settings();
    let start = Instant::now();
    let mut cluster = Cluster::start(ClusterOptions::with_segments(&[2, 1])).unwrap();
    println!("up in {:?}", start.elapsed());
    let ready =
        r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}"#;
    let nodes = cluster.kubectl(&["get", "nodes", "-o", ready]).unwrap().ok().unwrap().stdout;
    assert_eq!(nodes.trim(), "node1=False node2=False node3=False");

    for node in cluster.nodes() {
        node.write("/etc/cni/net.d/10-lab.conflist", &conflist(node.number())).unwrap();
    }
    cluster
        .kubectl(&["wait", "node", "--all", "--for=condition=Ready", "--timeout=60s"])
        .unwrap()
        .ok()
        .unwrap();
    println!("ready in {:?}", start.elapsed());

    cluster.apply(&pod("a", "node1")).unwrap().ok().unwrap();
    cluster.kubectl(&["expose", "pod", "a", "--port=80", "--target-port=8080"]).unwrap().ok().unwrap();
    cluster.kubectl(&["wait", "pod", "a", "--for=condition=Ready", "--timeout=60s"]).unwrap().ok().unwrap();
    println!("pod in {:?}", start.elapsed());
    let ip = cluster.kubectl(&["get", "service", "a", "-o", "jsonpath={.spec.clusterIP}"]).unwrap().stdout;
    eventually_ok("the Service answers", Duration::from_secs(20), || {
        cluster.node("node1").exec(&["curl", "-sf", "-m", "1", &format!("http://{ip}/hostname")])?.ok()
    })
    .unwrap();
    let name = cluster.kubectl(&["exec", "a", "--", "hostname"]).unwrap().ok().unwrap().stdout;
    assert_eq!(name.trim(), "a");
    assert!(cluster.kubectl(&["logs", "a"]).unwrap().ok().is_ok());

    let inside = cluster.pod("default", "a").unwrap().exec(&["ip", "-4", "address", "show", "eth0"]).unwrap();
    assert!(inside.stdout.contains("10.244.1."), "{inside:?}");

    let pod = cluster.pod("default", "a").unwrap();
    let echo = Echo::start(&pod, 7000).unwrap();
    let address: IpAddr = cluster
        .kubectl(&["get", "pod", "a", "-o", "jsonpath={.status.podIP}"])
        .unwrap()
        .stdout
        .parse()
        .unwrap();
    let load = Load::start(cluster.node("node1"), "to-a", (address, 7000), &LoadOptions::default()).unwrap();
    let report = load.finish().unwrap();
    assert_eq!(report.lost(), 0, "{report}");
    drop((pod, echo));
    assert_eq!(kernel_settings(), settings);

    let fourth = cluster.add_node(1).unwrap();
    assert_eq!(fourth, "node4");
    cluster.reboot_node("node2").unwrap();
    assert!(cluster.node("node2").read("/etc/cni/net.d/10-lab.conflist").is_ok());
    cluster.remove_node("node4").unwrap();

    let (directory, name) = (cluster.directory().to_owned(), cluster.name().to_owned());
    drop(cluster);
    assert!(!directory.exists());
    let cgroups = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-name"])
        .arg(format!("*{name}*"))
        .output();
    assert_eq!(String::from_utf8(cgroups.unwrap().stdout).unwrap(), "");
    println!("gone after {:?}", start.elapsed());
}
