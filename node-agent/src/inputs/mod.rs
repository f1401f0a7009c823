//! What the API says, as compact values: the only form in which the rest of the agent sees it.
//!
//! The run loop owns one [`World`] and feeds it what the watches deliver. A list replaces the old objects
//! only when it is complete, and [`World::snapshot`] answers only when every kind has been listed once: so
//! nothing is ever decided on half of the inputs.

mod parse;
mod store;
pub mod watch;

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use tartan_crds::{
    BackendType, Cidr, ExtensionParameters, IpsecParameters, LeaseBackend, Masquerade, NodeNetworkSpec,
    NodeNetworkStatus, SubnetLeaseStatus, UdpParameters, VxlanParameters, WireguardParameters,
};

pub use store::{Delta, Store};

/// The ClusterNetwork.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub entries: Vec<Entry>,
    pub vxlan: VxlanParameters,
    pub wireguard: WireguardParameters,
    pub extension: ExtensionParameters,
    pub ipsec: IpsecParameters,
    pub udp: UdpParameters,
    pub fallback: BackendType,
    pub masquerade: Masquerade,
    /// In bytes.
    pub mtu: Option<i32>,
    /// Of the WireGuard keys that nodes should have.
    pub keys: Option<KeyGeneration>,
    /// Nodes' podCIDRs say nothing about leases.
    pub pod_cidrs_ignored: bool,
}

/// A range of pod addresses, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub range: Cidr,
    /// Prefix length of its blocks.
    pub block_len: u8,
}

impl Entry {
    /// Whether `subnet` is one of its blocks.
    pub fn has_block(&self, subnet: Cidr) -> bool {
        self.range.block_index(self.block_len, subnet).is_some()
    }
}

/// Which WireGuard keys nodes should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGeneration {
    pub generation: u32,
    pub since: Timestamp,
}

/// A SubnetLease.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub uid: String,
    pub generation: i64,
    pub node: String,
    pub node_uid: String,
    pub subnet: Cidr,
    pub primary: bool,
    pub backend: LeaseBackend,
    /// The node's own, by the operator's word.
    pub node_addresses: Vec<IpAddr>,
    /// Likewise; not parsed, since others' are only compared with them.
    pub wireguard_keys: Vec<String>,
    /// In bytes.
    pub mtu: Option<i32>,
    /// Since when a further lease is asked back.
    pub returning: Option<Time>,
    pub released: bool,
    /// Seconds since 1970.
    pub created: i64,
    pub status: Option<SubnetLeaseStatus>,
}

/// Our own NodeNetwork.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeNet {
    pub generation: Option<i64>,
    pub spec: NodeNetworkSpec,
    pub status: Option<Box<NodeNetworkStatus>>,
}

/// Our own Node.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Node {
    pub uid: String,
    pub pod_cidrs: Vec<String>,
    pub internal_ips: Vec<IpAddr>,
    /// Status and reason of the condition NetworkUnavailable.
    pub network_unavailable: Option<(String, String)>,
}

/// Something that changed in the API.
#[derive(Clone, Debug)]
pub enum Change {
    Network(Delta<Network>),
    Lease(Delta<Lease>),
    NodeNet(Delta<NodeNet>),
    Node(Delta<Node>),
}

/// All that the agent reads from the API.
#[derive(Debug, Default)]
pub struct World {
    networks: Store<Network>,
    leases: Store<Lease>,
    node_nets: Store<NodeNet>,
    nodes: Store<Node>,
}

/// A view of a complete [`World`].
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub network: Option<&'a Network>,
    pub leases: &'a BTreeMap<String, Lease>,
    pub node_net: Option<&'a NodeNet>,
    pub node: Option<&'a Node>,
    /// Leases that can't be read, by name, with the reason. The last readable version is among `leases`.
    pub unreadable: &'a BTreeMap<String, String>,
}

impl World {
    /// Takes a change in. False where everything stayed as it was.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Network(delta) => self.networks.apply(delta),
            Change::Lease(delta) => self.leases.apply(delta),
            Change::NodeNet(delta) => self.node_nets.apply(delta),
            Change::Node(delta) => self.nodes.apply(delta),
        }
    }

    /// Everything, once every kind was listed.
    pub fn snapshot(&self) -> Option<Snapshot<'_>> {
        if !self.missing().is_empty() {
            return None;
        }
        Some(Snapshot {
            network: self.networks.items().values().next(),
            leases: self.leases.items(),
            node_net: self.node_nets.items().values().next(),
            node: self.nodes.items().values().next(),
            unreadable: self.leases.unreadable(),
        })
    }

    /// Kinds whose first list hasn't come.
    pub fn missing(&self) -> Vec<&'static str> {
        [
            ("clusternetworks", self.networks.synced()),
            ("subnetleases", self.leases.synced()),
            ("nodenetworks", self.node_nets.synced()),
            ("nodes", self.nodes.synced()),
        ]
        .into_iter()
        .filter_map(|(kind, synced)| (!synced).then_some(kind))
        .collect()
    }
}
