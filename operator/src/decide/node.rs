//! The leases of one node that exists.
//!
//! Either the Node's podCIDRs say which blocks it has, and its leases follow; or the leases say it, and the
//! Node may be told.

use tartan_crds::{Cidr, Family, PodCidrModeInForce, SubnetLeaseSpec, conditions::reason};

use super::{
    Action, DeleteReason, Problem, contested,
    draft::{Draft, Verdict},
    growth,
    layout::Membership,
    remarks::{self, leased},
    reservations,
};
use crate::world::{Lease, Node};

pub fn decide_node<'a>(draft: &mut Draft<'a>, node: &'a Node) {
    let layout = draft.layout;
    let membership = layout.membership(node);
    growth::take_back(draft, node);
    let verdict = match draft.mode {
        _ if draft.contested.lease_before(node).is_some() => wait_for_owner(draft, node),
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
    let verdict = growth::extend(draft, node, membership, verdict);
    let verdict = remarks::taken_over(draft, node, verdict);
    draft.verdicts.insert(&node.meta.name, (membership.place, verdict));
}

/// A lease may be this node's and may be another's: no other block until somebody has said whose it is.
fn wait_for_owner(draft: &Draft<'_>, node: &Node) -> Verdict {
    let lease = draft.contested.lease_before(node);
    let what = lease.map(|lease| contested::describe(draft.world, lease)).unwrap_or_default();
    let (reason, remedy) = match lease {
        Some(lease) if lease.spec.is_err() => (reason::LEASE_UNREADABLE, contested::REMEDY_UNREADABLE),
        _ => (reason::LEASE_EDITED, contested::REMEDY),
    };
    Verdict::Waiting(Problem::new(reason, format!("{what}; left as it is: {remedy}")))
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
    if let Some(problem) = settle_mismatches(draft, node, membership, &pinned) {
        return Verdict::Waiting(problem);
    }
    let mut pending = false;
    let mut problem = None;
    for cidr in &pinned {
        match pin(draft, node, membership, *cidr) {
            Pin::Held => {}
            Pin::Pending => pending = true,
            Pin::Refused(refusal) => problem = problem.or(Some(refusal)),
        }
    }
    match (problem, pending) {
        (Some(problem), _) => Verdict::Waiting(problem),
        (None, true) => Verdict::Pending,
        (None, false) => leased(draft, node, membership, pinned),
    }
}

enum Pin {
    Held,
    Pending,
    Refused(Problem),
}

/// Gets the node one block that its podCIDRs name.
fn pin<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>, cidr: Cidr) -> Pin {
    let Some(lease) = draft.world.leases.get(&cidr.object_name()) else {
        return if draft.is_leased(cidr) {
            Pin::Refused(Problem::new(
                reason::POD_CIDR_TAKEN,
                format!("the Node's podCIDR {cidr} overlaps a lease of another size"),
            ))
        } else if draft.layout.entry_of(cidr).is_none() {
            Pin::Refused(Problem::new(
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
            Pin::Refused(Problem::new(
                reason::POD_CIDR_RESERVED,
                format!(
                    "the Node's podCIDR {cidr} meets the range {} that entry {} keeps back: take that out of \
                     reserved, or keep the other IPAM from giving it out and make the Node anew",
                    kept.cidr, entry.name
                ),
            ))
        } else {
            draft.create(node, membership, cidr, true);
            Pin::Pending
        };
    };
    match lease.node() {
        Some(holder) if holder == node.meta.name => {
            if draft.keep(node, membership, lease, true) {
                Pin::Held
            } else {
                Pin::Pending
            }
        }
        // Whoever gave the Node this block knows that its former holder is gone.
        Some(_) if lease.released_at().is_some() => {
            draft.delete(lease, DeleteReason::Reassigned);
            Pin::Pending
        }
        Some(holder) if !draft.world.nodes.contains(holder) => {
            draft.release(lease);
            Pin::Pending
        }
        holder => Pin::Refused(Problem::new(
            reason::POD_CIDR_TAKEN,
            format!(
                "the Node's podCIDR {cidr} is leased to node {}: two IPAMs give out one range",
                holder.unwrap_or("(unreadable)")
            ),
        )),
    }
}

/// Leases of this node that its podCIDRs do not name: gone where nothing uses them.
fn settle_mismatches<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    pinned: &[Cidr],
) -> Option<Problem> {
    for lease in draft.leases_of(&node.meta.name) {
        let Ok(spec) = &lease.spec else { continue };
        if pinned.contains(&lease.subnet)
            || (spec.released_at.is_some() && !growth::comes_back(draft, membership, lease))
        {
            continue;
        }
        if !spec.primary {
            draft.keep(node, membership, lease, false);
        } else if spec.node_uid != node.meta.uid {
            // It was another machine's under this name, which is gone.
            draft.release(lease);
        } else if !lease.in_use {
            draft.delete(lease, DeleteReason::BackedOut);
        }
    }
    let mut problem = None;
    for family in Family::ALL {
        let in_use = |lease: &Lease| {
            let in_force = |spec: &SubnetLeaseSpec| {
                spec.primary && spec.released_at.is_none() && spec.node_uid == node.meta.uid
            };
            !pinned.contains(&lease.subnet) && lease.in_use && lease.spec.as_ref().is_ok_and(in_force)
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
        if in_force(lease) && !its_own(lease) {
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

/// Keeps the node's primary lease of each family, or gives it one.
fn allocate<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>) -> Verdict {
    let wanted = draft.layout.wanted_families(membership);
    let mut subnets = vec![];
    let mut pending = false;
    let mut problem = None;
    let mut held = Family::ALL.to_vec();
    held.sort_by_key(|family| wanted.iter().position(|wanted| wanted == family).unwrap_or(usize::MAX));
    for family in held {
        if let Some((lease, _)) = settle_duplicates(draft, node, membership, family, |_| true) {
            growth::revive_further(draft, node, membership, lease);
            if lease.released_at().is_some() && move_on(draft, node, membership, lease) {
                pending = true;
            } else if draft.keep(node, membership, lease, true) {
                subnets.push(lease.subnet);
            } else {
                pending = true;
            }
        } else if wanted.contains(&family) {
            match obtain(draft, node, membership, family) {
                Ok(()) => pending = true,
                Err(refusal) => problem = problem.or(Some(refusal)),
            }
        }
    }
    if wanted.is_empty() && subnets.is_empty() && !pending {
        problem = Some(Problem::new(
            reason::EXHAUSTED,
            format!("pool {} has no CIDR entry that new blocks may be taken from", membership.pool),
        ));
    }
    match (problem, pending) {
        (Some(problem), _) => Verdict::Waiting(problem),
        (None, true) => Verdict::Pending,
        (None, false) => leased(draft, node, membership, subnets),
    }
}

/// A Node that comes back gets its held lease again, unless that lies in an entry which is being drained or
/// is not its pool's: then it comes back with a block of its pool, if there is one.
fn move_on<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>, held: &'a Lease) -> bool {
    let stays = draft
        .layout
        .entry_of(held.subnet)
        .is_some_and(|(place, entry)| !entry.drain && membership.reach.contains(&place));
    let family = held.subnet.family();
    if let Some(kept) =
        draft.layout.kept_for(&node.meta.name, membership, family).filter(|kept| *kept != held.subnet)
        && draft.take_kept(kept)
    {
        draft.create(node, membership, kept, true);
        return true;
    }
    if stays && !draft.layout.is_kept_from(&node.meta.name, held.subnet) {
        return false;
    }
    let Some(block) = draft.free_block(membership, held.subnet.family(), None) else { return false };
    draft.create(node, membership, block, true);
    true
}

/// Chooses the node's primary lease of a family among those of its leases that may be it, and says whether it
/// is primary already: two operators at once may have given the node two.
fn settle_duplicates<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    family: Family,
    may_be_it: impl Fn(&Lease) -> bool,
) -> Option<(&'a Lease, bool)> {
    let mut candidates: Vec<(&'a Lease, bool)> = draft
        .leases_of(&node.meta.name)
        .into_iter()
        .filter(|lease| lease.subnet.family() == family && !draft.is_settled(lease) && may_be_it(lease))
        .filter_map(|lease| Some((lease, lease.spec.as_ref().ok()?.primary)))
        .collect();
    candidates.sort_by_key(|(lease, primary)| rank(lease, *primary));
    let (winner, is_primary) = candidates.first().copied()?;
    let released = winner.released_at().is_some();
    for (lease, primary) in candidates.into_iter().skip(1).filter(|(lease, _)| lease.released_at().is_none())
    {
        if primary && !lease.in_use && !released {
            draft.delete(lease, DeleteReason::Duplicate);
        } else {
            draft.keep(node, membership, lease, false);
        }
    }
    Some((winner, is_primary))
}

/// The lower, the more the lease is the node's: in force before released, primary, in use, older, lower.
pub(super) fn rank(lease: &Lease, primary: bool) -> impl Ord + use<> {
    (lease.released_at().is_some(), !primary, !lease.in_use, lease.created, lease.subnet)
}

/// A new block, or the early return of a held one so that the next round finds it free.
fn obtain<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    family: Family,
) -> Result<(), Problem> {
    if let Some(kept) = draft.layout.kept_for(&node.meta.name, membership, family) {
        return obtain_kept(draft, node, membership, kept);
    }
    let wish = draft.world.wishes.get(&(node.meta.name.clone(), family)).copied();
    if wish.is_some_and(|block| draft.is_in_doubt(block)) {
        // A create whose answer was lost: a second block now could be one too many.
        return Ok(());
    }
    if let Some(block) = draft.free_block(membership, family, wish) {
        draft.create(node, membership, block, true);
        return Ok(());
    }
    if let Some(lease) = draft.longest_held(membership, family) {
        draft.take_early(lease, node);
        return Ok(());
    }
    Err(Problem::new(
        reason::EXHAUSTED,
        format!(
            "no free {family} block is left for pool {}: append an entry to the ClusterNetwork's spec.cidrs{}",
            membership.pool,
            if membership.place.is_some() { " (and to the pool's cidrs, if it claims entries)" } else { "" }
        ),
    ))
}

/// The block that is kept for this node: that one or none.
fn obtain_kept<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    kept: Cidr,
) -> Result<(), Problem> {
    if draft.is_in_doubt(kept) {
        return Ok(());
    }
    if draft.take_kept(kept) {
        draft.create(node, membership, kept, true);
        return Ok(());
    }
    match draft.world.leases.get(&kept.object_name()) {
        Some(lease) if lease.released_at().is_some() => {
            draft.take_early(lease, node);
            Ok(())
        }
        _ => Err(reservations::taken(draft, &node.meta.name, kept)),
    }
}

/// Tells the Node which blocks it has, once it has all of them: podCIDRs can be written only once.
fn mirror(draft: &mut Draft<'_>, node: &Node, subnets: &[Cidr]) {
    if !subnets.is_empty() {
        let action = Action::MirrorPodCidrs { node: node.meta.clone(), cidrs: subnets.to_vec() };
        draft.add(action);
    }
}
