//! One agent for each node: a lock that the kernel gives back when its holder dies.

use std::{
    fs::{File, TryLockError, create_dir_all},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The lock's file in the run directory.
const NAME: &str = "agent.lock";

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(NAME)
}

/// The lock, or `None` while another process holds it.
pub fn try_lock(run_dir: &Path) -> anyhow::Result<Option<Lock>> {
    create_dir_all(run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    let path = path(run_dir);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_has_one_holder() {
        let directory = tempfile::tempdir().unwrap();
        let first = try_lock(directory.path()).unwrap();
        assert!(first.is_some());
        assert!(try_lock(directory.path()).unwrap().is_none());
        drop(first);
        assert!(try_lock(directory.path()).unwrap().is_some());
    }
}
