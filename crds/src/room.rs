//! How long the blocks of an entry or a pool will last, as status tells it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long blocks will last, coarsely: it is rewritten when it says something else, not with every block.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    pub room: Room,
    /// Blocks by which use grows in a day at the present rate, to one significant digit; 0: it doesn't grow.
    #[serde(default)]
    pub blocks_per_day: i64,
    /// Until no block is left at that rate: `40m`, `3h`, `5d`, `3w`, or `now`. Absent: not foreseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub exhausted_in: Option<String>,
}

/// Whether blocks are left, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
pub enum Room {
    #[default]
    Ample,
    /// At the present rate none is left within days.
    Low,
    /// None is left.
    Exhausted,
}

/// How many blocks were in use at a time: what a rate is measured from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageSample {
    pub at: Time,
    pub used: i64,
}
