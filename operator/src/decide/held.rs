//! Released leases whose blocks others may get before `reclaimAfter` has passed, when nothing else is left.

use std::collections::BTreeMap;

use super::{growth::comes_back, layout::Layout, restore};
use crate::world::{Lease, World};

/// Those, the longest held first: of Nodes that are gone, and what a Node that is there again has left behind.
pub fn find<'a>(
    world: &'a World,
    layout: &Layout<'_>,
    by_node: &BTreeMap<&'a str, Vec<&'a Lease>>,
) -> Vec<&'a Lease> {
    let released = by_node.values().flatten().copied().filter(|lease| lease.released_at().is_some());
    let mut held: Vec<&Lease> = released.filter(|lease| is_left(world, layout, by_node, lease)).collect();
    held.sort_by_key(|lease| (lease.released_at(), lease.subnet));
    held
}

/// A Node of the name may get the lease back, or is the same machine, whose pods are in the block still. It has left the
/// block when another one is its first, when this one does not come back as a further one, and when its agent, which has
/// counted the pods in the first one, tells of none in this one.
fn is_left(world: &World, layout: &Layout<'_>, by_node: &BTreeMap<&str, Vec<&Lease>>, lease: &Lease) -> bool {
    let Some(node) = lease.node().and_then(|name| world.nodes.get(name)) else { return true };
    let report = restore::report(world, node);
    let is_first = |other: &&&Lease| {
        let Ok(spec) = &other.spec else { return false };
        let in_force = spec.released_at.is_none() && spec.node_uid == node.meta.uid;
        spec.primary && in_force && spec.subnet.family() == lease.subnet.family()
    };
    let of_node = by_node.get(node.meta.name.as_str()).map_or(&[][..], Vec::as_slice);
    let first = of_node.iter().find(is_first);
    first.is_some_and(|first| report.iter().any(|figures| figures.subnet == first.subnet))
        && !report.iter().any(|figures| figures.used > 0 && figures.subnet.overlaps(lease.subnet))
        && !comes_back(layout, layout.membership(node), lease)
}
