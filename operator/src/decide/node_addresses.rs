//! [`NodeAddresses`]: which node an address is believed to be of.
//!
//! Agents publish addresses themselves, and an agent may be in wrong hands. What a Node's status and annotation say
//! is a second word, in the node's lease, and agents refuse the address of every other node that claims it. Of two
//! Nodes that name one address, the one whose kubelet is alive has it; of two such, the one that has it already, so
//! that nobody takes an address from a node that works. A machine that was set up anew under another name gets its
//! old address when the kubelet of its old Node has been silent, or the old Node is gone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::jiff::Timestamp;

use super::node_networks::parse_addresses;
use crate::world::{Node, World};

/// As many as a lease takes.
const MOST: usize = 16;

#[derive(Debug, Default)]
pub struct NodeAddresses<'a>(BTreeMap<&'a str, BTreeSet<IpAddr>>);

/// The greater claim wins.
type Claim<'a> = (bool, bool, Reverse<Timestamp>, Reverse<&'a str>);

impl<'a> NodeAddresses<'a> {
    pub fn of(world: &'a World) -> Self {
        let held = held(world);
        let mut holders: BTreeMap<IpAddr, (Claim<'a>, &'a str)> = BTreeMap::new();
        for node in world.nodes.iter() {
            let name = node.meta.name.as_str();
            for address in claims(node) {
                let holds = held.contains(&(name, address));
                let claim = (node.ready, holds, Reverse(node.created), Reverse(name));
                let holder = holders.entry(address).or_insert((claim, name));
                *holder = (*holder).max((claim, name));
            }
        }
        let mut of_nodes: BTreeMap<&'a str, BTreeSet<IpAddr>> = BTreeMap::new();
        for (address, (_, name)) in holders {
            of_nodes.entry(name).or_default().insert(address);
        }
        Self(of_nodes)
    }

    /// For the node's primary leases, in the order of addresses.
    pub fn of_node(&self, name: &str) -> Vec<IpAddr> {
        self.0.get(name).into_iter().flatten().copied().take(MOST).collect()
    }
}

/// What leases in force say already.
fn held(world: &World) -> BTreeSet<(&str, IpAddr)> {
    let leases = world.leases.iter().filter_map(|lease| lease.spec.as_ref().ok());
    leases
        .filter(|spec| spec.released_at.is_none())
        .flat_map(|spec| spec.node_addresses.iter().map(|address| (spec.node_name.as_str(), *address)))
        .collect()
}

fn claims(node: &Node) -> impl Iterator<Item = IpAddr> {
    let annotated = node.public_ips.as_deref().and_then(|text| parse_addresses(text).ok());
    let all = node.addresses.iter().copied().chain(annotated.unwrap_or_default());
    all.filter(|address| !(address.is_unspecified() || address.is_loopback() || address.is_multicast()))
}
