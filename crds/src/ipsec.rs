//! Parameters of the backend ipsec.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How nodes prove to each other who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpsecAuthentication {
    /// By one secret that all nodes share: the Secret `tartan-ipsec`.
    #[default]
    PresharedKey,
    /// By a certificate of each node's own, whose subject alternative names have the Node's name as a DNS name, of an
    /// authority that all nodes trust: `ca.crt`, `tls.crt` and `tls.key` in a directory of the node.
    Certificate,
}

/// IPsec: ESP in tunnel mode, negotiated by strongSwan. Proposals are in its words: swanctl.conf (5). A change is
/// negotiated anew by each pair of nodes, which interrupts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IpsecParameters {
    /// How nodes prove to each other who they are.
    pub authentication: IpsecAuthentication,
    /// Algorithms of the packets' encryption: AES-GCM or ChaCha20-Poly1305 first, then what renews its keys.
    #[schemars(
        length(max = 128),
        regex(pattern = r"^(aes(128|192|256)gcm(16|128)|chacha20poly1305)(-[a-z0-9_]+)*$")
    )]
    pub esp_proposal: String,
    /// Algorithms of the negotiation.
    #[schemars(length(max = 128), regex(pattern = r"^[a-z0-9_]+(-[a-z0-9_]+)+$"))]
    pub ike_proposal: String,
    /// Packets in UDP, port 4500, even where no address translation is on the way.
    pub udp_encapsulation: bool,
}

impl Default for IpsecParameters {
    fn default() -> Self {
        Self {
            authentication: IpsecAuthentication::default(),
            esp_proposal: "aes128gcm16-sha256-prfsha256-ecp256".to_owned(),
            ike_proposal: "aes256-sha256-modp4096".to_owned(),
            udp_encapsulation: false,
        }
    }
}
