//! `cargo xtask image`: the images as archives, made without a registry.
//!
//! The programs are compiled here and not in the image's build, where nothing would be cached. `ctr images import` and
//! `docker load` read the archives.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tartan_lab::{
    SHIPPED,
    images::{BASE_IMAGE, Build, build_with_buildah},
    shipped_path, shipping,
};

use crate::licences;
use crate::workspace::{root, target};

/// The archives of one build. Their images have the names that the chart asks for with `REGISTRY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    pub operator: PathBuf,
    pub agent: PathBuf,
    /// The IKE daemon's.
    pub ipsec: PathBuf,
}

pub fn run(directory: Option<&Path>) -> Result<()> {
    let images = build(directory.unwrap_or(&default_directory()))?;
    for archive in [&images.operator, &images.agent, &images.ipsec] {
        let size = fs::metadata(archive)?.len() / 1_000_000;
        println!("{} ({size} MB)", archive.display());
    }
    Ok(())
}

/// Where the archives are put if nobody says otherwise.
pub fn default_directory() -> PathBuf {
    target().join("images")
}

/// Compiles the programs with optimizations, and writes `operator.tar`, `agent.tar` and `ipsec.tar` into `directory`,
/// each with a note of what it was made of: one that would be made of the same again stays as it is.
pub fn build(directory: &Path) -> Result<Images> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let directory = fs::canonicalize(directory)?;
    let context = compile()?;
    let image = |stage: &str, program: &str| {
        let name = name(program);
        let build = Build {
            dockerfile: &root().join("Dockerfile"),
            context: &context,
            target: stage,
            arguments: &[("BUILDER", &format!("docker.io/{BASE_IMAGE}"))],
            name: &name,
        };
        build_with_buildah(&build, &directory.join(format!("{stage}.tar")))
    };
    Ok(Images {
        operator: image("operator", "tartan-operator")?,
        agent: image("agent", "tartan-node-agent")?,
        ipsec: image("ipsec", "tartan-ipsec")?,
    })
}

/// The registry of images that never left this machine, for `image.registry`.
pub const REGISTRY: &str = "localhost";

/// The name of a program's image, as the chart asks for it with `REGISTRY`.
pub fn name(program: &str) -> String {
    format!("{REGISTRY}/tartan/{program}:{}", env!("CARGO_PKG_VERSION"))
}

/// A directory that holds the programs, the licences, and nothing else.
fn compile() -> Result<PathBuf> {
    let status = shipping()?.status().context("start cargo")?;
    if !status.success() {
        bail!("cargo build ended with {status}");
    }
    let context = target().join("image");
    fs::create_dir_all(&context)?;
    let licences = target().join(licences::FILE);
    licences::run(&licences)?;
    let mut files = vec![(licences::FILE, licences), ("LICENSE", root().join("LICENSE"))];
    for program in SHIPPED {
        files.push((program, shipped_path(program)?));
    }
    for (name, file) in files {
        // A file that is the same keeps its time, and the image its layer.
        if fs::read(&file)? != fs::read(context.join(name)).unwrap_or_default() {
            fs::copy(&file, context.join(name)).with_context(|| format!("copy {}", file.display()))?;
        }
    }
    Ok(context)
}
