//! The preshared key of IPsec, in a file that a Secret is mounted as.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::mark;

/// A key of fewer characters could be found by trying: one answer of a node is enough to try on.
const SHORTEST_KEY: usize = 32;

/// The preshared key can't be had.
#[derive(Debug, thiserror::Error)]
pub enum IkeKeyError {
    #[error(
        "no preshared key in {}: make the Secret that the chart names, or mount the file", path.display()
    )]
    Missing { path: PathBuf },
    #[error("read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:o}): mount it with mode 400", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the preshared key in {} must be a text of at least {SHORTEST_KEY} characters in one line", path.display())]
    Unfit { path: PathBuf },
}

/// Printed by nothing.
#[derive(PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The preshared key, of a file that a Secret is mounted as, and its name in the daemon, which tells when the file
/// was written and nothing of the key.
pub(super) fn secret(path: &Path) -> Result<(String, Secret), IkeKeyError> {
    let path = path.to_owned();
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IkeKeyError::Missing { path }),
        Err(source) => return Err(IkeKeyError::File { path, source }),
    };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IkeKeyError::Open { path, mode });
    }
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(IkeKeyError::Unfit { path }),
        Err(source) => return Err(IkeKeyError::File { path, source }),
    };
    let text = text.trim();
    if text.len() < SHORTEST_KEY || text.lines().count() != 1 {
        return Err(IkeKeyError::Unfit { path });
    }
    let name = format!("{}{}.{:09}", mark::IKE_PREFIX, found.mtime(), found.mtime_nsec());
    Ok((name, Secret(text.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_must_be_long_secret_and_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("psk");
        assert!(matches!(secret(&path), Err(IkeKeyError::Missing { .. })));
        let good = "0123456789abcdef0123456789abcdef";
        for (text, mode, fits) in [
            (good, 0o600, true),
            (&format!("{good}\n"), 0o400, true),
            (good, 0o644, false),
            ("short", 0o600, false),
            (&format!("{good}\n{good}"), 0o600, false),
        ] {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let found = secret(&path);
            assert_eq!(found.is_ok(), fits, "{text:?} {mode:o}: {found:?}");
            assert!(!format!("{found:?}").contains(good));
        }
    }
}
