//! Leases in force that are gone although nobody deleted them: the store was put back to an older state. Who was given a
//! block since then has pods there, and may be away for longer than those who ask for one.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tartan_crds::Cidr;

use super::{Lease, Table};

/// Whose they were, by block.
#[derive(Clone, Debug, Default)]
pub struct Vanished(BTreeMap<Cidr, Missed>);

#[derive(Clone, Debug)]
pub struct Missed {
    pub node: String,
    pub primary: bool,
    /// Since when it is known to be missed.
    since: Option<Timestamp>,
}

impl Vanished {
    /// Compares what was known with a list of all leases.
    pub(super) fn compare(&mut self, before: &Table<Lease>, after: &Table<Lease>) {
        let gone = before.iter().filter(|lease| !after.contains(&lease.meta.name));
        for lease in gone {
            let Some(spec) = lease.spec.as_ref().ok().filter(|spec| spec.released_at.is_none()) else {
                continue;
            };
            tracing::warn!(
                subnet = %lease.subnet,
                node = spec.node_name,
                "the store that has gone back knows nothing of this lease: its block is kept for its node"
            );
            let missed = Missed { node: spec.node_name.clone(), primary: spec.primary, since: None };
            self.0.insert(lease.subnet, missed);
        }
    }

    /// The block is leased again.
    pub(super) fn is_there(&mut self, lease: &Lease) {
        self.0.remove(&lease.subnet);
    }

    /// Forgets what is missed for longer than the block of a Node that is gone is held.
    pub fn age(&mut self, now: Timestamp, hold: Duration) {
        self.0.retain(|_, missed| due(*missed.since.get_or_insert(now), hold) > now);
    }

    /// When the first of them will be forgotten.
    pub fn until(&self, hold: Duration) -> Option<Timestamp> {
        self.0.values().filter_map(|missed| Some(due(missed.since?, hold))).min()
    }

    pub fn blocks(&self) -> impl Iterator<Item = Cidr> {
        self.0.keys().copied()
    }

    /// Those of a node, its first blocks before further ones.
    pub fn of(&self, node: &str) -> Vec<Cidr> {
        let mut of_node: Vec<(bool, Cidr)> = self
            .0
            .iter()
            .filter(|(_, missed)| missed.node == node)
            .map(|(block, missed)| (!missed.primary, *block))
            .collect();
        of_node.sort_unstable();
        of_node.into_iter().map(|(_, block)| block).collect()
    }
}

fn due(since: Timestamp, hold: Duration) -> Timestamp {
    let hold = SignedDuration::try_from(hold).unwrap_or(SignedDuration::MAX);
    since.checked_add(hold).unwrap_or(Timestamp::MAX)
}
