//! The preshared key of IPsec, in a file that a Secret is mounted as, and what can be wrong with such files.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::mark;

/// A key of fewer characters could be found by trying: one answer of a node is enough to try on.
const SHORTEST_KEY: usize = 32;

/// The preshared key or the certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IkeKeyError {
    #[error(
        "{} is not there: make the Secret that the chart names, let the chart's ipsec.certificatesFrom name the nodes' directory of certificates, or mount the file", path.display()
    )]
    Missing { path: PathBuf },
    #[error("read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:o}): give it mode 400", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} {must}", path.display())]
    Unfit { path: PathBuf, must: String },
    #[error("{} expired on {at}: renew it; no peer believes it, and what was negotiated ends within an hour", path.display())]
    Expired { path: PathBuf, at: String },
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
    let (found, text) = private(path)?;
    let text = text.trim();
    if text.len() < SHORTEST_KEY || text.lines().count() != 1 {
        let must = format!("must hold a text of at least {SHORTEST_KEY} characters in one line");
        return Err(IkeKeyError::Unfit { path: path.to_owned(), must });
    }
    Ok((format!("{}{}", mark::IKE_PREFIX, stamp(&found)), Secret(text.to_owned())))
}

/// When the file was written.
pub(super) fn stamp(found: &fs::Metadata) -> String {
    format!("{}.{:09}", found.mtime(), found.mtime_nsec())
}

/// A file's text, which its owner alone may read.
pub(super) fn private(path: &Path) -> Result<(fs::Metadata, String), IkeKeyError> {
    let (found, text) = read(path)?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IkeKeyError::Open { path: path.to_owned(), mode });
    }
    Ok((found, text))
}

/// A file's text.
pub(super) fn read(path: &Path) -> Result<(fs::Metadata, String), IkeKeyError> {
    let path = path.to_owned();
    let both = fs::metadata(&path).and_then(|found| Ok((found, fs::read_to_string(&path)?)));
    both.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => IkeKeyError::Missing { path },
        io::ErrorKind::InvalidData => IkeKeyError::Unfit { path, must: "must be a text".to_owned() },
        _ => IkeKeyError::File { path, source },
    })
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
