//! `cargo xtask licences`: the licence texts of what is compiled into the programs, which the images carry as those
//! licences ask.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tartan_lab::SHIPPED;

use crate::workspace::cargo;

/// Its name in the images' `/usr/share/doc/tartan`.
pub const FILE: &str = "THIRD-PARTY-LICENSES";
/// What names of files with licence texts begin with, in lower case.
const NAMES: [&str; 6] = ["license", "licence", "copying", "notice", "copyright", "unlicense"];

/// As much of `cargo metadata` as is needed.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Where its sources are, which some licences ask to be told.
    repository: Option<String>,
    /// `None`: ours.
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None`: of the program itself, not of its tests or its building.
    kind: Option<String>,
}

/// Writes them into `file`.
pub fn run(file: &Path) -> Result<()> {
    fs::write(file, text()?).with_context(|| format!("write {}", file.display()))
}

/// Each text once, under the names of all packages that have it.
pub fn text() -> Result<String> {
    let metadata = metadata()?;
    let used = used(&metadata);
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut list = String::new();
    let mut packages: Vec<&Package> =
        metadata.packages.iter().filter(|p| p.source.is_some() && used.contains(p.id.as_str())).collect();
    packages.sort_by_key(|package| (&package.name, &package.version));
    for package in packages {
        let name = format!("{} {}", package.name, package.version);
        let license = package.license.as_deref().unwrap_or("as its file says");
        let found = files(package)?;
        let none = if found.is_empty() { ", without a file of its text" } else { "" };
        let place = package.repository.as_deref().map(|place| format!(", {place}")).unwrap_or_default();
        list.push_str(&format!("{name}: {license}{place}{none}\n"));
        for text in found {
            texts.entry(text).or_default().insert(name.clone());
        }
    }
    ensure!(!texts.is_empty(), "no package has a licence: are the sources there?");
    let mut all = format!("What the programs of tartan contain beside their own code:\n\n{list}");
    for (text, names) in texts {
        let names: Vec<String> = names.into_iter().collect();
        all.push_str(&format!("\n{}\n{}\n\n{}\n", "-".repeat(80), names.join(", "), text));
    }
    Ok(all)
}

fn metadata() -> Result<Metadata> {
    let mut command = cargo();
    command.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &host()]);
    let output = command.stderr(Stdio::inherit()).output().context("start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("cargo metadata said something else")
}

/// The platform that the programs are built for, which is this one.
fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// What the programs are made of, themselves included.
fn used(metadata: &Metadata) -> BTreeSet<&str> {
    let deps: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|n| (n.id.as_str(), n)).collect();
    let is_program = |package: &&Package| SHIPPED.contains(&package.name.as_str());
    let mut open: Vec<&str> = metadata.packages.iter().filter(is_program).map(|p| p.id.as_str()).collect();
    let mut used = BTreeSet::new();
    while let Some(id) = open.pop() {
        if used.insert(id) {
            let linked = |dep: &&Dependency| dep.dep_kinds.iter().any(|kind| kind.kind.is_none());
            open.extend(
                deps.get(id).into_iter().flat_map(|n| n.deps.iter().filter(linked)).map(|d| d.pkg.as_str()),
            );
        }
    }
    used
}

fn files(package: &Package) -> Result<Vec<String>> {
    let folder = package.manifest_path.parent().context("a manifest is in a folder")?;
    let mut texts = vec![];
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && NAMES.iter().any(|known| name.starts_with(known)) {
            texts.push(String::from_utf8_lossy(&fs::read(&path)?).trim().to_owned());
        }
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_texts_of_what_is_compiled_in_are_there_and_of_nothing_else() {
        let text = super::text().unwrap();
        for contained in
            ["\ntokio 1.", "\ngotatun 0.", ": MPL-2.0, https://", "Apache License", "\nkube-core "]
        {
            assert!(text.contains(contained), "{contained}");
        }
        // Of tests, and of building.
        for absent in ["\nproptest ", "\ninsta ", "\ntartan-"] {
            assert!(!text.contains(absent), "{absent}");
        }
    }
}
