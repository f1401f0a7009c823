//! Kernel settings below `/proc/sys/net`, and what they were before.
//!
//! Blocking file access on purpose: these files answer at once, and `/proc/sys/net` shows the network
//! namespace of the very thread that opens it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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

    /// Sets a value and keeps the one that was there before we first came.
    pub(super) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let before = self.read(name)?;
        if before == value {
            return Ok(());
        }
        let kept = self.restore.join(name.replace('/', ":"));
        if !kept.exists() {
            fs::create_dir_all(&self.restore)?;
            fs::write(&kept, before)?;
        }
        fs::write(self.path(name), value)
    }

    /// Puts every kept value back; one whose setting is gone (its link was removed) is dropped.
    pub(super) fn restore(&self) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.restore) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let mut restored = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().replace(':', "/");
            match fs::write(self.path(&name), fs::read_to_string(entry.path())?) {
                Ok(()) => restored += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            fs::remove_file(entry.path())?;
        }
        fs::remove_dir(&self.restore)?;
        Ok(restored)
    }
}
