//! `cargo xtask arm64`: the programs for arm64, compiled on another architecture, and each started once under emulation.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};
use tartan_lab::{
    SHIPPED,
    prerequisites::{self, Tool},
};

use crate::workspace;

/// Rust's name of Linux with glibc on arm64, of which there are binaries in Rust's own releases.
const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Debian's compiler for it, which links, and compiles the parts of libraries that are not in Rust.
const COMPILER: &str = "aarch64-linux-gnu-gcc";
/// With the directory of the C library that Debian installs beside the compiler.
const EMULATOR: &str = "qemu-aarch64 -L /usr/aarch64-linux-gnu";

/// Builds the programs, and has each say how it is used. Errors name what is missing or failed.
pub fn run() -> Result<()> {
    prerequisites::require(&[Tool::Arm64])?;
    let installed =
        Command::new("rustup").args(["target", "add", TARGET]).status().context("start rustup")?;
    if !installed.success() {
        bail!("rustup target add {TARGET} ended with {installed}: the standard library for arm64 is needed");
    }
    let programs = SHIPPED.iter().flat_map(|program| ["--package", program]);
    build(["build", "--release", "--locked", "--target", TARGET].into_iter().chain(programs))?;
    for program in SHIPPED {
        let file = binary(program);
        let size = std::fs::metadata(&file).with_context(|| format!("read {}", file.display()))?.len();
        let mut emulator = EMULATOR.split(' ');
        let output = Command::new(emulator.next().unwrap_or_default())
            .args(emulator)
            .arg(&file)
            .arg("--help")
            .output()
            .context("start the emulator")?;
        if !output.status.success() || !String::from_utf8_lossy(&output.stdout).contains("Usage") {
            bail!("{} --help under emulation: {output:?}", file.display());
        }
        println!("{} ({} MB)", file.display(), size / 1_000_000);
    }
    Ok(())
}

/// Where a program is when it is built.
fn binary(program: &str) -> PathBuf {
    workspace::target().join(TARGET).join("release").join(program)
}

fn build<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(arguments);
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER);
    cargo.env("CC_aarch64_unknown_linux_gnu", COMPILER);
    let status = cargo.status().context("start cargo")?;
    if !status.success() {
        bail!("cargo for arm64 ended with {status}");
    }
    Ok(())
}
