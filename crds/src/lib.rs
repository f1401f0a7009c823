//! The API of tartan, group `tartan.network`, version `v1alpha1`.
//!
//! Types, names, constants and parsing: what operator, agent and tools agree on. No behaviour lives
//! here: deciding is the operator's and the data path's work.
//!
//! | kind | short | what it says | written by |
//! | --- | --- | --- | --- |
//! | [`ClusterNetwork`] | `cnet` | what must be the same on every node | administrator; status: operator |
//! | [`NetworkPool`] | `npool` | nodes that share a backend | administrator; status: operator |
//! | [`SubnetLease`] | `sl` | one block of addresses and its node | operator; status: that node's agent |
//! | [`NodeNetwork`] | `nnet` | one node's network health | operator; status: that node's agent |

pub mod cidr;
mod cluster_network;
pub mod conditions;
mod duration;
mod growth;
mod ipsec;
mod network_pool;
mod node_network;
mod room;
mod schema;
mod subnet_lease;
mod transition;
pub mod wellknown;
mod wireguard;

pub use cidr::{Cidr, CidrError, Family};
pub use cluster_network::{
    Backends, CidrEntry, CidrUsage, ClusterNetwork, ClusterNetworkSpec, ClusterNetworkStatus,
    ExtensionParameters, Masquerade, PodCidrMode, PodCidrModeInForce, UdpParameters, VxlanParameters,
};
pub use duration::{Duration, DurationError};
pub use growth::{Growth, Reservation};
pub use ipsec::{IpsecAuthentication, IpsecParameters};
pub use network_pool::{NetworkPool, NetworkPoolSpec, NetworkPoolStatus};
pub use node_network::{
    AddressUse, NodeNetwork, NodeNetworkSpec, NodeNetworkStatus, ObservedLease, PathCount, PeerWithoutPath,
    Uplink, UplinkSelection, WireguardPlace,
};
pub use room::{Forecast, Room, UsageSample};
pub use schema::{crd_yaml, crds};
pub use subnet_lease::{
    BackendSelection, BackendType, Endpoint, LeaseBackend, SubnetLease, SubnetLeaseSpec, SubnetLeaseStatus,
    ending_reception,
};
pub use transition::{TransitionPhase, TransitionPolicy, TransitionStatus};
pub use wireguard::{WireguardKeysStatus, WireguardParameters};
