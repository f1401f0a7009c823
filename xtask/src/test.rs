//! `cargo xtask test`: all that CI runs, as a list of steps with their names and times.
//!
//! Owns the order of the steps and the verdict, nothing else: each step is a command that can be run by
//! hand. The steps stop at the first that fails, since what follows stands on it; the test crates of one
//! step all run, so that one red run shows all that is red.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tartan_lab::prerequisites::{self, Tool};

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
    /// Also what takes long: every change of backend on both kernels of the virtual machine, measured, which writes
    /// docs/switch-matrix.md again; and every mutant of the allocator, each of which tests must notice.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
}

/// Those of our own test programs that start a whole cluster; the others need an API server at most.
const WHOLE_CLUSTER: [&str; 4] = ["chart_pods", "cluster", "families", "running"];

/// Test programs beside the code's own tests that need neither root nor a control plane. One more of that
/// kind belongs here, or else it runs in the full run only.
const PURE: [(&str, &[&str]); 8] = [
    ("tartan-crds", &["definitions"]),
    ("tartan-daemon", &[]),
    ("tartan-forwarder", &[]),
    ("tartan-wireguard", &[]),
    ("tartan-datapath", &["desired_tables", "pair_table", "plan_properties"]),
    ("tartan-operator", &["model", "never_overlap", "regressions", "rules"]),
    ("tartan-node-agent", &[]),
    ("xtask", &["generated"]),
];

/// The one test in [`PURE`] that asks the kernel.
const NOT_PURE: &str = "nft_takes_the_table_of_every_kind_of_node";

/// One at a time: each of these tests starts a control plane and several nodes.
const ONE_BY_ONE: [&str; 3] = ["--no-fail-fast", "--", "--test-threads=1"];

/// Runs the steps. Errors name the step that failed.
pub fn run(options: &Options) -> Result<()> {
    let begin = Instant::now();
    let mut done = Steps::default();
    for (name, work) in steps(options, &own_tests()?) {
        done.run(name, || work.run())?;
    }
    done.report(begin)
}

/// What a step does.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Cargo(Vec<String>),
    Prerequisites,
    Images,
    Mutants,
}

/// The steps in their order. `own` are the names of this package's test programs.
fn steps(options: &Options, own: &[String]) -> Vec<(&'static str, Work)> {
    let mut steps = vec![
        ("format", cargo(&["fmt", "--all", "--check"])),
        ("lints", cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
    ];
    if options.quick {
        steps.extend(PURE.map(|(package, tests)| {
            let mut arguments = vec!["test", "--locked", "-p", package, "--lib"];
            arguments.extend(tests.iter().flat_map(|test| ["--test", test]));
            arguments.extend(["--no-fail-fast", "--", "--skip", NOT_PURE]);
            (package, cargo(&arguments))
        }));
        return steps;
    }
    steps.push(("prerequisites: Debian packages, Kubernetes, etcd, helm", Work::Prerequisites));
    let kernel = [
        "test",
        "--locked",
        "-p",
        "tartan-crds",
        "-p",
        "tartan-daemon",
        "-p",
        "tartan-datapath",
        "-p",
        "tartan-forwarder",
        "-p",
        "tartan-wireguard",
        "--no-fail-fast",
    ];
    steps.push(("tests: logic, golden files, API schema, kernel", cargo(&kernel)));
    for (name, arguments) in [
        ("tests: lab", &["-p", "tartan-lab"][..]),
        ("tests: operator, against a real API server", &["-p", "tartan-operator"]),
        (
            "tests: agents on several nodes, killed at every step",
            &["-p", "tartan-node-agent", "--features", "failpoints"],
        ),
    ] {
        steps.push((name, cargo(&[&["test", "--locked"], arguments, &ONE_BY_ONE].concat())));
    }
    if options.full {
        let long = [
            "test",
            "--locked",
            "-p",
            "tartan-datapath",
            "--test",
            "vm",
            "--no-fail-fast",
            "--",
            "--ignored",
        ];
        steps.push(("tests: keys rotated, sealed pairs, more packets, in machines", cargo(&long)));
        let long = ["-p", "tartan-node-agent", "--features", "failpoints", "--test", "transitions"];
        let only = ["--no-fail-fast", "machine::", "--", "--ignored", "--test-threads=1", "--nocapture"];
        steps.push((
            "tests: every change of backend, on both kernels",
            cargo(&[&["test", "--locked"], &long[..], &only].concat()),
        ));
    }
    let (whole, light): (Vec<&str>, Vec<&str>) =
        own.iter().map(String::as_str).partition(|test| WHOLE_CLUSTER.contains(test));
    let own = |more: &[&'static str], tests: &[&str]| {
        let mut arguments = [&["test", "--locked", "-p", "xtask"], more].concat();
        arguments.extend(tests.iter().flat_map(|test| ["--test", test]));
        arguments.extend(ONE_BY_ONE);
        cargo(&arguments)
    };
    steps.push(("tests: generated files, chart, admission", own(&["--lib", "--bins"], &light)));
    if !options.no_cluster {
        steps.push(("images: release binaries, operator, agent", Work::Images));
        steps.push(("tests: chart on whole clusters", own(&[], &whole)));
    }
    if options.full {
        steps.push(("mutants: each is noticed by its tests", Work::Mutants));
    }
    steps
}

fn cargo(arguments: &[&str]) -> Work {
    Work::Cargo(arguments.iter().map(|&argument| argument.to_owned()).collect())
}

/// The test programs of this package, from the directory itself: a new one is never forgotten.
fn own_tests() -> Result<Vec<String>> {
    let directory = workspace::root().join("xtask/tests");
    let mut names = vec![];
    for entry in std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        let is_test = path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").exists();
        if let (true, Some(name)) = (is_test, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

impl Work {
    fn run(&self) -> Result<()> {
        match self {
            Self::Prerequisites => prerequisites::require(&Tool::ALL),
            Self::Mutants => mutants::run(&mutants::Options::default()),
            Self::Images => image::build(&image::default_directory()).map(drop),
            Self::Cargo(arguments) => {
                println!("    cargo {}", arguments.join(" "));
                let status = workspace::cargo().args(arguments).status().context("start cargo")?;
                if !status.success() {
                    bail!("cargo {} ended with {status}", arguments.join(" "));
                }
                Ok(())
            }
        }
    }
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
mod tests {
    use super::*;

    /// The steps as command lines.
    fn lines(options: &Options) -> Vec<String> {
        let line = |work| match work {
            Work::Cargo(arguments) => arguments.join(" "),
            other => format!("{other:?}"),
        };
        steps(options, &own_tests().unwrap()).into_iter().map(|(_, work)| line(work)).collect()
    }

    #[test]
    fn without_clusters_everything_else_still_runs() {
        let all = lines(&Options::default());
        let some = lines(&Options { no_cluster: true, ..Options::default() });
        assert_eq!(all[..all.len() - 2], some, "only the last two steps are left out");
        let (rest, whole) = (all[..all.len() - 2].join("\n"), &all[all.len() - 1]);
        for test in own_tests().unwrap() {
            let word = format!("--test {test} ");
            assert_eq!(whole.contains(&word), WHOLE_CLUSTER.contains(&&*test), "{test}");
            assert_ne!(whole.contains(&word), rest.contains(&word), "{test} runs once");
        }
    }

    #[test]
    fn the_full_run_has_three_steps_more() {
        let all = lines(&Options::default());
        let mut full = lines(&Options { full: true, ..Options::default() });
        for step in ["--test vm --no-fail-fast -- --ignored", "machine:: -- --ignored", "Mutants"] {
            let place = full.iter().position(|line| line.contains(step)).expect(step);
            full.remove(place);
        }
        assert_eq!(all, full);
    }

    #[test]
    fn the_quick_run_has_the_pure_tests_and_the_generated_files() {
        let quick = lines(&Options { quick: true, ..Options::default() }).join("\n");
        for word in ["--test generated", "--test definitions", "--test pair_table", "--test rules"] {
            assert!(quick.contains(word), "{word} is missing in\n{quick}");
        }
        assert!(!quick.contains("Prerequisites") && !quick.contains("--test cluster"), "{quick}");
    }

    #[test]
    fn the_lists_name_tests_that_exist() {
        let root = workspace::root();
        for (package, tests) in PURE {
            let directory = root.join(package.trim_start_matches("tartan-")).join("tests");
            for test in tests {
                let file = directory.join(format!("{test}.rs"));
                let folder = directory.join(test).join("main.rs");
                assert!(file.exists() || folder.exists(), "{package} has no test {test}");
            }
        }
        let own = own_tests().unwrap();
        assert!(WHOLE_CLUSTER.iter().all(|test| own.iter().any(|name| name == test)), "{own:?}");
        let tables = std::fs::read_to_string(root.join("datapath/tests/desired_tables.rs")).unwrap();
        assert!(
            tables.contains(&format!("fn {NOT_PURE}()")),
            "the test that asks the kernel has another name"
        );
    }
}
