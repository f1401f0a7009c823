//! Where things are.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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

/// Cargo, in the workspace, as if it had been called by hand: what `cargo run` tells us about ourselves is
/// taken out, since build scripts look at it and would build half of the dependencies again.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}
