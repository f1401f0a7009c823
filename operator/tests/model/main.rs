//! Every history within bounds, of two operators that nobody elected: an exhaustive search.
//!
//! What runs is the operator's own code: its tables of objects ([`tartan_operator::world`]), its decisions
//! ([`tartan_operator::decide`]) and its requests ([`tartan_operator::execute`]). Modelled are the API server
//! and what may happen: watches lag, requests are lost, repeated and delayed, operators crash, clocks jump,
//! Nodes are marked, go and come back, blocks are taken into use, the administrator cuts the range anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod agent;
mod found;
mod hands;
mod laws;
mod mind;
mod objects;
mod server;
mod stage;
mod state;
mod steps;

use std::time::Instant;

use agent::Growth;
use mind::Mind;
use server::Admission;
use state::{Left, Stage};
use stateright::{Checker, HasDiscoveries, Model as _};
use steps::{Cluster, Step};

/// How many things happen to the cluster, beside what operators and agents do: two more, and it takes hours.
const MORE: &str = "TARTAN_MODEL_MORE";

/// One of each kind, two where it takes two to make a difference, and `in_all` at most.
fn anything(in_all: u8) -> Left {
    let left = Left { in_all, faults: 1, crashes: 2, jumps: 1, hours: 1, marks: 1, ..Left::default() };
    Left { removals: 1, joins: 2, edits: 2, ..left }
}

/// Of three Nodes, `settled` use their leases already, and `waiting` have just joined.
fn cluster(mode: &'static str, settled: usize, waiting: usize, left: Left) -> Cluster {
    Cluster {
        mind: Mind::new(mode),
        admission: Admission::Exact,
        left,
        begin: Stage::First,
        settled,
        waiting,
        growth: None,
    }
}

fn more() -> u8 {
    std::env::var(MORE).map_or(0, |more| more.parse().expect("a small number"))
}

/// Visits every state. The steps to one where a law is broken, by law.
fn search(name: &str, cluster: Cluster) -> Vec<(&'static str, Vec<Step>)> {
    let begin = Instant::now();
    let checker = cluster.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "model: {name}: {} states, {} steps between them, up to {} deep, in {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begin.elapsed()
    );
    let broken = laws::LAWS.into_iter().filter_map(|law| {
        let path = checker.discovery(law)?;
        Some((law, path.into_vec().into_iter().filter_map(|(_, step)| step).collect()))
    });
    broken.collect()
}

#[track_caller]
fn check(name: &str, cluster: Cluster) {
    let broken = search(name, cluster);
    let told: Vec<String> = broken
        .iter()
        .map(|(law, steps)| {
            let steps: Vec<String> = steps.iter().map(|step| format!("\n    {step:?}")).collect();
            format!("broken: {law}, by{}", steps.concat())
        })
        .collect();
    assert!(told.is_empty(), "{name}: {}", told.join("\n"));
}

#[test]
fn whatever_happens_to_three_nodes_leases_stay_disjoint_and_nodes_get_theirs() {
    check("two settled nodes", cluster("Ignore", 2, 0, anything(3 + more())));
    check("a third that waits", cluster("Ignore", 2, 1, anything(2 + more())));
}

#[test]
fn whatever_happens_while_nodes_are_told_their_blocks_they_keep_them() {
    check("two settled nodes, told", cluster("Mirror", 2, 0, anything(2 + more())));
}

#[test]
fn a_node_that_goes_and_comes_back_while_writes_get_lost_has_its_block_again() {
    let left = Left { in_all: 99, faults: 1, removals: 1, joins: 1, ..Left::default() };
    check("gone and back", cluster("Ignore", 2, 1, left));
    let left = Left { marks: 1, crashes: 1, faults: 0, ..left };
    check("marked, gone and back, a crash", cluster("Ignore", 2, 0, left));
}

#[test]
fn a_range_that_is_cut_anew_under_delayed_creates_holds_no_overlap() {
    let left = Left { in_all: 99, faults: 1, joins: 1, edits: 2, ..Left::default() };
    check("cut anew", cluster("Ignore", 2, 0, left));
    check("cut anew twice", cluster("Ignore", 0, 1, Left { edits: 4, joins: 0, ..left }));
}

#[test]
fn a_node_that_grows_keeps_every_block_of_which_a_pod_has_an_address() {
    let narrow = |growth, left| Cluster {
        growth: Some(growth),
        begin: Stage::Narrow,
        ..cluster("Ignore", 1, 0, left)
    };
    // Before one of them has the only block that is left, and after.
    let left = Left { in_all: 3 + more(), hours: 1, pods: 2, joins: 1, ..Left::default() };
    check("a full node and one that joins", narrow(Growth::Full, left));
    let left = Left { in_all: 2 + more(), faults: 1, pods: 1, removals: 1, joins: 1, ..Left::default() };
    check("a further block goes back", narrow(Growth::Over, left));
}

#[test]
fn a_node_gets_the_block_that_is_kept_for_it_once_nobody_holds_it() {
    let left = Left { in_all: 99, faults: 1, removals: 1, reservations: 1, ..Left::default() };
    check("a reservation", cluster("Ignore", 1, 1, left));
}

/// What the chart's admission policy for leases is there for: the name alone locks a block only against
/// others of its size.
#[test]
fn without_the_policy_that_leases_are_blocks_of_an_entry_two_operators_can_overlap() {
    let left = Left { in_all: 99, joins: 1, edits: 2, ..Left::default() };
    let unguarded = Cluster { admission: Admission::Absent, ..cluster("Ignore", 0, 1, left) };
    let broken = search("cut anew, without the policy", unguarded);
    assert!(broken.iter().any(|(law, _)| *law == laws::OVERLAP), "the model is blind: {broken:?}");
}
