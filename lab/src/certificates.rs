//! Certificates of nodes, in directories as the backend ipsec reads them, in a virtual machine.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::pki::Authority;
use crate::vm::Machine;

/// Each with `ca.crt`, `tls.crt` and `tls.key`, PEM.
const FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Names the directory of all of them to a program in a machine.
pub const VARIABLE: &str = "TARTAN_CERTIFICATES";

const PLACE: &str = "/certificates";

/// One to be made.
#[derive(Debug, Clone, Copy)]
pub struct Certificate {
    /// Of its directory.
    directory: &'static str,
    /// The Node that it is for, by a DNS name among its subject alternative names.
    node: &'static str,
    /// Who signs it. Two authorities of different names are called the same in what they sign, and have different keys.
    authority: &'static str,
}

impl Certificate {
    pub const fn new(directory: &'static str, node: &'static str, authority: &'static str) -> Self {
        Self { directory, node, authority }
    }
}

/// Makes them below `folder`, by openssl.
fn make(folder: &Path, all: &[Certificate]) -> Result<()> {
    for Certificate { directory, node, authority } in all {
        let place = folder.join(format!("authority-{authority}"));
        let authority = if place.exists() { Authority::open(&place) } else { Authority::create(&place)? };
        let leaf = authority.sign(directory, node, &[], &[format!("DNS:{node}")])?;
        let target = folder.join(directory);
        fs::create_dir_all(&target)?;
        for (source, file) in [authority.certificate(), leaf.certificate, leaf.key].iter().zip(FILES) {
            fs::copy(source, target.join(file))?;
        }
    }
    Ok(())
}

impl Machine {
    /// Makes certificates below `folder`, and puts them where [`VARIABLE`] says in the machine.
    pub fn certificates(mut self, folder: &Path, all: &[Certificate]) -> Result<Self> {
        make(folder, all)?;
        for Certificate { directory, .. } in all {
            for file in FILES {
                self =
                    self.file(folder.join(directory).join(file), Path::new(PLACE).join(directory).join(file));
            }
        }
        Ok(self.environment(VARIABLE, PLACE))
    }
}
