//! Addresses that a node publishes and that other nodes don't believe to be its own: a machine that was set up anew
//! under another name leaves its old Node behind for a while, and an agent may be wrong. Agents judge by the leases;
//! here the same is told where an administrator looks.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::conditions::reason;

use super::Problem;
use crate::world::{Lease, World};

/// Whom agents believe to have an address.
#[derive(Debug)]
pub struct Holders<'a> {
    /// By the word of Nodes, which is in `nodeAddresses` of leases.
    named: BTreeMap<IpAddr, &'a str>,
    /// Of one that no lease names: the node with the newest lease that publishes it; of two as new the last by name.
    newest: BTreeMap<IpAddr, (Timestamp, &'a str)>,
}

impl<'a> Holders<'a> {
    pub fn of(world: &'a World) -> Self {
        let (mut named, mut newest) = (BTreeMap::new(), BTreeMap::new());
        for lease in world.leases.iter().filter(|lease| lease.released_at().is_none()) {
            let Ok(spec) = &lease.spec else { continue };
            let node = spec.node_name.as_str();
            named.extend(spec.node_addresses.iter().map(|address| (*address, node)));
            for address in &lease.public_ips {
                let candidate = (lease.created, node);
                newest
                    .entry(*address)
                    .and_modify(|holder| *holder = candidate.max(*holder))
                    .or_insert(candidate);
            }
        }
        Self { named, newest }
    }

    /// What to say of a node that is not believed to have an address that it publishes.
    pub fn taken_over(&self, node: &str, leases: &[&Lease]) -> Option<Problem> {
        let addresses =
            leases.iter().filter(|lease| lease.released_at().is_none()).flat_map(|l| &l.public_ips);
        let said = addresses.into_iter().find_map(|address| match self.named.get(address) {
            Some(holder) if *holder == node => None,
            Some(holder) => Some(format!(
                "it publishes {address}, which is that of node {holder} as the Nodes' status and annotations say, so \
                 that no other node sends to it there: delete the one of the two Nodes whose machine is gone, else \
                 give this node an address of its own (annotation tartan.network/public-ips)"
            )),
            None => {
                let (_, holder) = self.newest.get(address).filter(|(_, holder)| *holder != node)?;
                Some(format!(
                    "its address {address} is published by the newer lease of node {holder} too, which all other \
                     nodes believe: delete this Node if its machine is now {holder}, else give one of the two \
                     another address"
                ))
            }
        })?;
        Some(Problem::new(reason::ADDRESS_TAKEN_OVER, said))
    }
}
