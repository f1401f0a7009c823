//! Bad input, one table: what somebody does wrong, where the answer is, what it names, and the remedy.
//!
//! The real API server with the chart's admission policies, the real operator and a real agent on each of two nodes. Every row is provoked while
//! packets flow between two pods, and not one may be lost; then the row is mended, and its answer must go away. What
//! takes another cluster is provoked there: see elsewhere.rs.
//! docs/bad-input.md is made from the same rows: `TARTAN_BLESS=1 cargo test -p tartan-node-agent --test bad_input`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../cluster/mod.rs"]
mod cluster;
mod elsewhere;
mod host;
mod ipam;
mod leases;
mod objects;
mod policies;
mod programs;
mod scene;
mod statuses;
mod table;
mod wireguard;

use std::panic::{AssertUnwindSafe, catch_unwind};

use scene::Scene;
use table::Row;
use tartan_lab::traffic::{Echo, Load, LoadOptions};

/// What an administrator does to objects and hosts.
fn of_administrators() -> Vec<Row> {
    [objects::rows(), leases::rows(), ipam::rows(), host::rows()].into_iter().flatten().collect()
}

/// What becomes of the backends' programs and keys, and what other nodes publish.
fn of_backends() -> Vec<Row> {
    [wireguard::rows(), programs::rows(), statuses::rows()].into_iter().flatten().collect()
}

#[test]
fn bad_input_is_answered_in_the_right_place_and_what_worked_goes_on() {
    provoke(&of_administrators());
}

#[test]
fn bad_keys_programs_and_statuses_are_answered_in_the_right_place_and_what_worked_goes_on() {
    provoke(&of_backends());
}

#[test]
fn the_page_has_every_row() {
    table::check_page(&[of_administrators(), of_backends()].concat(), &elsewhere::ALL);
}

/// One after the other, on one cluster.
fn provoke(rows: &[Row]) {
    let mut scene = Scene::set();
    let _echo = Echo::start(&scene.pods.1, 7000).unwrap();
    // All of them, so that one red run shows all that is red.
    let mut faults: Vec<String> = vec![];
    for row in rows {
        let options = LoadOptions { udp_rate: 200, tcp_flows: 2, ..LoadOptions::default() };
        let load = Load::start(&scene.pods.0, "through", (scene.pods.1.ip(), 7000), &options).unwrap();
        let provoked = catch_unwind(AssertUnwindSafe(|| scene.provoke(row)));
        faults.extend(provoked.unwrap_or_else(|_| panic!("{}; before it: {}", row.input, faults.join("\n"))));
        let report = load.finish().unwrap();
        assert!(report.sent() > 0, "{}: {report}", row.input);
        if report.lost() + report.connections_lost() > 0 {
            faults.push(format!("{}: {report}", row.input));
        }
        println!("{:58} {}", row.input, row.at);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
