//! The pools that select a node or might have, and the entries that this gives it.

use tartan_crds::conditions::reason;

use super::{EntryAnswer, OtherEntry, PoolAnswer};
use crate::{
    decide::{
        Problem,
        draft::Draft,
        layout::{Layout, Membership, PoolPlan},
        usage,
    },
    world::{Node, Pool},
};

pub fn pools(draft: &Draft<'_>, node: &Node, membership: Membership<'_>) -> Vec<PoolAnswer> {
    let readable =
        draft.layout.pools.iter().enumerate().map(|(place, plan): (usize, &PoolPlan<'_>)| PoolAnswer {
            name: plan.pool.meta.name.clone(),
            priority: Some(plan.spec.priority),
            in_force: plan.is_in_force(),
            selects: plan.selects(node),
            has_it: membership.place == Some(place),
            problems: plan.problems.clone(),
        });
    readable.chain(draft.world.pools.iter().filter_map(unreadable)).collect()
}

fn unreadable(pool: &Pool) -> Option<PoolAnswer> {
    let error = pool.spec.as_ref().err()?;
    let said = format!("no node is in this pool: the spec can't be read: {error}");
    Some(PoolAnswer {
        name: pool.meta.name.clone(),
        priority: None,
        in_force: false,
        selects: false,
        has_it: false,
        problems: vec![Problem::new(reason::INVALID_VALUES, said)],
    })
}

pub fn entries(draft: &Draft<'_>, membership: Membership<'_>) -> Vec<EntryAnswer> {
    let usage = usage::count(draft);
    let answer = |(place, entry): (usize, crate::decide::layout::Entry<'_>)| {
        let figures = usage.entries.get(place)?;
        let accounted = [figures.free, figures.used, figures.held, figures.reserved];
        let left = accounted.into_iter().fold(figures.capacity, u64::saturating_sub);
        Some(EntryAnswer {
            name: entry.name.to_owned(),
            cidr: entry.cidr,
            node_mask_size: entry.block_len,
            draining: entry.drain,
            capacity: figures.capacity,
            free: figures.free,
            used: figures.used,
            held: figures.held,
            reserved: figures.reserved,
            unfit: if entry.drain { 0 } else { left },
        })
    };
    draft.layout.reachable(membership).filter_map(answer).collect()
}

pub fn other_entries(layout: &Layout<'_>, membership: Membership<'_>) -> Vec<OtherEntry> {
    let others = layout.entries.iter().enumerate().filter(|(place, _)| !membership.reach.contains(place));
    others
        .map(|(place, entry)| OtherEntry {
            name: entry.name.to_owned(),
            claimed_by: layout.owner(place).map(|plan| plan.pool.meta.name.clone()),
        })
        .collect()
}
