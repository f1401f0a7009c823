//! The tests that need what this host's kernel may lack, on kernels that have it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use tartan_lab::{
    certificates::Certificate,
    program, test_program,
    vm::{Kernel, Machine},
};

/// A machine without hardware support, on a busy host.
const LIMIT: Duration = Duration::from_secs(1800);

/// Shares of the host's two processors that are free: a machine that has traffic to lose takes both.
static SHARES: (Mutex<u32>, Condvar) = (Mutex::new(2), Condvar::new());

/// Some of them, until it is dropped.
struct Share(u32);

impl Share {
    fn of(count: u32) -> Self {
        let free = SHARES.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            SHARES.1.wait_while(free, |free| *free < count).unwrap_or_else(PoisonError::into_inner);
        *free -= count;
        Self(count)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *SHARES.0.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        SHARES.1.notify_all();
    }
}

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
    Machine::new(Kernel::V6_12, test_program("switch").unwrap())
        .arguments(arguments)
        .program(program("tartan-lab-traffic").unwrap(), "/bin/tartan-lab-traffic")
        .program(program("tartan-forwarder").unwrap(), "/bin/tartan-forwarder")
        .environment("TARTAN_FORWARDER", "/bin/tartan-forwarder")
        .environment("TARTAN_TRAFFIC", "/bin/tartan-lab-traffic")
        .environment("TARTAN_UDP_RATE", udp_rate)
        .environment("TARTAN_TCP_FLOWS", tcp_flows)
}

/// What the machine's program printed, which must have succeeded. No other machine runs meanwhile.
fn run(machine: &Machine) -> String {
    run_beside(machine, 2)
}

fn run_beside(machine: &Machine, shares: u32) -> String {
    let _share = Share::of(shares);
    machine.run(LIMIT, |line| println!("{line}")).unwrap().ok().unwrap().console
}

/// wireguard/tests/kernel_peers.rs joins nodes of this kernel to a process of ours, and the agents' tests have WireGuard
/// of 6.12 from end to end.
#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn wireguard_is_made_and_repaired_on_linux_6_1() {
    make_wireguard(Kernel::V6_1);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn wireguard_is_made_and_repaired_on_linux_6_12() {
    make_wireguard(Kernel::V6_12);
}

fn make_wireguard(kernel: Kernel) {
    let test = test_program("kernel_wireguard").unwrap();
    let machine = Machine::new(kernel, &test).arguments(&["--include-ignored", "--test-threads", "1"]);
    let console = run_beside(&machine, 1);
    assert!(console.contains("5 passed"), "{console}");
}

#[test]
fn an_ipip_tunnel_is_guarded() {
    let machine = Machine::new(Kernel::V6_12, test_program("kernel_guard").unwrap()).arguments(&[
        "--ignored",
        "--test-threads",
        "1",
    ]);
    let console = run_beside(&machine, 1);
    assert!(console.contains("1 passed"), "{console}");
}

/// A daemon of another's writing, by its own configuration, is at the other end of the tunnel.
#[test]
fn ipsec_is_made_and_repaired_and_never_leaks_on_linux_6_12() {
    make_ipsec(Kernel::V6_12, &[], "4 passed");
}

/// Who a node is, is the daemon's business, not the kernel's: once is enough.
#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn ipsec_is_made_and_repaired_and_never_leaks_on_linux_6_1() {
    make_ipsec(Kernel::V6_1, &["--skip", "certificates::"], "3 passed");
}

/// As tests/kernel_ipsec/certificates.rs has them.
const CERTIFICATES: [Certificate; 5] = [
    Certificate::new("here", "here", "one"),
    Certificate::new("renewed", "here", "one"),
    Certificate::new("other", "remote00001", "one"),
    Certificate::new("third", "third", "one"),
    Certificate::new("false", "remote00001", "two"),
];

fn make_ipsec(kernel: Kernel, more: &[&str], passed: &str) {
    let certificates = tempfile::tempdir().unwrap();
    let machine = Machine::new(kernel, test_program("kernel_ipsec").unwrap())
        .strongswan()
        .arguments(&[&["--include-ignored", "--test-threads", "1"], more].concat())
        .certificates(certificates.path(), &CERTIFICATES)
        .unwrap();
    let console = run(&machine);
    assert!(console.contains(passed), "{console}");
}

/// `ipv6.disable=1`, as hardening guides ask for: no socket of the family, no setting below `/proc/sys/net/ipv6`, and a
/// dump of its routes that answers with IPv4's.
const WITHOUT_IPV6: &str = "ipv6.disable=1";

/// What the host's kernel shows of making and repairing holds on an older one that has no IPv6; with it, and on a
/// newer one, with --full. (Those of foreign objects need iptables and its plugins, which are not in the machine.)
#[test]
fn objects_are_made_and_repaired_on_linux_6_1_without_ipv6() {
    make_and_repair(Kernel::V6_1, WITHOUT_IPV6);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn objects_are_made_and_repaired_on_both_kernels() {
    make_and_repair(Kernel::V6_12, WITHOUT_IPV6);
    make_and_repair(Kernel::V6_12, "");
    make_and_repair(Kernel::V6_1, "");
}

fn make_and_repair(kernel: Kernel, options: &'static str) {
    let machine = Machine::new(kernel, test_program("kernel_repair").unwrap())
        .kernel_options(options)
        .arguments(&["--test-threads", "1"]);
    let console = run_beside(&machine, 1);
    assert!(console.contains("9 passed"), "{kernel:?} {options}: {console}");
}
