//! Images without a registry: archives in the cache, made from programs or by Debian's tools.
//!
//! An archive is a file that containerd imports ([`Cluster::import_image`](crate::Cluster::import_image)) and buildah
//! can start a build from.

mod archive;
mod build;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

pub use build::{Build, build_with_buildah};

use crate::prerequisites::{KUBERNETES_VERSION, Program, Tool, cache, require};
use crate::progress::Step;
use crate::run::{command, run};

/// The upstream network test program, a shell with the usual tools, and `pause`.
pub const TEST_IMAGE: &str = "tartan-lab/agnhost:1";

/// What keeps a pod's namespaces: the test image, which can pause, under a name of its own.
pub(crate) const PAUSE_IMAGE: &str = "tartan-lab/pause:1";

/// A minimal Debian, to build the project's images from.
pub const BASE_IMAGE: &str = "tartan-lab/debian:bookworm";

/// What [`base_image`] makes, in the cache; a change of it is a new name.
pub(crate) const BASE_VERSION: &str = "debian-bookworm-2";

/// The archive of [`TEST_IMAGE`].
pub fn test_image() -> Result<PathBuf> {
    let program = Program::Agnhost.path()?;
    cached(&format!("agnhost-{KUBERNETES_VERSION}-2"), |directory| {
        let root = directory.join("root");
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("tmp"))?;
        fs::copy(&program, root.join("agnhost")).context("copy agnhost")?;
        add_shell(directory, &root)?;
        archive::write(
            &directory.join("image.tar"),
            &[TEST_IMAGE, PAUSE_IMAGE],
            &root,
            &archive::Config { entrypoint: &["/agnhost"], arguments: &["pause"] },
        )?;
        fs::remove_dir_all(root)?;
        Ok(())
    })
}

/// The archive of [`BASE_IMAGE`], from the Debian mirror that this machine uses.
pub fn base_image() -> Result<PathBuf> {
    require(&[Tool::Images])?;
    cached(BASE_VERSION, |directory| {
        let step = Step::start("bootstrapping a minimal Debian (half a minute)");
        let root = directory.join("root");
        let mut bootstrap = command(&["mmdebstrap", "--variant=minbase", "--include=ca-certificates"]);
        for path in ["doc", "man", "info", "locale"] {
            bootstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
        }
        // mmdebstrap takes a file of sources in place of a mirror, and so uses whatever this machine uses.
        bootstrap.arg("bookworm").arg(&root);
        if let Some(sources) = debian_sources() {
            bootstrap.arg(sources);
        }
        run(&mut bootstrap)?.ok()?;
        archive::write(
            &directory.join("image.tar"),
            &[BASE_IMAGE],
            &root,
            &archive::Config { entrypoint: &[], arguments: &["/bin/sh"] },
        )?;
        fs::remove_dir_all(root)?;
        step.done();
        Ok(())
    })
}

/// The directory of a cached image; `make` fills it the first time. The answer is the archive in it.
fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let images = cache()?.join("images");
    let archive = images.join(name).join("image.tar");
    if archive.exists() {
        return Ok(archive);
    }
    fs::create_dir_all(&images)?;
    let lock = File::create(images.join(format!("{name}.lock")))?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the cache")?;
    if !archive.exists() {
        // Made beside its place and moved there whole, so that an interrupted one is not taken for done.
        let unfinished = tempfile::tempdir_in(&images)?;
        make(unfinished.path()).with_context(|| format!("make the image {name}"))?;
        let _ = fs::remove_dir_all(images.join(name));
        fs::rename(unfinished.keep(), images.join(name))?;
    }
    Ok(archive)
}

/// A static busybox, taken out of its package: installing it would replace the host's own busybox.
fn add_shell(directory: &Path, root: &Path) -> Result<()> {
    let package = directory.join("package");
    fs::create_dir_all(&package)?;
    let mut download = command(&["apt-get", "download", "--quiet", "busybox-static"]);
    download.current_dir(&package);
    // As with installing: the lists may be absent, or older than the mirror.
    if !run(&mut download)?.success() {
        run(&mut command(&["apt-get", "update"]))?.ok()?;
        run(&mut download)?.ok()?;
    }
    run(command(&["sh", "-euc", "dpkg-deb --extract busybox-static_*.deb ."]).current_dir(&package))?.ok()?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| package.join(path));
    let busybox = busybox.iter().find(|path| path.exists()).context("the package has no busybox")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in run(command(&["./busybox", "--list"]).current_dir(root.join("bin")))?.ok()?.stdout.lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    fs::remove_dir_all(package)?;
    Ok(())
}

fn debian_sources() -> Option<&'static Path> {
    ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists())
}
