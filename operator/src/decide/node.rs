//! The leases of one node that exists.
//!
//! Either the Node's podCIDRs say which blocks it has, and its leases follow; or the leases say it, and the
//! Node may be told. podCIDRs are written once: of a family that the cluster has gained since, they say nothing, and
//! where they are ours to write the leases alone say it.

use tartan_crds::{Cidr, Family, PodCidrModeInForce, SubnetLeaseSpec, conditions::reason};

use super::{
    Action, DeleteReason, Problem,
    allocation::{Share, Shares, allocate, hold, is_lost, settle_duplicates},
    draft::{Draft, Verdict},
    growth, held,
    layout::Membership,
    remarks, restore,
};
use crate::world::{Choice, Lease, Node, World};

/// The blocks that it must have.
pub fn decide_node<'a>(draft: &mut Draft<'a>, node: &'a Node) {
    let layout = draft.layout;
    let membership = layout.membership(node);
    growth::take_back(draft, node);
    let verdict = match draft.mode {
        PodCidrModeInForce::Adopt | PodCidrModeInForce::Mirror if !node.pod_cidrs.is_empty() => {
            follow_pod_cidrs(draft, node, membership)
        }
        PodCidrModeInForce::Adopt => wait_for_pod_cidrs(draft, node, membership),
        PodCidrModeInForce::Mirror => {
            let verdict = allocate(draft, node, membership);
            if let Verdict::Leased { subnets, .. } = &verdict {
                mirror(draft, node, subnets);
            }
            verdict
        }
        PodCidrModeInForce::Ignore => allocate(draft, node, membership),
    };
    draft.verdicts.insert(&node.meta.name, (membership.place, verdict));
}

/// What else it gets and what is said of it, when every node has what it must have.
pub fn complete<'a>(draft: &mut Draft<'a>, node: &'a Node) {
    let Some((place, verdict)) = draft.verdicts.remove(node.meta.name.as_str()) else { return };
    let verdict = remarks::refused(draft, node, verdict);
    let verdict = growth::extend(draft, node, draft.layout.membership(node), verdict);
    let verdict = remarks::taken_over(draft, node, verdict);
    draft.verdicts.insert(&node.meta.name, (place, verdict));
}

/// Leases exactly the blocks that the Node has been given.
fn follow_pod_cidrs<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>) -> Verdict {
    let mut pinned: Vec<Cidr> = vec![];
    for text in &node.pod_cidrs {
        match text.parse() {
            Ok(cidr) => pinned.push(cidr),
            Err(error) => {
                return Verdict::Waiting(Problem::new(
                    reason::POD_CIDR_OUTSIDE,
                    format!("the Node's podCIDR can't be leased: {error}"),
                ));
            }
        }
    }
    let unnamed: Vec<Family> =
        Family::ALL.into_iter().filter(|family| !names_family(&pinned, *family)).collect();
    if let Some(problem) = settle_mismatches(draft, node, membership, &pinned) {
        return Verdict::Waiting(problem);
    }
    let mut shares = Shares::default();
    for cidr in pinned {
        let awaited = draft.contested.owner_awaited(draft.world, node, cidr.family());
        shares.add(awaited.map_or_else(|| pin(draft, node, membership, cidr), Share::Refused));
    }
    for family in unnamed {
        shares.add(match draft.mode {
            PodCidrModeInForce::Adopt => hold_what_is_used(draft, node, membership, family),
            PodCidrModeInForce::Mirror | PodCidrModeInForce::Ignore => hold(draft, node, membership, family),
        });
    }
    shares.verdict(draft, node, membership)
}

fn names_family(pod_cidrs: &[Cidr], family: Family) -> bool {
    pod_cidrs.iter().any(|cidr| cidr.family() == family)
}

/// Of a family that the other IPAM gave nothing of: what pods may have addresses of, and nothing new.
fn hold_what_is_used<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    family: Family,
) -> Share {
    let used = |lease: &Lease| {
        let its_own = |spec: &SubnetLeaseSpec| {
            spec.primary && spec.released_at.is_none() && spec.node_uid == node.meta.uid
        };
        lease.in_use && lease.spec.as_ref().is_ok_and(its_own)
    };
    if let Some(problem) = draft.contested.owner_awaited(draft.world, node, family) {
        return Share::Refused(problem);
    }
    match settle_duplicates(draft, node, membership, family, used) {
        Some((lease, _)) if draft.keep(node, membership, lease, true) => Share::Held(lease.subnet),
        Some(_) => Share::Pending,
        None => Share::Nothing,
    }
}

/// Gets the node one block that its podCIDRs name.
fn pin<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>, cidr: Cidr) -> Share {
    let Some(lease) = draft.world.leases.get(&cidr.object_name()) else {
        return if draft.is_leased(cidr) {
            Share::Refused(Problem::new(
                reason::POD_CIDR_TAKEN,
                format!(
                    "the Node's podCIDR {cidr} overlaps a lease of another size: two IPAMs give out one range; turn one off, \
                     delete this Node and let it join again"
                ),
            ))
        } else if draft.layout.entry_of(cidr).is_none() {
            Share::Refused(Problem::new(
                reason::POD_CIDR_OUTSIDE,
                format!(
                    "the Node's podCIDR {cidr} is not a block of any entry in the ClusterNetwork: append an \
                     entry that has it as one of its blocks"
                ),
            ))
        } else if node.has_foreign_pod_cidrs()
            && let Some((entry, kept)) = draft.layout.reservation(cidr)
            && kept.node_name.as_deref() != Some(&node.meta.name)
        {
            Share::Refused(Problem::new(
                reason::POD_CIDR_RESERVED,
                format!(
                    "the Node's podCIDR {cidr} meets the range {} that entry {} keeps back: take that out of \
                     reserved, or keep the other IPAM from giving it out and make the Node anew",
                    kept.cidr, entry.name
                ),
            ))
        } else {
            let chosen = if has_had(draft, node, cidr) { Choice::Restored } else { Choice::PodCidr };
            draft.create(node, membership, (cidr, chosen), true);
            Share::Pending
        };
    };
    match (lease.node(), draft.held_up(lease)) {
        (Some(_), Some(problem)) if is_lost(lease, node) => Share::Refused(problem),
        (Some(holder), _) if holder == node.meta.name => {
            if draft.keep(node, membership, lease, true) {
                Share::Held(cidr)
            } else {
                Share::Pending
            }
        }
        (Some(_), Some(problem)) => Share::Refused(problem),
        // Whoever gave the Node this block knows that its former holder is gone.
        (Some(_), None) if lease.released_at().is_some() => {
            draft.delete(lease, DeleteReason::Reassigned);
            Share::Pending
        }
        (Some(holder), None) if !draft.world.nodes.contains(holder) => {
            draft.release(lease);
            Share::Pending
        }
        (holder, _) => Share::Refused(Problem::new(
            reason::POD_CIDR_TAKEN,
            format!(
                "the Node's podCIDR {cidr} is leased to node {}: two IPAMs give out one range; turn one off, delete this Node \
                 and let it join again",
                holder.unwrap_or("(unreadable)")
            ),
        )),
    }
}

/// Whether the node held a block that its podCIDRs name: podCIDRs of ours were written after the lease, and its agent
/// reports the blocks that it has.
fn has_had(draft: &Draft<'_>, node: &Node, block: Cidr) -> bool {
    !node.has_foreign_pod_cidrs()
        || restore::report(draft.world, node).iter().any(|figures| figures.subnet == block)
}

/// Leases of this node that its podCIDRs do not name: gone where nothing uses them.
fn settle_mismatches<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    pinned: &[Cidr],
) -> Option<Problem> {
    let told_by_us = draft.mode == PodCidrModeInForce::Mirror;
    // Where podCIDRs are ours, a family that they don't name is settled as if there were none.
    let ours = |family| told_by_us && !names_family(pinned, family);
    for lease in draft.leases_of(&node.meta.name) {
        let Ok(spec) = &lease.spec else { continue };
        if pinned.contains(&lease.subnet)
            || ours(lease.subnet.family())
            || draft.contested.lease_before(node, lease.subnet.family()).is_some()
            || (spec.released_at.is_some() && !growth::comes_back(draft, membership, lease))
        {
            continue;
        }
        if !spec.primary {
            draft.keep(node, membership, lease, false);
        } else if spec.node_uid != node.meta.uid {
            // It was another machine's under this name, which is gone.
            draft.release(lease);
        } else if !is_used(draft.world, lease) {
            draft.delete(lease, DeleteReason::BackedOut);
        }
    }
    let (mut problem, world) = (None, draft.world);
    for family in Family::ALL.into_iter().filter(|family| names_family(pinned, *family)) {
        let in_use = |lease: &Lease| {
            let in_force = |spec: &SubnetLeaseSpec| {
                spec.primary && spec.released_at.is_none() && spec.node_uid == node.meta.uid
            };
            !pinned.contains(&lease.subnet)
                && is_used(world, lease)
                && lease.spec.as_ref().is_ok_and(in_force)
        };
        let Some((lease, _)) = settle_duplicates(draft, node, membership, family, in_use) else { continue };
        if holds_named_block(draft, node, pinned, lease) {
            // The named block is the primary one; what pods may use of the other stays theirs.
            draft.keep(node, membership, lease, false);
        } else {
            draft.keep(node, membership, lease, true);
            problem = problem.or(Some(Problem::new(
                reason::POD_CIDR_MISMATCH,
                format!(
                    "the node uses {} but its Node's podCIDRs are {}: drain the node, delete the Node and \
                     let it join again",
                    lease.subnet,
                    node.pod_cidrs.join(", ")
                ),
            )));
        }
    }
    problem
}

/// Whether its agent has taken a lease into use, or tells of pods there.
fn is_used(world: &World, lease: &Lease) -> bool {
    lease.in_use || held::has_pods(world, lease)
}

/// Whether the node also holds a block of this family that its podCIDRs name.
fn holds_named_block(draft: &Draft<'_>, node: &Node, pinned: &[Cidr], other: &Lease) -> bool {
    pinned.iter().filter(|cidr| cidr.family() == other.subnet.family()).any(|cidr| {
        let lease = draft.world.leases.get(&cidr.object_name());
        lease.is_some_and(|lease| lease.node() == Some(&node.meta.name) && lease.released_at().is_none())
    })
}

/// In Adopt mode a Node without podCIDRs gets nothing; what it holds stays.
fn wait_for_pod_cidrs<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>) -> Verdict {
    let in_force = |lease: &Lease| lease.released_at().is_none();
    let its_own = |lease: &Lease| lease.spec.as_ref().is_ok_and(|spec| spec.node_uid == node.meta.uid);
    for lease in draft.leases_of(&node.meta.name) {
        let is_contested = draft.contested.lease_before(node, lease.subnet.family()).is_some();
        if in_force(lease) && !its_own(lease) && !is_contested {
            // It was another machine's under this name; the other IPAM may give its block to anybody.
            draft.release(lease);
        }
    }
    for family in Family::ALL {
        if let Some((lease, primary)) =
            settle_duplicates(draft, node, membership, family, |lease| in_force(lease) && its_own(lease))
        {
            draft.keep(node, membership, lease, primary);
        }
    }
    Verdict::Waiting(Problem::new(
        reason::WAITING_FOR_POD_CIDR,
        "podCIDRMode is Adopt: the node gets its lease when the other IPAM has set the Node's podCIDRs",
    ))
}

/// Tells the Node which blocks it has, once it has all of them: podCIDRs can be written only once.
fn mirror(draft: &mut Draft<'_>, node: &Node, subnets: &[Cidr]) {
    if !subnets.is_empty() {
        let action = Action::MirrorPodCidrs { node: node.meta.clone(), cidrs: subnets.to_vec() };
        draft.add(action);
    }
}
