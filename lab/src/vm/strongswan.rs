//! strongSwan in a virtual machine: Debian's packages, unpacked into the cache and never installed, since an
//! installed daemon would start on the host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::backports;
use super::initramfs::Initramfs;

/// With the daemon, its plugins and `swanctl`; what these need is on every Debian.
const PACKAGES: [&str; 5] = [
    "charon-systemd",
    "libstrongswan",
    "libstrongswan-standard-plugins",
    "strongswan-libcharon",
    "strongswan-swanctl",
];

/// Below `/`.
const LIBRARIES: &str = "usr/lib/ipsec";
const PROGRAMS: [&str; 2] = ["usr/sbin/charon-systemd", "usr/sbin/swanctl"];
/// It loads this one at its end, by name.
const UNWINDER: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";

pub(super) fn add(initramfs: &mut Initramfs) -> Result<()> {
    let root = backports::unpacked_alone("strongswan", &PACKAGES)?;
    let libraries = root.join(LIBRARIES);
    for directory in [libraries.clone(), libraries.join("plugins")] {
        for file in files(&directory)? {
            initramfs.add_object(&file, &Path::new("/").join(file.strip_prefix(&root)?), &libraries)?;
        }
    }
    for program in PROGRAMS {
        initramfs.add_object(&root.join(program), &Path::new("/").join(program), &libraries)?;
    }
    initramfs.add_file(Path::new(UNWINDER), Path::new(UNWINDER))
}

/// Shared objects, also under the names of links to them.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
