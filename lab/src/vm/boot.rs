//! A machine is booted again, twice at most, where its kernel stands still before user space.
//!
//! Seen once in some hundred boots on a busy host: an emulated processor sleeps and its timer never wakes it
//! ("rcu_preempt kthread timer wakeup didn't happen"), seconds after power-on and for good. Nothing of ours runs by
//! then, so a second boot hides no defect of what the machine was started for.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::Process;
use crate::progress::say;
use crate::wait::eventually;

/// The init program prints it first.
pub(super) const BEGUN: &str = "tartan-vm: user space begins";

/// A boot takes some five to ten seconds on two idle processors.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

const BOOTS: usize = 3;

/// The first process of `start` that prints [`BEGUN`] within `patience`, or that ends: why is in its output.
pub(super) fn booted(patience: Duration, start: impl Fn() -> Result<Process>) -> Result<Process> {
    let mut output = String::new();
    for boot in 1..=BOOTS {
        let mut machine = start()?;
        let begun =
            eventually("user space", patience, || !machine.is_running() || machine.output().contains(BEGUN));
        if begun.is_ok() {
            return Ok(machine);
        }
        output = machine.output();
        machine.kill()?;
        say(&format!("boot {boot} of {BOOTS} of a virtual machine stood still for {patience:?}:\n{output}"));
    }
    bail!("none of {BOOTS} boots came to user space within {patience:?}; the last printed:\n{output}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    /// A shell instead of a machine; each time it runs, `boots` gets a line.
    fn shell(directory: &TempDir, script: &str) -> Result<Process> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("echo boot >> boots; {script}")]).current_dir(directory.path());
        Process::start("machine", &command, &directory.path().join("console"), false)
    }

    fn boots(directory: &TempDir) -> usize {
        fs::read_to_string(directory.path().join("boots")).unwrap().lines().count()
    }

    #[test]
    fn a_boot_that_stands_still_is_repeated_and_only_so_often() {
        let (enough, short) = (Duration::from_secs(10), Duration::from_secs(1));

        let directory = TempDir::new().unwrap();
        let second = format!("[ $(wc -l < boots) = 1 ] || echo '{BEGUN}'; sleep 60");
        let machine = booted(enough, || shell(&directory, &second)).unwrap();
        assert!(machine.is_running() && boots(&directory) == 2);
        assert_eq!(machine.output().trim(), BEGUN, "nothing of the first");

        let directory = TempDir::new().unwrap();
        let error = booted(short, || shell(&directory, "echo stalls; sleep 60")).unwrap_err().to_string();
        assert!(error.contains("none of 3") && error.contains("stalls"), "{error}");
        assert_eq!(boots(&directory), 3);
    }

    #[test]
    fn a_machine_that_ends_is_not_booted_again() {
        let directory = TempDir::new().unwrap();
        let machine = booted(PATIENCE, || shell(&directory, "echo panic")).unwrap();
        assert_eq!((machine.output().trim(), boots(&directory)), ("panic", 1));
    }
}
