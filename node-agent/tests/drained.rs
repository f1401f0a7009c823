//! An entry that is drained with the real operator and real agents: its nodes are emptied and join again one by one,
//! with blocks of another size, while pods of the others talk; at the end the entry goes.
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
use serde_json::{Value, json};
use tartan_lab::{
    FabricOptions, Pod, eventually, eventually_ok,
    traffic::{Echo, Load, LoadOptions},
};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn set_network(cluster: &Cluster, entries: Value) {
    cluster.create(&json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": { "cidrs": entries, "reclaimAfter": "2s" },
    }));
}

fn wait_until_draining_is(cluster: &Cluster, reason: &str, words: &[&str]) {
    eventually_ok(&format!("Draining for {reason}, naming {words:?}"), PATIENCE, || {
        let found = cluster.condition_of("clusternetwork", "default", "Draining");
        anyhow::ensure!(found.1 == reason && words.iter().all(|word| found.2.contains(word)), "{found:?}");
        Ok(())
    })
    .unwrap();
}

/// The pods of a node are gone; its Node is deleted and registers anew.
fn join_again(cluster: &Cluster, node: &str) {
    cluster.api.kubectl(&["delete", "node", node]).unwrap().ok().unwrap();
    cluster.register(node);
}

fn pod_of_block(cluster: &Cluster, node: &str, prefix: &str) -> Pod {
    eventually(&format!("{node} offers {prefix}"), PATIENCE, || {
        let offered = cluster.node(node).read("/etc/cni/net.d/05-tartan.conflist").unwrap_or_default();
        offered.contains(prefix) && !offered.contains("10.244.")
    })
    .unwrap();
    cluster.node(node).pod("new").unwrap()
}

#[test]
fn nodes_of_a_drained_entry_join_again_with_blocks_of_another_size_and_the_entry_goes() {
    let old = json!({ "name": "old", "cidr": "10.244.0.0/22", "nodeMaskSize": 24 });
    let drained = json!({ "name": "old", "cidr": "10.244.0.0/22", "nodeMaskSize": 24, "drain": true });
    let new = json!({ "name": "new", "cidr": "10.250.0.0/24", "nodeMaskSize": 26 });
    let mut cluster = Cluster::bare_on(FabricOptions::with_segments(&[1, 1, 1]));
    set_network(&cluster, json!([old]));
    cluster.start_operator();
    NODES.iter().for_each(|node| cluster.start_agent(node));
    NODES.iter().for_each(|node| cluster.wait_until_ready(node));
    let mut pods: Vec<Pod> = NODES.iter().map(|node| cluster.node(node).pod("old").unwrap()).collect();

    set_network(&cluster, json!([drained, new]));
    wait_until_draining_is(&cluster, "EntryInUse", &["3 leases", "node1", "node2", "node3"]);
    for node in NODES {
        let leaves = pods.remove(0);
        // Between the two that stay, all the time.
        let (from, to) = (&pods[0], &pods[1]);
        let echo = Echo::start(to, 7000).unwrap();
        wait_until_reaches(from, to);
        let options = LoadOptions { udp_rate: 300, tcp_flows: 2, ..LoadOptions::default() };
        let load = Load::start(from, &format!("stays-{node}"), (to.ip(), 7000), &options).unwrap();

        leaves.remove(cluster.node(node)).unwrap();
        join_again(&cluster, node);
        let again = pod_of_block(&cluster, node, "10.250.0.");
        for other in [from, to] {
            wait_until_reaches(&again, other);
            wait_until_reaches(other, &again);
        }
        let report = load.finish().unwrap();
        println!("while {node} joins again: {report}");
        assert!(report.sent() > 100, "{report}");
        assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
        drop(echo);
        pods.push(again);
    }
    wait_until_draining_is(&cluster, "EntryEmpty", &["no lease is left in entry old"]);
    set_network(&cluster, json!([new]));
    wait_until_draining_is(&cluster, "AsExpected", &[]);
    assert_eq!(cluster.condition_of("clusternetwork", "default", "Accepted").0, "True");
    let leases = cluster.api.kubectl(&["get", "subnetleases", "-oname"]).unwrap().ok().unwrap().stdout;
    assert_eq!(leases.matches("10.250.0.").count(), 3, "{leases}");
    assert_eq!(leases.lines().count(), 3, "{leases}");
    wait_until_reaches(&pods[0], &pods[2]);
}
