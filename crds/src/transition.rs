//! The change of nodes from one backend to another, as pools and the network ask for it and tell of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackendType, Duration};

/// At what pace nodes change their backend, and what happens to those that lag.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransitionPolicy {
    /// Hold back nodes that have not changed yet. To go back, write the old backend again.
    #[serde(default)]
    pub paused: bool,
    /// How many nodes may be between being told to send by the new backend and saying that they do.
    #[serde(default = "max_in_flight")]
    #[schemars(range(min = 1, max = 5000))]
    pub max_in_flight: i32,
    /// How long nodes that don't receive the new backend are waited for, such as `1h`; then the others go on, and these
    /// may have no path to them. Nodes that were told to send by it and don't say that they do, or still send in clear
    /// when all were told to encrypt, have as long from when the last one was told; and those that are to take packets
    /// in clear again before nodes leave encryption, from when the last of these was unsealed. A few seconds are too
    /// short: nodes that are well and still prepare would be passed over. Absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
}

impl Default for TransitionPolicy {
    fn default() -> Self {
        Self { paused: false, max_in_flight: max_in_flight(), deadline: None }
    }
}

fn max_in_flight() -> i32 {
    50
}

/// How far a change has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransitionStatus {
    /// What the nodes are to send by.
    pub to: BackendType,
    pub since: Time,
    pub phase: TransitionPhase,
    /// Since when it is in this phase without that another node was told: `deadline` counts from here for nodes that keep
    /// it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_since: Option<Time>,
    /// Nodes that take part.
    pub nodes: i64,
    /// Those that receive the new backend.
    pub receiving: i64,
    /// Those that were told to send by it.
    pub moved: i64,
    /// The first nodes that it is not through with: that must receive it before anything moves, or were told to send by
    /// it and have not said that they do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub waiting_for: Vec<String>,
}

/// What happens now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TransitionPhase {
    /// Nodes set up reception; or those that were sealed take packets in clear again.
    Preparing,
    /// Nodes begin to send by the new backend, some at a time.
    Moving,
    /// All were told, and some have not said yet that they do.
    Finishing,
    /// Held back by `transition.paused`.
    Paused,
}
