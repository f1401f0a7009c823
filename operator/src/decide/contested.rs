//! Leases whose holder somebody changed: what they say of their node contradicts itself.
//!
//! Three things in a lease tell its node: name, UID and label. The operator writes all three alike, and no
//! lease ever moves to another node: the API refuses another name, but not a lease that was deleted and made again.
//! Where they name different Nodes that exist, somebody edited it, and which
//! of the Nodes has pods on the block can't be known from here. So nobody touches such a lease, its block is
//! given to nobody else, and a Node that may be the one gets no other block of the family, which its agent would move
//! to: until somebody says whose it is. A Node with another lease of the family doesn't wait.
//!
//! The same goes for a lease that nobody can read: its label still tells a node.

use std::collections::{BTreeMap, BTreeSet};

use tartan_crds::{Family, conditions::reason, wellknown::label};

use super::Problem;
use crate::world::{Lease, Node, World};

/// Leases that nobody touches, and the nodes that wait for that reason.
#[derive(Debug, Default)]
pub struct Contested<'a> {
    leases: BTreeMap<&'a str, &'a Lease>,
    waiting: BTreeMap<(&'a str, Family), &'a Lease>,
}

impl<'a> Contested<'a> {
    pub fn find(world: &'a World) -> Self {
        let mut contested = Self::default();
        let doubtful: Vec<&'a Lease> = world.leases.iter().filter(|lease| !is_plain(world, lease)).collect();
        if doubtful.is_empty() {
            return contested;
        }
        let by_uid: BTreeMap<&str, &'a Node> =
            world.nodes.iter().map(|node| (node.meta.uid.as_str(), node)).collect();
        let settled: BTreeSet<(&str, Family)> = world
            .leases
            .iter()
            .filter(|lease| lease.released_at().is_none() && is_plain(world, lease))
            .filter_map(|lease| Some((lease.node()?, lease.subnet.family())))
            .collect();
        for lease in doubtful {
            let labelled = lease.labels.get(label::NODE).and_then(|name| world.nodes.get(name));
            let Ok(spec) = &lease.spec else {
                let waits =
                    labelled.filter(|node| !settled.contains(&(&node.meta.name, lease.subnet.family())));
                let waits = waits.map(|node| ((node.meta.name.as_str(), lease.subnet.family()), lease));
                contested.waiting.extend(waits);
                continue;
            };
            let named = world.nodes.get(&spec.node_name);
            let by_uid = by_uid.get(spec.node_uid.as_str()).copied();
            let claimants: BTreeSet<&'a str> =
                [named, by_uid, labelled].into_iter().flatten().map(|node| node.meta.name.as_str()).collect();
            let without: BTreeSet<&'a str> = claimants
                .iter()
                .copied()
                .filter(|node| !settled.contains(&(*node, lease.subnet.family())))
                .collect();
            let is_named =
                |nodes: &BTreeSet<&str>| nodes.len() == 1 && nodes.contains(spec.node_name.as_str());
            if claimants.is_empty() || is_named(&claimants) || is_named(&without) {
                // Of a Node that came back or is gone; or only one Node can be meant, and it is the named one.
                continue;
            }
            contested.leases.insert(&lease.meta.name, lease);
            let waits = without.into_iter().map(|node| ((node, lease.subnet.family()), lease));
            contested.waiting.extend(waits);
        }
        contested
    }

    pub fn contains(&self, lease: &Lease) -> bool {
        self.leases.contains_key(lease.meta.name.as_str())
    }

    pub fn leases(&self) -> impl Iterator<Item = &'a Lease> {
        self.leases.values().copied()
    }

    /// The lease that keeps a node from getting another block of a family.
    pub fn lease_before(&self, node: &Node, family: Family) -> Option<&'a Lease> {
        self.waiting.get(&(node.meta.name.as_str(), family)).copied()
    }

    /// The same as what the node waits for: no other block until somebody has said whose that one is.
    pub fn owner_awaited(&self, world: &World, node: &Node, family: Family) -> Option<Problem> {
        let lease = self.lease_before(node, family)?;
        let (reason, remedy) = match lease.spec {
            Err(_) => (reason::LEASE_UNREADABLE, REMEDY_UNREADABLE),
            Ok(_) => (reason::LEASE_EDITED, REMEDY),
        };
        Some(Problem::new(reason, format!("{}; left as it is: {remedy}", describe(world, lease))))
    }
}

/// What is wrong, for the conditions of node and network.
pub fn describe(world: &World, lease: &Lease) -> String {
    let spec = match &lease.spec {
        Ok(spec) => spec,
        Err(error) => return format!("lease {} can't be read ({error})", lease.meta.name),
    };
    let owner = world.nodes.iter().find(|node| node.meta.uid == spec.node_uid);
    let mut said = vec![format!("spec.nodeName says {}", spec.node_name)];
    said.push(match owner {
        Some(owner) => format!("spec.nodeUID is that of {}", owner.meta.name),
        None => "spec.nodeUID is of no Node".to_owned(),
    });
    if let Some(label) = lease.labels.get(label::NODE) {
        said.push(format!("its label says {label}"));
    }
    let by = lease.traces.edited_by.as_ref().map(|by| format!(", edited by {by}")).unwrap_or_default();
    format!("lease {}{by}: {}", lease.meta.name, said.join(", "))
}

pub const REMEDY: &str = "delete it, and its block goes back to the node whose pods are in it, or is free (ip address \
                          show tartan0 on the nodes)";

pub const REMEDY_UNREADABLE: &str = "correct it as the CRD of this version asks, or delete it where no node uses it \
                                     (ip address show tartan0 on the node)";

fn is_plain(world: &World, lease: &Lease) -> bool {
    let Ok(spec) = &lease.spec else { return false };
    let is_labelled = lease.labels.get(label::NODE).is_none_or(|name| *name == spec.node_name);
    is_labelled && world.nodes.get(&spec.node_name).is_some_and(|node| node.meta.uid == spec.node_uid)
}
