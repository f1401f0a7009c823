//! Files with secrets: this node's WireGuard keys, one of each generation, and the preshared key of the network.
//!
//! Keys are made here and live as long as the kernel's sessions do, since `/run` is emptied by a reboot. None is ever
//! in a message.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::libc::{ELOOP, O_NOFOLLOW};
use x25519_dalek::StaticSecret;

use crate::model::{PresharedKey, PresharedKeyError, PublicKey};

/// A key can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read or write {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:o}): remove it, and a new key is made, or set its mode to 600", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} is a link or no plain file: remove it, and a new key is made", path.display())]
    NotPlain { path: PathBuf },
    #[error("{} holds no WireGuard private key: it must be 32 bytes in base64; remove it, and a new one is made", path.display())]
    Malformed { path: PathBuf },
    #[error("there is no preshared key at {}", path.display())]
    NoPreshared { path: PathBuf },
    #[error("the preshared key at {} can't be used", path.display())]
    MalformedPreshared {
        path: PathBuf,
        #[source]
        source: PresharedKeyError,
    },
}

/// This node's private key. Printed by nothing, wiped when dropped.
pub(super) struct PrivateKey {
    secret: StaticSecret,
    public: PublicKey,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// The file of a generation's key.
pub(super) fn file(folder: &Path, generation: u32) -> PathBuf {
    folder.join(format!("wireguard-{generation}.key"))
}

/// Removes the keys of generations that aren't kept, and what a crash left unfinished; returns how many.
pub(super) fn remove(folder: &Path, kept: impl Fn(u32) -> bool) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut removed = 0;
    for entry in entries {
        let name = entry?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("wireguard-")) else { continue };
        let (number, unfinished) = match rest.rsplit_once('.') {
            Some((number, "key")) => (number, false),
            Some((number, "new")) => (number, true),
            _ => continue,
        };
        if number.parse().is_ok_and(|generation| unfinished || !kept(generation)) {
            fs::remove_file(folder.join(&name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The network's preshared key, in the form of `wg genpsk`. Links are followed: it is somebody else's file.
pub(super) fn preshared_key(path: &Path) -> Result<PresharedKey, KeyError> {
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyError::NoPreshared { path: path.to_owned() },
        _ => KeyError::File { path: path.to_owned(), source },
    })?;
    text.trim().parse().map_err(|source| KeyError::MalformedPreshared { path: path.to_owned(), source })
}

impl PrivateKey {
    /// From the file, in the form of `wg genkey`; a file that isn't there is made.
    pub(super) fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let not_plain = || KeyError::NotPlain { path: path.to_owned() };
        match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path) {
            Ok(mut file) => {
                let metadata = file.metadata().map_err(failed)?;
                if !metadata.is_file() {
                    return Err(not_plain());
                }
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Open { path: path.to_owned(), mode });
                }
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let bytes =
                    STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                match (read, bytes) {
                    (Err(error), _) if error.kind() != io::ErrorKind::InvalidData => Err(failed(error)),
                    (_, Some(bytes)) => Ok(Self::of(bytes)),
                    _ => Err(KeyError::Malformed { path: path.to_owned() }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path).map_err(failed),
            Err(error) if error.raw_os_error() == Some(ELOOP) => Err(not_plain()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Complete or not at all: a key that was published must be there after a crash.
    fn create(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        // Section 5 of RFC 7748; the kernel does the same.
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let unfinished = path.with_extension("new");
        let _ = fs::remove_file(&unfinished);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{}", STANDARD.encode(bytes))?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(directory)?.sync_all()?;
        Ok(Self::of(bytes))
    }

    pub(super) fn of(bytes: [u8; 32]) -> Self {
        let secret = StaticSecret::from(bytes);
        let public = PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    pub(super) fn public(&self) -> PublicKey {
        self.public
    }

    /// For the kernel alone.
    pub(super) fn to_bytes(&self) -> [u8; 32] {
        self.secret.to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder.path().join("sub"), 0);
        let made = PrivateKey::load_or_create(&path).unwrap().public();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PrivateKey::load_or_create(&path).unwrap().public(), made);
        assert!(
            !format!("{:?}", PrivateKey::load_or_create(&path).unwrap())
                .contains(fs::read_to_string(&path).unwrap().trim())
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = PrivateKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for nonsense in [&b"nonsense\n"[..], b"", b"\xff\xfe\n", b"aGVsbG8=\n"] {
            fs::write(&path, nonsense).unwrap();
            assert!(
                matches!(PrivateKey::load_or_create(&path), Err(KeyError::Malformed { .. })),
                "{nonsense:?}"
            );
        }
    }

    #[test]
    fn a_link_is_not_followed_nor_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (file(folder.path(), 1), folder.path().join("elsewhere"));
        symlink(&target, &path).unwrap();
        for there in [false, true] {
            if there {
                PrivateKey::create(&target).unwrap();
            }
            let error = PrivateKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::NotPlain { .. }), "{error:?}");
            assert_eq!(target.exists(), there);
        }
    }

    #[test]
    fn keys_that_are_not_kept_are_removed_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        for generation in [3, 4, 5] {
            PrivateKey::load_or_create(&file(folder.path(), generation)).unwrap();
        }
        for other in ["wireguard-6.new", "wireguard-x.key", "wireguard.key", "agent.lock"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        assert_eq!(remove(folder.path(), |generation| generation == 5).unwrap(), 3);
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["agent.lock", "wireguard-5.key", "wireguard-x.key", "wireguard.key"]);
        assert_eq!(remove(&folder.path().join("none"), |_| true).unwrap(), 0);
    }

    #[test]
    fn a_preshared_key_that_is_absent_or_malformed_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("presharedKey");
        let error = preshared_key(&path).unwrap_err();
        assert!(matches!(error, KeyError::NoPreshared { .. }) && error.to_string().contains("presharedKey"));
        fs::write(&path, "short").unwrap();
        assert!(matches!(preshared_key(&path), Err(KeyError::MalformedPreshared { .. })));
        fs::write(&path, "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n").unwrap();
        assert!(preshared_key(&path).is_ok());
    }
}
