//! The other nodes, from their leases. Pure. Nothing that a peer publishes can stop us.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tartan_crds::{BackendType, SubnetLeaseStatus};
use tartan_datapath::model::{Backend, Endpoints, Mac, Peer, PublicKey, Side, Subnet, WireguardEndpoint};

use super::{PeerFault, Role, accepts, backend, mac};
use crate::inputs::{Lease, Snapshot};

/// To whom that belongs which nodes publish themselves.
struct Holders<'a> {
    addresses: BTreeMap<IpAddr, &'a str>,
    /// Tunnel end points that derive from Nodes' UIDs, which the operator writes.
    macs: BTreeMap<Mac, &'a str>,
}

/// Every other node that holds a lease, in the order of names.
pub(super) fn peers(own: &str, snapshot: &Snapshot<'_>) -> (Vec<Peer>, Vec<PeerFault>) {
    let mut faults: Vec<PeerFault> = snapshot
        .unreadable
        .iter()
        .map(|(lease, error)| PeerFault {
            node: snapshot.leases.get(lease).map_or_else(String::new, |lease| lease.node.clone()),
            message: format!("SubnetLease {lease} can't be read: {error}"),
        })
        .collect();
    let mut nodes: BTreeMap<&str, Vec<&Lease>> = BTreeMap::new();
    for lease in snapshot.leases.values().filter(|lease| !lease.released && lease.node != own) {
        nodes.entry(&lease.node).or_default().push(lease);
    }
    let holders = Holders {
        addresses: newest_holders(&nodes),
        macs: nodes
            .iter()
            .filter_map(|(name, leases)| Some((mac(&leases.first()?.node_uid, Role::Vtep), *name)))
            .collect(),
    };
    let peers = nodes.iter().map(|(name, leases)| peer(name, leases, &holders, &mut faults)).collect();
    (peers, faults)
}

/// Who publishes an address: the node whose lease is the newest, since a machine that was set up anew
/// under another name leaves its old lease behind for a while.
fn newest_holders<'a>(nodes: &BTreeMap<&'a str, Vec<&Lease>>) -> BTreeMap<IpAddr, &'a str> {
    let mut newest: BTreeMap<IpAddr, (i64, &str)> = BTreeMap::new();
    for (name, leases) in nodes {
        for lease in leases {
            for address in lease.status.iter().flat_map(|status| &status.public_ips) {
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

fn peer(name: &str, leases: &[&Lease], holders: &Holders<'_>, faults: &mut Vec<PeerFault>) -> Peer {
    let mut fault = |message: String| faults.push(PeerFault { node: name.to_owned(), message });
    // The primary lease that has been answered, the older family first; leases are in name order.
    let primary = leases
        .iter()
        .filter(|lease| lease.primary)
        .min_by_key(|lease| (lease.status.is_none(), lease.subnet.family()))
        .or(leases.first());
    let status = primary.and_then(|lease| lease.status.as_ref());
    let mut public_ips = status.map(|status| status.public_ips.clone()).unwrap_or_default();
    public_ips.retain(|address| {
        let usable = !(address.is_unspecified() || address.is_loopback() || address.is_multicast());
        if !usable {
            fault(format!("its public address {address} is none that packets can be sent to"));
        }
        let holder = holders.addresses.get(address).copied();
        let own = holder.is_none_or(|holder| holder == name);
        if !own {
            fault(format!(
                "its address {address} is published by the newer lease of node {} too, which is believed",
                holder.unwrap_or_default()
            ));
        }
        usable && own
    });
    let mut endpoints = status.map(|status| endpoints(status, &mut fault)).unwrap_or_default();
    let holder = endpoints.vxlan.and_then(|mac| holders.macs.get(&mac)).filter(|holder| **holder != name);
    if let (Some(mac), Some(holder)) = (endpoints.vxlan, holder) {
        fault(format!("its tunnel end point {mac} is that of node {holder}: it gets no tunnel"));
        endpoints.vxlan = None;
    }
    let accepts: BTreeSet<Backend> = leases.iter().flat_map(|lease| accepts(&lease.backend)).collect();
    Peer {
        node: name.to_owned(),
        side: Side {
            backend: primary.map_or(Backend::Vxlan, |lease| backend(lease.backend.kind)),
            accepts,
            endpoints,
            direct_routing: primary.is_some_and(|lease| lease.backend.direct_routing),
            public_ips,
            tunnel_sources: status.map(|status| status.tunnel_sources.clone()).unwrap_or_default(),
            uplink_prefixes: status
                .map(|status| status.uplink_prefixes.iter().map(|prefix| prefix.network()).collect())
                .unwrap_or_default(),
            pairing_version: status
                .and_then(|status| u32::try_from(status.pairing_version).ok())
                .unwrap_or_default(),
            sealed: primary.is_some_and(|lease| lease.backend.sealed),
        },
        subnets: leases
            .iter()
            .map(|lease| Subnet { prefix: lease.subnet.network(), primary: lease.primary })
            .collect(),
        mtu: status.and_then(|status| status.mtu).and_then(|bytes| u32::try_from(bytes).ok()),
    }
}

fn endpoints(status: &SubnetLeaseStatus, fault: &mut impl FnMut(String)) -> Endpoints {
    let mut endpoints = Endpoints::default();
    for endpoint in &status.endpoints {
        match endpoint.kind {
            BackendType::HostGw => endpoints.host_gw = true,
            BackendType::Ipip => endpoints.ipip = true,
            BackendType::Ipsec => endpoints.ipsec = true,
            BackendType::Udp => match endpoint.port.and_then(|port| u16::try_from(port).ok()) {
                Some(port) => endpoints.udp = Some(port),
                None => fault("it publishes a udp end point without a port".to_owned()),
            },
            BackendType::Alloc | BackendType::Extension => {}
            BackendType::Wireguard => match endpoint.public_key.as_deref().map(str::parse::<PublicKey>) {
                Some(Ok(key)) => {
                    let port = endpoint.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(51820);
                    endpoints.wireguard = Some(WireguardEndpoint { key, port });
                }
                Some(Err(error)) => fault(error.to_string()),
                None => fault("it publishes a wireguard end point without a key".to_owned()),
            },
            BackendType::Vxlan => match endpoint.vtep_mac.as_deref().map(str::parse::<Mac>) {
                Some(Ok(mac)) if is_unicast(mac) => endpoints.vxlan = Some(mac),
                Some(Ok(mac)) => fault(format!("its tunnel end point {mac} is no address of one node")),
                Some(Err(error)) => fault(error.to_string()),
                None => fault("it publishes a vxlan end point without a hardware address".to_owned()),
            },
        }
    }
    endpoints
}

fn is_unicast(Mac(bytes): Mac) -> bool {
    bytes != [0; 6] && bytes.first().is_some_and(|first| first & 1 == 0)
}
