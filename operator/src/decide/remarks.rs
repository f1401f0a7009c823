//! What is said of a node that holds its leases: above all what a drain of it would change.

use tartan_crds::{Cidr, Family, PodCidrModeInForce, conditions::reason};

use super::{
    Problem,
    draft::{Draft, Verdict},
    layout::Membership,
    reservations,
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
    let remark = outside.or(kept).or_else(|| missing_family(draft, membership, &subnets));
    Verdict::Leased { subnets, remark }
}

/// A family that its pool has an entry of, and that its podCIDRs, which nobody can change, do not name.
fn missing_family(draft: &Draft<'_>, membership: Membership<'_>, subnets: &[Cidr]) -> Option<Problem> {
    if draft.mode != PodCidrModeInForce::Mirror {
        return None;
    }
    let has = |family: &Family| subnets.iter().any(|subnet| subnet.family() == *family);
    let family = draft.layout.wanted_families(membership).into_iter().find(|family| !has(family))?;
    Some(Problem::new(
        reason::FAMILY_MISSING,
        format!(
            "the node has no {family} block, since its Node's podCIDRs were written before there was an entry of \
             that family, and can't be changed: drain the node, delete the Node and let it join again"
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
