//! The tests that need what this host's kernel may lack, on kernels that have it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tartan_lab::{
    static_program, static_test,
    vm::{Kernel, Machine},
};

/// A machine without hardware support, on a busy host.
const LIMIT: Duration = Duration::from_secs(1800);

/// One machine at a time: each has as many processors as the host.
static MACHINE: Mutex<()> = Mutex::new(());

/// The machine is twenty times slower than the host: a twentieth of the packets.
#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn nothing_is_lost_while_nodes_go_through_all_backends_of_linux_6_12() {
    go_round("50", "1", &["TARTAN_ONE_WAY"]);
}

#[test]
#[ignore = "a quarter of an hour: cargo xtask test --full"]
fn nothing_is_lost_while_nodes_go_round_and_back_on_linux_6_12() {
    go_round("100", "2", &[]);
}

fn go_round(udp_rate: &str, tcp_flows: &str, flags: &[&str]) {
    let mut machine = switch(&["--nocapture"], udp_rate, tcp_flows);
    for flag in flags {
        machine = machine.environment(flag, "1");
    }
    let console = run(&machine);
    assert!(console.contains("nothing lost"), "{console}");
    assert!(!console.contains("goes without"), "{console}");
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn nothing_is_lost_while_wireguard_keys_are_rotated_on_linux_6_12() {
    let machine = switch(&["--nocapture", "--ignored", "--test-threads", "1", "rotation::"], "50", "1");
    let console = run(&machine);
    assert!(console.contains("2 passed"), "{console}");
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_sealed_node_that_loses_its_device_sends_nothing_in_clear() {
    let console = run(&switch(&["--nocapture", "--ignored", "a_sealed_node"], "100", "2"));
    assert!(console.contains("sealed pairs stayed sealed"), "{console}");
}

/// The test program `switch` on Linux 6.12.
fn switch(arguments: &[&str], udp_rate: &str, tcp_flows: &str) -> Machine {
    Machine::new(Kernel::V6_12, static_test("switch").unwrap())
        .arguments(arguments)
        .file(static_program("tartan-lab-traffic").unwrap(), "/bin/tartan-lab-traffic")
        .file(static_program("tartan-forwarder").unwrap(), "/bin/tartan-forwarder")
        .environment("TARTAN_FORWARDER", "/bin/tartan-forwarder")
        .environment("TARTAN_TRAFFIC", "/bin/tartan-lab-traffic")
        .environment("TARTAN_UDP_RATE", udp_rate)
        .environment("TARTAN_TCP_FLOWS", tcp_flows)
}

/// What the machine's program printed, which must have succeeded.
fn run(machine: &Machine) -> String {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    machine.run(LIMIT, |line| println!("{line}")).unwrap().ok().unwrap().console
}

#[test]
fn wireguard_is_made_and_repaired_on_both_kernels() {
    let test = static_test("kernel_wireguard").unwrap();
    for kernel in Kernel::ALL {
        let machine = Machine::new(kernel, &test).arguments(&["--include-ignored", "--test-threads", "1"]);
        let console = run(&machine);
        assert!(console.contains("5 passed"), "{console}");
    }
}

/// A daemon of another's writing, by its own configuration, is at the other end of the tunnel.
#[test]
fn ipsec_is_made_and_repaired_and_never_leaks_on_both_kernels() {
    let test = static_test("kernel_ipsec").unwrap();
    for kernel in Kernel::ALL {
        let machine =
            Machine::new(kernel, &test).strongswan().arguments(&["--include-ignored", "--test-threads", "1"]);
        let console = run(&machine);
        assert!(console.contains("2 passed"), "{console}");
    }
}

/// What the host's kernel shows of making and repairing holds on older ones. (Those of foreign objects need iptables
/// and its plugins, which are not in the machine.)
#[test]
fn objects_are_made_and_repaired_on_both_kernels() {
    let test = static_test("kernel_repair").unwrap();
    for kernel in Kernel::ALL {
        let machine = Machine::new(kernel, &test).arguments(&["--test-threads", "1"]);
        let console = run(&machine);
        assert!(console.contains("9 passed"), "{console}");
    }
}
