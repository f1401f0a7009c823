//! The blocks that a node has, may not have yet, and is about to get.

use tartan_crds::{Cidr, PodCidrModeInForce};

use super::LeaseAnswer;
use crate::{
    decide::{Action, draft::Draft, forecast::coarse_age, growth::Need},
    world::{Choice, Lease, Node},
};

pub fn leases(draft: &Draft<'_>, node: &Node) -> Vec<LeaseAnswer> {
    let answer = |lease: &Lease| {
        let spec = lease.spec.as_ref().ok()?;
        Some(LeaseAnswer {
            subnet: lease.subnet,
            entry: draft.layout.entry_of(lease.subnet).map(|(_, entry)| entry.name.to_owned()),
            primary: spec.primary,
            backend: spec.backend.kind,
            released: lease.released_at().is_some(),
            chosen: lease.chosen,
            why: why(draft, node, lease),
        })
    };
    draft.leases_of(&node.meta.name).into_iter().filter_map(answer).collect()
}

fn why(draft: &Draft<'_>, node: &Node, lease: &Lease) -> String {
    if let Some(released) = lease.released_at() {
        return format!("held for the node, whose Node went {}", coarse_age(draft.now, released));
    }
    let mut said = format!("leased {}", coarse_age(draft.now, lease.created));
    said += lease.chosen.map_or("; why it was chosen is not recorded", because);
    if draft.mode != PodCidrModeInForce::Ignore && is_named(node, lease.subnet) {
        said += match (node.has_foreign_pod_cidrs(), lease.chosen) {
            (true, Some(Choice::PodCidr)) => ", which another IPAM wrote",
            (true, _) => "; another IPAM wrote it into the Node's podCIDRs",
            (false, Some(Choice::PodCidr)) => "",
            (false, Some(_)) => ", and then written into the Node's podCIDRs",
            (false, None) => "; it was written into the Node's podCIDRs",
        };
    }
    if let Some(since) = lease.spec.as_ref().ok().and_then(|spec| spec.returning.as_ref()) {
        said += &format!(", asked back {}", coarse_age(draft.now, since.0));
    }
    said
}

/// What follows "leased 3h ago".
fn because(chosen: Choice) -> &'static str {
    match chosen {
        Choice::LowestFree => " as the lowest free block of its entry",
        Choice::PodCidr => " because it was in the Node's podCIDRs",
        Choice::Reserved => " because it was reserved for the node",
        Choice::HadBefore => " because the node had it before",
        Choice::Restored => " because the node had it already, and its lease had been deleted",
        Choice::Further => " because the node's addresses ran low",
    }
}

/// What delays or refuses a further block, by family.
pub fn growth(draft: &Draft<'_>, node: &Node) -> Vec<String> {
    let told = |(family, need): &_| match need {
        Need::Block => None,
        Need::NotBefore(due) => Some(format!(
            "{family} addresses run low: a further block not before {due}, growth.coolDown after the newest"
        )),
        Need::AtMost(most) => Some(format!(
            "{family} addresses run low: no further block beside the {most} that growth.maxBlocksPerNode allows"
        )),
    };
    draft.growth.needs_of(&node.meta.name).iter().filter_map(told).collect()
}

/// What an action means for this node.
pub fn next(draft: &Draft<'_>, node: &Node, action: &Action) -> Option<String> {
    let name = &node.meta.name;
    match action {
        Action::CreateLease { spec, chosen, .. } if spec.node_name == *name => {
            let entry = draft.layout.entry_of(spec.subnet).map_or("?", |(_, entry)| entry.name);
            let why = match chosen {
                Choice::LowestFree => format!("the lowest free block of entry {entry}"),
                Choice::PodCidr => "which the Node's podCIDRs name".to_owned(),
                Choice::Reserved => format!("which entry {entry} reserves for it"),
                Choice::HadBefore => "which it had before".to_owned(),
                Choice::Restored => "which it has already, and whose lease was deleted".to_owned(),
                Choice::Further => format!("a further block, of entry {entry}: its addresses run low"),
            };
            Some(format!("lease {}: {why}", spec.subnet))
        }
        Action::UpdateLease { spec, why, .. } if spec.node_name == *name => {
            Some(format!("write lease {} again: {}", spec.subnet, why.as_str()))
        }
        Action::ReleaseLease { subnet, node, .. } if node == name => {
            Some(format!("release {subnet}: it was another machine's under this name"))
        }
        Action::DeleteLease { subnet, node, grounds, .. } if node == name => {
            Some(format!("delete lease {subnet}: {}", grounds.why.as_str()))
        }
        Action::DeleteLease { lease, subnet, node: holder, .. }
            if draft.taken_for.get(lease.name.as_str()) == Some(&name.as_str()) =>
        {
            let is_kept = draft.layout.reservation(*subnet).is_some();
            let why = if is_kept { "it is reserved for this node" } else { "no block is free" };
            Some(format!("take {subnet} back early, which is held for {holder}: {why}"))
        }
        Action::MirrorPodCidrs { node: told, cidrs } if told.name == *name => {
            let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            Some(format!("write {} into the Node's podCIDRs", cidrs.join(", ")))
        }
        _ => None,
    }
}

fn is_named(node: &Node, subnet: Cidr) -> bool {
    node.pod_cidrs.iter().any(|text| text.parse() == Ok(subnet))
}
