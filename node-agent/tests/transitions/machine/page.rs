//! docs/switch-matrix.md: what each change of backend loses, on each kernel of the virtual machines and on the host's.

use std::{path::Path, process::Command};

use tartan_crds::BackendType;
use tartan_lab::{
    run as run_command,
    traffic::{FULL_EVERY, LoadOptions},
    vm::Kernel,
};

use super::{
    super::{
        beside::{nodes_have, wireguard_is_a_process},
        matrix::{self, Measured},
        scene::MTU,
        standing::{self, CLASSES, Class},
    },
    LONG, MATRIX, run,
};

/// Writes the page, whatever it says, and fails where it says that something was lost.
#[test]
#[ignore = "twenty minutes: cargo xtask test --full"]
fn every_change_is_measured_on_all_kernels() {
    let mut text = format!(
        "# Every change of backend, measured\n\n\
        Written by `cargo xtask test --full`; do not edit. {} nodes on one segment, with real agents and the real \
        operator; one pool, whose backend is edited. One in {FULL_EVERY} of the UDP packets has the {MTU} bytes of the \
        pods' MTU, and none may be cut. \"Seconds\" is from the edit until no node receives by the old backend any more; \
        \"segments lost\" are those of TCP, from the one that asks, that were sent again and did not come twice: also what a \
        segment sent later overtook by a faster path, and TCP then refused by its time stamp (RFC 7323, section 5; \
        tcp_paws_discard in net/ipv4/tcp_input.c); \
        \"delay\" is the longest time from a message to its answer, in milliseconds.\n",
        matrix::NODES.len(),
    );
    let mut lost = vec![];
    let mut add = |kernel: &str, place: &str, in_a_machine: bool, measure: &dyn Fn() -> Measured| {
        let before = load();
        let Measured { rows, faults } = measure();
        text.push_str(&section(kernel, place, in_a_machine, &before, &rows));
        if !faults.is_empty() {
            lost.push(format!("Linux {kernel}:\n{}", faults.join("\n")));
        }
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/switch-matrix.md");
        std::fs::write(document, &text).unwrap();
    };
    for kernel in Kernel::ALL {
        let place = "In a virtual machine whose processors are emulated, ten to twenty times slower than the host's: the \
             times are no figures of a real node.";
        add(kernel.series(), place, true, &|| measured_by(kernel));
    }
    let release = output(&["uname", "--kernel-release"]);
    add(&release, &on_the_host(), false, &matrix::measure);
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

/// What a machine's console says: of each change, since nothing may be missing in a machine.
fn measured_by(kernel: Kernel) -> Measured {
    let report = run(kernel, MATRIX, LONG);
    let told = |word: &str| -> Vec<String> {
        let lines = report.console.lines().filter_map(|line| line.trim_end().strip_prefix(word));
        lines.map(str::to_owned).collect()
    };
    let (rows, faults) = (told(matrix::MARK), told(matrix::FAULT));
    let changes = matrix::MEASURED.len() * (matrix::MEASURED.len() - 1);
    assert_eq!(rows.len(), changes, "rows");
    assert_eq!(told(matrix::VERDICT), [format!("{changes} changes, {} faults", faults.len())]);
    Measured { rows, faults }
}

fn on_the_host() -> String {
    let missing: Vec<_> =
        matrix::MEASURED.iter().filter(|kind| !nodes_have(**kind)).map(|kind| kind.as_str()).collect();
    let mut text = "In network namespaces of a host.".to_owned();
    if wireguard_is_a_process() && nodes_have(BackendType::Wireguard) {
        text.push_str(" Its kernel has no WireGuard, and a process did it.");
    }
    if !missing.is_empty() {
        text.push_str(&format!(" Nodes there had no {}.", missing.join(" and no ")));
    }
    text
}

fn section(kernel: &str, place: &str, in_a_machine: bool, before: &str, rows: &[String]) -> String {
    let classes = CLASSES.map(|class| format!("{} lost", class.as_str())).join(" | ");
    format!(
        "\n## Linux {kernel}\n\nOn {}. {place} Each way: {} from pod to pod, and {} by each other class. Load average of the \
         host (two processors, shared with other work): {before} at the beginning, {} at the end.\n\n\
         | from | to | seconds | messages sent | {classes} | segments lost | connections lost | delay |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n{}\n",
        output(&["date", "--utc", "+%Y-%m-%d"]),
        amount(Class::PodToPod, in_a_machine),
        amount(Class::NodeToPod, in_a_machine),
        load(),
        rows.join("\n"),
    )
}

/// What flows by the class, in words.
fn amount(class: Class, in_a_machine: bool) -> String {
    let LoadOptions { udp_rate, tcp_flows, tcp_bulk, .. } =
        class.load(in_a_machine, 1, standing::asked_slower());
    let all = tcp_flows + usize::from(tcp_bulk > 0);
    let flows = if all == 1 { "flow" } else { "flows" };
    let bulk =
        if tcp_bulk > 0 { format!(", one of {} KiB a message,", tcp_bulk >> 10) } else { String::new() };
    format!("{all} TCP {flows}{bulk} and {udp_rate} UDP packets a second")
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap().split(' ').take(1).collect()
}

fn output(words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    run_command(command.args(&words[1..])).unwrap().ok().unwrap().stdout.trim().to_owned()
}
