//! IPsec in plain values: policies of the kernel, and connections of the IKE daemon, which negotiates the
//! associations that the policies ask for.

use std::net::IpAddr;

use serde::Serialize;

/// Which packets a policy is about (`XFRM_POLICY_*` of linux/xfrm.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// To the node itself.
    In,
    /// Through the node, after they were unwrapped.
    Forward,
    Out,
}

impl Direction {
    pub const ALL: [Self; 3] = [Self::In, Self::Forward, Self::Out];

    /// As iproute2 says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Forward => "fwd",
            Self::Out => "out",
        }
    }
}

/// How the packets of a policy must be wrapped: ESP in tunnel mode between two addresses. Without an association
/// that fits they are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct XfrmPolicy {
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// Joins policy and associations (`reqid`).
    pub request: u32,
}

/// How the IKE daemon talks to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IkeConnection {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Who this node says it is, and who the peer must prove to be (RFC 7296, section 3.5): an address, or `@` and the
    /// Node's name.
    pub local_id: String,
    pub remote_id: String,
    /// Of the peer's policies.
    pub request: u32,
    #[serde(flatten)]
    pub settings: IkeSettings,
}

impl IkeConnection {
    /// Whether an end is known by something else than the address that its packets come from.
    pub fn is_named(&self) -> bool {
        self.settings.authentication == IkeAuthentication::Certificate
            || self.local_id != self.local.to_string()
    }
}

/// How nodes prove to each other who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IkeAuthentication {
    /// All share one secret.
    #[default]
    PresharedKey,
    /// Each has one of its own, for its name.
    Certificate,
}

/// What the IKE daemon must hold for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IkeCredentials {
    PresharedKey,
    Certificate {
        /// This node's name.
        node: String,
    },
}

/// What all peers have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct IkeSettings {
    pub authentication: IkeAuthentication,
    /// Algorithms of the associations that carry packets, in strongSwan's words.
    pub esp_proposal: String,
    /// Those of the negotiation.
    pub ike_proposal: String,
    /// ESP in UDP even where no address translation is on the way.
    pub udp_encapsulation: bool,
}

impl Default for IkeSettings {
    /// flannel's.
    fn default() -> Self {
        Self {
            authentication: IkeAuthentication::default(),
            esp_proposal: "aes128gcm16-sha256-prfsha256-ecp256".to_owned(),
            ike_proposal: "aes256-sha256-modp4096".to_owned(),
            udp_encapsulation: false,
        }
    }
}

/// The associations with a peer have one number on a node, which derives from its address. For IPv4 it is
/// the address; two IPv6 addresses may share one, which costs no more than a needless negotiation, since the
/// outer addresses are compared too.
pub fn request(peer: IpAddr) -> u32 {
    match peer {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let folded = u128::from(address).to_be_bytes().chunks(4).fold(0_u32, |sum, word| {
                word.iter().fold(sum.rotate_left(7), |sum, byte| sum.rotate_left(8) ^ u32::from(*byte))
            });
            // 0 means: any.
            folded.max(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_numbers_of_their_own_and_none_has_zero() {
        let number = |text: &str| request(text.parse().unwrap());
        assert_eq!(number("192.0.2.1"), 0xc000_0201);
        assert_ne!(number("fd00::1"), number("fd00::2"));
        assert_ne!(number("fd00::1"), number("fd00:0:0:1::"));
        assert_ne!(number("::"), 0);
    }
}
