//! This node's certificate for IPsec, in files that somebody else renews.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use x509_cert::{
    Certificate,
    der::{EncodePem as _, pem::LineEnding},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::key::{IkeKeyError, Secret, private, read, stamp};
use crate::mark;

/// Those whose signatures are believed, the node's own with what leads from it to one of these, and its private key.
const TRUSTED: &str = "ca.crt";
const OWN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What a name in the daemon begins with that stands for certificates.
pub(super) const PREFIX: &str = "certificate-";

/// All that the daemon must hold, in PEM.
#[derive(Debug)]
pub(super) struct Certificates {
    /// In the daemon: tells when the files were written.
    pub(super) name: String,
    pub(super) trusted: Vec<String>,
    /// The node's first.
    pub(super) own: Vec<String>,
    /// By which the daemon calls the key that belongs to the node's certificate: the SHA-1 of its public key, in
    /// hexadecimal.
    pub(super) key_id: String,
    pub(super) key: Secret,
}

/// Reads the files, and refuses those that no peer would believe.
pub(super) fn certificates(
    directory: &Path,
    node: &str,
    now: SystemTime,
) -> Result<Certificates, IkeKeyError> {
    let (trusted_at, trusted) = read(&directory.join(TRUSTED))?;
    let (own_at, own) = read(&directory.join(OWN))?;
    let (key_at, key) = private(&directory.join(KEY))?;
    let name =
        format!("{}{PREFIX}{}-{}-{}", mark::IKE_PREFIX, stamp(&trusted_at), stamp(&own_at), stamp(&key_at));
    if !key.contains("PRIVATE KEY-----") || key.contains("ENCRYPTED") {
        return Err(unfit(directory.join(KEY), "must hold one private key in PEM, without a password"));
    }
    let trusted = chain(directory.join(TRUSTED), &trusted)?;
    let own = chain(directory.join(OWN), &own)?;
    let Some(leaf) = own.first() else { return Err(unfit(directory.join(OWN), NO_CERTIFICATE)) };
    check(&directory.join(OWN), leaf, node, now)?;
    let key_id = key_id(leaf);
    let texts = |chain: Vec<Certificate>, file: &str| {
        let text = chain.iter().map(|one| one.to_pem(LineEnding::LF)).collect::<Result<Vec<_>, _>>();
        text.map_err(|_| unfit(directory.join(file), NO_CERTIFICATE))
    };
    let (trusted, own) = (texts(trusted, TRUSTED)?, texts(own, OWN)?);
    Ok(Certificates { name, trusted, own, key_id, key: Secret(key) })
}

impl Certificates {
    /// `loaded` is what the daemon calls the key in `directory`, if it tells.
    pub(super) fn check_key(&self, directory: &Path, loaded: Option<&str>) -> Result<(), IkeKeyError> {
        if loaded.is_some_and(|loaded| !loaded.eq_ignore_ascii_case(&self.key_id)) {
            return Err(unfit(
                directory.join(KEY),
                format!("must be the private key of the certificate in {OWN}"),
            ));
        }
        Ok(())
    }
}

/// A name, as in RFC 5280 section 4.2.1.2 (1): no security hangs on it.
fn key_id(leaf: &Certificate) -> String {
    let key = leaf.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, key);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Until when the node's certificate is valid, where one can be read.
pub(super) fn expiry(directory: &Path) -> Option<SystemTime> {
    let (_, own) = read(&directory.join(OWN)).ok()?;
    let leaf = chain(directory.join(OWN), &own).ok()?.into_iter().next()?;
    Some(SystemTime::UNIX_EPOCH + leaf.tbs_certificate().validity().not_after.to_unix_duration())
}

const NO_CERTIFICATE: &str = "must hold certificates in PEM (RFC 7468)";

fn unfit(path: PathBuf, must: impl Into<String>) -> IkeKeyError {
    IkeKeyError::Unfit { path, must: must.into() }
}

fn chain(path: PathBuf, text: &str) -> Result<Vec<Certificate>, IkeKeyError> {
    match Certificate::load_pem_chain(text.as_bytes()) {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(unfit(path, NO_CERTIFICATE)),
    }
}

fn check(path: &Path, leaf: &Certificate, node: &str, now: SystemTime) -> Result<(), IkeKeyError> {
    let leaf = leaf.tbs_certificate();
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let validity = leaf.validity();
    if validity.not_after.to_unix_duration() < since_1970 {
        let at = validity.not_after.to_string();
        return Err(IkeKeyError::Expired { path: path.to_owned(), at });
    }
    if validity.not_before.to_unix_duration() > since_1970 {
        let at = &validity.not_before;
        return Err(unfit(path.to_owned(), format!("is valid from {at} on: look at this node's clock")));
    }
    let names = leaf.get_extension::<SubjectAltName>().ok().flatten();
    let names: Vec<String> = names.map_or_else(Vec::new, |(_, names)| {
        let of = |name: &GeneralName| match name {
            GeneralName::DnsName(name) => Some(name.to_string()),
            _ => None,
        };
        names.0.iter().filter_map(of).collect()
    });
    if !names.iter().any(|name| name.eq_ignore_ascii_case(node)) {
        let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let must = format!(
            "must be for this node: DNS:{node} among its subject alternative names, of which it has {has}"
        );
        return Err(unfit(path.to_owned(), must));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    fn openssl(folder: &Path, words: &[&str]) {
        let output = Command::new("openssl").args(words).current_dir(folder).output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// An authority, and a certificate by it for `names` (in openssl's words) that ends after `days`.
    fn write(folder: &Path, names: &str, days: &str) {
        let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let authority =
            ["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", TRUSTED];
        openssl(folder, &[&authority[..], &new].concat());
        let own = ["req", "-x509", "-days", days, "-subj", "/CN=anything", "-keyout", KEY, "-out", OWN];
        let by = ["-CA", TRUSTED, "-CAkey", "ca.key", "-addext", names];
        openssl(folder, &[&own[..], &by, &new].concat());
        fs::set_permissions(folder.join(KEY), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// What is wrong with it, at a time so many days from now.
    fn fault(folder: &Path, node: &str, days: u64) -> Option<String> {
        let now = SystemTime::now() + Duration::from_secs(days * 86_400);
        let found = certificates(folder, node, now);
        if let Ok(found) = &found {
            let secret = fs::read_to_string(folder.join(KEY)).unwrap();
            assert!(!format!("{found:?}").contains(secret.lines().nth(1).unwrap()), "the key is printed");
        }
        found.err().map(|error| error.to_string())
    }

    #[test]
    fn a_certificate_must_be_this_nodes_and_of_today_and_its_key_secret() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let says = |node, days, word: &str| {
            let fault = fault(folder, node, days).unwrap_or_default();
            assert!(fault.contains(word), "{fault:?} does not say {word:?}");
        };
        says("node1", 0, "ca.crt");
        write(folder, "subjectAltName=DNS:node1,DNS:NODE2.example,IP:192.0.2.1", "1");
        assert_eq!(fault(folder, "node1", 0), None);
        assert_eq!(fault(folder, "node2.example", 0), None);
        says("node3", 0, "DNS:node3");
        says("192.0.2.1", 0, "must be for this node");
        says("node1", 2, "expired");
        let left = expiry(folder).unwrap().duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((86_000..=86_400).contains(&left), "{left}");

        let path = folder.join(KEY);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        says("node1", 0, "mode 640");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n").unwrap();
        says("node1", 0, "without a password");
        fs::write(folder.join(OWN), "no certificate").unwrap();
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\n").unwrap();
        says("node1", 0, "tls.crt must hold certificates in PEM");
    }

    /// openssl gives a certificate its key's identifier, made in the same way.
    #[test]
    fn a_key_must_be_its_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "subjectAltName=DNS:node1", "1");
        let words = ["x509", "-in", OWN, "-noout", "-ext", "subjectKeyIdentifier"];
        let output = Command::new("openssl").args(words).current_dir(folder).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        let id = told.lines().nth(1).unwrap().trim().replace(':', "");
        let found = certificates(folder, "node1", SystemTime::now()).unwrap();
        for (loaded, fits) in [(Some(id.as_str()), true), (Some(&"0".repeat(40)), false), (None, true)] {
            let fault = found.check_key(folder, loaded).err().map(|error| error.to_string());
            assert_eq!(fault.is_none(), fits, "{loaded:?}: {fault:?}");
            assert!(fault.is_none_or(|fault| fault.contains("tls.key must be the private key")));
        }
    }

    #[test]
    fn files_that_were_written_again_have_another_name() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "subjectAltName=DNS:node1", "1");
        let name = || certificates(folder.path(), "node1", SystemTime::now()).unwrap().name;
        let first = name();
        assert_eq!(first, name());
        assert!(first.starts_with("tartan-certificate-"), "{first}");
        let own = fs::read(folder.path().join(OWN)).unwrap();
        fs::remove_file(folder.path().join(OWN)).unwrap();
        fs::write(folder.path().join(OWN), own).unwrap();
        assert_ne!(first, name());
    }
}
