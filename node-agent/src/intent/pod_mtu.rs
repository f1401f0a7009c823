//! The MTU of this node's pods: what is asked for, what they take, and what is amiss with it. Pure.

use tartan_crds::{Family, conditions::reason};
use tartan_datapath::{
    model::{Facts, Local},
    mtu,
};

use super::{NotReady, own::primary};
use crate::inputs::{Lease, Network};

/// What pods of the leases' families take.
pub(super) fn least_mtu(own: &[(&str, &Lease)]) -> u32 {
    let v6 = own.iter().any(|(_, lease)| lease.subnet.family() == Family::V6);
    if v6 { mtu::LEAST_V6 } else { mtu::LEAST }
}

/// The pool's wish, then the network's.
pub(super) fn wanted_mtu(own: &[(&str, &Lease)], network: &Network) -> Option<u32> {
    primary(own).and_then(|lease| lease.mtu).or(network.mtu).and_then(|bytes| u32::try_from(bytes).ok())
}

/// What an administrator should know of it, given the MTU in use, the one that was asked for and the least that will
/// do.
pub(super) fn troubles(facts: &Facts, local: &Local, wanted: Option<u32>, least: u32) -> Vec<NotReady> {
    let Local { mtu, uplink, .. } = local;
    let too_large = wanted.filter(|wanted| wanted > mtu).map(|wanted| {
        NotReady::new(
            reason::MTU_TOO_LARGE,
            format!(
                "a pod MTU of {wanted} is asked for, but uplink {} with MTU {} leaves {mtu}, which is used",
                uplink.name, uplink.mtu
            ),
        )
    });
    let too_small = wanted.filter(|wanted| *wanted < least).map(|wanted| {
        NotReady::new(
            reason::MTU_TOO_SMALL,
            format!(
                "a pod MTU of {wanted} is asked for (mtu of the ClusterNetwork or the pool), but IPv6 takes {}, and {mtu} is used: raise it",
                mtu::LEAST_V6
            ),
        )
    });
    too_large.into_iter().chain(too_small).chain(running_pods(facts, *mtu)).collect()
}

/// Pods got the MTU that held when they started, which nobody can change but their own restart.
fn running_pods(facts: &Facts, mtu: u32) -> Option<NotReady> {
    let mut larger =
        facts.links.iter().filter(|link| facts.ports.contains(&link.name) && link.mtu > mtu).peekable();
    let first = larger.peek().map(|link| (link.name.clone(), link.mtu))?;
    Some(NotReady::new(
        reason::PODS_EXCEED_MTU,
        format!(
            "{} running pods were started with a larger MTU than the {mtu} that this node's paths carry now (the one at {} has {}): large packets of theirs depend on ICMP messages that some firewalls drop; restart them",
            larger.count(),
            first.0,
            first.1
        ),
    ))
}
