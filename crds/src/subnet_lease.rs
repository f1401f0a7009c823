//! `SubnetLease`: one block of one family, named after it. The name is the lock.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Cidr;

/// A block of pod addresses and the node that holds it.
///
/// Since blocks of an entry are equal and entries are disjoint, creating an object of this name is the
/// allocation: the API server refuses a second owner. A node's first lease of a family is its primary
/// one; peers find in its status how to reach the node.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "tartan.network",
    version = "v1alpha1",
    kind = "SubnetLease",
    doc = "One block of pod addresses and the node that holds it.",
    plural = "subnetleases",
    shortname = "sl",
    category = "tartan",
    status = "SubnetLeaseStatus",
    derive = "PartialEq",
    selectable = ".spec.nodeName",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".spec.backend.type"),
    printcolumn(name = "Public-IP", type_ = "string", json_path = ".status.publicIPs[0]"),
    printcolumn(name = "Primary", type_ = "boolean", json_path = ".spec.primary", priority = 1),
    printcolumn(name = "Returning", type_ = "date", json_path = ".spec.returning", priority = 1),
    printcolumn(name = "Released", type_ = "date", json_path = ".spec.releasedAt"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name == self.spec.subnet.replace(':', '-').replace('/', '-')")
        .message("name must be the subnet with ':' and '/' written as '-'")
)]
#[serde(rename_all = "camelCase")]
pub struct SubnetLeaseSpec {
    /// Name of the Node that holds the block. Never changes: pods of the node have its addresses.
    #[x_kube(
        validation = Rule::new("self.size() > 0").message("must name a Node"),
        validation = Rule::new("self == oldSelf").message(
            "a lease's node never changes: drain that one and delete its Node, and the block is given to others"
        ),
    )]
    #[schemars(length(max = 253))]
    pub node_name: String,
    /// UID of that Node: tells a Node that came back under its name from the one that left.
    #[serde(rename = "nodeUID")]
    #[schemars(length(max = 64))]
    pub node_uid: String,
    /// The block.
    #[x_kube(validation = Rule::new("self == oldSelf").message("a lease's subnet never changes"))]
    pub subnet: Cidr,
    /// The NetworkPool that the node is in; `default` where it is in none.
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Whether this is the node's first lease of the family, in whose status peers look.
    #[serde(default)]
    pub primary: bool,
    /// How the node sends, and what it receives.
    pub backend: LeaseBackend,
    /// Addresses of the node itself, by its Node's status and annotation: agents believe no other node that claims
    /// one of them. On primary leases only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub node_addresses: Vec<IpAddr>,
    /// WireGuard public keys that the node was the first to publish: agents believe no other node that publishes one of
    /// them. On primary leases only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 44)))]
    pub wireguard_keys: Vec<String>,
    /// Pod MTU that the pool asks for, in bytes. Absent: the agent computes it from its uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<i32>,
    /// Since when the operator asks for the block back. The node's agent gives no address of it to new pods, and
    /// answers with this time in `status.emptied` when no pod has one. Never on a primary lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returning: Option<Time>,
    /// Since when the block is held for a Node that is gone. Peers have no path to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Time>,
}

/// A kind of path between two nodes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum BackendType {
    /// VXLAN (RFC 7348) with a unicast entry for each peer.
    #[default]
    Vxlan,
    /// IP in IP (RFC 2003): IPv4 alone, with the least overhead.
    Ipip,
    /// WireGuard: encrypted, in both families over either.
    Wireguard,
    /// ESP in tunnel mode (RFC 4303), keyed by IKEv2 (RFC 7296): encrypted, in both families over either.
    Ipsec,
    /// Bare IPv4 packets in UDP, forwarded in user space: where nothing else gets through.
    Udp,
    /// A plain route by the peer's address; both nodes on one link.
    HostGw,
    /// A lease and nothing else: how packets get from node to node is somebody else's business.
    Alloc,
    /// As `alloc`, with commands of the administrator's that are told of leases.
    Extension,
}

impl BackendType {
    pub const ALL: [Self; 8] = [
        Self::Vxlan,
        Self::Ipip,
        Self::Wireguard,
        Self::Ipsec,
        Self::Udp,
        Self::HostGw,
        Self::Alloc,
        Self::Extension,
    ];

    /// As written in the API, in metrics and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
            Self::Wireguard => "wireguard",
            Self::Ipsec => "ipsec",
            Self::Udp => "udp",
            Self::HostGw => "host-gw",
            Self::Alloc => "alloc",
            Self::Extension => "extension",
        }
    }

    /// Whether packets are wrapped, so that the path needs no common link.
    pub fn is_overlay(self) -> bool {
        match self {
            Self::Vxlan | Self::Ipip | Self::Wireguard | Self::Ipsec | Self::Udp => true,
            Self::HostGw | Self::Alloc | Self::Extension => false,
        }
    }

    /// Whether nobody on the way can read or make its packets.
    pub fn encrypts(self) -> bool {
        match self {
            Self::Wireguard | Self::Ipsec => true,
            Self::Vxlan | Self::Ipip | Self::Udp | Self::HostGw | Self::Alloc | Self::Extension => false,
        }
    }

    /// Whether tartan makes the paths of its nodes.
    pub fn has_paths(self) -> bool {
        !matches!(self, Self::Alloc | Self::Extension)
    }
}

impl std::fmt::Display for BackendType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A backend as an administrator asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.type in ['wireguard', 'ipsec']) || !has(self.directRouting) || !self.directRouting")
        .message("wireguard and ipsec have no directRouting: a plain route would carry pods' packets in clear"),
    validation = Rule::new("!(self.type in ['alloc', 'extension']) || !has(self.directRouting) || !self.directRouting")
        .message("alloc and extension have no directRouting: tartan makes no paths there"),
)]
pub struct BackendSelection {
    #[serde(rename = "type")]
    pub kind: BackendType,
    /// Overlays only: use a plain route towards nodes on the same link.
    #[serde(default)]
    pub direct_routing: bool,
}

/// A node's backend, resolved by the operator.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseBackend {
    /// What the node sends by.
    #[serde(rename = "type")]
    pub kind: BackendType,
    /// What the node receives: its own type, the network's fallback, what other nodes send by, and what is `ending`.
    #[schemars(length(max = 8))]
    pub accepts: Vec<BackendType>,
    /// Overlays only: a plain route towards nodes on the same link.
    #[serde(default)]
    pub direct_routing: bool,
    /// Encrypting backends only: every node of the pool sends encrypted, so what comes in clear from a pair of
    /// this node's is dropped.
    #[serde(default)]
    pub sealed: bool,
    /// What ends when the agents have said that they have seen their leases with this: reception of a backend that no
    /// node is asked to send by any more (`receive:BACKEND`), that nodes of a pool take packets in clear
    /// (`clear:POOL:NODES`), or that nodes take none (`sealed:NODES`). And of this lease's own node: that it is one of
    /// these (`closes:NODES`, `ends:NODES`), came to encrypt (`entered:GENERATION`), was sealed
    /// (`unsealed:GENERATION:TIME`), and had heard of whom when it left encryption (`left:NODES`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 320)))]
    pub ending: Vec<String>,
}

/// What [`LeaseBackend::ending`] says of the reception of a backend.
pub fn ending_reception(kind: BackendType) -> String {
    format!("receive:{kind}")
}

/// What peers must know to reach the node, written by its agent on its primary leases; of others only `emptied`.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubnetLeaseStatus {
    /// Addresses that peers send to, at most one per family, the preferred first.
    #[serde(default, rename = "publicIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub public_ips: Vec<IpAddr>,
    /// Addresses that the node's tunnel packets come from, where they differ from `publicIPs`.
    #[serde(default, rename = "tunnelSources", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub tunnel_sources: Vec<IpAddr>,
    /// Prefixes on the uplink: two nodes are on one link when each one's address lies in the other's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub uplink_prefixes: Vec<Cidr>,
    /// One for each backend that is ready to receive; two of wireguard while keys are rotated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<Endpoint>,
    /// The pod MTU in force on the node, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<i32>,
    /// Version of the rules by which the agent chooses the path of a pair. There is one so far.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub pairing_version: i32,
    /// Of a lease that is asked back: the time in `spec.returning`, once no pod has an address of the block and
    /// none can get one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emptied: Option<Time>,
}

/// A backend that is ready to receive on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    #[serde(rename = "type")]
    pub kind: BackendType,
    /// vxlan: the hardware address of the tunnel end point, lower case, separated by colons.
    #[serde(default, rename = "vtepMAC", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17), regex(pattern = r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$"))]
    pub vtep_mac: Option<String>,
    /// wireguard: the public key, 32 bytes in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 44), regex(pattern = r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$"))]
    pub public_key: Option<String>,
    /// wireguard, udp: the UDP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// wireguard: the generation of the key. Absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub generation: Option<i32>,
    /// extension: what the node's `preStartup` program printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub data: Option<String>,
}

impl Endpoint {
    /// One that says no more than that it is there.
    pub fn plain(kind: BackendType) -> Self {
        Self { kind, vtep_mac: None, public_key: None, port: None, generation: None, data: None }
    }
}
