//! `cargo xtask test`: all that CI runs, as a list of steps with their names and times.
//!
//! Owns the order of the steps and the verdict, nothing else: each step is a command that can be run by
//! hand. The steps stop at the first that fails, since what follows stands on it; the test crates of one
//! step all run, so that one red run shows all that is red.

mod beside;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use tartan_lab::prerequisites::{self, Tool};

use self::beside::{Beside, Task};
use crate::{image, mutants, workspace};

/// What to run.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Format, lints, generated files and pure tests only: needs no root and builds no Kubernetes.
    #[arg(long)]
    quick: bool,
    /// Leave out the tests of the chart on whole clusters (level 5).
    #[arg(long, conflicts_with = "quick")]
    no_cluster: bool,
    /// Also what takes long: more of what may happen to nodes in a change of backend; more kernels, and every change of
    /// backend on all, measured, which writes docs/switch-matrix.md again; more on whole clusters; and every mutant of
    /// the allocator, each of which tests must notice.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
}

/// Those of our own test programs that start a whole cluster; the others need an API server at most.
const WHOLE_CLUSTER: [&str; 4] = ["chart_cluster", "chart_families", "chart_pods", "chart_running"];

/// Those that run other kernels in virtual machines; the agents' do more than that.
const IN_MACHINES: [&str; 3] = ["kernel_peers", "machines", "vm"];

/// Those of the agents that wait for conditions most of the time, beside little traffic or none.
const WAITING: [&str; 5] = ["agents", "bad_input", "extension", "families", "underlay"];

/// `cargo clippy`, as strictly as it must pass.
const LINTS: [&str; 7] = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];

/// Tests are built of the whole workspace and with the same features, so that the crates that all use are compiled once:
/// with other packages selected, cargo gives them other features, and compiles them anew.
const SELECTION: [&str; 5] =
    ["test", "--locked", "--workspace", "--features", "tartan-node-agent/failpoints"];

/// Test programs beside the code's own tests that need neither root nor a control plane. One more of that
/// kind belongs here, or else it runs in the full run only.
const PURE: [&str; 11] = [
    "behind",
    "definitions",
    "desired_tables",
    "generated",
    "model",
    "never_overlap",
    "pair_table",
    "plan_properties",
    "regressions",
    "rules",
    "unanswered",
];

/// The one test in [`PURE`] that asks the kernel.
const NOT_PURE: &str = "nft_takes_the_table_of_every_kind_of_node";

/// One at a time: each of these tests starts a control plane and several nodes, between which packets must not be late.
const ONE_BY_ONE: [&str; 3] = ["--no-fail-fast", "--", "--test-threads=1"];

/// Those of the changes of backend that only the full run has on the host. (Of the ignored ones, others need what the
/// host's kernel may lack.)
const LONG: [&str; 7] = ["hung::", "interrupted::", "late::", "moved::", "off::", "rotation::", "six::"];

/// Each of these waits for an API server most of the time, and none for many packets.
const TWO_BY_TWO: [&str; 3] = ["--no-fail-fast", "--", "--test-threads=2"];

/// Runs the steps. Errors name the step that failed.
pub fn run(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut done = Steps::default();
    let mut beside = Beside::default();
    for (name, work) in steps(options, &programs()?) {
        done.run(name, || work.run(&mut beside))?;
    }
    done.report(begin)
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Cargo(Vec<String>),
    Prerequisites,
    /// Goes on while it is done.
    Begin(Task),
    /// Waits until all that was begun is done.
    End,
    Images,
    /// The model, searched one disturbance further.
    Model,
    Mutants,
}

/// The steps in their order.
fn steps(options: &Options, programs: &[Program]) -> Vec<(&'static str, Work)> {
    let mut steps = vec![("format", cargo(&["fmt", "--all", "--check"]))];
    if options.quick {
        steps.push(("lints", cargo(&LINTS)));
        let programs = select(PURE);
        let how = ["--lib", "--bins", "--no-fail-fast", "--", "--skip", NOT_PURE];
        steps.push(("tests: pure ones, of all crates", tests(&[&programs[..], &how].concat())));
        return steps;
    }
    steps.push(("prerequisites: Debian packages, Kubernetes, etcd, helm", Work::Prerequisites));
    steps.push(("tests: beside the code, of all crates", tests(&["--lib", "--bins", "--no-fail-fast"])));
    steps.push(("tests: examples in the documentation", tests(&["--doc", "--no-fail-fast"])));
    let of = |packages: &[&str], how: &[&str]| {
        let of_packages = programs.iter().filter(|program| packages.contains(&program.package));
        let names = of_packages.map(|program| program.name.as_str());
        let here = names.filter(|name| !IN_MACHINES.contains(name) && !WAITING.contains(name));
        tests(&[&select(here)[..], how].concat())
    };
    let no_fail_fast = ["--no-fail-fast"];
    steps.extend([
        (
            "tests: golden files, API schema, kernel",
            of(&["crds", "datapath", "forwarder", "wireguard"], &no_fail_fast),
        ),
        ("tests: lab", of(&["lab"], &ONE_BY_ONE)),
        ("tests: kernels in virtual machines", tests(&[&select(IN_MACHINES)[..], &no_fail_fast].concat())),
        // What follows leaves the processors much of the time, and counts no packets. (An emulated machine beside a
        // compiler gets so little that its IKE daemons retransmit.)
        ("programs as they are shipped: begun", Work::Begin(Task::Programs)),
        ("lints: begun", Work::Begin(Task::Lints)),
        ("tests: operator, against a real API server", of(&["operator"], &TWO_BY_TWO)),
        ("lints, programs as they are shipped: awaited", Work::End),
        ("tests: agents on several nodes, that wait", tests(&[&select(WAITING)[..], &TWO_BY_TWO].concat())),
        ("tests: agents on several nodes, killed at every step", of(&["node-agent"], &ONE_BY_ONE)),
    ]);
    if options.full {
        let long = ["--test", "vm", "--no-fail-fast", "--", "--ignored"];
        steps.push(("tests: keys rotated, sealed pairs, more packets, in machines", tests(&long)));
        let long = ["--test", "transitions", "--no-fail-fast", "--", "--ignored", "--test-threads=1"];
        steps.push((
            "tests: more that may happen in a change of backend",
            tests(&[&long[..], &LONG].concat()),
        ));
        let long = ["--test", "transitions", "--no-fail-fast"];
        let only = ["machine::", "--", "--ignored", "--test-threads=1", "--nocapture"];
        steps.push(("tests: every change of backend, on all kernels", tests(&[&long[..], &only].concat())));
    }
    let (whole, light): (Vec<&Program>, Vec<&Program>) = programs
        .iter()
        .filter(|program| program.package == "xtask")
        .partition(|program| WHOLE_CLUSTER.contains(&program.name.as_str()));
    let own = |programs: Vec<&Program>| {
        tests(&[&select(programs.into_iter().map(|program| program.name.as_str()))[..], &ONE_BY_ONE].concat())
    };
    steps.push(("tests: generated files, chart, admission", own(light)));
    if !options.no_cluster {
        steps.push(("images: release binaries, operator, agent", Work::Images));
        steps.push(("tests: chart on whole clusters", own(whole)));
        if options.full {
            let long =
                ["--test", "chart_families", "--test", "chart_running", "--no-fail-fast", "--", "--ignored"];
            steps.push(("tests: more that may happen, and no IPv4, on whole clusters", tests(&long)));
        }
    }
    if options.full {
        steps.push(("tests: the allocator's model, further", Work::Model));
        steps.push(("mutants: each is noticed by its tests", Work::Mutants));
    }
    steps
}

/// `cargo test` of the [`SELECTION`].
fn tests(arguments: &[&str]) -> Work {
    cargo(&[&SELECTION[..], arguments].concat())
}

/// These test programs and no others.
fn select<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    names.into_iter().flat_map(|name| ["--test", name]).collect()
}

fn cargo(arguments: &[&str]) -> Work {
    Work::Cargo(arguments.iter().map(|&argument| argument.to_owned()).collect())
}

/// A test program, which no other package has one of the same name of: cargo selects them by name alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Program {
    /// The package's directory.
    package: &'static str,
    name: String,
}

/// The workspace's packages that have test programs, by their directories.
const PACKAGES: [&str; 8] =
    ["crds", "datapath", "forwarder", "wireguard", "lab", "operator", "node-agent", "xtask"];

/// All test programs, from the directories themselves: a new one is never forgotten.
fn programs() -> Result<Vec<Program>> {
    let mut programs = vec![];
    for package in PACKAGES {
        let directory = workspace::root().join(package).join("tests");
        for entry in std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
            let path = entry?.path();
            let is_test =
                path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").exists();
            if let (true, Some(name)) = (is_test, path.file_stem()) {
                programs.push(Program { package, name: name.to_string_lossy().into_owned() });
            }
        }
    }
    programs.sort();
    Ok(programs)
}

impl Work {
    fn run(&self, beside: &mut Beside) -> Result<()> {
        match self {
            Self::Begin(task) => beside.begin(*task),
            Self::End => beside.end(),
            Self::Prerequisites => prerequisites::require(&Tool::ALL),
            Self::Mutants => mutants::run(&mutants::Options::default()),
            Self::Model => {
                let search = [&SELECTION[..], &["--test", "model"]].concat();
                let (name, value) = mutants::MODEL_MORE;
                end_well(workspace::cargo().args(search).env(name, value))
            }
            Self::Images => image::build(&image::default_directory()).map(drop),
            Self::Cargo(arguments) => {
                println!("    cargo {}", arguments.join(" "));
                end_well(workspace::cargo().args(arguments))
            }
        }
    }
}

fn end_well(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("start cargo")?;
    if !status.success() {
        bail!("{cargo:?} ended with {status}");
    }
    Ok(())
}

#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
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

#[cfg(test)]
mod tests;
