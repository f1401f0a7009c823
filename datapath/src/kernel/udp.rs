//! What the forwarder of the udp path reads: the device that the agent made for it, and the peers' subnets that the
//! agent put into a routing table of their own. It writes nothing.
//!
//! The kernel is all that the two processes have in common, so each may be killed and started at any time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
};

use ipnetwork::{IpNetwork, Ipv4Network};
use rtnetlink::{
    packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkMessage, route::RouteMessage},
    sys::protocols::NETLINK_ROUTE,
};

use super::{ObserveError, OpenError, decode, monitor::Monitor, socket::Socket};
use crate::mark;

/// What the agent asks the forwarder to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOrders {
    /// The device's index: another one is another device, also of the same name.
    pub index: u32,
    /// Where to receive, and the port to send to.
    pub local: SocketAddrV4,
    pub routes: Vec<UdpRoute>,
}

/// A peer's subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpRoute {
    pub subnet: Ipv4Network,
    /// The peer's outer address.
    pub gateway: Ipv4Addr,
    /// Our own address among the pods'.
    pub source: Option<Ipv4Addr>,
}

/// Open sockets.
#[derive(Debug)]
pub struct UdpWatch {
    // Opened first, so that no change between reading and listening is missed.
    monitor: Monitor,
    socket: Socket<RouteNetlinkMessage>,
}

impl UdpWatch {
    /// In the network namespace of the calling thread. Needs a tokio runtime with IO and time.
    pub fn open() -> Result<Self, OpenError> {
        let monitor = Monitor::open_routes().map_err(OpenError::Notifications)?;
        let socket = Socket::open(NETLINK_ROUTE).map_err(OpenError::Request)?;
        Ok(Self { monitor, socket })
    }

    /// Returns when something may have changed. Cancel-safe.
    pub async fn changed(&self) -> io::Result<()> {
        self.monitor.changed().await.map(drop)
    }

    /// `None` while the agent hasn't made the device.
    pub async fn read(&self) -> Result<Option<UdpOrders>, ObserveError> {
        let dump = self.socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).await;
        let links = dump.map_err(|source| ObserveError::Dump { what: "links", source })?;
        let device = links.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => {
                Some(decode::link(link)).filter(|link| link.name == mark::UDP && link.kind == "tun")
            }
            _ => None,
        });
        let Some((device, local)) = device.and_then(|link| Some((link.index, mark::udp_local(&link.alias)?)))
        else {
            return Ok(None);
        };
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let dump = self.socket.dump(&RouteNetlinkMessage::GetRoute(request)).await;
        let routes = dump.map_err(|source| ObserveError::Dump { what: "routes", source })?;
        let routes = routes.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => udp_route(&decode::route(message)?, device),
            _ => None,
        });
        Ok(Some(UdpOrders { index: device, local, routes: routes.collect() }))
    }
}

fn udp_route(route: &decode::SeenRoute, device: u32) -> Option<UdpRoute> {
    let is_ours = route.ours && route.table == mark::UDP_TABLE && route.links == [device];
    let (IpNetwork::V4(subnet), [IpAddr::V4(gateway)]) = (route.destination, route.gateways.as_slice())
    else {
        return None;
    };
    let source = match route.source {
        Some(IpAddr::V4(source)) => Some(source),
        _ => None,
    };
    is_ours.then_some(UdpRoute { subnet, gateway: *gateway, source })
}
