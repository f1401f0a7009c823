//! From rtnetlink messages to elements and facts. No IO.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        InfoBridgePort, InfoData, InfoIpTunnel, InfoKind, InfoPortData, InfoVxlan, InfoXfrm, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
        RouteProtocol, RouteType,
    },
};

use crate::{
    mark,
    model::{AddressFacts, Fdb, LinkKind, Mac, Neighbour, Route, RouteKind},
};

/// A link as it was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenLink {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// `IFF_LOWER_UP`: somebody holds the other end. Of a TUN device: a process.
    pub(super) carrier: bool,
    /// `IFLA_INFO_KIND`.
    pub(super) kind: String,
    pub(super) vxlan: Option<SeenVxlan>,
    pub(super) ipip: Option<SeenIpip>,
    /// Number of an IPsec device.
    pub(super) xfrm: Option<u32>,
    /// The bridge that it is a port of.
    pub(super) bridge: Option<u32>,
    /// As a port of it.
    pub(super) hairpin: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SeenPort {
    pub(super) marked: bool,
    pub(super) attached: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SeenVxlan {
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) link: u32,
    pub(super) local: Option<IpAddr>,
    pub(super) learning: bool,
    pub(super) gbp: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenIpip {
    pub(super) local: Ipv4Addr,
    pub(super) remote: Ipv4Addr,
}

impl SeenLink {
    pub(super) fn is_ours(&self) -> bool {
        self.alias == mark::LINK_ALIAS || mark::udp_local(&self.alias).is_some()
    }

    /// As a port of the bridge with this index, or, with our mark, of one that is gone. Others' links that
    /// somebody gave an alias are left alone.
    pub(super) fn as_port(&self, bridge: Option<u32>) -> Option<SeenPort> {
        let marked = self.alias == mark::PORT_ALIAS;
        let attached = self.bridge.is_some() && self.bridge == bridge;
        let ours = if attached { marked || self.alias.is_empty() } else { marked && self.bridge.is_none() };
        (ours && self.kind == "veth").then_some(SeenPort { marked, attached })
    }

    /// As an element's kind, where it is one that we make. `name_of` names links by index.
    pub(super) fn element_kind(&self, name_of: impl Fn(u32) -> String) -> Option<LinkKind> {
        match (self.kind.as_str(), &self.vxlan, self.ipip) {
            ("bridge", ..) => Some(LinkKind::Bridge),
            ("wireguard", ..) => Some(LinkKind::Wireguard),
            ("xfrm", ..) => self.xfrm.map(|number| LinkKind::Xfrm { number }),
            ("tun", ..) if mark::WIREGUARD.contains(&self.name.as_str()) => {
                (self.alias == mark::LINK_ALIAS).then_some(LinkKind::WireguardTun)
            }
            ("tun", ..) => mark::udp_local(&self.alias).map(|local| LinkKind::Tun { local }),
            ("ipip", _, Some(SeenIpip { local, remote: Ipv4Addr::UNSPECIFIED })) => {
                Some(LinkKind::Ipip { local })
            }
            ("vxlan", Some(vxlan), _) => Some(LinkKind::Vxlan {
                vni: vxlan.vni,
                port: vxlan.port,
                device: name_of(vxlan.link),
                local: vxlan.local.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                learning: vxlan.learning,
                gbp: vxlan.gbp,
            }),
            _ => None,
        }
    }
}

/// The index of our bridge.
pub(super) fn our_bridge(links: &BTreeMap<u32, SeenLink>) -> Option<u32> {
    links.values().find(|link| link.is_ours() && link.name == mark::BRIDGE).map(|link| link.index)
}

pub(super) fn link(message: &LinkMessage) -> SeenLink {
    let mut seen = SeenLink {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        ..SeenLink::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => seen.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => seen.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => seen.mtu = *mtu,
            LinkAttribute::Address(bytes) => seen.mac = mac(bytes),
            LinkAttribute::Controller(index) => seen.bridge = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => seen.kind = kind_name(kind),
                        LinkInfo::Data(InfoData::Vxlan(data)) => seen.vxlan = Some(vxlan(data)),
                        LinkInfo::Data(InfoData::IpTunnel(data)) => seen.ipip = Some(ipip(data)),
                        LinkInfo::Data(InfoData::Xfrm(data)) => seen.xfrm = xfrm(data),
                        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                            seen.hairpin = data.contains(&InfoBridgePort::HairpinMode(true));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    seen
}

fn kind_name(kind: &InfoKind) -> String {
    match kind {
        InfoKind::Other(name) => name.clone(),
        known => format!("{known}"),
    }
}

fn vxlan(data: &[InfoVxlan]) -> SeenVxlan {
    let mut seen = SeenVxlan::default();
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => seen.vni = *id,
            InfoVxlan::Port(port) => seen.port = *port,
            InfoVxlan::Link(link) => seen.link = *link,
            InfoVxlan::Local(local) => seen.local = Some(IpAddr::V4(*local)),
            InfoVxlan::Local6(local) => seen.local = Some(IpAddr::V6(*local)),
            InfoVxlan::Learning(learning) => seen.learning = *learning,
            InfoVxlan::Gbp => seen.gbp = true,
            _ => {}
        }
    }
    seen
}

fn ipip(data: &[InfoIpTunnel]) -> SeenIpip {
    let mut seen = SeenIpip { local: Ipv4Addr::UNSPECIFIED, remote: Ipv4Addr::UNSPECIFIED };
    for attribute in data {
        match attribute {
            InfoIpTunnel::Local(IpAddr::V4(local)) => seen.local = *local,
            InfoIpTunnel::Remote(IpAddr::V4(remote)) => seen.remote = *remote,
            _ => {}
        }
    }
    seen
}

fn xfrm(data: &[InfoXfrm]) -> Option<u32> {
    data.iter().find_map(|attribute| match attribute {
        InfoXfrm::IfId(number) => Some(*number),
        _ => None,
    })
}

/// Interface index and address, without those that the kernel makes by itself.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, AddressFacts)> {
    let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link `address` is the other end.
    let ip = local.or(address)?;
    let facts = AddressFacts {
        address: IpNetwork::new(ip, message.header.prefix_len).ok()?,
        global: message.header.scope == AddressScope::Universe,
        secondary: flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    };
    Some((message.header.index, facts))
}

/// Interface index, address and value of a permanent neighbour.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    if !is_permanent(message.header.state) {
        return None;
    }
    let (ip, hardware) = addresses_of(message);
    Some((message.header.ifindex, ip?, Neighbour { mac: hardware? }))
}

/// Interface index, hardware address and value of a forwarding entry with a destination.
pub(super) fn fdb(message: &NeighbourMessage) -> Option<(u32, Mac, Fdb)> {
    if message.header.family != AddressFamily::Bridge || !is_permanent(message.header.state) {
        return None;
    }
    let (ip, hardware) = addresses_of(message);
    Some((message.header.ifindex, hardware?, Fdb { destination: ip? }))
}

/// A route.
#[derive(Clone, Debug)]
pub(super) struct SeenRoute {
    pub(super) table: u32,
    pub(super) destination: IpNetwork,
    pub(super) metric: u32,
    pub(super) protocol: u8,
    pub(super) ours: bool,
    pub(super) kind: RouteType,
    pub(super) gateways: Vec<IpAddr>,
    pub(super) links: Vec<u32>,
    pub(super) onlink: bool,
    pub(super) source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) tos: u8,
}

impl SeenRoute {
    /// As an element, where it has a form that we make.
    pub(super) fn element(&self, name_of: impl Fn(u32) -> String) -> Option<Route> {
        let kind = match (self.kind, self.gateways.as_slice(), self.links.as_slice()) {
            (RouteType::Unicast, [gateway], [link]) => {
                RouteKind::Via { gateway: *gateway, link: name_of(*link), onlink: self.onlink }
            }
            (RouteType::Unicast, [], [link]) => RouteKind::Device { link: name_of(*link) },
            (RouteType::Unreachable, _, _) => RouteKind::Unreachable,
            _ => return None,
        };
        Some(Route { kind, source: self.source, mtu: self.mtu })
    }
}

pub(super) fn route(message: &RouteMessage) -> Option<SeenRoute> {
    if message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let protocol: u8 = message.header.protocol.into();
    let mut table = u32::from(message.header.table);
    let mut destination = unspecified;
    let mut seen = SeenRoute {
        table,
        destination: IpNetwork::new(unspecified, 0).ok()?,
        metric: 0,
        protocol,
        ours: message.header.protocol == RouteProtocol::Other(mark::ROUTE_PROTOCOL),
        kind: message.header.kind,
        gateways: vec![],
        links: vec![],
        onlink: message.header.flags.contains(RouteFlags::Onlink),
        source: None,
        mtu: None,
        tos: message.header.tos,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Destination(address) => destination = route_ip(address)?,
            RouteAttribute::Gateway(address) => seen.gateways.extend(route_ip(address)),
            RouteAttribute::PrefSource(address) => seen.source = route_ip(address),
            RouteAttribute::Oif(index) => seen.links.push(*index),
            RouteAttribute::Priority(metric) => seen.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        seen.mtu = Some(*mtu);
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    seen.links.push(hop.interface_index);
                    seen.onlink |= hop.flags.contains(RouteNextHopFlags::Onlink);
                    seen.gateways.extend(hop.attributes.iter().filter_map(|attribute| match attribute {
                        RouteAttribute::Gateway(address) => route_ip(address),
                        _ => None,
                    }));
                }
            }
            _ => {}
        }
    }
    seen.table = table;
    seen.destination = IpNetwork::new(destination, message.header.destination_prefix_length).ok()?;
    Some(seen)
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn neighbour_ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        // The library knows the family only from the header, which says AF_BRIDGE here.
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
        },
        _ => None,
    }
}

/// Destination and hardware address, where they are there.
fn addresses_of(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut ip, mut hardware) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(address) => ip = neighbour_ip(address),
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            _ => {}
        }
    }
    (ip, hardware)
}

/// The state is a set of bits (`NUD_*`, linux/neighbour.h): other tools set NOARP beside PERMANENT.
fn is_permanent(state: NeighbourState) -> bool {
    u16::from(state) & u16::from(NeighbourState::Permanent) != 0
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}
