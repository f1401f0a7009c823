//! From [`Intent`] to the kernel objects that it asks for. Pure.

mod containment;
pub mod host;
mod ipsec;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use ipnetwork::IpNetwork;
use serde::Serialize;

use containment::Allowed;

use crate::{
    mark,
    model::{
        Backend, Elements, Family, Fdb, Intent, Key, Mac, Neighbour, Peer, Route, RouteKind, UdpPeer, Value,
        Wireguard, WireguardEndpoint, WireguardPeer,
    },
    mtu, nft,
    pair::{self, Pairing, Path, Reason},
    problem::Problem,
    rotation,
};

/// Seconds between packets that ask for a first handshake.
const PROBE: u16 = 5;

/// All that should be in the kernel, the path of each peer, and what is wrong with the inputs.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Desired {
    pub elements: Elements,
    pub paths: Vec<PeerPath>,
    pub problems: Vec<Problem>,
}

/// The path of one family's packets to one peer and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerPath {
    pub node: String,
    pub family: Family,
    pub subnets: Vec<IpNetwork>,
    #[serde(flatten)]
    pub pairing: Pairing,
    /// Nothing is taken in clear.
    pub sealed: bool,
    /// In bytes.
    pub mtu: u32,
}

/// The objects for `intent`. Never fails: what is wrong with a peer costs that peer its path, and is
/// among the problems.
pub fn desired(intent: &Intent) -> Desired {
    let mut desired = Desired::default();
    host::add(intent, &mut desired);
    let contained = containment::check(intent, &mut desired.problems);
    let (mut direct, mut sealed): (Vec<IpNetwork>, Vec<IpNetwork>) = Default::default();
    for (peer, allowed) in intent.peers.iter().zip(contained) {
        let route_mtu = mtu::route_mtu(intent.local.mtu, peer.mtu);
        let wireguard = wireguard_end(intent, peer, &allowed);
        let stand_ins = stand_ins(intent, peer, wireguard, &allowed);
        let awaited = stand_ins.values().any(|pairing| pairing.reason == Reason::NoHandshake);
        add_wireguard_peers(intent, peer, &allowed, awaited, &mut desired.elements);
        add_udp_peer(intent, peer, &allowed, &mut desired.elements);
        let is_sealed = pair::is_sealed(&intent.local.side, &peer.side);
        if is_sealed {
            sealed.extend(&allowed.subnets);
        }
        ipsec::add_peer(intent, peer, &allowed, &mut desired.elements);
        for (family, subnets) in by_family(intent, allowed.subnets) {
            let mut pairing = pair::pair(&intent.local.side, &peer.side, intent.fallback, family);
            if !works(&pairing.path, intent, wireguard, allowed.end_point) {
                pairing = Pairing { path: Path::None, reason: Reason::NoEndpoint };
            }
            if let (Path::Wireguard { .. } | Path::Ipsec { .. }, Some(other)) =
                (pairing.path, stand_ins.get(&family))
            {
                pairing = *other;
            }
            pairing.path = to_end(pairing.path, wireguard);
            let route_mtu = carried(intent, &pairing.path, route_mtu);
            // Whoever makes the paths of an unmanaged pair sends as he likes.
            let unmanaged = pairing.reason == Reason::Unmanaged;
            if matches!(pairing.path, Path::Direct { .. }) || unmanaged {
                direct.extend(&subnets);
            }
            if !unmanaged {
                add_peer(intent, peer, &pairing, &subnets, route_mtu, &mut desired.elements);
            }
            desired.paths.push(PeerPath {
                node: peer.node.clone(),
                family,
                subnets,
                pairing,
                sealed: is_sealed,
                mtu: route_mtu,
            });
        }
    }
    desired.elements.insert(Key::NftTable, Value::NftTable(nft::table(intent, &direct, &sealed)));
    desired
}

/// A peer's subnets of each family that this node has too. One without any still has a path, though nothing
/// leads there.
fn by_family(intent: &Intent, subnets: Vec<IpNetwork>) -> Vec<(Family, Vec<IpNetwork>)> {
    let (v4, v6): (Vec<_>, Vec<_>) = subnets.into_iter().partition(IpNetwork::is_ipv4);
    let has = |family| intent.local.subnets.iter().any(|own| Family::of(&own.prefix) == family);
    let mut families = vec![(Family::V4, v4), (Family::V6, v6)];
    families.retain(|(family, subnets)| has(*family) && !subnets.is_empty());
    if families.is_empty() {
        families.push((if has(Family::V4) { Family::V4 } else { Family::V6 }, vec![]));
    }
    families
}

/// The peer as one whose packets may come, whatever path leads to it: so both ends can change to it in any order.
/// `awaited`: packets go another way until it answers.
fn add_wireguard_peers(
    intent: &Intent,
    peer: &Peer,
    allowed: &Allowed,
    awaited: bool,
    elements: &mut Elements,
) {
    let Some(address) = pair::outer_address(&intent.local.side, &peer.side) else { return };
    let Wireguard { keepalive, preshared, sessions, .. } = &intent.wireguard;
    let common = rotation::common(&host::wireguard_ends(intent), &unshared(peer, allowed));
    for (place, theirs) in common.iter().enumerate() {
        // The first handshake must not wait for packets, since they wait for it.
        let probed = (awaited || (place == 0 && common.len() > 1)) && !sessions.contains(&theirs.key);
        let value = WireguardPeer {
            endpoint: SocketAddr::new(address, theirs.port),
            allowed: allowed.subnets.iter().copied().collect(),
            keepalive: match *keepalive {
                0 if probed => PROBE,
                asked if probed => asked.min(PROBE),
                asked => asked,
            },
            preshared: *preshared,
        };
        let link = mark::wireguard(theirs.generation).to_owned();
        elements.insert(Key::WireguardPeer { link, key: theirs.key }, Value::WireguardPeer(value));
    }
}

/// What stands in, by family, for the backend by which packets to the peer are to be encrypted: the paths by which they
/// go now. Until a handshake or an association shows that the peer has set us up, all but a few would be lost. What goes
/// the new way already, or no way, has nothing to go on by.
fn stand_ins(
    intent: &Intent,
    peer: &Peer,
    wireguard: Option<WireguardEndpoint>,
    allowed: &Allowed,
) -> BTreeMap<Family, Pairing> {
    let (ours, theirs) = (&intent.local.side, &peer.side);
    let Some(by) = pair::encrypted_by(ours, theirs) else { return BTreeMap::new() };
    let (answered, reason) = match by {
        Backend::Wireguard => {
            (wireguard.is_none_or(|end| intent.wireguard.sessions.contains(&end.key)), Reason::NoHandshake)
        }
        _ => {
            let remote = pair::outer_address(ours, theirs);
            let associated = remote.is_none_or(|remote| intent.present.associations.contains(&remote));
            (associated, Reason::NoAssociation)
        }
    };
    if answered {
        return BTreeMap::new();
    }
    let stand_in = |family: Family| {
        let subnets = allowed.subnets.iter().filter(|subnet| Family::of(subnet) == family);
        let now: BTreeSet<Backend> =
            subnets.filter_map(|subnet| intent.present.ways.get(subnet).copied()).collect();
        if now.contains(&by) {
            return None;
        }
        let goes = |path: &Path| path.backend().is_some_and(|backend| now.contains(&backend));
        let mut paths =
            pair::others(ours, theirs, by, family).into_iter().chain(pair::plain(ours, theirs, family));
        let path = paths.find(|path| goes(path) && works(path, intent, wireguard, allowed.end_point))?;
        Some((family, Pairing { path, reason }))
    };
    Family::ALL.into_iter().filter_map(stand_in).collect()
}

/// Whether the end point that the path leads to is to be believed. `vxlan`: that of VXLAN is.
fn works(path: &Path, intent: &Intent, wireguard: Option<WireguardEndpoint>, vxlan: bool) -> bool {
    match path {
        Path::Vxlan { .. } => vxlan,
        Path::Wireguard { .. } => wireguard.is_some(),
        // Every forwarder sends to the network's port; while that changes, some are asked at another.
        Path::Udp { port, .. } => *port == intent.udp.port,
        _ => true,
    }
}

/// The path, with the keys that are in use between both nodes.
fn to_end(path: Path, wireguard: Option<WireguardEndpoint>) -> Path {
    match (path, wireguard) {
        (Path::Wireguard { destination, .. }, Some(peer)) => Path::Wireguard { destination, peer },
        _ => path,
    }
}

/// Where packets to the peer go.
fn wireguard_end(intent: &Intent, peer: &Peer, allowed: &Allowed) -> Option<WireguardEndpoint> {
    let ours = &intent.local.side.endpoints.wireguard;
    rotation::sends_to(ours, &unshared(peer, allowed), &intent.wireguard.sessions)
}

/// The peer's end points without those whose key is another's.
fn unshared(peer: &Peer, allowed: &Allowed) -> Vec<WireguardEndpoint> {
    let all = peer.side.endpoints.wireguard.iter();
    all.filter(|endpoint| !allowed.refused_keys.contains(&endpoint.key)).copied().collect()
}

/// The peer as one whose datagrams may come, and who gets what is for its subnets, whatever path leads to it: so both
/// ends can change to it in any order. It may send before its own end point is known here, since that waits for ours
/// alone. Where its datagrams come from is told as a subnet of it, too.
fn add_udp_peer(intent: &Intent, peer: &Peer, allowed: &Allowed, elements: &mut Elements) {
    if !elements.contains_key(&Key::Link(mark::UDP.to_owned())) {
        return;
    }
    let Some(IpAddr::V4(gateway)) = pair::outer_address(&intent.local.side, &peer.side) else { return };
    for subnet in allowed.subnets.iter().filter(|subnet| subnet.is_ipv4()) {
        let value = UdpPeer { gateway, source: base_address(intent, subnet) };
        elements.insert(Key::UdpPeer(*subnet), Value::UdpPeer(value));
    }
    let others = peer.side.public_ips.iter().chain(&peer.side.tunnel_sources);
    for other in others.filter(|other| other.is_ipv4() && **other != IpAddr::V4(gateway)) {
        let value = UdpPeer { gateway, source: None };
        elements.insert(Key::UdpPeer(IpNetwork::from(*other)), Value::UdpPeer(value));
    }
}

/// At most what the path carries in one packet: of a peer without IPv4, less than other peers' paths do.
fn carried(intent: &Intent, path: &Path, mtu: u32) -> u32 {
    let (backend, outer) = match path {
        Path::Vxlan { destination, .. } => (Backend::Vxlan, destination),
        Path::Wireguard { destination, .. } => (Backend::Wireguard, destination),
        Path::Ipsec { destination } => (Backend::Ipsec, destination),
        // Over IPv4 alone, as their devices are.
        Path::Ipip { .. } | Path::Udp { .. } | Path::Direct { .. } | Path::None => return mtu,
    };
    mtu.min(mtu::inside(intent.local.uplink.mtu, backend, Family::of_address(*outer)))
}

/// Neighbour, forwarding entry and routes of one peer, of one family.
fn add_peer(
    intent: &Intent,
    peer: &Peer,
    pairing: &Pairing,
    subnets: &[IpNetwork],
    mtu: u32,
    elements: &mut Elements,
) {
    if let (Path::Vxlan { destination, mac }, false) = (pairing.path, subnets.is_empty()) {
        let link = mark::vxlan(destination).to_owned();
        elements.insert(Key::Fdb { link, mac }, Value::Fdb(Fdb { destination }));
    }
    for subnet in subnets {
        let source = base_address(intent, subnet);
        let route = match pairing.path {
            Path::Vxlan { destination, mac } => {
                let gateway = if subnet.is_ipv4() { peer_base(peer, subnet) } else { link_local(mac) };
                let link = mark::vxlan(destination).to_owned();
                elements.insert(
                    Key::Neighbour { link: link.clone(), address: gateway },
                    Value::Neighbour(Neighbour { mac }),
                );
                let kind = RouteKind::Via { gateway, link, onlink: true };
                Route { kind, source, mtu: Some(mtu) }
            }
            Path::Ipip { destination } => {
                // The tunnel takes the gateway for the outer destination.
                let kind = RouteKind::Via { gateway: destination, link: mark::IPIP.to_owned(), onlink: true };
                Route { kind, source, mtu: Some(mtu) }
            }
            Path::Wireguard { peer, .. } => {
                let kind = RouteKind::Device { link: mark::wireguard(peer.generation).to_owned() };
                Route { kind, source, mtu: Some(mtu) }
            }
            Path::Direct { gateway } => {
                let link = intent.local.uplink.name.clone();
                Route { kind: RouteKind::Via { gateway, link, onlink: false }, source, mtu: Some(mtu) }
            }
            Path::Ipsec { .. } => {
                let kind = RouteKind::Device { link: mark::IPSEC.to_owned() };
                Route { kind, source, mtu: Some(mtu) }
            }
            // The forwarder knows where to.
            Path::Udp { .. } => {
                let kind = RouteKind::Device { link: mark::UDP.to_owned() };
                Route { kind, source, mtu: Some(mtu) }
            }
            Path::None => Route { kind: RouteKind::Unreachable, source: None, mtu: None },
        };
        elements.insert(Key::Route { destination: *subnet, metric: metric(subnet) }, Value::Route(route));
    }
}

/// That which the kernel gives a route without one: for IPv6, `IP6_RT_PRIO_USER` (linux/ipv6_route.h).
fn metric(destination: &IpNetwork) -> u32 {
    if destination.is_ipv4() { 0 } else { 1024 }
}

/// Our base address of the subnet's family, where we have one.
fn base_address(intent: &Intent, subnet: &IpNetwork) -> Option<IpAddr> {
    let same_family = |other: &IpNetwork| other.is_ipv4() == subnet.is_ipv4();
    let primary = intent.local.subnets.iter().find(|own| own.primary && same_family(&own.prefix))?;
    Some(host::base(primary.prefix))
}

/// The peer's base address of the subnet's family: that of its primary subnet, else the subnet's own.
fn peer_base(peer: &Peer, subnet: &IpNetwork) -> IpAddr {
    let same_family = |other: &IpNetwork| other.is_ipv4() == subnet.is_ipv4();
    let primary = peer.subnets.iter().find(|other| other.primary && same_family(&other.prefix));
    host::base(primary.map_or(*subnet, |primary| primary.prefix))
}

/// The peer's end of the tunnel as a gateway of IPv6 (RFC 4291 appendix A). It must lie in none of the peer's subnets:
/// the kernel refuses a gateway, on-link or not, that a route of another link leads to, and so a route could never
/// move to this link from another (`ip6_route_check_nh_onlink`, net/ipv6/route.c).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> IpAddr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    let [first, second, third, last] = [pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f)];
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, first, second, third, last))
}

/// Whether the node receives by `backend`.
fn receives(intent: &Intent, backend: Backend) -> bool {
    intent.local.side.accepts.contains(&backend)
}
