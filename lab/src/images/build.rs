//! Building the project's Dockerfile with buildah, from the lab's own base image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

use super::{BASE_IMAGE, BASE_VERSION, base_image};
use crate::prerequisites::{Tool, cache, require};
use crate::progress::Step;
use crate::run::{command, run};

/// One image of a Dockerfile.
#[derive(Debug, Clone)]
pub struct Build<'a> {
    pub dockerfile: &'a Path,
    /// Where `COPY` takes files from.
    pub context: &'a Path,
    /// The stage to build.
    pub target: &'a str,
    /// Build arguments, in addition to `BASE`, which names the lab's Debian.
    pub arguments: &'a [(&'a str, &'a str)],
    /// The name that the image gets, `repository:tag`.
    pub name: &'a str,
}

/// Builds an image and writes it to `archive`, which must not lie in the context. Nothing is pulled; `RUN` uses this
/// machine's network. An archive that was made of the same files, as a note beside it says, stays as it is.
pub fn build_with_buildah(build: &Build<'_>, archive: &Path) -> Result<PathBuf> {
    let (source, note) = (source(build)?, archive.with_extension("source"));
    if archive.exists() && fs::read_to_string(&note).is_ok_and(|before| before == source) {
        return Ok(archive.to_owned());
    }
    require(&[Tool::Images])?;
    let base = base_image()?;
    let step = Step::start(format!("building the image {}", build.name));
    // Storage of our own, not the host's; a new base starts with an empty one.
    let storage = cache()?.join("buildah").join(BASE_VERSION);
    let buildah = |words: &[&str]| {
        let mut command = command(&["buildah", "--storage-driver", "overlay"]);
        command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
        command.args(words);
        command
    };
    // The pruning below must not meet somebody else's half-built image.
    fs::create_dir_all(&storage)?;
    let lock = fs::File::create(storage.join("lock"))?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock buildah")?;
    let have = run(&mut buildah(&["images", "--quiet", BASE_IMAGE]))?;
    if !have.success() || have.stdout.trim().is_empty() {
        run(&mut buildah(&["pull", &format!("docker-archive:{}", base.display())]))?.ok()?;
    }
    let mut bud = buildah(&["build", "--isolation", "chroot", "--layers", "--pull=never"]);
    bud.arg("--file").arg(build.dockerfile).args(["--target", build.target, "--tag", build.name]);
    bud.args(["--build-arg", &format!("BASE=docker.io/{BASE_IMAGE}")]);
    for (name, value) in build.arguments {
        bud.args(["--build-arg", &format!("{name}={value}")]);
    }
    run(bud.arg(build.context))?.ok()?;
    // containerd cannot overwrite, nor can skopeo: an older archive has to go first, and its note before it.
    let _ = fs::remove_file(&note);
    let _ = fs::remove_file(archive);
    let target = format!("docker-archive:{}:docker.io/{}", archive.display(), build.name);
    run(&mut buildah(&["push", build.name, &target]))?.ok()?;
    // Layers of earlier builds that no image uses any more; a failure costs only space.
    let _ = run(&mut buildah(&["rmi", "--prune"]));
    fs::write(&note, source)?;
    step.done();
    Ok(archive.to_owned())
}

/// What an image is made of: what was asked for, and the digests of all files.
fn source(build: &Build<'_>) -> Result<String> {
    let mut files = command(&["find"]);
    files.arg(build.dockerfile).arg(build.context).args(["-type", "f"]);
    files.args(["-exec", "sha256sum", "--", "{}", "+"]);
    let listed = run(&mut files)?.ok().context("read what the image is made of")?.stdout;
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    Ok(format!("{build:?} of {BASE_VERSION}\n{}\n", lines.join("\n")))
}
