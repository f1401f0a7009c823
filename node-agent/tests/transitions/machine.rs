//! The scenarios in a virtual machine, where the kernel has everything. `page` measures on the host too.

mod page;

use std::time::Duration;

use tartan_lab::{
    ApiServer, ApiServerOptions, shipped,
    vm::{self, Kernel, Machine, Report},
};

use super::{certified, dissected, figures, matrix, ring, standing};

/// A machine without hardware support, on a busy host.
const LIMIT: Duration = Duration::from_secs(1200);
/// For all changes that there are.
const LONG: Duration = Duration::from_secs(3600);

const RING: &str = "ring::a_pool_goes_round_all_backends_and_back_and_no_more_is_lost_than_may_be";
const SEALED: &str = "sealed::no_packet_is_ever_clear_once_a_pool_is_encrypted_whatever_happens_to_its_nodes";
const MIXED: &str =
    "mixed::every_pair_of_a_mixed_cluster_has_the_path_of_the_table_or_is_refused_on_both_ends";
const INTERRUPTED: &str =
    "interrupted::a_change_that_is_interrupted_at_each_step_loses_nothing_and_ends_as_asked";
const INTERRUPTED_IPSEC: &str =
    "daemon::a_change_to_ipsec_that_is_interrupted_at_each_step_loses_little_and_ends_as_asked";
const NODE_OFF: &str = "interrupted::a_node_that_is_off_is_waited_for_and_the_others_lose_nothing";
const OFF: [&str; 3] = [
    "off::a_change_waits_for_a_node_that_is_off_and_names_it_and_the_others_lose_nothing",
    "off::past_the_deadline_the_others_go_on_without_a_node_that_is_off_and_it_is_found_by_the_new_backend",
    "off::a_change_that_is_taken_back_while_a_node_is_off_leaves_all_as_it_was",
];
const UNFIT: &str = "unfit::what_is_wrong_with_ipsec_or_the_kernel_is_told_and_what_worked_goes_on";
const DAEMON: &str =
    "daemon::an_ike_daemon_that_is_killed_in_the_middle_of_a_change_costs_no_path_and_nothing_goes_in_clear";
const CERTIFIED: &str = "certified::nodes_are_believed_by_their_certificates_and_by_them_alone";
const ROTATION: &str = "rotation::keys_are_rotated_by_an_edit_and_no_packet_is_lost";
const MATRIX: &str = "matrix::every_change_is_measured";
const SHRUNK: &str = "shrunk::a_connection_in_full_packets_outlives_changes_that_leave_it_less_room";
const SIX: &str = "six::a_pool_without_ipv4_goes_through_all_backends_of_ipv6";
const MOVED: &str = "moved::a_node_whose_address_changes_is_reached_at_the_new_one_by_every_backend";
const DIRECT: &str = "direct::plain_routes_of_ipip_come_and_go_and_no_packet_is_lost";
const FIGURES: &str = "figures::every_backend_beside_the_path_between_nodes";

/// Runs one test of this program in a machine.
fn run(kernel: Kernel, test: &str, limit: Duration) -> Report {
    run_with(kernel, test, limit, |machine| machine)
}

/// The same in a machine that has `more`.
fn run_with(kernel: Kernel, test: &str, limit: Duration, more: impl FnOnce(Machine) -> Machine) -> Report {
    let api = ApiServer::start(ApiServerOptions::default()).unwrap();
    let mut machine =
        Machine::new(kernel, std::env::current_exe().unwrap()).with_lab().unwrap().reaching(&api).unwrap();
    // As they are shipped: emulated, what is not optimized takes all of the processors that packets need.
    for program in ["tartan-node-agent", "tartan-operator", "tartan-forwarder"] {
        machine = machine.program(shipped(program).unwrap(), vm::program(program));
    }
    let machine = more(machine)
        .program("/usr/bin/iperf3", "/usr/sbin/iperf3")
        .strongswan()
        .arguments(&["--exact", test, "--include-ignored", "--nocapture"])
        .environment(standing::SLOWER, &std::env::var(standing::SLOWER).unwrap_or_else(|_| "1".into()))
        .memory(2048);
    let show = |line: &str| {
        if !line.starts_with(dissected::WORD) {
            println!("{line}");
        }
    };
    let report = machine.run(limit, show).unwrap().ok().unwrap();
    assert!(report.console.contains("1 passed"), "{}", report.console);
    println!("Linux {}: {test} took {:.0} s", kernel.series(), report.took.as_secs_f64());
    report
}

#[test]
fn a_pool_goes_round_all_backends_of_linux_6_12() {
    let report = run(Kernel::V6_12, RING, LIMIT);
    let (read, faults) = dissected::faults_on(&report.console);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(ring::RING.iter().all(|kind| read.contains(kind)), "only {read:?} were captured");
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn what_is_wrong_with_ipsec_is_told_on_linux_6_12() {
    run(Kernel::V6_12, UNFIT, LIMIT);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn no_packet_is_clear_once_a_pool_is_encrypted_on_linux_6_12() {
    run(Kernel::V6_12, SEALED, LIMIT);
}

/// Every backend is up and carries packets, also on the older kernel.
#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_mixed_cluster_has_the_paths_of_the_table_on_linux_6_1() {
    run(Kernel::V6_1, MIXED, LIMIT);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn what_one_kernel_does_the_other_does_too() {
    run(Kernel::V6_1, RING, LIMIT);
    run(Kernel::V6_1, SEALED, LIMIT);
    run(Kernel::V6_12, MIXED, LIMIT);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_to_an_encrypting_backend_is_interrupted_on_linux_6_12() {
    run(Kernel::V6_12, INTERRUPTED, LONG);
    run(Kernel::V6_12, NODE_OFF, LONG);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_to_ipsec_is_interrupted_on_linux_6_12() {
    run(Kernel::V6_12, INTERRUPTED_IPSEC, LONG);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn an_ike_daemon_is_killed_in_the_middle_of_changes_on_linux_6_12() {
    run(Kernel::V6_12, DAEMON, LONG);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn nodes_prove_who_they_are_by_certificates_on_linux_6_12() {
    let folder = tempfile::tempdir().unwrap();
    run_with(Kernel::V6_12, CERTIFIED, LIMIT, |machine| {
        machine.certificates(folder.path(), &certified::ALL).unwrap()
    });
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_connection_outlives_a_smaller_mtu_on_linux_6_12() {
    run(Kernel::V6_12, SHRUNK, LIMIT);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn plain_routes_of_ipip_come_and_go_on_linux_6_12() {
    run(Kernel::V6_12, DIRECT, LIMIT);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn keys_are_rotated_under_traffic_on_linux_6_12() {
    run(Kernel::V6_12, ROTATION, LIMIT);
}

/// What encrypts has nothing that stands in for it.
#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_to_an_encrypting_backend_goes_on_without_a_node_that_is_off_on_linux_6_12() {
    for test in OFF {
        run(Kernel::V6_12, test, LONG);
    }
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_pool_without_ipv4_goes_through_all_backends_of_linux_6_12() {
    run(Kernel::V6_12, SIX, LIMIT);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_node_with_another_address_is_reached_by_every_backend_of_linux_6_12() {
    run(Kernel::V6_12, MOVED, LIMIT);
}

/// Its rows are for docs/benchmarks.md.
#[test]
#[ignore = "minutes: cargo xtask bench --part machine"]
fn every_backend_has_its_figures_on_linux_6_12() {
    let report = run(Kernel::V6_12, FIGURES, LONG);
    let rows = report.console.lines().filter(|line| line.starts_with(figures::MARK)).count();
    assert_eq!(rows, matrix::MEASURED.len(), "{}", report.console);
}
