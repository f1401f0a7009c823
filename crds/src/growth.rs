//! The address plan within an entry and over time: ranges that are kept back, and blocks that nodes get and
//! give back as their pods come and go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, Duration};

/// A range of an entry that is given to no node, or one block that is given to one node alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The range, inside of the entry: any where no node is named, else exactly one block.
    pub cidr: Cidr,
    /// The Node that the block is for: it gets it as its first block of the family, and nobody else ever does.
    /// Absent: no node gets a block that meets the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub node_name: Option<String>,
    /// What the range is for, in messages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub comment: String,
}

/// When a node gets a further block of a family, and when one is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Growth {
    /// Blocks of one family that a node may hold, the first included. 1: nodes get no further blocks.
    #[serde(default = "max_blocks_per_node")]
    #[schemars(range(min = 1, max = 16))]
    pub max_blocks_per_node: i32,
    /// A further block is granted when less than this percentage of the addresses in the node's blocks of the
    /// family is free. One is taken back only where twice that stays free.
    #[serde(default = "grant_below_free")]
    #[schemars(range(min = 1, max = 50))]
    pub grant_below_free: i32,
    /// The least time between two blocks of a family for one node, such as `1m`.
    #[serde(default = "cool_down")]
    pub cool_down: Duration,
    /// For how long no pod must have had an address of a further block before it is taken back, such as `1h`.
    #[serde(default = "return_empty_after")]
    pub return_empty_after: Duration,
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            max_blocks_per_node: max_blocks_per_node(),
            grant_below_free: grant_below_free(),
            cool_down: cool_down(),
            return_empty_after: return_empty_after(),
        }
    }
}

fn max_blocks_per_node() -> i32 {
    4
}

fn grant_below_free() -> i32 {
    15
}

fn cool_down() -> Duration {
    Duration::from_secs(60)
}

fn return_empty_after() -> Duration {
    Duration::from_secs(3600)
}
