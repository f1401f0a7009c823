//! Released leases whose blocks others may get before `reclaimAfter` has passed.

use std::collections::BTreeMap;

use super::{layout::Layout, restore};
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
    let held = |lease: &&Lease| {
        // One that a finalizer holds, or the name of another, or that is kept back, is nobody's to have.
        lease.released_at().is_some()
            && !lease.deleting
            && lease.traces.name_locks.is_none()
            && layout.reservation(lease.subnet).is_none()
    };
    let mut held: Vec<&Lease> = leases.filter(held).collect();
    held.sort_by_key(|lease| (lease.released_at(), lease.subnet));
    held
}

/// Whether a lease is given up for the node that its block is reserved for: it is released, and no agent of its own node
/// tells of pods there.
pub fn may_be_given_up(world: &World, lease: &Lease) -> bool {
    lease.released_at().is_some() && !has_pods(world, lease)
}

/// Whether the agent of the node that a lease names says that pods have addresses of its block.
pub fn has_pods(world: &World, lease: &Lease) -> bool {
    let report = lease.node().and_then(|name| world.nodes.get(name)).map(|node| restore::report(world, node));
    report.is_some_and(|report| report.iter().any(|of| of.used > 0 && of.subnet.overlaps(lease.subnet)))
}
