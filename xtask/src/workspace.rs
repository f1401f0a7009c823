//! Where things are.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tartan_lab::forget_own_package;

/// The top of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The Helm chart.
pub fn chart() -> PathBuf {
    root().join("charts/tartan")
}

/// Cargo, in the workspace, as if it had been called by hand.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    forget_own_package(&mut cargo);
    cargo
}
