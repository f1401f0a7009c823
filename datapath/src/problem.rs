//! What is wrong with the inputs, contained to the peer or object it concerns.

use serde::Serialize;

/// A problem that `desired` found. It never stops the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub kind: ProblemKind,
    /// The node that it concerns: a peer or this one.
    pub node: String,
    /// A sentence that says what is wrong and what to do.
    pub message: String,
}

/// A fixed set: label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A peer's subnet lies in no entry of the network.
    SubnetOutside,
    /// A peer's subnet overlaps ours or another peer's.
    SubnetOverlap,
    /// Two nodes publish one hardware address.
    DuplicateMac,
    /// Two nodes publish one WireGuard key.
    DuplicateKey,
    /// Two nodes publish one public address.
    DuplicateAddress,
    /// An entry covers an address that must stay reachable.
    ProtectedInEntry,
    /// The uplink is too small for the tunnel.
    SmallMtu,
}

impl ProblemKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SubnetOutside => "subnet-outside",
            Self::SubnetOverlap => "subnet-overlap",
            Self::DuplicateMac => "duplicate-mac",
            Self::DuplicateKey => "duplicate-key",
            Self::DuplicateAddress => "duplicate-address",
            Self::ProtectedInEntry => "protected-in-entry",
            Self::SmallMtu => "small-mtu",
        }
    }
}
