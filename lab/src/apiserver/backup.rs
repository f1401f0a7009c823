//! Backups of all that an API server's store holds, as an administrator makes and restores them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{ApiServer, start_etcd};

/// What a server's store held at some time. It goes with its server.
#[derive(Debug)]
pub struct Backup {
    copy: TempDir,
}

impl ApiServer {
    /// Stops the server and its store, copies what the store holds, and starts both again.
    pub fn back_up(&mut self) -> Result<Backup> {
        self.stop()?;
        self.etcd.kill()?;
        let copy = tempfile::tempdir_in(self.home.path())?;
        copy_tree(&self.home.join("etcd"), copy.path())?;
        self.start_store_and_server()?;
        Ok(Backup { copy })
    }

    /// Puts a backup in the place of all that the store holds. As with a plain restore of etcd, resource versions go
    /// back too, and those since the backup are given out a second time.
    pub fn restore(&mut self, backup: &Backup) -> Result<()> {
        self.stop()?;
        self.etcd.kill()?;
        let data = self.home.join("etcd");
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        copy_tree(backup.copy.path(), &data)?;
        self.start_store_and_server()
    }

    fn start_store_and_server(&mut self) -> Result<()> {
        self.etcd = start_etcd(&self.home)?;
        self.resume()
    }
}

/// Files and directories; etcd makes its sockets anew.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
