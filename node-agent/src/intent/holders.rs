//! To whom that belongs which nodes publish themselves. Pure.
//!
//! An address is the node's that the operator's word in a lease gives it to. Of one that it gives to nobody, the
//! newest lease that publishes it is believed, since a machine that was set up anew under another name leaves its old
//! lease behind for a while; but no address of the pod network or of the API server.

use std::{collections::BTreeMap, net::IpAddr};

use tartan_crds::Cidr;
use tartan_datapath::model::{Mac, PublicKey};

use super::{Role, mac};
use crate::inputs::{Lease, Snapshot};

pub(super) struct Holders<'a> {
    /// By the operator's word.
    named: BTreeMap<IpAddr, &'a str>,
    /// The newest lease that publishes it.
    newest: BTreeMap<IpAddr, &'a str>,
    /// WireGuard public keys, by the operator's word.
    keys: BTreeMap<&'a str, &'a str>,
    /// Tunnel end points that derive from Nodes' UIDs, which the operator writes.
    macs: BTreeMap<Mac, &'a str>,
    /// The pod network: its entries, and leased subnets that lie in none any more.
    pod_network: Vec<Cidr>,
    api_server: &'a [IpAddr],
}

/// What is wrong with an address that a node claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another node has it.
    Anothers(String),
    /// Nobody may have it.
    Nobodys(String),
}

impl<'a> Holders<'a> {
    pub(super) fn of(
        snapshot: Snapshot<'a>,
        nodes: &BTreeMap<&'a str, Vec<&'a Lease>>,
        api_server: &'a [IpAddr],
    ) -> Self {
        let in_force = || snapshot.leases.values().filter(|lease| !lease.released);
        let entries = snapshot.network.map_or(&[] as &[_], |network| &network.entries);
        let outside = in_force()
            .map(|lease| lease.subnet)
            .filter(|subnet| !entries.iter().any(|entry| entry.range.covers(*subnet)));
        let named = in_force()
            .flat_map(|lease| lease.node_addresses.iter().map(|address| (*address, lease.node.as_str())));
        let keys = in_force()
            .flat_map(|lease| lease.wireguard_keys.iter().map(|key| (key.as_str(), lease.node.as_str())));
        Self {
            keys: keys.collect(),
            named: named.collect(),
            newest: newest(nodes),
            macs: nodes
                .iter()
                .filter_map(|(name, leases)| Some((mac(&leases.first()?.node_uid, Role::Vtep), *name)))
                .collect(),
            pod_network: entries.iter().map(|entry| entry.range).chain(outside).collect(),
            api_server,
        }
    }

    /// Whether packets may be sent to `address` for node `name`, and come from it.
    pub(super) fn judge(&self, name: &str, address: IpAddr) -> Result<(), Refusal> {
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(Refusal::Nobodys("is none that packets can be sent to".to_owned()));
        }
        match self.named.get(&address) {
            Some(holder) if *holder == name => return Ok(()),
            Some(holder) => {
                return Err(Refusal::Anothers(format!(
                    "is that of Node {holder}, as its status or annotation says: it is not believed"
                )));
            }
            None => {}
        }
        if let Some(part) = self.pod_network.iter().find(|part| part.contains(address)) {
            return Err(Refusal::Nobodys(format!("lies in the pod network {part}, and its Node has it not")));
        }
        if self.api_server.contains(&address) {
            return Err(Refusal::Nobodys("is the API server's, and its Node has it not".to_owned()));
        }
        match self.newest.get(&address) {
            Some(holder) if *holder != name => Err(Refusal::Anothers(format!(
                "is published by the newer lease of node {holder} too, which is believed"
            ))),
            _ => Ok(()),
        }
    }

    /// The other node that a WireGuard public key is of.
    pub(super) fn other_key_holder(&self, name: &str, key: PublicKey) -> Option<&'a str> {
        self.keys.get(key.to_string().as_str()).copied().filter(|holder| *holder != name)
    }

    /// The other node to which a tunnel end point belongs.
    pub(super) fn other_end_point(&self, name: &str, mac: Mac) -> Option<&'a str> {
        self.macs.get(&mac).copied().filter(|holder| *holder != name)
    }
}

fn newest<'a>(nodes: &BTreeMap<&'a str, Vec<&Lease>>) -> BTreeMap<IpAddr, &'a str> {
    let mut newest: BTreeMap<IpAddr, (i64, &str)> = BTreeMap::new();
    for (name, leases) in nodes {
        for lease in leases {
            let published = lease.status.iter();
            for address in published.flat_map(|status| status.public_ips.iter().chain(&status.tunnel_sources))
            {
                let candidate = (lease.created, *name);
                newest
                    .entry(*address)
                    .and_modify(|holder| *holder = (*holder).max(candidate))
                    .or_insert(candidate);
            }
        }
    }
    newest.into_iter().map(|(address, (_, name))| (address, name)).collect()
}
