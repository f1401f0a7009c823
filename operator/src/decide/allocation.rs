//! The leases that we choose: one primary block for each family, where no podCIDR names it.

use tartan_crds::{Cidr, Family, conditions::reason};

use super::{
    DeleteReason, Problem,
    draft::{Draft, Verdict},
    growth, held,
    layout::{Entry, Membership},
    plural,
    remarks::leased,
    reservations, restore,
};
use crate::world::{Choice, Lease, Node};

/// What a node has of one family.
pub(super) enum Share {
    Held(Cidr),
    /// A lease is about to be written.
    Pending,
    Refused(Problem),
    /// It has none, and is to have none.
    Nothing,
}

/// What a node has of several families.
#[derive(Default)]
pub(super) struct Shares {
    pub subnets: Vec<Cidr>,
    pub pending: bool,
    pub problem: Option<Problem>,
}

impl Shares {
    pub fn add(&mut self, share: Share) {
        match share {
            Share::Held(subnet) => self.subnets.push(subnet),
            Share::Pending => self.pending = true,
            Share::Refused(problem) => self.problem = self.problem.take().or(Some(problem)),
            Share::Nothing => {}
        }
    }

    pub fn verdict(self, draft: &Draft<'_>, node: &Node, membership: Membership<'_>) -> Verdict {
        match (self.problem, self.pending) {
            (Some(problem), _) => Verdict::Waiting(problem),
            (None, true) => Verdict::Pending,
            (None, false) => leased(draft, node, membership, self.subnets),
        }
    }
}

/// Keeps the node's primary lease of each family, or gives it one.
pub(super) fn allocate<'a>(draft: &mut Draft<'a>, node: &'a Node, membership: Membership<'_>) -> Verdict {
    let wanted = draft.layout.wanted_families(membership);
    let mut shares = Shares::default();
    let mut families = Family::ALL.to_vec();
    families.sort_by_key(|family| wanted.iter().position(|wanted| wanted == family).unwrap_or(usize::MAX));
    for family in families {
        shares.add(hold(draft, node, membership, family));
    }
    if wanted.is_empty() && shares.subnets.is_empty() && !shares.pending {
        shares.problem = Some(Problem::new(
            reason::EXHAUSTED,
            format!("pool {} has no CIDR entry that new blocks may be taken from", membership.pool),
        ));
    }
    shares.verdict(draft, node, membership)
}

/// Keeps the node's primary lease of a family, or gives it one where the pool's entries have the family.
pub(super) fn hold<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    family: Family,
) -> Share {
    if let Some(problem) = draft.contested.owner_awaited(draft.world, node, family) {
        return Share::Refused(problem);
    }
    if restore::is_under_way(draft, node, family) {
        return Share::Pending;
    }
    if let Some((lease, _)) = settle_duplicates(draft, node, membership, family, |_| true) {
        let share = match move_on(draft, node, membership, lease) {
            Some(share) => share,
            None if draft.keep(node, membership, lease, true) => Share::Held(lease.subnet),
            None => Share::Pending,
        };
        // After the first one, which is what the node waits for.
        growth::revive_further(draft, node, membership, lease);
        return share;
    }
    if !draft.layout.wanted_families(membership).contains(&family) {
        return Share::Nothing;
    }
    match obtain(draft, node, membership, family) {
        Ok(()) => Share::Pending,
        Err(refusal) => Share::Refused(refusal),
    }
}

/// A Node that comes back gets its lease again, unless that lies in an entry which is being drained or is not its
/// pool's: then it comes back with a block of its pool, if there is one, and without one of a family that its pool has no
/// more. What is kept from it it never gets again, and what is kept for it, it gets as soon as nobody living has it.
/// `None`: the lease stays the node's.
fn move_on<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    lease: &'a Lease,
) -> Option<Share> {
    let uid = lease.spec.as_ref().ok().map(|spec| spec.node_uid.as_str())?;
    let released = lease.released_at().is_some();
    let is_living = uid == node.meta.uid || lease.traces.edited_by.is_some();
    if !released && (is_living || !draft.may_touch(lease)) {
        return None;
    }
    let (layout, name, family) = (draft.layout, node.meta.name.as_str(), lease.subnet.family());
    let reach = |(place, entry): (usize, &Entry<'_>)| !entry.drain && membership.reach.contains(&place);
    let kept_for_it = layout.kept_for(name, membership, family).filter(|kept| *kept != lease.subnet);
    let wanted = layout.wanted_families(membership);
    let has_lost_family = !wanted.is_empty() && !wanted.contains(&family);
    let moves = kept_for_it.is_some_and(|kept| draft.may_get_kept(name, kept))
        || layout.is_kept_from(name, lease.subnet)
        || (!layout.entry_of(lease.subnet).is_some_and(reach)
            && (has_lost_family || draft.has_free_block(membership, family)));
    if !moves {
        return None;
    }
    if !released {
        // Another machine's under this name, which is gone. When that is written, the node gets its block.
        draft.release(lease);
        return Some(Share::Pending);
    }
    if has_lost_family {
        return Some(Share::Nothing);
    }
    Some(match obtain(draft, node, membership, family) {
        Ok(()) => Share::Pending,
        Err(refusal) => Share::Refused(refusal),
    })
}

/// Chooses the node's primary lease of a family among those of its leases that may be it, and says whether it
/// is primary already: two operators at once may have given the node two.
pub(super) fn settle_duplicates<'a>(
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
        .filter(|lease| !is_lost(lease, node))
        .filter_map(|lease| Some((lease, lease.spec.as_ref().ok()?.primary)))
        .collect();
    candidates.sort_by_key(|(lease, primary)| rank(lease, *primary));
    let (winner, is_primary) = candidates.first().copied()?;
    let released = winner.released_at().is_some();
    for (lease, primary) in candidates.into_iter().skip(1).filter(|(lease, _)| lease.released_at().is_none())
    {
        if primary && !lease.in_use && !released && !held::has_pods(draft.world, lease) {
            draft.delete(lease, DeleteReason::Duplicate);
        } else {
            draft.keep(node, membership, lease, false);
        }
    }
    Some((winner, is_primary))
}

/// Whether a lease that names the node will never be this machine's: only a finalizer holds it.
pub(super) fn is_lost(lease: &Lease, node: &Node) -> bool {
    let is_its_own = lease.spec.as_ref().is_ok_and(|spec| spec.node_uid == node.meta.uid);
    lease.deleting && (lease.released_at().is_some() || !is_its_own)
}

/// The lower, the more the lease is the node's: primary, in force before released, in use, older, lower. A further lease
/// that is in force is no reason not to give the first one back: of two writes that do so, it may be the one that came
/// first. What is released and being deleted is the last of all.
pub(super) fn rank(lease: &Lease, primary: bool) -> impl Ord + use<> {
    let released = lease.released_at().is_some();
    (lease.deleting && released, !primary, released, !lease.in_use, lease.created, lease.subnet)
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
    if wish.is_some_and(|(block, _)| draft.is_in_doubt(block)) {
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
    let held_up = draft.longest_held_up(membership, family).and_then(|lease| draft.held_up(lease));
    let mut or = held_up.map_or_else(String::new, |problem| format!("; {}", problem.message));
    match draft.world.vanished.blocks().filter(|block| block.family() == family).count() {
        0 => {}
        kept => or.push_str(&format!(
            "; {} kept, for spec.reclaimAfter, for the nodes that had them before the API server was put back to an \
             older state",
            plural(kept, "block")
        )),
    }
    Err(Problem::new(
        reason::EXHAUSTED,
        format!(
            "no free {family} block is left for pool {}: append an entry to the ClusterNetwork's spec.cidrs{}{or}",
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
    if draft.take_kept(&node.meta.name, kept) {
        draft.create(node, membership, (kept, Choice::Reserved), true);
        return Ok(());
    }
    let taken = |draft: &Draft<'_>| Err(reservations::taken(draft, &node.meta.name, kept));
    let Some(lease) = draft.world.leases.get(&kept.object_name()).filter(|_| !draft.is_told(kept)) else {
        return taken(draft);
    };
    match (held::given_up_at(draft.world, lease), draft.held_up(lease)) {
        (None, _) => taken(draft),
        (Some(_), Some(problem)) => Err(problem),
        (Some(at), None) if at > draft.now => {
            draft.wake_at(at);
            taken(draft)
        }
        (Some(_), None) => {
            draft.take_early(lease, node);
            Ok(())
        }
    }
}
