//! Addresses that two nodes publish: a machine that was set up anew under another name leaves its old Node behind
//! for a while. Agents believe the newer lease; here it is told where an administrator looks.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::conditions::reason;

use super::Problem;
use crate::world::{Lease, World};

/// By address: the node with the newest lease that publishes it; of two as new the last by name, as agents choose.
#[derive(Debug)]
pub struct Holders<'a>(BTreeMap<IpAddr, (Timestamp, &'a str)>);

impl<'a> Holders<'a> {
    pub fn of(world: &'a World) -> Self {
        let mut holders = BTreeMap::new();
        for lease in world.leases.iter().filter(|lease| lease.released_at().is_none()) {
            let Some(node) = lease.node() else { continue };
            for address in &lease.public_ips {
                let candidate = (lease.created, node);
                holders
                    .entry(*address)
                    .and_modify(|holder| *holder = candidate.max(*holder))
                    .or_insert(candidate);
            }
        }
        Self(holders)
    }

    /// What to say of a node whose address a newer one has.
    pub fn taken_over(&self, node: &str, leases: &[&Lease]) -> Option<Problem> {
        let addresses =
            leases.iter().filter(|lease| lease.released_at().is_none()).flat_map(|l| &l.public_ips);
        addresses.into_iter().find_map(|address| {
            let (_, holder) = self.0.get(address).filter(|(_, holder)| *holder != node)?;
            Some(Problem::new(
                reason::ADDRESS_TAKEN_OVER,
                format!(
                    "its address {address} is published by the newer lease of node {holder} too, which all other \
                     nodes believe: delete this Node if its machine is now {holder}, else give one of the two \
                     another address"
                ),
            ))
        })
    }
}
