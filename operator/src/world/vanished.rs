//! Leases in force that may be gone although nobody deleted them: the store was put back to an older state. Who was given
//! a block since then has pods there, and may be away for longer than those who ask for one.
//!
//! The watches notice it one after the other. So everything that was known counts as missed from the first notice on,
//! until it is seen again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tartan_crds::Cidr;

use super::{Lease, Table};

/// For so long after the first notice others are of the same event.
const ONE_EVENT: Duration = Duration::from_secs(60);

/// Whose they were, by block.
#[derive(Clone, Debug, Default)]
pub struct Vanished {
    missed: BTreeMap<Cidr, Missed>,
    noticed: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Missed {
    node: String,
    primary: bool,
    /// Since when decisions know of it.
    since: Option<Timestamp>,
}

impl Vanished {
    /// The store went back behind a version that was seen; what was `known` before.
    pub(super) fn notice(&mut self, known: &Table<Lease>) {
        if self.noticed.is_some_and(|at| at.elapsed() < ONE_EVENT) {
            return;
        }
        self.noticed = Some(Instant::now());
        for lease in known.iter() {
            let Some(spec) = lease.spec.as_ref().ok().filter(|spec| spec.released_at.is_none()) else {
                continue;
            };
            let missed = Missed { node: spec.node_name.clone(), primary: spec.primary, since: None };
            self.missed.insert(lease.subnet, missed);
        }
    }

    /// The API server tells of a lease. One that was released then, or another node's, is no proof that the block is free.
    pub(super) fn is_there(&mut self, lease: &Lease) {
        let is_same = |missed: &Missed| lease.released_at().is_none() && lease.node() == Some(&missed.node);
        if self.missed.get(&lease.subnet).is_some_and(is_same) {
            self.missed.remove(&lease.subnet);
        }
    }

    /// Forgets what is missed for longer than the block of a Node that is gone is held.
    pub(super) fn age(&mut self, now: Timestamp, hold: Duration) {
        self.missed.retain(|_, missed| due(*missed.since.get_or_insert(now), hold) > now);
    }

    /// When the first of them will be forgotten.
    pub fn until(&self, hold: Duration) -> Option<Timestamp> {
        self.missed.values().filter_map(|missed| Some(due(missed.since?, hold))).min()
    }

    pub fn blocks(&self) -> impl Iterator<Item = Cidr> {
        self.missed.keys().copied()
    }

    /// Until when a block is kept for its node.
    pub fn kept_until(&self, block: Cidr, hold: Duration) -> Option<Timestamp> {
        Some(due(self.missed.get(&block)?.since?, hold))
    }

    /// The node that a block is kept for.
    pub fn keeper(&self, block: Cidr) -> Option<&str> {
        let mut met = self.missed.iter().filter(|(missed, _)| missed.overlaps(block));
        met.next().map(|(_, missed)| missed.node.as_str())
    }

    /// By node, its first blocks before further ones.
    pub fn by_node(&self) -> BTreeMap<&str, Vec<Cidr>> {
        let mut by_node: BTreeMap<&str, Vec<(bool, Cidr)>> = BTreeMap::new();
        for (block, missed) in &self.missed {
            by_node.entry(&missed.node).or_default().push((!missed.primary, *block));
        }
        let sorted = |mut blocks: Vec<(bool, Cidr)>| {
            blocks.sort_unstable();
            blocks.into_iter().map(|(_, block)| block).collect()
        };
        by_node.into_iter().map(|(node, blocks)| (node, sorted(blocks))).collect()
    }
}

fn due(since: Timestamp, hold: Duration) -> Timestamp {
    let hold = SignedDuration::try_from(hold).unwrap_or(SignedDuration::MAX);
    since.checked_add(hold).unwrap_or(Timestamp::MAX)
}
