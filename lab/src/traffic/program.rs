//! Where the program is: beside the test that runs, built by the cargo that runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use crate::run::run;

const NAME: &str = "tartan-lab-traffic";

/// The path of `tartan-lab-traffic`, which is built when it is first asked for.
pub fn program() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let own = std::env::current_exe()?;
    // TARGET/PROFILE/program, TARGET/PROFILE/deps/test or TARGET/PROFILE/examples/program.
    let mut profile = own.parent().context("a program is in a directory")?;
    if profile.ends_with("deps") || profile.ends_with("examples") {
        profile = profile.parent().context("deps is in a directory")?;
    }
    let path = profile.join(NAME);
    // A test of another package does not build it, and an older one may lie there: cargo knows.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "tartan-lab", "--bin", NAME]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(profile.parent().context("a profile is in a target directory")?);
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")));
    match run(&mut cargo) {
        Ok(output) => _ = output.ok()?,
        // Without cargo the one beside us has to do.
        Err(error) if !path.exists() => return Err(error.context(format!("build {NAME}"))),
        Err(_) => {}
    }
    *built = Some(path.clone());
    Ok(path)
}
