//! `ClusterNetwork`: what must be the same on every node. One object, named `default`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BackendSelection, BackendType, Cidr, Duration, Family, Forecast, Growth, IpsecParameters, Reservation,
    TransitionPolicy, TransitionStatus, UsageSample, WireguardKeysStatus, WireguardParameters, cidr,
};

/// The pod network of the cluster.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "tartan.network",
    version = "v1alpha1",
    kind = "ClusterNetwork",
    doc = "The pod network of the cluster: what must be the same on every node.",
    plural = "clusternetworks",
    shortname = "cnet",
    category = "tartan",
    status = "ClusterNetworkStatus",
    derive = "PartialEq",
    printcolumn(name = "CIDRs", type_ = "string", json_path = ".spec.cidrs[*].cidr"),
    printcolumn(name = "Backend", type_ = "string", json_path = ".spec.defaultBackend.type"),
    printcolumn(name = "Family", type_ = "string", json_path = ".status.family"),
    printcolumn(name = "Capacity", type_ = "integer", json_path = ".status.capacity"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.used"),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.held"),
    printcolumn(name = "Reserved", type_ = "integer", json_path = ".status.reserved", priority = 1),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(name = "Exhausted-In", type_ = "string", json_path = ".status.forecast.exhaustedIn"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name == 'default'").message("the only ClusterNetwork is named default"),
    // A comparison with the old object, so it strands none that is there.
    validation = Rule::new("self.spec.backends == oldSelf.spec.backends || !has(oldSelf.status) || !has(oldSelf.status.cidrs) || oldSelf.status.cidrs.all(c, c.used == 0) || (self.spec.backends.vxlan.vni == oldSelf.spec.backends.vxlan.vni && self.spec.backends.vxlan.port == oldSelf.spec.backends.vxlan.port && self.spec.backends.vxlan.gbp == oldSelf.spec.backends.vxlan.gbp)")
        .field_path(".spec.backends.vxlan")
        .message("vni, port and gbp can't change while subnets are leased, since nodes that have the new ones would not reach those that don't: keep them, or move every node to a pool with another backend and remove its leases first")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkSpec {
    /// Where node subnets come from, the preferred entry first. Append entries at any time; remove one
    /// by setting `drain` and deleting it when no lease is left in it.
    // Atomic: a map list lets a second manager's entry land in the middle, and the order is preference.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(a, !isCIDR(a.cidr) || self.exists_one(b, isCIDR(b.cidr) && cidr(a.cidr).containsCIDR(b.cidr)))")
            .message("entries must not overlap"),
        validation = Rule::new("self.all(a, self.exists_one(b, a.name == b.name))").message("entry names must be unique"),
        validation = Rule::new("oldSelf.all(o, self.all(n, n.name != o.name || (n.cidr == o.cidr && n.nodeMaskSize == o.nodeMaskSize)))")
            .message("cidr and nodeMaskSize of an entry never change: append a new entry, and drain the old one"),
        validation = Rule::new("oldSelf.all(o, (has(o.drain) && o.drain) || self.exists(n, n.name == o.name))")
            .message("only an entry with drain: true may be removed: set drain first, and wait until no lease is left in it"),
    )]
    pub cidrs: Vec<CidrEntry>,
    /// Parameters that both ends of a path must share.
    #[serde(default)]
    pub backends: Backends,
    /// The backend of nodes that are in no pool.
    #[serde(default)]
    pub default_backend: BackendSelection,
    /// How nodes that are in no pool change to another backend while packets flow.
    #[serde(default)]
    pub transition: TransitionPolicy,
    /// The overlay that joins two nodes whose backends need a common link but have none.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == 'vxlan'").message("must be an overlay: vxlan"))]
    pub fallback_backend: BackendType,
    /// Translation of pod addresses towards the outside.
    #[serde(default)]
    pub masquerade: Masquerade,
    /// Pod MTU in bytes, for the whole cluster. Absent: each node computes its own from its uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<i32>,
    /// What happens with the podCIDRs of Nodes.
    #[serde(default, rename = "podCIDRMode")]
    pub pod_cidr_mode: PodCidrMode,
    /// Further blocks for nodes whose addresses run low.
    #[serde(default)]
    pub growth: Growth,
    /// How long the block of a Node that is gone is held for its return, such as `1h` or `30m`.
    #[serde(default = "default_reclaim_after")]
    pub reclaim_after: Duration,
}

fn default_reclaim_after() -> Duration {
    Duration::from_secs(3600)
}

/// A range that is cut into equal blocks, one of which a node leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!isCIDR(self.cidr) || (self.nodeMaskSize >= cidr(self.cidr).prefixLength() && self.nodeMaskSize <= (cidr(self.cidr).ip().family() == 4 ? 30 : 126))")
        .message("nodeMaskSize must lie between the entry's own length and 30 (IPv4) or 126 (IPv6)"),
    validation = Rule::new(can_have_pods())
        .message("cidr must not meet a range that no pod can have an address of: loopback, link-local, multicast, 0.0.0.0/8, ::/8"),
    validation = Rule::new("!isCIDR(self.cidr) || self.nodeMaskSize - cidr(self.cidr).prefixLength() <= 20")
        .message("an entry may hold at most 2^20 blocks: choose a smaller nodeMaskSize"),
    validation = Rule::new("!has(self.reserved) || !isCIDR(self.cidr) || self.reserved.all(r, !isCIDR(r.cidr) || cidr(self.cidr).containsCIDR(r.cidr))")
        .message("reserved ranges must lie inside of the entry's cidr"),
    validation = Rule::new("!has(self.reserved) || self.reserved.all(r, !has(r.nodeName) || !isCIDR(r.cidr) || cidr(r.cidr).prefixLength() == self.nodeMaskSize)")
        .message("a range that is reserved for a node must be exactly one block: its length must be the entry's nodeMaskSize"),
)]
pub struct CidrEntry {
    /// By this name pools and status refer to the entry.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The range, such as 10.244.0.0/16. Overlaps neither other entries nor the ranges of Services.
    pub cidr: Cidr,
    /// Prefix length of a node's block: 24 gives a node 253 pod addresses.
    #[schemars(range(min = 1, max = 126))]
    pub node_mask_size: i32,
    /// Give out no more blocks of this entry. A node's first block stays until its Node goes; a further one is asked
    /// back, and goes when no pod has an address of it.
    #[serde(default)]
    pub drain: bool,
    /// Ranges that are kept back, and blocks that are kept for one node each. May be changed at any time. Leases that
    /// are there are reported: a node's first block stays until its Node goes; a further one is asked back, and goes
    /// when no pod has an address of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(a, !isCIDR(a.cidr) || self.exists_one(b, isCIDR(b.cidr) && cidr(a.cidr).containsCIDR(b.cidr)))")
            .message("reserved ranges must not overlap"),
        validation = Rule::new("self.all(a, !has(a.nodeName) || self.exists_one(b, has(b.nodeName) && a.nodeName == b.nodeName))")
            .message("a node may have one reserved block in an entry"),
    )]
    pub reserved: Vec<Reservation>,
}

/// The same as [`Cidr::meets_no_pods`] for the API server.
fn can_have_pods() -> String {
    let ranges = cidr::NO_PODS.map(|range| format!("'{range}'")).join(", ");
    format!(
        "!isCIDR(self.cidr) || [{ranges}].all(r, !cidr(r).containsCIDR(self.cidr) && !cidr(self.cidr).containsCIDR(r))"
    )
}

impl CidrEntry {
    /// The block length in bits; admission has bounded it.
    pub fn block_len(&self) -> u8 {
        u8::try_from(self.node_mask_size).unwrap_or(0)
    }
}

/// Backend parameters that both ends share. The defaults are flannel's.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backends {
    #[serde(default)]
    pub vxlan: VxlanParameters,
    #[serde(default)]
    pub wireguard: WireguardParameters,
    #[serde(default)]
    pub udp: UdpParameters,
    #[serde(default)]
    pub extension: ExtensionParameters,
    #[serde(default)]
    pub ipsec: IpsecParameters,
}

/// One rule for each list: over all of them at once it would cost more than the API server allows.
const IS_PROGRAM: &str = "self.size() == 0 || self[0].matches('^[A-Za-z0-9][-A-Za-z0-9_.]*$')";
const NO_PROGRAM: &str =
    "the first word must be the name of a program in the agent's directory of commands, without a path";

/// Programs that are told of leases, on nodes whose backend is `extension`. Each is a list of words, the first of
/// them the name of a program in the directory that the node's agent was given for these; there is no shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionParameters {
    /// Runs when the node has its subnets, after a boot and when its words, those of `postStartup` or the node's own facts
    /// (`NETWORK`, `IPV6_NETWORK`, `SUBNET`, `IPV6SUBNET`, `PUBLIC_IP`, `PUBLIC_IPV6`, `NODE`, in its environment) change.
    /// What it prints (at most 1024 bytes) is given to other nodes' programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256)))]
    #[x_kube(validation = Rule::new(IS_PROGRAM).message(NO_PROGRAM))]
    pub pre_startup: Vec<String>,
    /// Runs after it, for the same reasons and with the same environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256)))]
    #[x_kube(validation = Rule::new(IS_PROGRAM).message(NO_PROGRAM))]
    pub post_startup: Vec<String>,
    /// Runs for each subnet of another node: `SUBNET` or `IPV6SUBNET`, `PUBLIC_IP`, `PUBLIC_IPV6`, `NODE` and `BACKEND` in
    /// its environment, what that node's `preStartup` printed on its standard input. It runs again for all when its words
    /// change or programs of the start have run, and so must bear what is there: `ip route replace`, not `ip route add`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256)))]
    #[x_kube(validation = Rule::new(IS_PROGRAM).message(NO_PROGRAM))]
    pub subnet_add: Vec<String>,
    /// The same for one that is no more, or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256)))]
    #[x_kube(validation = Rule::new(IS_PROGRAM).message(NO_PROGRAM))]
    pub subnet_remove: Vec<String>,
    /// How long a program may take, in seconds; then it is killed. What a program leaves behind in its process group is
    /// killed when it ends.
    #[serde(default = "extension_timeout")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout_seconds: i32,
}

fn extension_timeout() -> i32 {
    10
}

impl Default for ExtensionParameters {
    fn default() -> Self {
        Self {
            pre_startup: vec![],
            post_startup: vec![],
            subnet_add: vec![],
            subnet_remove: vec![],
            timeout_seconds: extension_timeout(),
        }
    }
}

/// Packets in UDP, by a forwarder in user space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UdpParameters {
    /// UDP port that nodes receive at.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl Default for UdpParameters {
    fn default() -> Self {
        Self { port: 8285 }
    }
}

/// VXLAN: kernel attributes `IFLA_VXLAN_*` (linux/if_link.h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VxlanParameters {
    /// VXLAN network identifier.
    #[schemars(range(min = 1, max = 16777215))]
    pub vni: i32,
    /// UDP destination port. 8472 is Linux's and flannel's, 4789 is IANA's.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Let the device learn peers' addresses from packets. Never needed: every peer is programmed.
    pub learning: bool,
    /// The Group Based Policy extension.
    pub gbp: bool,
    /// Keep transmit checksum offload on the tunnel device. Turn it off where an uplink driver corrupts
    /// the inner checksums of tunnelled packets.
    pub tx_checksum_offload: bool,
}

impl Default for VxlanParameters {
    fn default() -> Self {
        Self { vni: 1, port: 8472, learning: false, gbp: false, tx_checksum_offload: true }
    }
}

/// Translation of pod addresses to the node's own for packets that leave the pod network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Masquerade {
    /// Off: destinations outside see pod addresses, and must know routes to them.
    pub enabled: bool,
    /// Destinations outside of the pod network that see pod addresses as they are.
    #[serde(rename = "nonMasqueradeCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub non_masquerade_cidrs: Vec<Cidr>,
    /// Choose source ports at random, which avoids collisions of simultaneous connections.
    pub fully_random: bool,
    /// Families that are translated. Empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub families: Vec<Family>,
}

impl Default for Masquerade {
    fn default() -> Self {
        Self { enabled: true, non_masquerade_cidrs: vec![], fully_random: true, families: vec![] }
    }
}

/// What the operator does with `Node.spec.podCIDRs`, which nobody can change once they are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum PodCidrMode {
    /// Adopt as soon as any Node has a podCIDR that we did not write, else Mirror. Sticky.
    #[default]
    Auto,
    /// Another IPAM owns podCIDRs: lease exactly those blocks; a Node without one waits.
    Adopt,
    /// We own podCIDRs: lease first, then write the Node.
    Mirror,
    /// Lease, and never touch Nodes.
    Ignore,
}

/// The mode that the operator settled on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodCidrModeInForce {
    Adopt,
    Mirror,
    Ignore,
}

/// What the operator knows of the network.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, rename = "podCIDRMode", skip_serializing_if = "Option::is_none")]
    pub pod_cidr_mode: Option<PodCidrModeInForce>,
    /// Since when it is that one: Nodes of before may have podCIDRs that were written under another.
    #[serde(default, rename = "podCIDRModeSince", skip_serializing_if = "Option::is_none")]
    pub pod_cidr_mode_since: Option<Time>,
    /// The family that the figures and `forecast` are of: the one that will be the first without a block, or
    /// else has the least share left. Each entry's figures are in `cidrs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Blocks of all entries of the family.
    #[serde(default)]
    pub capacity: i64,
    /// Those that are leased to Nodes that exist, or withheld (reason `BlockWithoutLease`).
    #[serde(default)]
    pub used: i64,
    /// Those that are held since their Nodes went.
    #[serde(default)]
    pub held: i64,
    /// Those that are kept back by reservations, and not leased.
    #[serde(default)]
    pub reserved: i64,
    /// Those that a Node can get.
    #[serde(default)]
    pub free: i64,
    /// That of the pool, or of the nodes in no pool, that will be the first without a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub cidrs: Vec<CidrUsage>,
    /// The change of nodes that are in no pool to another backend that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<TransitionStatus>,
    /// Where a node uses wireguard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wireguard_keys: Option<WireguardKeysStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// How full an entry is, in blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CidrUsage {
    #[schemars(length(max = 63))]
    pub name: String,
    #[schemars(length(max = 43))]
    pub cidr: String,
    pub capacity: i64,
    /// Leased to Nodes that exist, or withheld (reason `BlockWithoutLease`).
    pub used: i64,
    /// Held since their Nodes went.
    pub held: i64,
    /// Kept back by reservations, and not leased.
    #[serde(default)]
    pub reserved: i64,
    pub free: i64,
    #[serde(default)]
    pub draining: bool,
    #[serde(default)]
    pub forecast: Forecast,
    /// Its use half a day ago and a day ago: what the rate of the forecast is measured from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub samples: Vec<UsageSample>,
    /// Of an entry that is drained: the first Nodes whose leases keep it from being removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub used_by: Vec<String>,
}
