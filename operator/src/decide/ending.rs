//! [`Endings`]: what comes to an end only when every agent has heard that nothing needs it any more.
//!
//! An agent may be behind: it was held, or the API server was away. When it goes on it does what it finds one after
//! the other, and may send for a moment by what was asked for and taken back meanwhile; its last word says nothing of
//! that. So an end is written into all leases before it comes, and each agent tells which version of its own lease it
//! goes by. Watches bring the changes of all leases in the order in which they happened: who has seen the one has seen
//! the others before it, and goes by none of them any more. A reception that is to begin again must first be an end in
//! no lease, or an agent could have heard of the time before; and agents that have heard of its end say no more that
//! they receive. Of seals each has a name of its own ([`name_of`]).
//!
//! Not waited for: agents that have never said which lease they go by, as those of earlier versions; nodes whose leases
//! the operator must not write (a finalizer holds them, two nodes claim them); and those that say that they go by a
//! lease by which nobody sends.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest;
use tartan_crds::{BackendType, ending_reception};

use super::{
    contested::Contested,
    layout::Layout,
    transition::{Member, name},
};
use crate::world::{Lease, World};

/// Where the nodes are that may be behind.
#[derive(Debug, Default)]
pub struct Endings<'a> {
    /// Those that can be told, by node.
    leases: BTreeMap<&'a str, Vec<&'a Lease>>,
    /// By node the lease that its agent goes by; `None`: it is another now.
    telling: BTreeMap<&'a str, Option<&'a Lease>>,
}

/// What nodes receive beside what their own leases are for.
#[derive(Debug, Default)]
pub struct Overlays {
    /// Any node is asked to send by it, sends by it as its lease says, or reports that it does.
    pub everywhere: BTreeSet<BackendType>,
    /// No node is asked to any more, and where it is received that goes on.
    pub leaving: BTreeSet<BackendType>,
}

impl<'a> Endings<'a> {
    pub fn new(world: &'a World, contested: &Contested<'_>) -> Self {
        let mut leases: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
        // Of nodes that nobody sends to.
        let mut others: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
        let mut untold: BTreeSet<&str> = BTreeSet::new();
        for lease in world.leases.iter().filter(|lease| lease.released_at().is_none()) {
            let Ok(spec) = &lease.spec else { continue };
            if lease.deleting || lease.traces.name_locks.is_some() || contested.contains(lease) {
                untold.insert(&lease.meta.uid);
            } else {
                let of_kind = if spec.backend.kind.has_paths() { &mut leases } else { &mut others };
                of_kind.entry(&spec.node_name).or_default().push(lease);
            }
        }
        others.retain(|node, _| !leases.contains_key(node));
        let mut telling = BTreeMap::new();
        for (node, own) in leases.iter().chain(&others) {
            let object = world.node_networks.get(node);
            let Some(seen) = object.and_then(|object| object.report.observed_lease.as_ref()) else {
                continue;
            };
            if untold.contains(seen.uid.as_str()) {
                continue;
            }
            let is_it =
                |lease: &&&Lease| lease.meta.uid == seen.uid && lease.generation == Some(seen.generation);
            let found = own.iter().find(is_it).copied();
            let sends = object.and_then(|object| object.report.backend);
            // One that says that nothing is sent by it needs to hear of nothing.
            if !others.contains_key(node) || (found.is_none() && sends.is_none_or(BackendType::has_paths)) {
                telling.insert(*node, found);
            }
        }
        Self { leases, telling }
    }

    /// Whether the lease that says what a node sends by can name an end.
    pub(super) fn can_be_told(&self, member: &Member<'_>) -> bool {
        let own = self.leases.get(name(member));
        own.is_some_and(|own| own.iter().any(|lease| lease.meta.uid == member.uid))
    }

    /// Whether the node receives this as its leases say. One that has none yet is to be told of an end too.
    pub fn accepts(&self, node: &str, kind: BackendType) -> bool {
        let says =
            |lease: &&Lease| lease.spec.as_ref().is_ok_and(|spec| spec.backend.accepts.contains(&kind));
        self.leases.get(node).is_none_or(|own| own.iter().any(says))
    }

    /// Whether any lease says so.
    pub fn is_told(&self, ending: &str) -> bool {
        self.leases.values().flatten().any(|lease| tells(lease, ending))
    }

    /// Nodes with a lease that names this.
    pub fn naming(&self, ending: &str) -> Vec<&'a str> {
        let name = |own: &[&Lease]| own.iter().any(|lease| tells(lease, ending));
        self.leases.iter().filter(|(_, own)| name(own)).map(|(node, _)| *node).collect()
    }

    /// Nodes that receive this, and whose agents have not said that they have heard of its end.
    pub fn awaited(&self, kind: BackendType) -> BTreeSet<&'a str> {
        let mut nodes = self.unaware(&ending_reception(kind));
        nodes.retain(|node| self.accepts(node, kind));
        nodes
    }

    /// Nodes whose agents have not said that they have seen their lease with this.
    pub fn unaware(&self, ending: &str) -> BTreeSet<&'a str> {
        let is_aware = |seen: &Option<&Lease>| seen.is_some_and(|lease| tells(lease, ending));
        self.telling.iter().filter(|(_, seen)| !is_aware(seen)).map(|(node, _)| *node).collect()
    }
}

impl Overlays {
    pub fn new(world: &World, layout: &Layout<'_>, endings: &Endings<'_>) -> Self {
        let asked = layout.selections().map(|selection| selection.kind);
        let leased = world
            .leases
            .iter()
            .filter(|lease| lease.in_use && lease.released_at().is_none())
            .filter_map(|lease| Some(lease.spec.as_ref().ok()?.backend.kind));
        let needed: BTreeSet<BackendType> = asked.chain(leased).collect();
        let reported: BTreeSet<BackendType> = world
            .node_networks
            .iter()
            .filter(|object| world.nodes.contains(&object.meta.name))
            .flat_map(|object| object.report.backend.iter().chain(&object.report.sends).copied())
            .collect();
        let specs = endings.leases.values().flatten().filter_map(|lease| lease.spec.as_ref().ok());
        let mut leaving: BTreeSet<BackendType> =
            specs.flat_map(|spec| &spec.backend.accepts).copied().collect();
        leaving.retain(|kind| {
            kind.is_overlay()
                && *kind != layout.spec.fallback_backend
                && !needed.contains(kind)
                && (reported.contains(kind) || !endings.awaited(*kind).is_empty())
        });
        let mut everywhere = &needed | &reported;
        everywhere.retain(|kind| kind.is_overlay());
        Self { everywhere, leaving }
    }
}

/// Names a set of leases in a few letters: as all of them say by this mark, which they were given when there may have
/// been more of them, or anew. `facts`: two sets with the same ones may have the same name.
pub(super) fn name_of<'m, 'a: 'm>(
    members: impl Iterator<Item = &'m Member<'a>> + Clone,
    mark: &str,
    facts: impl Fn(&Member<'a>) -> String,
) -> String {
    let given: BTreeSet<Option<&str>> = members.clone().map(|member| one_of(member.ending, mark)).collect();
    let mut given = given.into_iter();
    if let (Some(Some(name)), None) = (given.next(), given.next()) {
        return name.trim_start_matches(mark).to_owned();
    }
    let mut context = digest::Context::new(&digest::SHA256);
    for text in members.map(facts).collect::<BTreeSet<String>>() {
        context.update(text.as_bytes());
        context.update(b"\n");
    }
    context.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The first that begins so.
pub fn one_of<'e>(endings: &'e [String], prefix: &str) -> Option<&'e str> {
    endings.iter().map(String::as_str).find(|text| text.starts_with(prefix))
}

fn tells(lease: &Lease, ending: &str) -> bool {
    lease.spec.as_ref().is_ok_and(|spec| spec.backend.ending.iter().any(|told| told == ending))
}
