//! This node's own leases, and what they must agree with. Pure.

use std::collections::BTreeSet;

use tartan_crds::{Cidr, Family, conditions::reason};

use super::NotReady;
use crate::inputs::{Lease, Network, Node, Snapshot};

/// Our leases by name: those of our Node's UID that are not released.
pub fn own_leases<'a>(
    name: &str,
    node: &Node,
    snapshot: &Snapshot<'a>,
) -> Result<Vec<(&'a str, &'a Lease)>, NotReady> {
    let (own, others): (Vec<_>, Vec<_>) = snapshot
        .leases
        .iter()
        .filter(|(_, lease)| lease.node == name && !lease.released)
        .map(|(name, lease)| (name.as_str(), lease))
        .partition(|(_, lease)| lease.node_uid == node.uid);
    if own.iter().any(|(_, lease)| lease.primary) {
        return Ok(own);
    }
    let message = match others.first() {
        Some((lease, _)) => format!(
            "SubnetLease {lease} is for another Node named {name}, which is gone (UID {}): waiting for the operator",
            others.first().map_or("", |(_, lease)| lease.node_uid.as_str())
        ),
        None => format!("there is no primary SubnetLease for node {name} yet: waiting for the operator"),
    };
    Err(NotReady::new(reason::NO_LEASE, message))
}

/// Other software reads podCIDRs: work starts only when they and the leases say the same of each family that both
/// name. A second family of one of them may be another's, or have come after podCIDRs, which can't be changed.
pub(super) fn agree_with_pod_cidrs(
    own: &[(&str, &Lease)],
    node: &Node,
    network: &Network,
) -> Result<(), NotReady> {
    if network.pod_cidrs_ignored || node.pod_cidrs.is_empty() {
        return Ok(());
    }
    let leased: BTreeSet<Cidr> =
        own.iter().filter(|(_, lease)| lease.primary).map(|(_, lease)| lease.subnet).collect();
    let read: Vec<Cidr> = node.pod_cidrs.iter().filter_map(|text| text.parse().ok()).collect();
    let on_node: BTreeSet<Cidr> = read.iter().copied().collect();
    let of = |set: &BTreeSet<Cidr>, family| -> BTreeSet<Cidr> {
        set.iter().copied().filter(|cidr| cidr.family() == family).collect()
    };
    let mut common =
        Family::ALL.into_iter().filter(|f| !of(&leased, *f).is_empty() && !of(&on_node, *f).is_empty());
    let all_agree = common.clone().all(|family| of(&leased, family) == of(&on_node, family));
    if common.next().is_some() && all_agree && read.len() == node.pod_cidrs.len() {
        return Ok(());
    }
    let leased: Vec<String> = leased.iter().map(ToString::to_string).collect();
    Err(NotReady::new(
        reason::POD_CIDR_MISMATCH,
        format!(
            "the Node's podCIDRs are {} but its primary leases are {}: use podCIDRMode Adopt or Ignore, or make the Node anew",
            node.pod_cidrs.join(", "),
            leased.join(", ")
        ),
    ))
}

pub(super) fn primary<'a>(own: &[(&str, &'a Lease)]) -> Option<&'a Lease> {
    own.iter().find(|(_, lease)| lease.primary).or(own.first()).map(|(_, lease)| *lease)
}
