//! Ranges of an entry that are kept back, and blocks that are kept for one node each.
//!
//! A reservation takes nothing from pods. It keeps what is free from being given out, and of the leases that it covers
//! it tells: a first block stays until its Node goes; a further one is asked back (`growth.rs`), and goes when no pod
//! uses it.

use std::collections::BTreeMap;

use tartan_crds::{Cidr, Family, Reservation, conditions::reason};

use super::{
    LISTED, Problem,
    draft::Draft,
    layout::{Entry, Layout, Membership},
    listed, withheld,
};
use crate::world::{Lease, Node};

impl<'a> Layout<'a> {
    /// Everything that is kept back, for nobody or for one node.
    pub fn kept_back(&self) -> impl Iterator<Item = Cidr> {
        self.entries.iter().flat_map(|entry| kept_in(entry).map(|kept| kept.cidr))
    }

    /// What keeps a block back.
    pub fn reservation(&self, block: Cidr) -> Option<(&Entry<'a>, &'a Reservation)> {
        self.entries
            .iter()
            .filter(|entry| entry.cidr.overlaps(block))
            .find_map(|entry| Some((entry, kept_in(entry).find(|kept| kept.cidr.overlaps(block))?)))
    }

    /// Whether a block is kept back from this node.
    pub fn is_kept_from(&self, node: &str, block: Cidr) -> bool {
        self.reservation(block).is_some_and(|(_, kept)| kept.node_name.as_deref() != Some(node))
    }

    /// The block that is kept for a node, in the first entry of its reach that has one for it.
    pub fn kept_for(&self, node: &str, membership: Membership<'_>, family: Family) -> Option<Cidr> {
        let entries = self.reachable(membership).map(|(_, entry)| entry);
        entries.filter(|entry| !entry.drain && entry.cidr.family() == family).find_map(|entry| {
            let kept = kept_in(&entry).find(|kept| kept.node_name.as_deref() == Some(node))?;
            entry.cidr.block_index(entry.block_len, kept.cidr).map(|_| kept.cidr)
        })
    }
}

/// How a lease that a reservation covers comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Covered {
    First,
    Further,
    Held,
}

impl Covered {
    const ALL: [Self; 3] = [Self::First, Self::Further, Self::Held];

    fn of(lease: &Lease) -> Self {
        if lease.released_at().is_some() {
            Self::Held
        } else if lease.spec.as_ref().is_ok_and(|spec| !spec.primary) {
            Self::Further
        } else {
            Self::First
        }
    }

    fn what_becomes_of_it(self) -> &'static str {
        match self {
            Self::First => "a node's first block stays until the node is drained and its Node deleted",
            Self::Further => "a further block is asked back, and goes when no pod has an address of it",
            Self::Held => {
                "a block that was released is held for reclaimAfter, and as long as pods have addresses of it"
            }
        }
    }
}

fn kept_in<'a>(entry: &Entry<'a>) -> impl Iterator<Item = &'a Reservation> + use<'a> {
    let cidr = entry.cidr;
    entry.reserved.iter().filter(move |kept| cidr.covers(kept.cidr))
}

/// Leases that a reservation covers though they are another's.
pub fn covered_leases(draft: &Draft<'_>) -> Option<Problem> {
    draft.layout.kept_back().next()?;
    let covered: Vec<(&Lease, &Entry<'_>, &Reservation)> = draft
        .world
        .leases
        .iter()
        .filter_map(|lease| {
            let (entry, kept) = draft.layout.reservation(lease.subnet)?;
            (kept.node_name.is_none() || kept.node_name.as_deref() != lease.node())
                .then_some((lease, entry, kept))
        })
        .collect();
    covered.first()?;
    let mut by_range: BTreeMap<(&str, Cidr), Vec<&Lease>> = BTreeMap::new();
    for (lease, entry, kept) in &covered {
        by_range.entry((entry.name, kept.cidr)).or_default().push(lease);
    }
    let ranges: Vec<String> = by_range
        .iter()
        .take(LISTED)
        .map(|((entry, range), leases)| {
            let node = |lease: &&Lease| {
                format!("{} of node {}", lease.subnet, lease.node().unwrap_or("(unreadable)"))
            };
            let names: Vec<String> = leases.iter().map(node).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("entry {entry}: reserved range {range} covers {}", listed(&names))
        })
        .collect();
    let more = by_range.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
    let there = |kind: &Covered| covered.iter().any(|(lease, ..)| Covered::of(lease) == *kind);
    let outlook: Vec<&str> =
        Covered::ALL.into_iter().filter(there).map(Covered::what_becomes_of_it).collect();
    Some(Problem::new(
        reason::RESERVED_IN_USE,
        format!(
            "spec.cidrs: {}{more}; {}; or take the range out of reserved",
            ranges.join(", "),
            outlook.join("; ")
        ),
    ))
}

/// Blocks that are kept for nodes which can't get them.
pub fn out_of_reach(draft: &Draft<'_>) -> Vec<Problem> {
    let mut problems = vec![];
    for (place, entry) in draft.layout.entries.iter().enumerate() {
        for kept in kept_in(entry) {
            let Some(node) = kept.node_name.as_deref().and_then(|name| draft.world.nodes.get(name)) else {
                continue;
            };
            let membership = draft.layout.membership(node);
            if !membership.reach.contains(&place) {
                problems.push(Problem::new(
                    reason::INVALID_RESERVATION,
                    format!(
                        "entry {}: {} is reserved for node {}, but pool {}, which that is in, does not use the \
                         entry: move the reservation to an entry of the pool, or the node to another pool",
                        entry.name, kept.cidr, node.meta.name, membership.pool
                    ),
                ));
            }
        }
    }
    problems
}

/// Why a node does not get the block that is kept for it.
pub fn taken(draft: &Draft<'_>, node: &str, block: Cidr) -> Problem {
    let holder = draft.world.leases.iter().find(|lease| lease.subnet.overlaps(block));
    let what = match holder {
        Some(lease) => format!(
            "is taken by lease {} of node {}: {}",
            lease.meta.name,
            lease.node().unwrap_or("(unreadable)"),
            Covered::of(lease).what_becomes_of_it()
        ),
        None if draft.is_told(block) => {
            let told = |node: &&Node| node.readable_pod_cidrs().any(|cidr| cidr.overlaps(block));
            let node = draft.world.nodes.iter().find(told).map_or("(unknown)", |node| &node.meta.name);
            format!("is in the podCIDRs of node {node}, which stay what they are until its Node is deleted")
        }
        None => match (draft.world.vanished.keeper(block), withheld::holder(draft, block)) {
            (Some(node), _) => format!(
                "was of node {node} before the API server was put back to an older state: it is kept for that node for \
                 spec.reclaimAfter"
            ),
            (None, Some(node)) => {
                format!("has pods of node {node} and no lease: it is given out when they are gone")
            }
            (None, None) => "contains an address of a Node or of a Service: choose another block".to_owned(),
        },
    };
    Problem::new(
        reason::RESERVED_BLOCK_TAKEN,
        format!(
            "{block}, reserved for node {node}, {what}; or take the reservation out of the ClusterNetwork"
        ),
    )
}

/// What a drain of the node would change, where it holds another block than the one that is kept for it.
pub fn elsewhere(held: Cidr, kept: Cidr) -> Problem {
    Problem::new(
        reason::RESERVED_ELSEWHERE,
        format!(
            "the node holds {held}, and {kept} is reserved for it: it gets that when it is drained and its Node \
             deleted and made anew"
        ),
    )
}
