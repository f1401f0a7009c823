//! The generation of WireGuard keys: when it rises. Agents do the rest, each for itself (`tartan_datapath`'s module
//! `rotation`).
//!
//! It rises by one when keys are old enough or `rotate` was changed, and never before all nodes have followed the last
//! time: a node has room for two. Where it stands is in the network's status and in the leases' end points.

use std::collections::BTreeMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use tartan_crds::{
    BackendType, ClusterNetworkSpec, WireguardKeysStatus, WireguardParameters, conditions::reason,
};

use super::{Problem, listed, plural};
use crate::world::{Lease, Network, World};

/// Names in the status.
const NAMED: usize = 16;

/// What is to be said of the keys, and when time alone changes it.
#[derive(Debug, Default)]
pub struct Keys {
    /// `None` where no node uses wireguard, nor ever did.
    pub status: Option<WireguardKeysStatus>,
    pub problem: Option<Problem>,
    pub wake_at: Option<Timestamp>,
}

pub fn decide(world: &World, network: &Network, spec: &ClusterNetworkSpec, now: Timestamp) -> Keys {
    let before = network.status.wireguard_keys.as_ref();
    let held = || world.leases.iter().filter(|lease| lease.released_at().is_none());
    if before.is_none() && !held().any(uses_wireguard) {
        return Keys::default();
    }
    let WireguardParameters { rotate, rotate_after, .. } = &spec.backends.wireguard;
    let mut status = before.cloned().unwrap_or_else(|| WireguardKeysStatus {
        generation: in_use(held()),
        since: Time(now),
        rotate: rotate.clone(),
        behind: 0,
        waiting_for: vec![],
    });
    let old_at = rotate_after
        .and_then(|after| SignedDuration::try_from(std::time::Duration::from(after)).ok())
        .and_then(|after| status.since.0.checked_add(after).ok());
    let is_due = *rotate != status.rotate || old_at.is_some_and(|at| at <= now);
    if is_due && behind(&mut held(), status.generation).is_empty() {
        status.generation = status.generation.saturating_add(1);
        status.since = Time(now);
        status.rotate.clone_from(rotate);
    }
    let behind = behind(&mut held(), status.generation);
    status.behind = i64::try_from(behind.len()).unwrap_or(i64::MAX);
    status.waiting_for = behind.iter().take(NAMED).map(|name| (*name).to_owned()).collect();
    let problem = (!behind.is_empty()).then(|| {
        Problem::new(
            reason::ROTATING_KEYS,
            format!(
                "{} not through with generation {} of the keys: {}",
                if behind.len() == 1 {
                    "1 node is".to_owned()
                } else {
                    format!("{} are", plural(behind.len(), "node"))
                },
                status.generation,
                listed(&behind)
            ),
        )
    });
    // An age that has passed waits for nodes, not for time.
    Keys { status: Some(status), problem, wake_at: old_at.filter(|at| *at > now) }
}

fn uses_wireguard(lease: &Lease) -> bool {
    let Ok(spec) = &lease.spec else { return false };
    spec.backend.kind == BackendType::Wireguard || spec.backend.accepts.contains(&BackendType::Wireguard)
}

/// The newest generation of most nodes, of two the older. So a status that was lost takes nobody's keys back, and no
/// single node can drive the others to the last number that there is.
fn in_use<'a>(leases: impl Iterator<Item = &'a Lease>) -> i32 {
    let mut nodes: BTreeMap<&str, i32> = BTreeMap::new();
    for lease in leases {
        let (Some(node), Some(newest)) = (lease.node(), lease.wireguard_keys.keys().max()) else { continue };
        nodes.entry(node).and_modify(|held| *held = (*held).max(*newest)).or_insert(*newest);
    }
    let mut votes: BTreeMap<i32, usize> = BTreeMap::new();
    for newest in nodes.into_values() {
        *votes.entry(newest).or_default() += 1;
    }
    let most = votes.into_iter().max_by_key(|(generation, votes)| (*votes, std::cmp::Reverse(*generation)));
    most.map_or(0, |(generation, _)| generation)
}

/// Nodes that publish a key of before, by name.
fn behind<'a>(leases: &mut dyn Iterator<Item = &'a Lease>, generation: i32) -> Vec<&'a str> {
    let mut behind: Vec<&str> = leases
        .filter(|lease| lease.wireguard_keys.keys().any(|other| *other < generation))
        .filter_map(Lease::node)
        .collect();
    behind.sort_unstable();
    behind.dedup();
    behind
}
