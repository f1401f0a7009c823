//! The process beside kernels that have WireGuard themselves: their word on what it puts on the wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::time::Duration;

use tartan_lab::{
    program, test_program,
    vm::{Kernel, Machine},
};

/// A machine without hardware support, on a busy host.
const LIMIT: Duration = Duration::from_secs(600);

#[test]
fn the_kernels_of_both_series_join_a_node_without_wireguard() {
    let test = test_program("pair").unwrap();
    for kernel in Kernel::ALL {
        let machine = Machine::new(kernel, &test)
            .arguments(&["--nocapture", "--ignored", "--test-threads", "1"])
            .program(program("tartan-wireguard").unwrap(), "/bin/tartan-wireguard")
            .environment("TARTAN_WIREGUARD", "/bin/tartan-wireguard");
        let report = machine.run(LIMIT, |line| println!("{line}")).unwrap().ok().unwrap();
        assert!(report.console.contains("1 passed"), "{}", report.console);
    }
}
