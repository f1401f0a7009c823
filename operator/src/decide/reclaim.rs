//! Leases whose node is gone: released at once, held for a while, then deleted.
//!
//! A Node is gone when there is no such object, not when it is marked for deletion: a finalizer may hold it
//! while its pods run. What is decided here is confirmed with the API server before it is done.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tartan_crds::Cidr;

use super::{DeleteGrounds, DeleteReason, draft::Draft, held};
use crate::world::{Lease, Node, NodeNet};

pub fn decide_unclaimed(draft: &mut Draft<'_>) {
    let hold: std::time::Duration = draft.layout.spec.reclaim_after.into();
    let hold = SignedDuration::try_from(hold).unwrap_or(SignedDuration::MAX);
    let world = draft.world;
    for lease in world.leases.iter() {
        let Ok(spec) = &lease.spec else { continue };
        if draft.is_settled(lease) {
            continue;
        }
        match lease.released_at() {
            None if !world.nodes.contains(&spec.node_name) => draft.release(lease),
            None => draft.leave(lease),
            Some(released) => {
                // One under the name of a Node that is there has had time to tell of pods.
                let made = world.nodes.get(&spec.node_name).map(|node| node.created);
                let due = made.map_or(released, |made| made.max(released));
                let due = due.checked_add(hold).unwrap_or(Timestamp::MAX);
                // It had been given back when the store still knew: its pods may be there.
                let kept = world.vanished.kept_until(lease.subnet, draft.layout.spec.reclaim_after.into());
                let due = kept.map_or(due, |kept| kept.max(due));
                // A Node that was made anew has the pods of the one before, where its agent says so.
                if held::has_pods(world, lease) {
                    draft.leave(lease);
                } else if due <= draft.now {
                    draft.delete(lease, DeleteReason::Expired);
                } else {
                    draft.leave(lease);
                    draft.wake_at(due);
                }
            }
        }
    }
}

/// The last question before a lease is released, asked of objects that were just read from the API server:
/// is the node that it names gone, as it was when that was decided?
///
/// `successor` is the UID of the Node that was known under the name then.
pub fn is_still_gone(lease: &Lease, successor: Option<&str>, node: Option<&Node>) -> bool {
    let Ok(spec) = &lease.spec else { return false };
    spec.released_at.is_none()
        && node.map(|node| node.meta.uid.as_str()) == successor
        && node.is_none_or(|node| node.meta.uid != spec.node_uid && !names(node, lease))
}

/// What the API server says of a lease's node just before the lease is deleted.
#[derive(Clone, Copy, Debug)]
pub struct LastLook<'a> {
    pub node: Option<&'a Node>,
    pub node_network: Option<&'a NodeNet>,
    /// The other leases that name the node; they matter for duplicates only.
    pub rivals: &'a [Lease],
}

/// The last question before a lease is deleted: may nobody claim the block?
pub fn is_still_free_to_take(grounds: &DeleteGrounds, lease: &Lease, look: LastLook<'_>) -> bool {
    let Ok(spec) = &lease.spec else { return false };
    let LastLook { node, rivals, .. } = look;
    if grounds.why.asks_for_pods()
        && node.zip(look.node_network).is_some_and(|(node, object)| object.tells_of_pods(node, lease))
    {
        return false;
    }
    let named = grounds.pod_cidrs_bind && node.is_some_and(|node| names(node, lease));
    let has_others = node.is_some_and(|node| !node.pod_cidrs.is_empty()) && !named;
    match grounds.why {
        DeleteReason::Expired | DeleteReason::TakenEarly | DeleteReason::Reassigned => {
            let successor = grounds.successor.as_deref();
            spec.released_at.is_some() && !named && node.map(|node| node.meta.uid.as_str()) == successor
        }
        DeleteReason::BackedOut => !lease.in_use && has_others,
        DeleteReason::Duplicate => {
            let rank =
                |lease: &Lease| super::allocation::rank(lease, lease.spec.as_ref().is_ok_and(|s| s.primary));
            let is_better = |rival: &Lease| {
                rival.meta.name != lease.meta.name
                    && rival.subnet.family() == lease.subnet.family()
                    && rank(rival) < rank(lease)
            };
            !lease.in_use && !named && rivals.iter().any(is_better)
        }
        // The agent's answer is to this very request, and the deletion is to this very version of the lease: an
        // answer that is taken back in between stops it.
        DeleteReason::Emptied => {
            let asked = spec.returning.is_some() && spec.returning == lease.emptied;
            asked && !spec.primary && !named && spec.released_at.is_none()
        }
    }
}

fn names(node: &Node, lease: &Lease) -> bool {
    node.pod_cidrs.iter().any(|text| text.parse::<Cidr>() == Ok(lease.subnet))
}
