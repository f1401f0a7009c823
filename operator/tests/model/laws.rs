//! What must hold, always and in the end.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use stateright::Property;

use super::{
    state::{BLOCKS, Lease, NODES, Stage, State, overlap},
    steps::Cluster,
};

pub const OVERLAP: &str = "no two leases overlap";
pub const KEPT: &str = "what a living node uses stays its own";
pub const CALM: &str = "in the end every node has what it should have, and a held block is its node's again";
pub const LAWS: [&str; 3] = [OVERLAP, KEPT, CALM];

pub fn all() -> Vec<Property<Cluster>> {
    vec![
        Property::always(OVERLAP, |_, state| none_overlap(state)),
        Property::always(KEPT, |_, state| all_kept(state)),
        Property::always(CALM, ends_well),
    ]
}

fn live(state: &State) -> impl Iterator<Item = (usize, Lease)> {
    state.leases.iter().enumerate().filter_map(|(block, lease)| Some((block, (*lease)?)))
}

fn none_overlap(state: &State) -> bool {
    live(state).all(|(one, _)| {
        live(state).all(|(other, _)| {
            one == other || !overlap(u8::try_from(one).unwrap(), u8::try_from(other).unwrap())
        })
    })
}

/// While a Node is there, marked for deletion or not, what its agent uses, and any block of which a pod has an address,
/// is neither released nor another's.
fn all_kept(state: &State) -> bool {
    (0..NODES).all(|name| {
        let used = state.uses[name] | state.pods[name].there;
        (0..BLOCKS).filter(|block| used & (1 << block) != 0).all(|block| {
            let node = state.nodes[name];
            state.leases[block].is_some_and(|lease| node.is_some_and(|node| lease.is_of(name, node)))
        })
    })
}

fn ends_well(cluster: &Cluster, state: &State) -> bool {
    // In the middle of a round there is nothing to say that its end does not say as well.
    if state.operators.iter().any(|operator| !operator.flights.is_empty()) || !none_overlap(state) {
        return true;
    }
    let mut hasher = DefaultHasher::new();
    let State { now, nodes, leases, stage, uses, pods, reports, operators, .. } = state;
    (now, nodes, leases, stage, uses, pods, reports, operators).hash(&mut hasher);
    cluster.mind.ends_well(hasher.finish(), || judge_the_end(cluster, state))
}

fn judge_the_end(cluster: &Cluster, state: &State) -> bool {
    let Some(end) = cluster.calm(state) else { return false };
    let in_force = |name: usize| {
        live(&end)
            .filter(move |(_, lease)| usize::from(lease.node) == name && lease.released.is_none())
            .collect::<Vec<_>>()
    };
    let nodes_served = end.nodes.iter().enumerate().all(|(name, node)| {
        let leases = in_force(name);
        match node {
            None => leases.is_empty(),
            Some(node) => {
                let primary = leases.iter().filter(|(_, lease)| lease.primary).count();
                let own = leases.iter().all(|(_, lease)| lease.node_uid == node.uid);
                let may_wait = match kept_for(&end, name) {
                    Some(block) => in_force_anywhere(&end, block),
                    None => !has_room(&end),
                };
                own && (primary == 1 || (primary == 0 && may_wait))
            }
        }
    });
    let returned = live(state).filter(|(_, lease)| lease.released.is_some()).all(|(block, held)| {
        let name = usize::from(held.node);
        let others =
            live(state).any(|(_, lease)| usize::from(lease.node) == name && lease.released.is_none());
        let stays = state.stage.gives(u8::try_from(block).unwrap());
        // One of its blocks is kept for another: it may get what is free instead.
        let kept = state.leases[usize::from(Stage::RESERVED.0)];
        let moves_on = state.stage == Stage::Kept && kept.is_some_and(|lease| lease.node == held.node);
        state.nodes[name].is_none()
            || others
            || kept_for(state, name).is_some()
            || moves_on
            || !stays
            || in_force(name).iter().any(|(own, lease)| *own == block && (lease.primary || !held.primary))
    });
    nodes_served && returned && reservation_is_met(state, &end) && none_overlap(&end) && all_kept(&end)
}

fn kept_for(state: &State, name: usize) -> Option<usize> {
    let (block, keeper) = Stage::RESERVED;
    (state.stage == Stage::Kept && keeper == name).then_some(block.into())
}

fn in_force_anywhere(state: &State, block: usize) -> bool {
    state.leases[block].is_some_and(|lease| lease.released.is_none())
}

/// A node that waits gets the block that is kept for it, where nobody holds that who is there.
fn reservation_is_met(state: &State, end: &State) -> bool {
    (0..NODES).all(|name| {
        let Some(block) = kept_for(state, name) else { return true };
        let waits =
            state.nodes[name].is_some() && live(state).all(|(_, lease)| usize::from(lease.node) != name);
        let is_free = state.leases[block].is_none_or(|lease| state.nodes[usize::from(lease.node)].is_none());
        let has_it =
            || end.leases[block].is_some_and(|lease| usize::from(lease.node) == name && lease.primary);
        !(waits && is_free) || has_it()
    })
}

/// Whether a block could be given to somebody: one that is free, or held for a node that is gone.
fn has_room(state: &State) -> bool {
    (0..BLOCKS).map(|block| u8::try_from(block).unwrap()).filter(|block| state.stage.gives(*block)).any(
        |block| {
            live(state).all(|(other, lease)| {
                let other = u8::try_from(other).unwrap();
                let held = other == block
                    && lease.released.is_some()
                    && state.nodes[usize::from(lease.node)].is_none();
                held || !overlap(block, other)
            })
        },
    )
}
