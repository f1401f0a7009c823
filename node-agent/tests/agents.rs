//! Real agents on real kernels: three nodes on two segments, an API server, objects written by the test.
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

use cluster::{Cluster, host_gw, routes, vxlan, wait_until_reaches};
use serde_json::Value;
use tartan_lab::Pod;

fn pods(cluster: &Cluster) -> Vec<Pod> {
    cluster.fabric.nodes().iter().map(|node| node.pod("a").unwrap()).collect()
}

#[test]
fn pods_reach_each_other_through_the_tunnel_and_by_plain_routes() {
    for (backend, same_segment) in [(vxlan as fn(usize) -> Value, "dev tartan-vxlan"), (host_gw, "dev eth0")]
    {
        let mut cluster = Cluster::leased(&[2, 1], backend);
        cluster.start_all();
        cluster.wait_until_joined();
        let pods = pods(&cluster);
        for from in &pods {
            for to in pods.iter().filter(|to| to.name() != from.name()) {
                wait_until_reaches(from, to);
            }
        }
        let seen = routes(cluster.node("node1"));
        let to =
            |subnet: &str| seen.lines().find(|line| line.starts_with(subnet)).unwrap_or_default().to_owned();
        assert!(to("10.244.2.0/24").contains(same_segment), "{seen}");
        assert!(to("10.244.3.0/24").contains("dev tartan-vxlan"), "{seen}");
        let reason =
            cluster.field("node", "node1", ".status.conditions[?(@.type==\"NetworkUnavailable\")].reason");
        assert_eq!(reason, "TartanReady");
        assert_eq!(cluster.http("node1", "/readyz"), "ok\n");
        let metrics = cluster.http("node1", "/metrics");
        for expected in [
            "tartan_agent_peers{family=\"IPv4\",backend=\"vxlan\"",
            "tartan_agent_ready{reason=\"AsExpected\"} 1",
            "tartan_agent_owned_objects{kind=\"route\"} 2",
            "tartan_agent_nft_packets_total{counter=\"stray\"}",
            "tartan_agent_device_transmit_bytes_total{device=\"tartan-vxlan\"}",
            "process_resident_memory_bytes",
            "tartan_agent_round_duration_seconds_count",
        ] {
            assert!(metrics.contains(expected), "no {expected} in\n{metrics}");
        }
        let (code, text, error) = cluster.agent("node1", &["diff"]);
        assert_eq!(code, 0, "{text}{error}");
        assert!(text.contains("Nothing to change."), "{text}");
    }
}
