//! Blocks that pods have addresses of although no lease says so any more, since somebody deleted the lease or the store
//! went back to an older state. Before any block is given out, such a block is leased to its node again, if it is one of
//! its pool's and as long as the node may have so many. What can't go back to its node goes to no other ([`withheld`]);
//! what a node that is away had before the store went back is kept for it (`world::Vanished`).
//!
//! What a node's block was is told by its Node's podCIDRs, where these bind; of all other blocks by its agent alone,
//! which counts addresses in use. An agent in wrong hands can choose free blocks of its pool so, but gets no more of them
//! than by saying that its own are full. Of two agents that name one block, the first by name has it.

use tartan_crds::{AddressUse, Cidr, Family, PodCidrModeInForce};

use super::{
    draft::Draft,
    withheld::{self, Why},
};
use crate::world::{Choice, Node, World};

pub fn restore(draft: &mut Draft<'_>) {
    let world = draft.world;
    let mut left = vec![];
    for node in world.nodes.iter() {
        let lost: Vec<Cidr> = report(world, node)
            .iter()
            .filter(|figures| figures.used > 0 && !draft.is_leased_whole(figures.subnet))
            .map(|figures| figures.subnet)
            .collect();
        for block in lost {
            if let Err(why) = restore_one(draft, node, block) {
                left.push((node, block, why));
            }
        }
    }
    for (node, block, why) in left {
        withheld::withhold(draft, node, block, why);
    }
    for (name, blocks) in world.vanished.by_node() {
        let Some(node) = world.nodes.get(name) else { continue };
        for block in blocks {
            if !draft.is_leased(block) {
                // Where it can't go back to its node it is kept from others nevertheless, for a while.
                let _ = restore_one(draft, node, block);
            }
        }
    }
}

/// What the node's agent says of its blocks.
pub(super) fn report<'a>(world: &'a World, node: &Node) -> &'a [AddressUse] {
    let object = world.node_networks.get(&node.meta.name);
    object.and_then(|object| object.report_of(node)).map_or(&[], |report| &report.address_use.0)
}

/// Leases a block to its node again, or leaves it to those who know more of it; an error where nothing but the word of
/// the node's agent keeps it from others.
fn restore_one<'a>(draft: &mut Draft<'a>, node: &'a Node, block: Cidr) -> Result<(), Why> {
    let (layout, name, family) = (draft.layout, node.meta.name.as_str(), block.family());
    let bind = draft.mode != PodCidrModeInForce::Ignore;
    if draft.is_told(block) {
        return Ok(());
    }
    if draft.is_in_doubt(block) {
        // A create whose answer was lost, and that may not have happened.
        draft.take(block);
        return Ok(());
    }
    let (place, _) = layout.entry_of(block).ok_or(Why::NoBlock)?;
    if draft.mode == PodCidrModeInForce::Adopt && draft.pod_cidr_entries.contains(&place) {
        return Ok(());
    }
    let membership = layout.membership(node);
    if layout.is_kept_from(name, block) {
        return Err(Why::Reserved);
    }
    if !membership.reach.contains(&place) {
        return Err(Why::OtherPools);
    }
    if draft.contested.lease_before(node, family).is_some() {
        return Err(Why::Contested);
    }
    let held: Vec<bool> = draft
        .leases_of(name)
        .into_iter()
        .filter(|lease| lease.subnet.family() == family && lease.released_at().is_none())
        .map(|lease| lease.spec.as_ref().is_ok_and(|spec| spec.primary))
        .collect();
    let most = usize::try_from(layout.growth(membership).max_blocks_per_node).unwrap_or(0).max(1);
    let before = draft.restored.get(&(name, family)).copied().unwrap_or(0);
    if held.len() + before >= most {
        return Err(Why::Limit);
    }
    if !draft.take_kept(name, block) {
        return Err(Why::NoBlock);
    }
    let is_told = bind && node.readable_pod_cidrs().any(|cidr| cidr.family() == family);
    let is_primary = !is_told && before == 0 && !held.contains(&true);
    *draft.restored.entry((name, family)).or_default() += 1;
    draft.create(node, membership, (block, Choice::Restored), is_primary);
    Ok(())
}

/// Whether a block of the family is on its way back to the node: which of its leases is the primary one can be said when
/// all of them are there.
pub(super) fn is_under_way(draft: &Draft<'_>, node: &Node, family: Family) -> bool {
    draft.restored.contains_key(&(node.meta.name.as_str(), family))
}
