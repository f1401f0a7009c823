//! Names that more than one program knows: labels, annotations, field managers, objects.

/// The API group; also the prefix of our labels and annotations.
pub const GROUP: &str = "tartan.network";
pub const VERSION: &str = "v1alpha1";

/// The name of the only ClusterNetwork.
pub const CLUSTER_NETWORK: &str = "default";
/// The name that a lease carries as its pool when its node is in none.
pub const NO_POOL: &str = "default";

/// The Secret in the release's namespace that holds the preshared key of WireGuard, and its entry.
pub const WIREGUARD_SECRET: &str = "tartan-wireguard";
pub const PRESHARED_KEY: &str = "presharedKey";

/// Field managers of server-side apply: one for each writer of a field.
pub mod field_manager {
    /// The operator's own decisions.
    pub const OPERATOR: &str = "tartan-operator";
    /// The objects that the chart's values ask for.
    pub const CHART: &str = "tartan-chart";
    /// The agent's status.
    pub const AGENT: &str = "tartan-node-agent";
}

/// Labels on a SubnetLease, so that `kubectl get sl -l` finds what belongs together.
pub mod label {
    pub const NODE: &str = "tartan.network/node";
    pub const POOL: &str = "tartan.network/pool";
    pub const FAMILY: &str = "tartan.network/family";
}

/// Annotations: an administrator's on a Node, and the operator's own.
pub mod annotation {
    /// Addresses that peers send to instead of the uplink's own, comma-separated, one per family:
    /// for nodes behind address translation.
    pub const PUBLIC_IPS: &str = "tartan.network/public-ips";
    /// The uplink of this node, overruling its pool: `interface=eth1`, `regex=^ens`,
    /// `address=192.0.2.7`, `can-reach=192.0.2.1`, `internal-ip` or `default-route`.
    pub const UPLINK: &str = "tartan.network/uplink";
    /// On a lease: UID and generation of the ClusterNetwork that its block was cut by, `UID/GENERATION`.
    pub const CUT_BY: &str = "tartan.network/cut-by";
    /// On a lease: why its block was chosen when it was made, in one word.
    pub const CHOSEN: &str = "tartan.network/chosen";
    /// Written by the operator on a Node whose podCIDRs it set itself (podCIDRMode Mirror).
    pub const MIRRORED: &str = "tartan.network/mirrored-pod-cidrs";
}
