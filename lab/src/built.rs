//! Programs of this workspace: beside the test that runs, built by the cargo that runs it.
//!
//! A test of one package finds its own programs without this; it is for those of other packages, which cargo
//! does not build for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::progress::Step;
use crate::run::run;

/// As `cargo xtask test` selects: else the crates that all use would be compiled anew, with other features.
const SELECTION: &str = "--workspace";
const TEST_FEATURES: [&str; 2] = ["--features", "tartan-node-agent/failpoints"];

/// The path of a program of the workspace, which is built when it is first asked for.
pub fn program(name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(name) {
        return Ok(path.clone());
    }
    let profile = own_profile()?;
    let path = profile.join(name);
    // An older one may lie there: cargo knows.
    let mut cargo = cargo("build")?;
    cargo.args(["--quiet", "--bin", name]).arg(SELECTION);
    if profile.ends_with("release") {
        cargo.arg("--release");
    } else {
        cargo.args(TEST_FEATURES);
    }
    match run(&mut cargo) {
        Ok(output) => _ = output.ok()?,
        // Without cargo the one beside us has to do.
        Err(error) if !path.exists() => return Err(error.context(format!("build {name}"))),
        Err(_) => {}
    }
    built.insert(name.to_owned(), path.clone());
    Ok(path)
}

/// The path of a test program of the workspace, for [`crate::vm`]. It is built as `cargo xtask test` builds it, which
/// after that takes a second.
pub fn test_program(test: &str) -> Result<PathBuf> {
    let mut cargo = cargo("test")?;
    cargo.args(["--no-run", "--quiet", "--message-format", "json", "--test", test]);
    cargo.arg(SELECTION).args(TEST_FEATURES);
    let output = run(&mut cargo)?.ok().with_context(|| format!("build {test}"))?;
    output
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").and_then(|found| found.as_str()) == Some(test))
        .find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .with_context(|| format!("cargo built no {test}"))
}

/// What the images contain of ours.
pub const SHIPPED: [&str; 4] =
    ["tartan-operator", "tartan-node-agent", "tartan-forwarder", "tartan-wireguard"];

/// Cargo, told to compile what is shipped, as it is shipped: optimized, and with the features that these packages ask
/// for, and not those of tests beside them.
pub fn shipping() -> Result<Command> {
    let mut cargo = cargo("build")?;
    cargo.arg("--release").args(SHIPPED.iter().flat_map(|program| ["--package", program]));
    Ok(cargo)
}

/// The path of a program as it is shipped. All of them are compiled where one is missing or old, which takes minutes.
pub fn shipped(program: &str) -> Result<PathBuf> {
    static BUILT: Mutex<bool> = Mutex::new(false);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if !*built {
        let step = Step::start("compiling the programs that are shipped");
        run(shipping()?.arg("--quiet"))?.ok()?;
        step.done();
        *built = true;
    }
    shipped_path(program)
}

/// Where [`shipping`] puts a program.
pub fn shipped_path(program: &str) -> Result<PathBuf> {
    Ok(own_target()?.join("release").join(program))
}

/// The directory of a profile that the running program was built in: it is TARGET/PROFILE/program,
/// TARGET/PROFILE/deps/test or TARGET/PROFILE/examples/program.
fn own_profile() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().context("a program is in a directory")?;
    let is_below = profile.ends_with("deps") || profile.ends_with("examples");
    let profile = if is_below { profile.parent().context("deps is in a directory")? } else { profile };
    Ok(profile.to_owned())
}

fn own_target() -> Result<PathBuf> {
    Ok(own_profile()?.parent().context("a profile is in a target directory")?.to_owned())
}

/// The cargo that we were built by, in the workspace and with the same target directory.
fn cargo(verb: &str) -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([verb, "--locked", "--target-dir"]).arg(own_target()?);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    forget_own_package(&mut cargo);
    Ok(cargo)
}

/// What cargo tells a test about its own package would make another package's dependencies look changed.
pub fn forget_own_package(cargo: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy().into_owned();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| variable.starts_with(prefix)) {
            cargo.env_remove(variable);
        }
    }
}
