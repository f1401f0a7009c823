//! [`NodeKeys`]: which node a WireGuard public key is believed to be of.
//!
//! Agents publish their keys themselves, and an agent may be in wrong hands: one that publishes another node's key can
//! decrypt nothing, but would take that node's place at all peers, where a key can be one peer only. Whoever published
//! a key first has it, as long as it publishes it: that is a second word, in the node's lease.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use k8s_openapi::jiff::Timestamp;

use crate::world::{Lease, World};

/// As many as a lease takes: two, while keys are rotated, and room.
const MOST: usize = 4;

#[derive(Debug, Default)]
pub struct NodeKeys<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

/// The greater claim wins.
type Claim<'a> = (bool, Reverse<Timestamp>, Reverse<&'a str>);

impl<'a> NodeKeys<'a> {
    pub fn of(world: &'a World) -> Self {
        let in_force = || world.leases.iter().filter(|lease| lease.released_at().is_none());
        let held: BTreeSet<(&str, &str)> = in_force()
            .filter_map(|lease| lease.spec.as_ref().ok())
            .flat_map(|spec| spec.wireguard_keys.iter().map(|key| (spec.node_name.as_str(), key.as_str())))
            .collect();
        let published = in_force().filter_map(|lease: &Lease| Some((lease.node()?, lease)));
        let mut holders: BTreeMap<&'a str, (Claim<'a>, &'a str)> = BTreeMap::new();
        for (node, lease) in published {
            for key in lease.wireguard_keys.values() {
                let claim = (held.contains(&(node, key)), Reverse(lease.created), Reverse(node));
                let holder = holders.entry(key).or_insert((claim, node));
                *holder = (*holder).max((claim, node));
            }
        }
        let mut of_nodes: BTreeMap<&'a str, BTreeSet<&'a str>> = BTreeMap::new();
        for (key, (_, node)) in holders {
            of_nodes.entry(node).or_default().insert(key);
        }
        Self(of_nodes)
    }

    /// For the node's primary leases, in the order of keys.
    pub fn of_node(&self, name: &str) -> Vec<String> {
        self.0.get(name).into_iter().flatten().take(MOST).map(|key| (*key).to_owned()).collect()
    }
}
