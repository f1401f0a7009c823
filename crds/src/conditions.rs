//! Condition types and reasons: one fixed vocabulary for status, events and metrics.

/// Condition types on ClusterNetwork, NetworkPool and NodeNetwork.
pub mod kind {
    /// The object is understood and in force.
    pub const ACCEPTED: &str = "Accepted";
    /// Every node that wants a block has one (ClusterNetwork, NetworkPool).
    pub const ALLOCATED: &str = "Allocated";
    /// Blocks are left, and will be for days at the present rate (ClusterNetwork, NetworkPool).
    pub const HAS_ROOM: &str = "HasRoom";
    /// The operator's invariants hold among all objects (ClusterNetwork).
    pub const CONSISTENT: &str = "Consistent";
    /// The values of the chart are in force (ClusterNetwork, NetworkPool).
    pub const CHART_APPLIED: &str = "ChartApplied";
    /// This node's pod network works (NodeNetwork; written by the agent).
    pub const READY: &str = "Ready";
    /// Something on this node is not as it should be, though traffic may flow (NodeNetwork; agent).
    pub const DEGRADED: &str = "Degraded";
    /// This node holds the leases that it needs (NodeNetwork; written by the operator).
    pub const LEASED: &str = "Leased";
    /// Every node uses WireGuard keys of the network's generation (ClusterNetwork).
    pub const KEYS_CURRENT: &str = "KeysCurrent";
    /// Entries are being drained, and these leases are still in them (ClusterNetwork).
    pub const DRAINING: &str = "Draining";
    /// Nodes are changing to another backend.
    pub const PROGRESSING: &str = "Progressing";
    /// Nodes that encrypt take nothing in clear any more (ClusterNetwork, NetworkPool; only where they encrypt).
    pub const SEALED: &str = "Sealed";
}

/// Reasons. CamelCase, as the API conventions ask; also the `reason` label of metrics.
pub mod reason {
    pub const OK: &str = "AsExpected";

    // ClusterNetwork and NetworkPool, written by the operator.
    pub const INVALID_CIDR: &str = "InvalidCIDR";
    pub const OVERLAPPING_CIDRS: &str = "OverlappingCIDRs";
    pub const OVERLAPS_SERVICE_CIDR: &str = "OverlapsServiceCIDR";
    pub const OVERLAPS_NODE_ADDRESS: &str = "OverlapsNodeAddress";
    pub const ENTRY_IN_USE: &str = "EntryInUse";
    pub const ENTRY_EMPTY: &str = "EntryEmpty";
    pub const ENTRY_CHANGED: &str = "EntryChanged";
    pub const UNKNOWN_ENTRY: &str = "UnknownEntry";
    pub const ENTRY_CLAIMED_TWICE: &str = "EntryClaimedTwice";
    pub const SAME_PRIORITY: &str = "SamePriority";
    pub const NO_NODES: &str = "NoNodesMatch";
    pub const INVALID_SELECTOR: &str = "InvalidSelector";
    pub const EXHAUSTED: &str = "Exhausted";
    pub const NEARLY_EXHAUSTED: &str = "NearlyExhausted";
    pub const LEASES_OVERLAP: &str = "LeasesOverlap";
    pub const LEASE_MISNAMED: &str = "LeaseMisnamed";
    pub const LEASE_EDITED: &str = "LeaseEdited";
    pub const LEASE_RESTORED: &str = "LeaseRestored";
    pub const BLOCK_WITHOUT_LEASE: &str = "BlockWithoutLease";
    pub const LEASE_HELD_UP: &str = "LeaseHeldUp";
    pub const LEASE_REFUSED: &str = "LeaseRefused";
    pub const LEASE_UNREADABLE: &str = "LeaseUnreadable";
    pub const FIELD_CONFLICT: &str = "FieldConflict";
    pub const INVALID_VALUES: &str = "InvalidValues";
    pub const SECOND_IPAM: &str = "SecondIPAM";
    pub const POD_CIDR_MODE_CHANGED: &str = "PodCIDRModeChanged";
    pub const NO_CLUSTER_NETWORK: &str = "NoClusterNetwork";

    // A node's leases, written by the operator.
    pub const WAITING_FOR_POD_CIDR: &str = "WaitingForPodCIDR";
    pub const POD_CIDR_OUTSIDE: &str = "PodCIDROutsideEntries";
    pub const POD_CIDR_TAKEN: &str = "PodCIDRTaken";
    pub const POD_CIDR_MISMATCH: &str = "PodCIDRMismatch";
    pub const FAMILY_NOT_GIVEN: &str = "FamilyWithoutPodCIDR";
    pub const INVALID_ANNOTATION: &str = "InvalidAnnotation";
    pub const OUTSIDE_POOL: &str = "OutsidePool";
    pub const INVALID_RESERVATION: &str = "InvalidReservation";
    pub const RESERVED_IN_USE: &str = "ReservedRangeInUse";
    pub const RESERVED_BLOCK_TAKEN: &str = "ReservedBlockTaken";
    pub const RESERVED_ELSEWHERE: &str = "ReservedBlockElsewhere";
    pub const POD_CIDR_RESERVED: &str = "PodCIDRReserved";
    pub const ADDRESSES_LOW: &str = "AddressesLow";
    pub const ADDRESS_TAKEN_OVER: &str = "AddressTakenOver";

    // A node's data path, written by the agent.
    pub const NO_LEASE: &str = "NoLease";
    pub const NO_UPLINK: &str = "NoUplink";
    pub const INPUTS_INCOMPLETE: &str = "InputsIncomplete";
    pub const DELETIONS_FROZEN: &str = "DeletionsFrozen";
    pub const FOREIGN_OBJECT: &str = "ForeignObject";
    pub const APPLY_FAILED: &str = "ApplyFailed";
    pub const PERMISSION_DENIED: &str = "PermissionDenied";
    pub const NFT_MISSING: &str = "NftMissing";
    pub const SYSCTL_READ_ONLY: &str = "SysctlReadOnly";
    pub const GUARD_REFUSED: &str = "GuardRefused";
    pub const ADDRESS_OUTSIDE_LEASES: &str = "PodAddressOutsideLeases";
    pub const CNI_SHADOWED: &str = "CniConfigShadowed";
    pub const LEFTOVER_FLANNEL: &str = "LeftoverFlannel";
    pub const PEER_INVALID: &str = "PeerInvalid";
    pub const PAUSED: &str = "Paused";
    pub const MOVING: &str = "Moving";
    pub const ROTATING_KEYS: &str = "RotatingKeys";
    pub const KEY_ROTATION_WAITS: &str = "KeyRotationWaits";
    pub const PRESHARED_KEY_CHANGED: &str = "PresharedKeyChanged";
    pub const WIREGUARD_UNANSWERED: &str = "WireguardUnanswered";
    pub const IKE_UNANSWERED: &str = "IkeUnanswered";
    pub const WAITING_FOR_RECEPTION: &str = "WaitingForReception";
    pub const BACKEND_UNAVAILABLE: &str = "BackendUnavailable";
    pub const EXTENSION_FAILED: &str = "ExtensionFailed";
    pub const FORWARDER_MISSING: &str = "ForwarderNotRunning";
    pub const WIREGUARD_NOT_RUNNING: &str = "WireguardNotRunning";
    pub const PEERS_WITHOUT_PATH: &str = "PeersWithoutPath";
    pub const MTU_TOO_LARGE: &str = "PodMTUExceedsPath";
    pub const MTU_TOO_SMALL: &str = "PodMTUTooSmall";
    pub const PODS_EXCEED_MTU: &str = "PodsExceedMTU";
}
