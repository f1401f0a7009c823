//! An agent that is killed after any step of its plan, and the next one that ends the work.
//!
//! Needs the feature `failpoints`: `cargo test -p tartan-node-agent --features failpoints --test crash`.
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

use cluster::{Cluster, PATIENCE, vxlan, wait_until_reaches};
use tartan_lab::{HostView, eventually};

#[test]
fn an_agent_killed_after_any_step_leaves_what_the_next_one_can_finish() {
    let mut cluster = Cluster::leased(&[2], vxlan);
    let before = HostView::of(cluster.node("node1"), &["/etc/cni", "/run"]).unwrap();
    cluster.start_agent("node2");
    let mut died = 0;
    for steps in 1..=60 {
        let (code, _, said) = cluster.agent("node1", &["cleanup"]);
        assert_eq!(code, 0, "{said}");
        let difference = before.diff(&HostView::of(cluster.node("node1"), &["/etc/cni", "/run"]).unwrap());
        assert!(difference.is_empty(), "after a death at step {}:\n{difference}", steps - 1);
        let mut command = cluster.command("node1");
        command.env("TARTAN_TEST_ABORT_AFTER_STEPS", steps.to_string());
        cluster.start_command("node1", &command);
        let mut finished = false;
        eventually("the agent dies or finishes", PATIENCE, || {
            let (code, ..) = cluster.agent("node1", &["diff"]);
            finished = code == 0;
            let running = cluster.agents.get("node1").unwrap().is_running();
            finished || !running
        })
        .unwrap();
        let running = cluster.agents.get("node1").unwrap().is_running();
        if !running {
            died += 1;
            cluster.agents.remove("node1");
            cluster.start_agent("node1");
            eventually("the next agent finishes", PATIENCE, || cluster.agent("node1", &["diff"]).0 == 0)
                .unwrap();
        }
        cluster.stop_agent("node1");
        if running {
            break;
        }
    }
    assert!(died > 10, "only {died} steps were cut off: is the feature failpoints on?");
    cluster.start_agent("node1");
    cluster.wait_until_joined();
    let (one, two) = (cluster.node("node1").pod("a").unwrap(), cluster.node("node2").pod("b").unwrap());
    wait_until_reaches(&one, &two);
}
