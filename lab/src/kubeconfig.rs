//! Kubeconfig files. They are written as JSON, which is YAML.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::pki::Leaf;

/// How a client proves who it is.
pub(crate) enum Credentials {
    Certificate(Leaf),
    Token(String),
}

/// Writes a kubeconfig that needs no other file, so that it can be mounted or copied anywhere.
pub(crate) fn write(path: &Path, server: &str, ca: &Path, credentials: &Credentials) -> Result<()> {
    let user = match credentials {
        Credentials::Certificate(Leaf { certificate, key }) => json!({
            "client-certificate-data": base64(&read(certificate)?),
            "client-key-data": base64(&read(key)?),
        }),
        Credentials::Token(token) => json!({ "token": token }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "lab",
            "cluster": { "server": server, "certificate-authority-data": base64(&read(ca)?) },
        }],
        "users": [{ "name": "lab", "user": user }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    });
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(serde_json::to_string_pretty(&config)?.as_bytes())?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = ALPHABET.get(bits >> (18 - 6 * position) & 63).copied().unwrap_or(b'=');
            text.push(if position <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
