//! `NetworkPool`: nodes that share a backend, and possibly a part of the address plan.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    BackendSelection, Family, Forecast, Growth, TransitionPolicy, TransitionStatus, UplinkSelection,
};

/// A group of nodes, chosen by their labels.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "tartan.network",
    version = "v1alpha1",
    kind = "NetworkPool",
    doc = "Nodes that share a backend, chosen by their labels.",
    plural = "networkpools",
    shortname = "npool",
    category = "tartan",
    status = "NetworkPoolStatus",
    derive = "PartialEq",
    printcolumn(name = "Backend", type_ = "string", json_path = ".spec.backend.type"),
    printcolumn(name = "Direct", type_ = "boolean", json_path = ".spec.backend.directRouting", priority = 1),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Leases", type_ = "integer", json_path = ".status.leases"),
    printcolumn(name = "Family", type_ = "string", json_path = ".status.family"),
    printcolumn(name = "Capacity", type_ = "integer", json_path = ".status.capacity"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.used"),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.held"),
    printcolumn(name = "Reserved", type_ = "integer", json_path = ".status.reserved", priority = 1),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(name = "Exhausted-In", type_ = "string", json_path = ".status.forecast.exhaustedIn"),
    printcolumn(name = "Changing", type_ = "string", json_path = ".status.transition.phase"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name != 'default'")
        .message("default stands for nodes in no pool: choose another name"),
    // Only of a new pool: one that is there can still be changed.
    validation = Rule {
        optional_old_self: Some(true),
        ..Rule::new("oldSelf.hasValue() || self.metadata.name.size() <= 63")
            .message("the name is a label of the pool's leases: choose one of at most 63 characters")
    }
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPoolSpec {
    /// Nodes of the pool. An empty selector takes all.
    pub node_selector: LabelSelector,
    /// Among pools that select one node the highest priority wins, then the first name.
    #[serde(default)]
    #[schemars(range(min = -1000000, max = 1000000))]
    pub priority: i32,
    /// How the pool's nodes send to each other.
    pub backend: BackendSelection,
    /// Names of ClusterNetwork entries that only this pool's nodes use, the preferred first. Empty: all
    /// entries that no pool claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(a, self.exists_one(b, a == b))").message("entry names must be unique"),
    )]
    pub cidrs: Vec<String>,
    /// Which interface of a node carries pod traffic between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkSelection>,
    /// Pod MTU in bytes, for this pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 576, max = 65535))]
    pub mtu: Option<i32>,
    /// Whether the pool's pod addresses are translated towards the outside. Absent: as the network says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
    /// Further blocks for the pool's nodes whose addresses run low. Absent: as the network says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// How the pool's nodes change to another backend while packets flow.
    #[serde(default)]
    pub transition: TransitionPolicy,
}

/// What the operator knows of the pool.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPoolStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes in the pool.
    #[serde(default)]
    pub nodes: i64,
    /// Leases that these hold.
    #[serde(default)]
    pub leases: i64,
    /// The family that the figures of blocks and `forecast` are of: the one that will be the first without a
    /// block, or else has the least share left. The other one's are among the operator's metrics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Blocks of the family's entries that the pool's nodes can get blocks of, also those that other pools use.
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
    #[serde(default)]
    pub forecast: Forecast,
    /// The change to another backend that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<TransitionStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
