//! Blocks that pods have addresses of although no lease says so any more, since somebody deleted the lease. Before any
//! block is given out, such a block is leased to its node again, up to as many as a node may have.
//!
//! What a node's block was is told by its Node's podCIDRs, where these bind; of all other blocks by its agent alone,
//! which counts addresses in use. An agent in wrong hands can choose free blocks so, but gets no more of them than by
//! saying that its own are full. Of two agents that name one block, the first by name has it.

use tartan_crds::{AddressUse, Cidr, Family, PodCidrModeInForce};

use super::draft::Draft;
use crate::world::{Choice, Node, World};

pub fn restore(draft: &mut Draft<'_>) {
    let world = draft.world;
    for node in world.nodes.iter() {
        let lost: Vec<Cidr> = report(world, node)
            .iter()
            .filter(|figures| figures.used > 0 && !draft.is_leased(figures.subnet))
            .map(|figures| figures.subnet)
            .collect();
        for block in lost {
            restore_one(draft, node, block);
        }
    }
}

/// What the node's agent says of its blocks; what was said of another machine under its name is no news of this one.
pub(super) fn report<'a>(world: &'a World, node: &Node) -> &'a [AddressUse] {
    let object = world.node_networks.get(&node.meta.name);
    object
        .filter(|object| object.owner.as_deref() == Some(&node.meta.uid))
        .map_or(&[], |object| &object.report.address_use.0)
}

fn restore_one<'a>(draft: &mut Draft<'a>, node: &'a Node, block: Cidr) {
    let layout = draft.layout;
    let Some((place, _)) = layout.entry_of(block) else { return };
    let family = block.family();
    let bind = draft.mode != PodCidrModeInForce::Ignore;
    let is_anothers = layout.is_kept_from(&node.meta.name, block)
        // podCIDRs say who has it.
        || (bind && draft.pod_cidrs.overlaps(block))
        || (draft.mode == PodCidrModeInForce::Adopt && draft.pod_cidr_entries.contains(&place))
        // A create whose answer was lost.
        || draft.is_in_doubt(block)
        || draft.contested.lease_before(node).is_some();
    if is_anothers {
        return;
    }
    let held: Vec<bool> = draft
        .leases_of(&node.meta.name)
        .into_iter()
        .filter(|lease| lease.subnet.family() == family && lease.released_at().is_none())
        .map(|lease| lease.spec.as_ref().is_ok_and(|spec| spec.primary))
        .collect();
    let membership = layout.membership(node);
    let most = usize::try_from(layout.growth(membership).max_blocks_per_node).unwrap_or(0).max(1);
    let before = draft.restored.get(&(node.meta.name.as_str(), family)).copied().unwrap_or(0);
    if held.len() + before >= most || !draft.take_kept(block) {
        return;
    }
    let is_told = bind && pod_cidrs(node).any(|cidr| cidr.family() == family);
    let is_primary = !is_told && before == 0 && !held.contains(&true);
    *draft.restored.entry((&node.meta.name, family)).or_default() += 1;
    draft.create(node, membership, (block, Choice::Restored), is_primary);
}

/// Those that can be read.
fn pod_cidrs(node: &Node) -> impl Iterator<Item = Cidr> {
    node.pod_cidrs.iter().filter_map(|text| text.parse().ok())
}

/// Whether a block of the family is on its way back to the node: which of its leases is the primary one can be said when
/// all of them are there.
pub(super) fn is_under_way(draft: &Draft<'_>, node: &Node, family: Family) -> bool {
    draft.restored.contains_key(&(node.meta.name.as_str(), family))
}
