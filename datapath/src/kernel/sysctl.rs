//! Kernel settings below `/proc/sys/net`, and what they were before.
//!
//! Blocking file access on purpose: these files answer at once, and `/proc/sys/net` shows the network
//! namespace of the very thread that opens it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::mark;

#[derive(Clone, Debug)]
pub(super) struct Sysctls {
    /// `/proc/sys`, or where the host's is mounted.
    root: PathBuf,
    /// Where previous values are kept; runtime only, as a reboot resets the settings as well.
    restore: PathBuf,
}

impl Sysctls {
    pub(super) fn new(root: &Path, restore: &Path) -> Self {
        Self { root: root.to_owned(), restore: restore.to_owned() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join("net").join(name)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(name))?.trim().to_owned())
    }

    /// Sets a value and keeps the one that was there before we first came; not of a link of ours, whose settings go
    /// with it.
    pub(super) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let before = self.read(name)?;
        if before == value {
            return Ok(());
        }
        let kept = self.restore.join(name.replace('/', ":"));
        if !is_of_our_link(name) && !kept.exists() {
            fs::create_dir_all(&self.restore)?;
            // Killed in between, half a value would be put back one day.
            let new = self.restore.join(format!("{}.new", name.replace('/', ":")));
            fs::write(&new, before)?;
            fs::rename(&new, &kept)?;
        }
        fs::write(self.path(name), value)
    }

    /// Puts every kept value back; one whose setting is gone (the uplink has another name) is dropped. One that fails
    /// is kept for another time and doesn't hinder the rest; the first error is the answer.
    pub(super) fn restore(&self) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.restore) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let (mut restored, mut failed) = (0, None);
        for entry in entries {
            let kept = entry?.path();
            match self.restore_one(&kept) {
                Ok(true) => restored += 1,
                Ok(false) => {}
                Err(error) => {
                    let message = format!("{}: {error}", kept.display());
                    failed = failed.or(Some(io::Error::new(error.kind(), message)));
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => fs::remove_dir(&self.restore).map(|()| restored),
        }
    }

    fn restore_one(&self, kept: &Path) -> io::Result<bool> {
        let name = kept.file_name().unwrap_or_default().to_string_lossy().replace(':', "/");
        let there = match fs::write(self.path(&name), fs::read_to_string(kept)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            other => other.map(|()| true)?,
        };
        fs::remove_file(kept)?;
        Ok(there)
    }
}

/// `FAMILY/conf/LINK/…`, of the bridge or a tunnel.
fn is_of_our_link(name: &str) -> bool {
    let link = name.split('/').nth(2);
    link.is_some_and(|link| link == mark::BRIDGE || mark::TUNNELS.contains(&link))
}
