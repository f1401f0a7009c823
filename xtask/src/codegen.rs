//! `cargo xtask codegen`: writes the files that are generated from code and committed.
//!
//! Called by a person after changing the API types or the chart's values, and with `check` by a test. It knows every
//! generated file; nothing else writes one. The files are committed, so that readers and `kubectl` need no build.

mod crds;
mod schema;
mod values;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::workspace::root;

/// What a generated file should contain.
#[derive(Debug, PartialEq, Eq)]
pub struct Generated {
    /// Relative to the repository's root.
    pub path: PathBuf,
    pub text: String,
}

/// Writes the files, or with `check` only names those that differ.
pub fn run(check: bool) -> Result<()> {
    let stale = stale()?;
    if check {
        return match stale.as_slice() {
            [] => Ok(()),
            stale => bail!("{}", advice(stale)),
        };
    }
    for file in &stale {
        let path = root().join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(&path, &file.text).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", file.path.display());
    }
    Ok(())
}

/// The generated files that differ from what is committed.
pub fn stale() -> Result<Vec<Generated>> {
    let mut stale = crds::generate()?;
    stale.push(schema::generate()?);
    stale.push(values::generate()?);
    stale.retain(|file| fs::read_to_string(root().join(&file.path)).ok().as_deref() != Some(&file.text));
    Ok(stale)
}

/// What to tell whoever finds stale files.
pub fn advice(stale: &[Generated]) -> String {
    let names: Vec<String> = stale.iter().map(|file| file.path.display().to_string()).collect();
    format!("these files are not what the code generates; run `cargo xtask codegen`: {}", names.join(", "))
}
