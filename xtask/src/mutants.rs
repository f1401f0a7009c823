//! `cargo xtask mutants`: plants one fault after the other into a copy of the tree, and requires that the
//! tests which are there for it fail.
//!
//! A test that can't fail proves nothing. The tree itself is never touched: the copy and what is built of it
//! are in `target/mutants`, so that an interrupted run leaves nothing behind that matters. A mutant counts as
//! killed only where it compiles and each of its tests fails, in the words that it names, or does not end where
//! the fault is an endless loop; a fault whose place is not found any more is an error.

mod list;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::workspace;

/// Longer runs no test of one mutant.
const DEADLINE: Duration = Duration::from_secs(900);
/// What a property searches at most: in as many as it does each time it may miss a fault that it can find.
const HISTORIES: &str = "4096";
/// A test that shall hang is given this long.
const LONG_ENOUGH: Duration = Duration::from_secs(40);

/// What to run.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Only mutants whose name contains this
    filter: Option<String>,
    /// Plant nothing: see that each fault still has its place and each test its mutant
    #[arg(long)]
    check: bool,
}

/// A fault, and the tests that must notice it.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    pub name: &'static str,
    pub edits: &'static [Edit],
    pub package: &'static str,
    /// `--lib` or the name of a test program.
    pub target: &'static str,
    /// Their names, with modules where they are in one.
    pub tests: &'static [&'static str],
    pub end: End,
    /// What must be said, where a test could fail of something else.
    pub says: Option<&'static str>,
}

/// One place that is changed: `old` occurs in the file exactly once.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    pub file: &'static str,
    pub old: &'static str,
    pub new: &'static str,
}

/// How a test notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fails,
    Hangs,
}

/// Runs the mutants. An error where one survives.
pub fn run(options: &Options) -> Result<()> {
    check()?;
    if options.check {
        println!("{} mutants have their places and their tests", list::all().count());
        return Ok(());
    }
    let wanted = |mutant: &&Mutant| options.filter.as_ref().is_none_or(|word| mutant.name.contains(word));
    let mutants: Vec<&Mutant> = list::all().filter(wanted).collect();
    ensure!(!mutants.is_empty(), "no mutant has such a name");
    let copy = Copy::of_the_tree()?;
    let mut rows = vec![];
    for mutant in &mutants {
        println!("==> {}", mutant.name);
        let begin = Instant::now();
        let verdict = copy.with(mutant, || judge(&copy, mutant))?;
        println!("    {verdict} after {:.0?}", begin.elapsed());
        rows.push((mutant, verdict, begin.elapsed()));
    }
    println!("\n{:<10} {:>6}  mutant: tests", "", "time");
    for (mutant, verdict, time) in &rows {
        println!("{verdict:<10} {:>5.0?}  {}: {}", time, mutant.name, mutant.tests.join(", "));
    }
    let survived = rows.iter().filter(|(_, verdict, _)| *verdict != KILLED).count();
    println!("{} mutants killed, {survived} survived", rows.len() - survived);
    ensure!(survived == 0, "{survived} mutants survived: their tests prove nothing");
    Ok(())
}

const KILLED: &str = "killed";

/// Every fault has its place, every test that is named is there, and no test of the allocator's proof is
/// without a mutant.
pub fn check() -> Result<()> {
    for Mutant { name, edits, package, target, tests, .. } in list::all() {
        for Edit { file, old, new } in *edits {
            let path = workspace::root().join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("mutant {name:?}: read {file}"))?;
            let found = text.matches(old).count();
            ensure!(found == 1, "mutant {name:?}: its text is {found} times in {file}, not once:\n{old}");
            ensure!(old != new, "mutant {name:?} changes nothing in {file}");
        }
        let known = tests_of(package, target)?;
        for test in *tests {
            let function = test.rsplit("::").next().unwrap_or(test);
            ensure!(known.contains(function), "mutant {name:?}: {package} {target} has no test {test}");
        }
    }
    for (package, target) in PROOFS {
        let killing = list::all().filter(|mutant| mutant.package == package && mutant.target == target);
        let covered: BTreeSet<&str> = killing.flat_map(|mutant| mutant.tests).copied().collect();
        for test in tests_of(package, target)? {
            let has_one = covered.iter().any(|covered| covered.rsplit("::").next() == Some(&test));
            ensure!(has_one, "{package} {target}: no mutant shows that {test} can fail");
        }
    }
    Ok(())
}

/// One disturbance more than in the usual run: it takes so many to meet some of the faults.
pub const MODEL_MORE: (&str, &str) = ("TARTAN_MODEL_MORE", "1");

/// Test programs each of whose tests is shown to fail.
const PROOFS: [(&str, &str); 3] =
    [("tartan-operator", "model"), ("tartan-operator", "never_overlap"), ("tartan-operator", "regressions")];

/// Those that search for long, which is worth the compiler's time. For the others it takes longer than they run.
const SEARCHES: [&str; 2] = ["model", "never_overlap"];
const NOT_OPTIMIZED: [&str; 2] = ["--config", "profile.dev.package.tartan-operator.opt-level=0"];

/// Names of the test functions of a target, from its text.
fn tests_of(package: &str, target: &str) -> Result<BTreeSet<String>> {
    let directory = workspace::root().join(package.trim_start_matches("tartan-"));
    let mut files = vec![];
    let places = match target {
        "--lib" => vec![directory.join("src")],
        name => vec![directory.join("tests").join(name), directory.join(format!("tests/{name}.rs"))],
    };
    places.iter().filter(|place| place.exists()).try_for_each(|place| sources(place, &mut files))?;
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        for (_, rest) in text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn ")) {
            names.extend(rest.split_once('(').map(|(name, _)| name.to_owned()));
        }
    }
    Ok(names)
}

fn sources(place: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if place.is_file() {
        files.push(place.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(place).with_context(|| format!("read {}", place.display()))? {
        sources(&entry?.path(), files)?;
    }
    Ok(())
}

fn judge(copy: &Copy, mutant: &Mutant) -> Result<&'static str> {
    let built = copy.cargo(mutant, &["--no-run"], DEADLINE)?;
    if built.code != Some(0) {
        bail!("mutant {:?} does not compile:\n{}", mutant.name, built.text);
    }
    let limit = if mutant.end == End::Hangs { LONG_ENOUGH } else { DEADLINE };
    let only = [&["--", "--exact"], mutant.tests].concat();
    let ran = copy.cargo(mutant, &only, limit)?;
    let all = |how: &str| {
        let says =
            |test: &&str| ran.text.lines().any(|line| line.starts_with(&format!("test {test} ... {how}")));
        mutant.tests.iter().all(says)
    };
    Ok(match mutant.end {
        End::Fails if all("FAILED") && mutant.says.is_none_or(|text| ran.text.contains(text)) => KILLED,
        End::Hangs if ran.code == Some(TIMED_OUT) && !ran.text.contains("test result:") => KILLED,
        _ => "SURVIVED",
    })
}

/// What `timeout` (1) ends with.
const TIMED_OUT: i32 = 124;

struct Ran {
    code: Option<i32>,
    text: String,
}

/// A copy of the working tree, whose files keep their times so that little is built anew.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn of_the_tree() -> Result<Self> {
        let root = workspace::target().join("mutants/tree");
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(workspace::root())
            .output()
            .context("git ls-files")?;
        ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let names: BTreeSet<PathBuf> = String::from_utf8(listed.stdout)
            .context("a file name is not UTF-8")?
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|name| workspace::root().join(name).is_file())
            .collect();
        let mut old = vec![];
        if root.exists() {
            sources(&root, &mut old)?;
        }
        for stale in
            old.iter().filter(|path| path.strip_prefix(&root).is_ok_and(|name| !names.contains(name)))
        {
            fs::remove_file(stale).with_context(|| format!("remove {}", stale.display()))?;
        }
        for name in names {
            let (from, to) = (workspace::root().join(&name), root.join(&name));
            let text = fs::read(&from).with_context(|| format!("read {}", from.display()))?;
            if fs::read(&to).ok().as_ref() != Some(&text) {
                write(&to, &text)?;
            }
        }
        Ok(Self { root })
    }

    /// Plants the mutant while `work` runs.
    fn with<T>(&self, mutant: &Mutant, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let files: BTreeSet<&str> = mutant.edits.iter().map(|edit| edit.file).collect();
        let before: Vec<(PathBuf, String)> = files
            .into_iter()
            .map(|file| {
                let path = self.root.join(file);
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                Ok((path, text))
            })
            .collect::<Result<_>>()?;
        for Edit { file, old, new } in mutant.edits {
            let path = self.root.join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            write(&path, text.replacen(old, new, 1).as_bytes())?;
        }
        let outcome = work();
        for (path, text) in before {
            write(&path, text.as_bytes())?;
        }
        outcome
    }

    fn cargo(&self, mutant: &Mutant, more: &[&str], limit: Duration) -> Result<Ran> {
        let mut command = Command::new("timeout");
        command.arg(limit.as_secs().to_string()).args(["cargo", "test", "--locked", "-p", mutant.package]);
        match mutant.target {
            "--lib" => command.arg("--lib"),
            name => command.args(["--test", name]),
        };
        if !SEARCHES.contains(&mutant.target) {
            command.args(NOT_OPTIMIZED);
        }
        let output = command
            .args(more)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", workspace::target().join("mutants/target"))
            .env("PROPTEST_CASES", HISTORIES)
            .env(MODEL_MORE.0, MODEL_MORE.1)
            .output()
            .context("start cargo under timeout")?;
        let text = [output.stdout, output.stderr].concat();
        Ok(Ran { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() })
    }
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_mutant_has_its_place_and_every_proof_its_mutant() {
        super::check().unwrap();
    }
}
