//! What is said of a node that holds its leases: above all what a drain of it would change.

use tartan_crds::{Cidr, Family, conditions::reason};

use super::{
    Problem,
    draft::{Draft, Verdict},
    layout::Membership,
    reservations, withheld,
};
use crate::world::Node;

/// The verdict on a node that holds these blocks.
pub fn leased(draft: &Draft<'_>, node: &Node, membership: Membership<'_>, subnets: Vec<Cidr>) -> Verdict {
    let outside: Vec<Cidr> = subnets
        .iter()
        .copied()
        .filter(|subnet| {
            let entry = draft.layout.entry_of(*subnet);
            entry.is_some_and(|(place, _)| !membership.reach.contains(&place))
        })
        .collect();
    let kept = subnets.iter().find_map(|subnet| {
        let kept = draft.layout.kept_for(&node.meta.name, membership, subnet.family())?;
        (kept != *subnet).then(|| reservations::elsewhere(*subnet, kept))
    });
    let outside = (!outside.is_empty()).then(|| {
        let texts: Vec<String> = outside.iter().map(ToString::to_string).collect();
        Problem::new(
            reason::OUTSIDE_POOL,
            format!(
                "{} does not belong to the entries of pool {}, and stays with the node until it is drained and its \
                 Node deleted; then {}",
                texts.join(", "),
                membership.pool,
                afterwards(draft, membership, &outside)
            ),
        )
    });
    let missing = not_given(draft, membership, &subnets);
    let withheld = withheld::problem_of(draft, node);
    Verdict::Leased { subnets, remark: withheld.or(outside).or(kept).or(missing) }
}

/// A family that the pool has entries of and the node has no block of: the other IPAM's podCIDRs say so.
fn not_given(draft: &Draft<'_>, membership: Membership<'_>, subnets: &[Cidr]) -> Option<Problem> {
    let has = |family: &Family| subnets.iter().any(|subnet| subnet.family() == *family);
    let family = draft.layout.wanted_families(membership).into_iter().find(|family| !has(family))?;
    Some(Problem::new(
        reason::FAMILY_NOT_GIVEN,
        format!(
            "pool {} has {family} entries, but the Node's podCIDRs have no {family} block and podCIDRMode is Adopt: \
             give the other IPAM an {family} range too, drain the node, delete its Node and let it join again",
            membership.pool
        ),
    ))
}

/// What the node would get instead of these blocks.
fn afterwards(draft: &Draft<'_>, membership: Membership<'_>, outside: &[Cidr]) -> String {
    let mut changes = vec![];
    for family in Family::ALL.into_iter().filter(|family| outside.iter().any(|cidr| cidr.family() == *family))
    {
        let entry = draft
            .layout
            .reachable(membership)
            .map(|(_, entry)| entry)
            .find(|entry| !entry.drain && entry.cidr.family() == family);
        changes.push(match entry {
            Some(entry) => format!("it gets a /{} of entry {} ({})", entry.block_len, entry.name, entry.cidr),
            None => format!("it gets no {family} addresses, since the pool has no entry of them"),
        });
    }
    changes.join(", and ")
}

/// Another node has its address: the worst of all remarks, since nobody reaches it.
pub fn taken_over(draft: &Draft<'_>, node: &Node, verdict: Verdict) -> Verdict {
    let problem = draft.holders.taken_over(&node.meta.name, &draft.leases_of(&node.meta.name));
    match (verdict, problem) {
        (Verdict::Leased { subnets, .. }, Some(problem)) => {
            Verdict::Leased { subnets, remark: Some(problem) }
        }
        (verdict, _) => verdict,
    }
}

/// What the API server refuses: a round by itself knows only what it is about to write.
pub fn refused(draft: &Draft<'_>, node: &Node, verdict: Verdict) -> Verdict {
    let Some(error) = draft.world.refused.get(&node.meta.name) else { return verdict };
    let problem = Problem::new(
        reason::LEASE_REFUSED,
        format!("a lease of the node can't be written, and is tried again: {error}"),
    );
    match verdict {
        Verdict::Pending => Verdict::Waiting(problem),
        Verdict::Leased { subnets, remark } => Verdict::Leased { subnets, remark: remark.or(Some(problem)) },
        Verdict::Waiting(_) => verdict,
    }
}
