//! From an element to the rtnetlink message that makes it so. No IO.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkIpIp, LinkMessageBuilder, LinkUnspec, LinkVxlan,
    LinkWireguard, LinkXfrm, RouteMessageBuilder,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressHeaderFlags, AddressMessage},
        link::LinkAttribute,
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{
            RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
        },
    },
};

use crate::{
    mark,
    model::{Fdb, Link, LinkKind, Mac, Neighbour, Route, RouteKind, UdpPeer},
};

/// Links by name.
pub(super) type Indexes = BTreeMap<String, u32>;

/// The link that an element needs is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("link {0} is not there")]
pub struct NoLink(pub String);

pub(super) fn index(links: &Indexes, name: &str) -> Result<u32, NoLink> {
    links.get(name).copied().ok_or_else(|| NoLink(name.to_owned()))
}

/// A new link, without its alias and down: both need a second message. `None` for one that isn't made by a message.
pub(super) fn new_link(
    name: &str,
    link: &Link,
    links: &Indexes,
) -> Result<Option<RouteNetlinkMessage>, NoLink> {
    let message = match &link.kind {
        // Its MTU is set by the second message: only a change of it tells the kernel that it is meant, and
        // not to be adjusted to the ports that come.
        LinkKind::Bridge => with_mac(LinkBridge::new(name), link.mac).build(),
        LinkKind::Vxlan { vni, port, device, local, learning, gbp } => {
            let mut builder =
                LinkVxlan::new(name, *vni).dev(index(links, device)?).port(*port).learning(*learning);
            builder = match local {
                IpAddr::V4(local) => builder.local(*local),
                IpAddr::V6(local) => builder.local6(*local),
            };
            if *gbp {
                builder = builder.gbp();
            }
            with_mac(builder, link.mac).mtu(link.mtu).build()
        }
        LinkKind::Wireguard => LinkWireguard::new(name).mtu(link.mtu).build(),
        LinkKind::Xfrm { number } => {
            LinkMessageBuilder::<LinkXfrm>::new(name).if_id(*number).mtu(link.mtu).build()
        }
        // The kernel makes one only for who opens it.
        LinkKind::Tun { .. } | LinkKind::WireguardTun => return Ok(None),
        LinkKind::Ipip { local } => {
            LinkIpIp::new(name).local(*local).ttl(0).pmtudisc(false).mtu(link.mtu).build()
        }
    };
    Ok(Some(RouteNetlinkMessage::NewLink(message)))
}

fn with_mac<T>(builder: LinkMessageBuilder<T>, mac: Option<Mac>) -> LinkMessageBuilder<T> {
    match mac {
        Some(mac) => builder.address(mac.0.to_vec()),
        None => builder,
    }
}

/// What can be changed on a link in place, and our mark.
pub(super) fn set_link(name: &str, link: &Link) -> RouteNetlinkMessage {
    let builder = LinkMessageBuilder::<LinkUnspec>::default().name(name.to_owned()).mtu(link.mtu);
    let builder = with_mac(builder, link.mac);
    let builder = if link.up { builder.up() } else { builder.down() };
    let mut message = builder.build();
    let alias = match &link.kind {
        LinkKind::Tun { local } => mark::udp_alias(*local),
        LinkKind::Bridge
        | LinkKind::Vxlan { .. }
        | LinkKind::Ipip { .. }
        | LinkKind::Wireguard
        | LinkKind::WireguardTun
        | LinkKind::Xfrm { .. } => mark::LINK_ALIAS.to_owned(),
    };
    message.attributes.push(LinkAttribute::IfAlias(alias));
    RouteNetlinkMessage::SetLink(message)
}

/// Makes a link a port of a bridge, with the mark that says so.
pub(super) fn set_port(port: u32, bridge: u32) -> RouteNetlinkMessage {
    let builder = LinkMessageBuilder::<LinkUnspec>::default().index(port).controller(bridge);
    let mut message = builder.build();
    message.attributes.push(LinkAttribute::IfAlias(mark::PORT_ALIAS.to_owned()));
    RouteNetlinkMessage::SetLink(message)
}

/// Takes the mark of a port away, and leaves it a port.
pub(super) fn forget_port(port: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessageBuilder::<LinkUnspec>::default().index(port).build();
    message.attributes.push(LinkAttribute::IfAlias(String::new()));
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn set_hairpin(port: u32, hairpin: bool) -> RouteNetlinkMessage {
    // The kernel takes settings of ports by RTM_NEWLINK only.
    RouteNetlinkMessage::NewLink(LinkBridgePort::new(port).hairpin(hairpin).build())
}

pub(super) fn delete_link(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(LinkMessageBuilder::<LinkUnspec>::default().index(index).build())
}

/// The message is the same for adding and deleting.
pub(super) fn address(link: u32, address: IpNetwork) -> AddressMessage {
    match address {
        IpNetwork::V4(address) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(link)
            .address(address.ip(), address.prefix())
            .build(),
        IpNetwork::V6(address) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(link)
                .address(address.ip(), address.prefix())
                .build();
            // Nobody else can have it, and until the detection of duplicates is done (on a bridge without ports:
            // never) no route may have it as its source.
            message.header.flags = AddressHeaderFlags::Nodad;
            message
        }
    }
}

pub(super) fn neighbour(link: u32, address: IpAddr, value: Option<&Neighbour>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    message.header.family = family(address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(neighbour_address(address)));
    if let Some(value) = value {
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(value.mac.0.to_vec()));
    }
    message
}

pub(super) fn fdb(link: u32, mac: Mac, value: &Fdb) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    message.header.family = AddressFamily::Bridge;
    message.header.state = NeighbourState::Permanent;
    // NTF_SELF: the entry of the device itself, not of a bridge that it might be a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(neighbour_address(value.destination)));
    message
}

pub(super) fn route(
    destination: IpNetwork,
    metric: u32,
    value: &Route,
    links: &Indexes,
) -> Result<RouteMessage, NoLink> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .protocol(RouteProtocol::Other(mark::ROUTE_PROTOCOL))
        .table_id(u32::from(RouteHeader::RT_TABLE_MAIN));
    if metric != 0 {
        builder = builder.priority(metric);
    }
    match &value.kind {
        RouteKind::Via { link, onlink, .. } => {
            builder = builder
                .output_interface(index(links, link)?)
                .scope(RouteScope::Universe)
                .kind(RouteType::Unicast);
            if *onlink {
                builder = builder.onlink();
            }
        }
        RouteKind::Device { link } => {
            builder = builder.output_interface(index(links, link)?).kind(RouteType::Unicast);
            // As the kernel wants it for IPv4 without a gateway.
            builder =
                builder.scope(if destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe });
        }
        RouteKind::Unreachable => builder = builder.scope(RouteScope::Universe).kind(RouteType::Unreachable),
    }
    let mut message = builder.build();
    message.header.address_family = family(destination.ip());
    message.header.destination_prefix_length = destination.prefix();
    message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    if let RouteKind::Via { gateway, .. } = &value.kind {
        message.attributes.push(RouteAttribute::Gateway((*gateway).into()));
    }
    if let Some(source) = value.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if let Some(mtu) = value.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    Ok(message)
}

/// A peer's subnet in the forwarder's table.
pub(super) fn udp_peer(subnet: IpNetwork, value: &UdpPeer, links: &Indexes) -> Result<RouteMessage, NoLink> {
    let kind = RouteKind::Via { gateway: value.gateway.into(), link: mark::UDP.to_owned(), onlink: true };
    let mut message = route(subnet, 0, &Route { kind, source: value.source, mtu: None }, links)?;
    let table = u8::try_from(mark::UDP_TABLE).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.table = table;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Table(_)));
    Ok(message)
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn neighbour_address(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}
