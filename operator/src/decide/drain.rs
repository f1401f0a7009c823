//! Entries that are drained: who still uses them, and when they may be removed.

use std::collections::BTreeMap;

use tartan_crds::conditions::reason;

use super::{Problem, draft::Draft, held, layout::Entry, listed, plural, withheld};
use crate::world::Lease;

/// Nodes that a status names.
const NAMED: usize = 16;

/// The first holders of leases in a draining entry, by its name; a Node that went among them while its block is
/// held.
pub fn users<'a>(draft: &Draft<'a>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let leased = in_drained(draft).map(|(entry, lease)| (entry, lease.node().unwrap_or_default()));
    let withheld = drained(draft)
        .flat_map(|entry| withheld::in_entry(draft, entry.cidr).into_iter().map(|node| (entry.name, node)));
    for (entry, node) in leased.chain(withheld) {
        let users = users.entry(entry).or_default();
        if users.len() < NAMED && !users.contains(&node) {
            users.push(node);
        }
    }
    users
}

/// How far draining has come; `None` where nothing is drained.
pub fn progress(draft: &Draft<'_>) -> Option<Problem> {
    let leases: Vec<(&str, &Lease)> = in_drained(draft).collect();
    let mut is_empty = leases.is_empty();
    let mut sentences = vec![];
    for Entry { name: entry, cidr, .. } in drained(draft) {
        let of_entry = leases.iter().filter(|(name, _)| name == entry).map(|(_, lease)| *lease);
        let (held, used): (Vec<&Lease>, Vec<&Lease>) =
            of_entry.partition(|lease| lease.released_at().is_some());
        let (further, first): (Vec<&Lease>, Vec<&Lease>) =
            used.into_iter().partition(|lease| lease.spec.as_ref().is_ok_and(|spec| !spec.primary));
        if !first.is_empty() {
            sentences.push(format!(
                "entry {entry}: {} in use by {}: drain each of these nodes, delete its Node and let it join again",
                plural(first.len(), "lease"),
                holders(&first)
            ));
        }
        if !further.is_empty() {
            sentences.push(format!(
                "entry {entry}: {} of {}: asked back, and gone when no pod has an address there",
                plural(further.len(), "further block"),
                holders(&further)
            ));
        }
        let withheld = withheld::in_entry(draft, *cidr);
        if !withheld.is_empty() {
            is_empty = false;
            sentences.push(format!(
                "entry {entry}: {} with pods and no lease ({}): see the condition Consistent",
                plural(withheld.len(), "block"),
                listed(&withheld)
            ));
        }
        if first.is_empty() && further.is_empty() && withheld.is_empty() {
            sentences.push(if held.is_empty() {
                format!("no lease is left in entry {entry}: take it out of spec.cidrs")
            } else {
                let with_pods = held.iter().any(|lease| held::has_pods(draft.world, lease));
                let until = if with_pods {
                    "the pods that are still there are gone"
                } else {
                    "reclaimAfter has passed"
                };
                format!(
                    "entry {entry}: {} held since their Nodes went ({}): it is empty when {until}",
                    plural(held.len(), "block"),
                    holders(&held)
                )
            });
        }
    }
    let reason = if is_empty { reason::ENTRY_EMPTY } else { reason::ENTRY_IN_USE };
    (!sentences.is_empty()).then(|| Problem::new(reason, sentences.join("; ")))
}

fn drained<'a, 'd>(draft: &'d Draft<'a>) -> impl Iterator<Item = &'d Entry<'a>> + use<'a, 'd> {
    draft.layout.entries.iter().filter(|entry| entry.drain)
}

fn holders(leases: &[&Lease]) -> String {
    let mut nodes: Vec<&str> = leases.iter().map(|lease| lease.node().unwrap_or("(unreadable)")).collect();
    nodes.sort_unstable();
    nodes.dedup();
    listed(&nodes)
}

fn in_drained<'a>(draft: &Draft<'a>) -> impl Iterator<Item = (&'a str, &'a Lease)> {
    draft.world.leases.iter().filter_map(|lease| {
        let (_, entry) = draft.layout.entry_of(lease.subnet)?;
        entry.drain.then_some((entry.name, lease))
    })
}
