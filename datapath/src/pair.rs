//! The pair function: which path joins two nodes.
//!
//! Pure and symmetric: it looks only at what both nodes publish, so both ends come to the same answer
//! without talking to each other. The desired state asks it once for each peer; `diff`, metrics and status
//! show its reasons.
//!
//! "Direct" below means a plain route by the peer's address. It needs both nodes *on one link*: each
//! one's public address lies in the other's published uplink prefixes. Its gateway is of the family of the
//! packets, so a pair is joined family by family. vxlan carries both over either, ipip IPv4 over IPv4 alone.
//! wireguard and ipsec carry both and encrypt: where one side asks for one, the pair has it or no path at all. (The
//! desired state lets another stand in until a first handshake or association, as long as the pair is not sealed.)
//! udp carries what ipip does. An alloc or extension node has no path of ours to anyone.
//! "Direct-capable" is a node whose backend is host-gw, or an overlay with `directRouting`.
//!
//! | one side | other side | on one link | not on one link |
//! | --- | --- | --- | --- |
//! | alloc, extension | any | none | none |
//! | wireguard | any | wireguard | wireguard |
//! | ipsec | any but wireguard | ipsec | ipsec |
//! | host-gw | host-gw | direct | fallback overlay |
//! | host-gw | overlay | that overlay | that overlay |
//! | host-gw | overlay + directRouting | direct | that overlay |
//! | overlay | the same, with or without directRouting | that overlay | that overlay |
//! | vxlan | ipip or udp, with or without directRouting | vxlan | vxlan |
//! | ipip | udp, with or without directRouting | ipip | ipip |
//! | overlay + directRouting | overlay + directRouting | direct | the first of vxlan, ipip, udp that one has |
//!
//! Where the overlay of the table does not carry the packets' family, the fallback overlay does.
//!
//! A path is chosen only where both ends receive it: the backend is in `accepts` and an end point for it
//! is published. While an end point of the pair's backend is missing, as after a node has changed its
//! backend, another path that both ends receive is kept up. Otherwise there is no path, and both ends give
//! the same reason.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    model::{Backend, Family, Mac, Side, WireguardEndpoint},
    rotation,
};

/// Version of the rules in this file. There is one, and no verdict depends on it: it is published in the lease so that
/// agents with other rules can tell, and keep these for pairs with nodes that have no others.
pub const PAIRING_VERSION: u32 = 1;

/// How packets go to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Path {
    /// A plain route by the peer's address.
    Direct {
        gateway: IpAddr,
    },
    /// VXLAN to this underlay address and tunnel end point.
    Vxlan {
        destination: IpAddr,
        mac: Mac,
    },
    /// IP in IP to this underlay address.
    Ipip {
        destination: IpAddr,
    },
    /// WireGuard to this underlay address and peer, with the newest keys that both have; see [`rotation`] for when
    /// they are used.
    Wireguard {
        destination: IpAddr,
        #[serde(flatten)]
        peer: WireguardEndpoint,
    },
    /// ESP to this underlay address.
    Ipsec {
        destination: IpAddr,
    },
    /// In UDP to this underlay address and port.
    Udp {
        destination: IpAddr,
        port: u16,
    },
    None,
}

impl Path {
    /// The backend whose reception the path needs; `None` where there is no path.
    pub fn backend(&self) -> Option<Backend> {
        match self {
            Self::Direct { .. } => Some(Backend::HostGw),
            Self::Vxlan { .. } => Some(Backend::Vxlan),
            Self::Ipip { .. } => Some(Backend::Ipip),
            Self::Wireguard { .. } => Some(Backend::Wireguard),
            Self::Ipsec { .. } => Some(Backend::Ipsec),
            Self::Udp { .. } => Some(Backend::Udp),
            Self::None => None,
        }
    }
}

/// Why a pair has its path. The texts are labels of metrics: a fixed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Both send by this backend.
    SameBackend,
    /// One side encrypts, so the pair does.
    Encrypted,
    /// Both can route directly and are on one link.
    OnLink,
    /// One side is an overlay, so the pair is.
    OverlayOnOneSide,
    /// Both route directly but are not on one link: the fallback overlay joins them.
    Fallback,
    /// The pair's overlay carries no packets of this family: the fallback overlay does.
    OtherFamily,
    /// The paths of a side are not ours to make.
    Unmanaged,
    /// A side has not published an address yet.
    NoAddress,
    /// No address family is published by both.
    NoCommonFamily,
    /// Both sides publish one and the same address.
    SameAddress,
    /// A side does not receive the backend that the pair needs.
    NotAccepted,
    /// A side has not published its end point for the pair's backend yet; both receive this one.
    Interim,
    /// A side receives the backend but has not published its end point.
    NoEndpoint,
    /// No handshake has shown yet that each has set the other up as a WireGuard peer; both receive this one.
    NoHandshake,
    /// The nodes have no IPsec association yet; both receive this one.
    NoAssociation,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SameBackend => "same-backend",
            Self::Encrypted => "encrypted",
            Self::OnLink => "on-link",
            Self::OverlayOnOneSide => "overlay-on-one-side",
            Self::Fallback => "fallback",
            Self::OtherFamily => "other-family",
            Self::Unmanaged => "unmanaged",
            Self::NoAddress => "no-address",
            Self::NoCommonFamily => "no-common-family",
            Self::SameAddress => "same-address",
            Self::NotAccepted => "not-accepted",
            Self::Interim => "interim",
            Self::NoEndpoint => "no-endpoint",
            Self::NoHandshake => "no-handshake",
            Self::NoAssociation => "no-association",
        }
    }

    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::SameBackend => "both nodes send by this backend",
            Self::Encrypted => "one of the nodes sends encrypted only",
            Self::OnLink => "both nodes can route directly and are on one link",
            Self::OverlayOnOneSide => "one of the nodes sends by this overlay",
            Self::Fallback => {
                "both nodes route directly but are not on one link, so the fallback overlay joins them"
            }
            Self::OtherFamily => {
                "the overlay of the nodes carries no packets of this family, so the fallback overlay joins them"
            }
            Self::Unmanaged => "one of the nodes leaves its paths to others (alloc or extension)",
            Self::NoAddress => "one of the nodes has not published an address yet",
            Self::NoCommonFamily => "the nodes publish addresses of different families only",
            Self::SameAddress => {
                "both nodes publish the same address: set tartan.network/public-ips on one of them"
            }
            Self::NotAccepted => "one of the nodes does not accept the backend that the pair needs",
            Self::Interim => {
                "one of the nodes has not published its end point for the pair's backend yet, so another that both receive joins them until then"
            }
            Self::NoEndpoint => "one of the nodes has not published its end point for the backend yet",
            Self::NoHandshake => {
                "the nodes have not made a WireGuard handshake yet, so another backend that both receive joins them until then"
            }
            Self::NoAssociation => {
                "the nodes have no IPsec association yet, so another backend that both receive joins them until then"
            }
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The verdict on a pair, as seen from one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pairing {
    pub path: Path,
    pub reason: Reason,
}

impl Pairing {
    /// Whether nodes whose paths are ours to make have none.
    pub fn is_refused(&self) -> bool {
        self.path == Path::None && self.reason != Reason::Unmanaged
    }
}

/// The path from `ours` to `theirs` for packets of `family`. `fallback` is the network's overlay for pairs of
/// direct backends.
///
/// Symmetric: the other end, asking with the sides swapped, gets a path of the same kind and the same
/// reason.
pub fn pair(ours: &Side, theirs: &Side, fallback: Backend, family: Family) -> Pairing {
    if !(ours.backend.has_paths() && theirs.backend.has_paths()) {
        return Pairing { path: Path::None, reason: Reason::Unmanaged };
    }
    let outer = match common_addresses(ours, theirs) {
        Ok((_, theirs)) => theirs,
        Err(reason) => return Pairing { path: Path::None, reason },
    };
    let gateway = gateway(ours, theirs, family);
    let (backend, reason) = match choose(ours, theirs, gateway.is_some(), fallback) {
        (overlay, _) if overlay.is_overlay() && !overlay.carries(family, Family::of_address(outer)) => {
            (fallback, Reason::OtherFamily)
        }
        chosen => chosen,
    };
    if !receives(ours, theirs, backend) {
        return Pairing { path: Path::None, reason: Reason::NotAccepted };
    }
    if let Some(path) = path(ours, theirs, backend, outer, gateway) {
        return Pairing { path, reason };
    }
    if backend.encrypts() {
        // Nothing stands in for it.
        return Pairing { path: Path::None, reason: Reason::NoEndpoint };
    }
    // Clear ones first: whether one that encrypts has been answered is not known here.
    let encrypts = |path: &Path| path.backend().is_some_and(Backend::encrypts);
    match others(ours, theirs, backend, family).into_iter().min_by_key(encrypts) {
        Some(path) => Pairing { path, reason: Reason::Interim },
        None => Pairing { path: Path::None, reason: Reason::NoEndpoint },
    }
}

/// Paths by other backends than the pair's own, which may stand in for it: those that both receive, and only those that
/// encrypt where the pair is sealed. In the order of rank; symmetric.
pub fn others(ours: &Side, theirs: &Side, own: Backend, family: Family) -> Vec<Path> {
    let Ok((_, outer)) = common_addresses(ours, theirs) else { return vec![] };
    let gateway = gateway(ours, theirs, family);
    let sealed = is_sealed(ours, theirs);
    let may = |other: &Backend| *other != own && (other.encrypts() || !sealed);
    let carries = |backend: &Backend| match backend {
        Backend::HostGw => gateway.is_some(),
        overlay => overlay.carries(family, Family::of_address(outer)),
    };
    Backend::ALL
        .into_iter()
        .filter(|other| may(other) && carries(other) && receives(ours, theirs, *other))
        .filter_map(|other| path(ours, theirs, other, outer, gateway))
        .collect()
}

/// The plain route of an unsealed pair on one link, whatever its ends receive: it takes nothing of the other end.
pub fn plain(ours: &Side, theirs: &Side, family: Family) -> Option<Path> {
    let gateway = gateway(ours, theirs, family).filter(|_| !is_sealed(ours, theirs))?;
    Some(Path::Direct { gateway })
}

/// Whether packets of the pair come encrypted or not at all, as every node of an encrypting side's pool sends so.
/// Symmetric.
pub fn is_sealed(ours: &Side, theirs: &Side) -> bool {
    let sides = [ours, theirs];
    sides.iter().all(|side| side.backend.has_paths())
        && sides.iter().any(|side| side.sealed && side.backend.encrypts())
}

/// What the pair encrypts by, if a side asks for that.
pub fn encrypted_by(ours: &Side, theirs: &Side) -> Option<Backend> {
    [ours, theirs].map(|side| side.backend).into_iter().filter(|backend| backend.encrypts()).min()
}

/// Their address for tunnels between both.
pub fn outer_address(ours: &Side, theirs: &Side) -> Option<IpAddr> {
    common_addresses(ours, theirs).ok().map(|(_, theirs)| theirs)
}

/// Their address as a gateway for packets of `family`, where both are on one link.
fn gateway(ours: &Side, theirs: &Side, family: Family) -> Option<IpAddr> {
    let (our_ip, their_ip) = (address(ours, family)?, address(theirs, family)?);
    let on_link = contains(&theirs.uplink_prefixes, our_ip) && contains(&ours.uplink_prefixes, their_ip);
    (on_link && our_ip != their_ip).then_some(their_ip)
}

fn receives(ours: &Side, theirs: &Side, backend: Backend) -> bool {
    [ours, theirs].iter().all(|side| side.accepts.contains(&backend))
}

/// The path by `backend`, where both have published an end point for it. A plain route needs a gateway, whatever
/// the reason for it; an overlay doesn't.
fn path(
    ours: &Side,
    theirs: &Side,
    backend: Backend,
    outer: IpAddr,
    gateway: Option<IpAddr>,
) -> Option<Path> {
    match backend {
        Backend::HostGw if ours.endpoints.host_gw && theirs.endpoints.host_gw => {
            gateway.map(|gateway| Path::Direct { gateway })
        }
        Backend::HostGw => None,
        Backend::Vxlan => match (ours.endpoints.vxlan, theirs.endpoints.vxlan) {
            (Some(_), Some(mac)) => Some(Path::Vxlan { destination: outer, mac }),
            _ => None,
        },
        Backend::Wireguard => {
            let common = rotation::common(&ours.endpoints.wireguard, &theirs.endpoints.wireguard);
            common.first().map(|peer| Path::Wireguard { destination: outer, peer: *peer })
        }
        Backend::Ipip => {
            (ours.endpoints.ipip && theirs.endpoints.ipip).then_some(Path::Ipip { destination: outer })
        }
        Backend::Ipsec => {
            (ours.endpoints.ipsec && theirs.endpoints.ipsec).then_some(Path::Ipsec { destination: outer })
        }
        Backend::Udp => match (ours.endpoints.udp, theirs.endpoints.udp) {
            (Some(_), Some(port)) => Some(Path::Udp { destination: outer, port }),
            _ => None,
        },
        Backend::Alloc | Backend::Extension => None,
    }
}

fn choose(ours: &Side, theirs: &Side, on_link: bool, fallback: Backend) -> (Backend, Reason) {
    if let Some(backend) = encrypted_by(ours, theirs) {
        let same = ours.backend == theirs.backend;
        return (backend, if same { Reason::SameBackend } else { Reason::Encrypted });
    }
    let direct_capable = |side: &Side| !side.backend.is_overlay() || side.direct_routing;
    if on_link && direct_capable(ours) && direct_capable(theirs) {
        let same = ours.backend == Backend::HostGw && theirs.backend == Backend::HostGw;
        return (Backend::HostGw, if same { Reason::SameBackend } else { Reason::OnLink });
    }
    match (ours.backend.is_overlay(), theirs.backend.is_overlay()) {
        (true, true) => {
            // The smaller one ranks first.
            let backend = ours.backend.min(theirs.backend);
            let same = ours.backend == theirs.backend;
            (backend, if same { Reason::SameBackend } else { Reason::OverlayOnOneSide })
        }
        (true, false) => (ours.backend, Reason::OverlayOnOneSide),
        (false, true) => (theirs.backend, Reason::OverlayOnOneSide),
        (false, false) => (fallback, Reason::Fallback),
    }
}

/// The pair's addresses: of the first family, in the fixed order v4, v6, that both publish.
fn common_addresses(ours: &Side, theirs: &Side) -> Result<(IpAddr, IpAddr), Reason> {
    if ours.public_ips.is_empty() || theirs.public_ips.is_empty() {
        return Err(Reason::NoAddress);
    }
    let common =
        Family::ALL.into_iter().find_map(|family| Some((address(ours, family)?, address(theirs, family)?)));
    match common {
        None => Err(Reason::NoCommonFamily),
        Some((ours, theirs)) if ours == theirs => Err(Reason::SameAddress),
        Some(addresses) => Ok(addresses),
    }
}

fn address(side: &Side, family: Family) -> Option<IpAddr> {
    side.public_ips.iter().copied().find(|ip| Family::of_address(*ip) == family)
}

fn contains(prefixes: &[ipnetwork::IpNetwork], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(address))
}
