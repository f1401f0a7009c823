//! Every backend that Linux has, beside the path between the nodes themselves, in a virtual machine that emulates its
//! processors. Its times are no figures of a real node, and what a real processor has instructions for, such as AES, costs
//! it most: backends can be compared by it as far as they are of the same kind.

use anyhow::{Result, ensure};

use crate::workspace;

/// One of the agent's tests, which knows how to change backends in a machine.
const TEST: &str = "machine::every_backend_has_its_figures_on_linux_6_12";

pub(super) fn run() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--release", "--locked", "-p", "tartan-node-agent", "--test", "transitions"]);
    cargo.args(["--", "--exact", TEST, "--ignored", "--nocapture"]);
    ensure!(cargo.status()?.success(), "the machine was not measured");
    Ok(())
}
