//! The other nodes, from their leases. Pure. Nothing that a peer publishes can stop us.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tartan_crds::{BackendType, SubnetLeaseStatus};
use tartan_datapath::model::{Backend, Endpoints, Mac, Peer, PublicKey, Side, Subnet, WireguardEndpoint};

use super::{
    PeerFault, accepts, backend,
    holders::{Holders, Refusal},
};
use crate::inputs::{Entry, Lease, Snapshot};

/// Every other node that holds a lease, in the order of names.
pub(super) fn peers(
    own: &str,
    snapshot: &Snapshot<'_>,
    api_server: &[IpAddr],
) -> (Vec<Peer>, Vec<PeerFault>) {
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
    let holders = Holders::of(*snapshot, &nodes, api_server);
    let entries = snapshot.network.map_or(&[] as &[_], |network| &network.entries);
    let peers =
        nodes.iter().map(|(name, leases)| peer(name, leases, entries, &holders, &mut faults)).collect();
    (peers, faults)
}

/// The block of a lease.
pub(super) fn subnet(entries: &[Entry], lease: &Lease) -> Subnet {
    Subnet {
        prefix: lease.subnet.network(),
        primary: lease.primary,
        regular: entries.iter().any(|entry| entry.has_block(lease.subnet)),
    }
}

fn peer(
    name: &str,
    leases: &[&Lease],
    entries: &[Entry],
    holders: &Holders<'_>,
    faults: &mut Vec<PeerFault>,
) -> Peer {
    let mut fault = |message: String| faults.push(PeerFault { node: name.to_owned(), message });
    // The primary lease that has been answered, the older family first; leases are in name order.
    let primary = leases
        .iter()
        .filter(|lease| lease.primary)
        .min_by_key(|lease| (lease.status.is_none(), lease.subnet.family()))
        .or(leases.first());
    let status = primary.and_then(|lease| lease.status.as_ref());
    let mut public_ips = status.map(|status| status.public_ips.clone()).unwrap_or_default();
    public_ips.retain(|address| match holders.judge(name, *address) {
        Ok(()) => true,
        Err(Refusal::Anothers(why) | Refusal::Nobodys(why)) => {
            fault(format!("its address {address} {why}"));
            false
        }
    });
    let mut tunnel_sources = status.map(|status| status.tunnel_sources.clone()).unwrap_or_default();
    tunnel_sources.retain(|address| match holders.judge(name, *address) {
        Ok(()) => true,
        // Behind translation two nodes may have one, and packets from it are taken for the other's sake.
        Err(Refusal::Anothers(_)) => false,
        Err(Refusal::Nobodys(why)) => {
            fault(format!("its tunnel source {address} {why}"));
            false
        }
    });
    let mut endpoints = status.map(|status| endpoints(status, &mut fault)).unwrap_or_default();
    let holder = endpoints.vxlan.and_then(|mac| holders.other_end_point(name, mac));
    if let (Some(mac), Some(holder)) = (endpoints.vxlan, holder) {
        fault(format!("its tunnel end point {mac} is that of node {holder}: it gets no tunnel"));
        endpoints.vxlan = None;
    }
    endpoints.wireguard.retain(|end| match holders.other_key_holder(name, end.key) {
        None => true,
        Some(holder) => {
            fault(format!(
                "its WireGuard key {} is that of node {holder}, which published it first: it gets no encrypted path until it has its own; remove its key file and restart its agent",
                end.key
            ));
            false
        }
    });
    let accepts: BTreeSet<Backend> = leases.iter().flat_map(|lease| accepts(&lease.backend)).collect();
    Peer {
        node: name.to_owned(),
        side: Side {
            backend: primary.map_or(Backend::Vxlan, |lease| backend(lease.backend.kind)),
            accepts,
            endpoints,
            direct_routing: primary.is_some_and(|lease| lease.backend.direct_routing),
            public_ips,
            tunnel_sources,
            uplink_prefixes: status
                .map(|status| status.uplink_prefixes.iter().map(|prefix| prefix.network()).collect())
                .unwrap_or_default(),
            pairing_version: status
                .and_then(|status| u32::try_from(status.pairing_version).ok())
                .unwrap_or_default(),
            sealed: primary.is_some_and(|lease| lease.backend.sealed),
        },
        subnets: leases.iter().map(|lease| subnet(entries, lease)).collect(),
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
                    let generation = u32::try_from(endpoint.generation.unwrap_or(0)).unwrap_or(0);
                    if endpoints.wireguard.iter().any(|other| other.generation == generation) {
                        fault(format!(
                            "it publishes two wireguard keys of generation {generation}: the first is taken"
                        ));
                    } else {
                        endpoints.wireguard.push(WireguardEndpoint { generation, key, port });
                    }
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
