//! WireGuard in the ClusterNetwork: what nodes share, and how far the rotation of their keys is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// WireGuard, as in `wg` (8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WireguardParameters {
    /// UDP port that nodes receive at, and with the next number while keys are rotated. A change takes effect with the
    /// next rotation.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65534))]
    pub port: i32,
    /// Seconds between packets that keep a NAT on the way open; 0: none are sent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub persistent_keepalive: i32,
    /// Use the preshared key of the Secret `tartan-wireguard` (entry `presharedKey`) in the release's namespace, beside
    /// each node's own keys. A change, also of the Secret, takes effect with the next rotation.
    #[serde(default)]
    pub preshared_key: bool,
    /// How old nodes' keys may grow before all are rotated, such as `720h`. Absent: as old as the node's last boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]+(h|m|s))+$') || duration(self) >= duration('10m')")
        .message("must be a duration of at least 10m, such as 720h"))]
    pub rotate_after: Option<Duration>,
    /// Any text. All nodes' keys are rotated when it changes, as to a date or the number of a ticket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub rotate: String,
}

fn default_port() -> i32 {
    51820
}

impl Default for WireguardParameters {
    fn default() -> Self {
        Self {
            port: default_port(),
            persistent_keepalive: 0,
            preshared_key: false,
            rotate_after: None,
            rotate: String::new(),
        }
    }
}

/// Which keys nodes should have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct WireguardKeysStatus {
    /// One more with each rotation.
    #[schemars(range(min = 0))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("the generation of keys never goes back"))]
    pub generation: i32,
    /// Since when it is that one.
    pub since: Time,
    /// The `rotate` that it was made for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub rotate: String,
    /// Nodes that still use keys of before.
    #[serde(default)]
    pub behind: i64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub waiting_for: Vec<String>,
}
