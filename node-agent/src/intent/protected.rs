//! Addresses that the pod network must not swallow. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use tartan_datapath::model::{Facts, Local, Peer, Protected};

/// Every address that must stay reachable even if an entry covers it.
pub(super) fn protected(
    facts: &Facts,
    api_server: &[IpAddr],
    local: &Local,
    peers: &[Peer],
) -> Vec<Protected> {
    let all = |addresses: &[IpAddr], what: &'static str| -> Vec<Protected> {
        addresses.iter().map(|address| Protected { address: *address, what }).collect()
    };
    let gateways: Vec<IpAddr> =
        facts.default_routes.iter().flat_map(|route| route.gateways.clone()).collect();
    let own: Vec<IpAddr> = facts
        .links
        .iter()
        .filter(|link| !link.ours)
        .flat_map(|link| &link.addresses)
        .filter(|address| address.global)
        .map(|address| address.address.ip())
        // A pod's own end of a bridge of somebody else's CNI is no node address.
        .filter(|address| !local.subnets.iter().any(|subnet| subnet.prefix.contains(*address)))
        .collect();
    let theirs: Vec<IpAddr> = peers.iter().flat_map(|peer| peer.side.public_ips.clone()).collect();
    let mut protected = all(api_server, "the API server");
    protected.extend(all(&gateways, "a gateway"));
    protected.extend(all(&facts.resolvers, "a name server"));
    protected.extend(all(&own, "an address of this node"));
    protected.extend(all(&theirs, "an address of another node"));
    protected.retain(|protected| !protected.address.is_loopback() && !protected.address.is_unspecified());
    // One mention of each address is enough, and the order must not depend on the kernel's.
    let mut seen = BTreeSet::new();
    protected.retain(|protected| seen.insert(protected.address));
    protected.sort();
    protected
}
