//! Certificates, made with openssl: one authority for a lab, leaves for whoever asks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run::{command, run};

/// A certificate authority in a directory, together with everything that it has signed.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let authority = Self { directory: directory.to_owned() };
        let mut openssl = command(&["openssl", "req", "-x509", "-days", "3650", "-subj", "/CN=tartan-lab"]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.arg("-keyout").arg(directory.join("ca.key")).arg("-out").arg(authority.certificate());
        run(&mut openssl)?.ok()?;
        Ok(authority)
    }

    pub(crate) fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Signs a certificate for a user in `groups`. `names` are the subject alternative names of a server,
    /// `IP:192.0.2.1` or `DNS:example`.
    pub(crate) fn sign(&self, file: &str, user: &str, groups: &[&str], names: &[String]) -> Result<Leaf> {
        let leaf = Leaf {
            certificate: self.directory.join(format!("{file}.crt")),
            key: self.directory.join(format!("{file}.key")),
        };
        let mut subject = String::new();
        for group in groups {
            subject.push_str(&format!("/O={group}"));
        }
        subject.push_str(&format!("/CN={user}"));
        let mut openssl = command(&["openssl", "req", "-x509", "-days", "3650", "-subj", &subject]);
        openssl.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.arg("-CA").arg(self.certificate()).arg("-CAkey").arg(self.directory.join("ca.key"));
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.args(["-addext", "extendedKeyUsage=clientAuth,serverAuth"]);
        if !names.is_empty() {
            openssl.args(["-addext", &format!("subjectAltName={}", names.join(","))]);
        }
        openssl.arg("-keyout").arg(&leaf.key).arg("-out").arg(&leaf.certificate);
        run(&mut openssl)?.ok()?;
        Ok(leaf)
    }

    /// A key pair that signs service-account tokens.
    pub(crate) fn signing_key(&self) -> Result<Leaf> {
        let leaf = Leaf { certificate: self.directory.join("sa.pub"), key: self.directory.join("sa.key") };
        let mut make = command(&["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]);
        run(make.arg(&leaf.key))?.ok()?;
        let mut publish = command(&["openssl", "ec", "-pubout", "-in"]);
        run(publish.arg(&leaf.key).arg("-out").arg(&leaf.certificate))?.ok()?;
        Ok(leaf)
    }
}
