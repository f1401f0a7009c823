//! Released leases whose blocks others may get before `reclaimAfter` has passed.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::layout::Layout;
use crate::world::{Lease, World};

/// Those of Nodes that are gone, the longest held first: they go when nothing else is left. Where a Node of the name is
/// there, its pods may be in the block still, and what its agent does not tell of proves nothing: it may have started
/// since.
pub fn find<'a>(
    world: &'a World,
    layout: &Layout<'_>,
    by_node: &BTreeMap<&'a str, Vec<&'a Lease>>,
) -> Vec<&'a Lease> {
    let of_the_gone = by_node.iter().filter(|(node, _)| !world.nodes.contains(node));
    let leases = of_the_gone.flat_map(|(_, leases)| leases.iter().copied());
    let is_kept = |lease: &Lease| world.vanished.keeper(lease.subnet).is_some();
    let mut held: Vec<&Lease> =
        leases.filter(|lease| is_nobodys(layout, lease) && !lease.deleting && !is_kept(lease)).collect();
    held.sort_by_key(|lease| (lease.released_at(), lease.subnet));
    held
}

/// Released leases whose blocks are free when a finalizer no longer holds them, the longest held first.
pub fn find_held_up<'a>(layout: &Layout<'_>, by_node: &BTreeMap<&'a str, Vec<&'a Lease>>) -> Vec<&'a Lease> {
    let leases = by_node.values().flatten().copied();
    let mut held: Vec<&Lease> = leases.filter(|lease| is_nobodys(layout, lease) && lease.deleting).collect();
    held.sort_by_key(|lease| lease.released_at());
    held
}

/// Whether a lease is released, and its block neither the name of another nor kept back.
fn is_nobodys(layout: &Layout<'_>, lease: &Lease) -> bool {
    lease.released_at().is_some()
        && lease.traces.name_locks.is_none()
        && layout.reservation(lease.subnet).is_none()
}

/// For so long a node that is there again has had its block no more before another gets it: twice as long as what its
/// agent says of pods may be old.
const QUIET: SignedDuration = SignedDuration::from_secs(60);

/// From when on a lease is given up for the node that its block is reserved for: it is released, and the Node that it
/// names is gone, or there again with an agent that has looked, and tells of no pods there. `None`: not by itself.
pub fn given_up_at(world: &World, lease: &Lease) -> Option<Timestamp> {
    let (released, name) = (lease.released_at()?, lease.node()?);
    if world.vanished.keeper(lease.subnet).is_some() {
        return None;
    }
    let Some(node) = world.nodes.get(name) else { return Some(released) };
    let report = world.node_networks.get(name).and_then(|object| object.report_of(node));
    let has_none = report.is_some_and(|report| report.knows_leases) && !has_pods(world, lease);
    has_none.then(|| released.checked_add(QUIET).unwrap_or(Timestamp::MAX))
}

/// Whether the agent of the node that a lease names says that pods have addresses of its block.
pub fn has_pods(world: &World, lease: &Lease) -> bool {
    let name = lease.node().unwrap_or_default();
    let object = world.nodes.get(name).zip(world.node_networks.get(name));
    object.is_some_and(|(node, object)| object.tells_of_pods(node, lease))
}
