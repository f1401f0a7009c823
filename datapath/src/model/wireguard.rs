//! WireGuard's public values, and the private key as far as it is kept from being seen.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

/// A public key: 32 bytes, 44 characters of base64 (RFC 4648 section 4) as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A text that is no [`PublicKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WireGuard public key: it must be 32 bytes in base64, 44 characters")]
pub struct PublicKeyError(pub String);

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| PublicKeyError(text.to_owned()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a node receives by WireGuard: one end point, or two while keys are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WireguardEndpoint {
    /// Of the key. Two nodes use keys of one generation towards each other: it tells the device on both.
    pub generation: u32,
    pub key: PublicKey,
    /// UDP port.
    pub port: u16,
}

/// A preshared key: 32 bytes, beside the keys of both ends. Printed by nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PresharedKey(pub [u8; 32]);

impl FromStr for PresharedKey {
    type Err = PresharedKeyError;

    fn from_str(text: &str) -> Result<Self, PresharedKeyError> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Self).ok_or(PresharedKeyError)
    }
}

/// A text that is no [`PresharedKey`]; it is a secret all the same, so it isn't here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no WireGuard preshared key: it must be 32 bytes in base64, as `wg genpsk` makes them")]
pub struct PresharedKeyError;

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey")
    }
}

impl Serialize for PresharedKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("hidden")
    }
}

/// The preshared key of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preshared {
    #[default]
    None,
    Key(PresharedKey),
    /// One is asked for and can't be had: peers that are there keep what they have, and none is added.
    Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_44_characters_of_base64() {
        let text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(text.parse::<PublicKey>().unwrap().to_string(), text);
        for bad in [
            "",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo",
            "aGVsbG8=",
            "!SDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        ] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_preshared_key_is_read_and_never_shown() {
        let text = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let key: PresharedKey = text.parse().unwrap();
        let shown =
            format!("{:?} {}", Preshared::Key(key), serde_json::to_string(&Preshared::Key(key)).unwrap());
        assert_eq!(shown, "Key(PresharedKey) {\"key\":\"hidden\"}");
        let error = "hSDwCYkwp1R0i33ctD73Wg2".parse::<PresharedKey>().unwrap_err();
        assert!(!error.to_string().contains("hSDw"), "{error}");
    }
}
