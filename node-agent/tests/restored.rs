//! A cluster whose API server gets an old backup back, with versions that it gave out before: what was written since is
//! gone, programs that watched have seen more than there is, and pods go on talking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod cluster;

use cluster::{Cluster, PATIENCE, wait_until_reaches};
use serde_json::json;
use tartan_lab::{
    eventually,
    traffic::{Echo, Load, LoadOptions},
};

#[test]
fn after_a_restore_pods_talk_on_and_what_is_written_then_is_seen_by_all() {
    let mut cluster = Cluster::bare(&[1, 1, 1, 1]);
    cluster.create_network("10.244.0.0/16");
    // Two nodes register later than the backup is made.
    cluster.api.kubectl(&["delete", "node", "node3", "node4"]).unwrap().ok().unwrap();
    cluster.start_operator();
    for name in ["node1", "node2", "node3", "node4"] {
        cluster.start_agent(name);
    }
    for name in ["node1", "node2"] {
        cluster.wait_until_ready(name);
    }
    let [one, two] = ["node1", "node2"].map(|name| cluster.node(name).pod("a").unwrap());
    let _echo = Echo::start(&two, 7000).unwrap();
    wait_until_reaches(&one, &two);
    let options = LoadOptions { udp_rate: 300, tcp_flows: 2, ..LoadOptions::default() };
    let load = Load::start(&one, "kept", (two.ip(), 7000), &options).unwrap();

    let backup = cluster.api.back_up().unwrap();
    let [three, four] = ["node3", "node4"].map(|name| {
        cluster.register(name);
        cluster.wait_until_ready(name);
        let pod = cluster.node(name).pod("a").unwrap();
        wait_until_reaches(&one, &pod);
        pod
    });
    // Versions that the backup knows nothing of.
    let object = |number: usize| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("c{number}"), "namespace": "default" } });
    cluster.create(
        &json!({ "apiVersion": "v1", "kind": "List", "items": (0..300).map(object).collect::<Vec<_>>() }),
    );

    cluster.api.restore(&backup).unwrap();
    let nodes = cluster.api.kubectl(&["get", "nodes", "-oname"]).unwrap().ok().unwrap().stdout;
    assert!(!nodes.contains("node3") && !nodes.contains("node4"), "{nodes}");
    // Kubelets register them again, the last one first. Their pods have addresses of blocks that no lease names any more.
    for (name, before) in [("node4", &four), ("node3", &three)] {
        cluster.register(name);
        cluster.wait_until_ready(name);
        let again = cluster.node(name).pod("b").unwrap();
        for pod in [&one, &two] {
            wait_until_reaches(pod, &again);
            wait_until_reaches(pod, before);
        }
    }
    cluster.api.kubectl(&["delete", "node", "node3"]).unwrap().ok().unwrap();
    let released = || cluster.field("subnetlease", "10.244.2.0-24", ".spec.releasedAt");
    eventually("the lease is released", PATIENCE, || !released().is_empty()).unwrap();
    let report = load.finish().unwrap();
    println!("meanwhile: {report}");
    assert!(report.sent() > 1000, "{report}");
    assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
}
