//! `NodeNetwork`: the state of one node's pod network, named after its Node.
//!
//! The operator creates it and says in `spec` what concerns this node alone; the node's agent answers in
//! `status`. Peers never watch it, so it may change often.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackendType, Cidr};

/// One node's pod network: what the operator asks of the node, and how the node is.
#[derive(CustomResource, Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "tartan.network",
    version = "v1alpha1",
    kind = "NodeNetwork",
    doc = "One node's pod network: what the operator asks of the node, and how the node is.",
    plural = "nodenetworks",
    shortname = "nnet",
    category = "tartan",
    status = "NodeNetworkStatus",
    derive = "PartialEq",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Degraded",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Degraded\")].status"
    ),
    printcolumn(name = "Uplink", type_ = "string", json_path = ".status.uplink.interface"),
    printcolumn(name = "MTU", type_ = "integer", json_path = ".status.podMTU"),
    printcolumn(name = "Peers", type_ = "integer", json_path = ".status.peers"),
    printcolumn(name = "No-Path", type_ = "integer", json_path = ".status.peersWithoutPathCount"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkSpec {
    /// The pool that the node is in; `default` where it is in none.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub pool: String,
    /// Which interface carries pod traffic, by the node's annotation or its pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkSelection>,
    /// Addresses that peers shall send to instead of the uplink's own, at most one per family.
    #[serde(default, rename = "publicIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub public_ips: Vec<IpAddr>,
    /// Whether pod addresses are translated towards the outside. Absent: as the network says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
}

/// How to find the interface that carries pod traffic. Exactly one field.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.defaultRoute), has(self.interface), has(self.interfaceRegex), has(self.address), has(self.canReach), has(self.internalIP)].filter(x, x).size() == 1")
    .message("set exactly one of defaultRoute, interface, interfaceRegex, address, canReach, internalIP"))]
pub struct UplinkSelection {
    /// The interface of the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<bool>,
    /// An interface by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub interface: Option<String>,
    /// The first interface, by name, that the regular expression matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("''.matches(self) ? true : true").message("must be a regular expression (RE2 syntax)"))]
    pub interface_regex: Option<String>,
    /// The interface that has this address, or an address in this prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 43))]
    #[x_kube(validation = Rule::new("isIP(self) || isCIDR(self)").message("must be an IP address or a CIDR"))]
    pub address: Option<String>,
    /// The interface by which the kernel would send to this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_reach: Option<IpAddr>,
    /// The interface that has the Node's InternalIP.
    #[serde(default, rename = "internalIP", skip_serializing_if = "Option::is_none")]
    pub internal_ip: Option<bool>,
}

/// How one node's pod network is, as its agent sees it.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeNetworkStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub agent_version: String,
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub kernel_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    /// MTU of pods that start now, in bytes.
    #[serde(default, rename = "podMTU", skip_serializing_if = "Option::is_none")]
    pub pod_mtu: Option<i32>,
    /// The node's subnets, in use and the addresses taken in each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub address_use: Vec<AddressUse>,
    /// What the node sends by, as it is programmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendType>,
    /// Backends that it should receive and can't.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub unavailable: Vec<BackendType>,
    /// Backends that are ready to receive, but for those whose reception is about to end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub receives: Vec<BackendType>,
    /// Absent where nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<WireguardPlace>,
    /// Paths by backend, kind and reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub paths: Vec<PathCount>,
    /// Other nodes that hold leases.
    #[serde(default)]
    pub peers: i64,
    #[serde(default)]
    pub peers_without_path_count: i64,
    /// Other nodes that something is sent to in clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_peers: Option<i64>,
    /// Other nodes of which nothing is taken in clear.
    #[serde(default)]
    pub sealed_peers: i64,
    /// The version of the node's lease that the rest goes by. What other leases said before is known too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_lease: Option<ObservedLease>,
    /// The first of them, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub peers_without_path: Vec<PeerWithoutPath>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A version of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ObservedLease {
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
}

/// The interface that carries pod traffic between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Uplink {
    #[schemars(length(max = 15))]
    pub interface: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub addresses: Vec<IpAddr>,
    /// In bytes.
    pub mtu: i32,
}

/// Who does WireGuard on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WireguardPlace {
    /// The node's kernel.
    Kernel,
    /// A process, since the kernel has none: its packets cost more of the processor.
    UserSpace,
}

impl WireguardPlace {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::UserSpace => "user-space",
        }
    }
}

/// How many addresses of a block pods use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressUse {
    pub subnet: Cidr,
    pub capacity: i64,
    pub used: i64,
    /// Since when no pod has an address of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_since: Option<Time>,
}

/// Paths of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathCount {
    pub backend: BackendType,
    /// A plain route although the backend is an overlay.
    #[serde(default)]
    pub direct: bool,
    /// Why these pairs have this path: a word as in the metric `tartan_agent_peers`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub reason: String,
    pub peers: i64,
}

/// A node that can't be reached, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerWithoutPath {
    #[schemars(length(max = 253))]
    pub node: String,
    #[schemars(length(max = 256))]
    pub reason: String,
}
