//! `cargo xtask test`: all that CI runs, as a list of steps with their names and times.
//!
//! Owns the order of the steps and the verdict, nothing else: each step is a command that can be run by
//! hand. The steps stop at the first that fails, since what follows stands on it; the test crates of one
//! step all run, so that one red run shows all that is red.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tartan_lab::prerequisites::{self, Tool};

use crate::{image, workspace};

/// What to run.
#[derive(Args, Debug)]
pub struct Options {
    /// Format, lints, generated files and pure tests only: needs no root and builds no Kubernetes.
    #[arg(long)]
    quick: bool,
    /// Leave out the tests on the whole cluster (level 5).
    #[arg(long, conflicts_with = "quick")]
    no_cluster: bool,
}

/// Runs the steps. Errors name the step that failed.
pub fn run(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut steps = Steps::default();
    steps.cargo("format", &["fmt", "--all", "--check"])?;
    steps.cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    if options.quick {
        let mut arguments = vec!["test", "--locked", "--lib"];
        arguments.extend(
            ["tartan-crds", "tartan-datapath", "tartan-operator", "tartan-node-agent"]
                .iter()
                .flat_map(|name| ["-p", name]),
        );
        steps.cargo("pure tests", &arguments)?;
        return steps.report(begin);
    }
    steps.run("prerequisites: Debian packages, Kubernetes, etcd, helm", || {
        prerequisites::require(&Tool::ALL)
    })?;
    steps.cargo(
        "tests: logic, golden files, API schema, kernel",
        &["test", "--locked", "-p", "tartan-crds", "-p", "tartan-datapath", "--no-fail-fast"],
    )?;
    // One at a time from here on: each test starts a control plane and several nodes.
    let one = ["--no-fail-fast", "--", "--test-threads=1"];
    for (name, arguments) in [
        ("tests: lab", &["-p", "tartan-lab"][..]),
        ("tests: operator, against a real API server", &["-p", "tartan-operator"]),
        (
            "tests: agents on several nodes, killed at every step",
            &["-p", "tartan-node-agent", "--features", "failpoints"],
        ),
    ] {
        steps.cargo(name, &[&["test", "--locked"], arguments, &one].concat())?;
    }
    if !options.no_cluster {
        steps.run("images: release binaries, operator, agent", || {
            image::build(&image::default_directory()).map(drop)
        })?;
        steps.cargo(
            "tests: chart, admission, whole cluster",
            &[&["test", "--locked", "-p", "xtask"][..], &one].concat(),
        )?;
    }
    steps.report(begin)
}

#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn cargo(&mut self, name: &'static str, arguments: &[&str]) -> Result<()> {
        self.run(name, || {
            let mut command = workspace::cargo();
            command.args(arguments);
            println!("    cargo {}", arguments.join(" "));
            let status = command.status().context("start cargo")?;
            if !status.success() {
                bail!("cargo {} ended with {status}", arguments.join(" "));
            }
            Ok(())
        })
    }

    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("==> {name}");
        let begin = Instant::now();
        step().with_context(|| format!("step {name:?} failed"))?;
        self.done.push((name, begin.elapsed()));
        println!("    done in {}", clock(begin.elapsed()));
        Ok(())
    }

    fn report(&self, begin: Instant) -> Result<()> {
        println!("\n==> all {} steps passed in {}", self.done.len(), clock(begin.elapsed()));
        for (name, time) in &self.done {
            println!("    {:>7}  {name}", clock(*time));
        }
        Ok(())
    }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}
