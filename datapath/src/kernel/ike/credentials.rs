//! By which the daemon proves who this node is: what it must hold, and telling it.
//!
//! What was loaded is known by the name of a shared key, the only names that the daemon tells. For certificates that key
//! is a note, which comes last: credentials of which only a part was loaded are loaded again.

use std::{path::PathBuf, time::SystemTime};

use super::{
    IkeError, Session,
    certificate::{self, Certificates, certificates},
    key::{IkeKeyError, secret},
    message::{Id, LoadCertificate, LoadKey, LoadShared, Shared},
};
use crate::{mark, model::IkeCredentials};

/// Where they are.
#[derive(Debug)]
pub(in crate::kernel) struct Files {
    /// File of the preshared key.
    pub(in crate::kernel) key: PathBuf,
    /// Directory of the certificates.
    pub(in crate::kernel) certificates: PathBuf,
}

impl Files {
    /// If `loaded`, the names of our keys in the daemon, are what is in the files. Files that can't be used hold nothing
    /// that was loaded: loading them will tell why, and leaves what is loaded.
    pub(super) fn are_loaded(&self, wanted: &IkeCredentials, loaded: &[String]) -> bool {
        let current = match wanted {
            IkeCredentials::PresharedKey => secret(&self.key).map(|(name, _)| name),
            IkeCredentials::Certificate { node } => {
                certificates(&self.certificates, node, SystemTime::now()).map(|found| found.name)
            }
        };
        current.is_ok_and(|current| loaded.contains(&current))
    }

    /// Until when this node's certificate is valid, where it goes by one.
    pub(super) fn expiry(&self, wanted: &IkeCredentials) -> Option<SystemTime> {
        match wanted {
            IkeCredentials::PresharedKey => None,
            IkeCredentials::Certificate { .. } => certificate::expiry(&self.certificates),
        }
    }
}

fn stands_for_certificates(name: &str) -> bool {
    name.strip_prefix(mark::IKE_PREFIX).is_some_and(|rest| rest.starts_with(certificate::PREFIX))
}

impl Session {
    /// Loads what is in the files, and takes away what was loaded before. Where that can't be used, what was loaded of
    /// the same kind goes on.
    pub(super) async fn load_credentials(
        &mut self,
        files: &Files,
        wanted: &IkeCredentials,
    ) -> Result<(), IkeError> {
        let by_certificate = matches!(wanted, IkeCredentials::Certificate { .. });
        let renews = self.loaded().await?.iter().any(|name| stands_for_certificates(name) == by_certificate);
        let unfit = |error| match error {
            IkeKeyError::Expired { .. } => IkeError::Key(error),
            error if renews => IkeError::Renewal(error),
            error => IkeError::Key(error),
        };
        let name = match wanted {
            IkeCredentials::PresharedKey => {
                let (name, secret) = secret(&files.key).map_err(unfit)?;
                self.forget_certificates().await?;
                self.order("load-shared", LoadShared::preshared_key(&name, &secret.0)).await?;
                name
            }
            IkeCredentials::Certificate { node } => {
                let found = certificates(&files.certificates, node, SystemTime::now()).map_err(unfit)?;
                let key = self.load_key(&found).await?;
                found.check_key(&files.certificates, key.as_deref()).map_err(unfit)?;
                if renews {
                    // What the daemon refuses costs nothing that it has.
                    self.load_certificates(&found).await?;
                    self.forget_certificates().await?;
                    self.load_key(&found).await?;
                }
                self.load_certificates(&found).await?;
                self.order("load-shared", LoadShared::note(&found.name)).await?;
                found.name
            }
        };
        self.unload_keys(Some(&name)).await
    }

    /// What the daemon calls it. A key without its certificate proves nothing, so one that is not taken may stay.
    async fn load_key(&mut self, found: &Certificates) -> Result<Option<String>, IkeError> {
        Ok(self.demand("load-key", LoadKey::of(&found.key.0)).await?.id)
    }

    async fn load_certificates(&mut self, found: &Certificates) -> Result<(), IkeError> {
        for text in &found.trusted {
            self.order("load-cert", LoadCertificate::trusted(text)).await?;
        }
        for text in &found.own {
            self.order("load-cert", LoadCertificate::own(text)).await?;
        }
        Ok(())
    }

    pub(super) async fn unload_credentials(&mut self) -> Result<(), IkeError> {
        self.forget_certificates().await?;
        self.unload_keys(None).await
    }

    /// Names of our shared keys.
    pub(super) async fn loaded(&mut self) -> Result<Vec<String>, IkeError> {
        let shared: Shared = self.ask("get-shared", ()).await?;
        Ok(shared.keys.into_iter().filter(|key| key.starts_with(mark::IKE_PREFIX)).collect())
    }

    /// Those of before. The daemon can't take a certificate away by itself; with them go all credentials, for the
    /// moment until the new ones are loaded.
    async fn forget_certificates(&mut self) -> Result<(), IkeError> {
        if self.loaded().await?.iter().any(|name| stands_for_certificates(name)) {
            self.order("clear-creds", ()).await?;
        }
        Ok(())
    }

    /// Our shared keys, except for this one.
    async fn unload_keys(&mut self, except: Option<&str>) -> Result<(), IkeError> {
        for key in self.loaded().await?.iter().filter(|key| Some(key.as_str()) != except) {
            self.order("unload-shared", Id { id: key }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn what_is_loaded_is_what_is_in_the_files_and_can_be_used() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { key: folder.path().join("psk"), certificates: folder.path().to_owned() };
        let certificate = IkeCredentials::Certificate { node: "node1".to_owned() };
        let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let key = of(&["tartan-1.000000000"]);
        let note = of(&["tartan-certificate-1.0-1.0-1.0"]);
        assert!(!files.are_loaded(&IkeCredentials::PresharedKey, &key));
        assert!(!files.are_loaded(&certificate, &note));
        // Of the other kind, it is not what is asked for.
        assert!(!files.are_loaded(&certificate, &key));
        assert!(!files.are_loaded(&IkeCredentials::PresharedKey, &note));
        assert!(!files.are_loaded(&certificate, &[]));
        // A file that can be used is not the one that was loaded.
        fs::write(&files.key, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!files.are_loaded(&IkeCredentials::PresharedKey, &key));
        let (name, _) = secret(&files.key).unwrap();
        assert!(files.are_loaded(&IkeCredentials::PresharedKey, &of(&[&name])));
    }
}
