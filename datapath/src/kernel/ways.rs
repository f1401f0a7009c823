//! By which backends packets go to other nodes now, as our routes tell it.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{AddressFamily, route::RouteType};

use super::{Kernel, ObserveError};
use crate::{mark, model::Backend};

impl Kernel {
    /// By destination. What no route of ours leads to is not among them.
    pub async fn ways(&self) -> Result<BTreeMap<IpNetwork, Backend>, ObserveError> {
        let links = self.links().await?;
        let mut ways = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for route in self.routes(family).await? {
                let [link] = route.links.as_slice() else { continue };
                let Some(link) = links.get(link) else { continue };
                if route.ours && route.kind == RouteType::Unicast {
                    ways.insert(route.destination, by(&link.name));
                }
            }
        }
        Ok(ways)
    }
}

/// Whose device it is; all others are uplinks.
fn by(link: &str) -> Backend {
    match link {
        mark::VXLAN | mark::VXLAN6 => Backend::Vxlan,
        mark::IPIP => Backend::Ipip,
        mark::IPSEC => Backend::Ipsec,
        mark::UDP => Backend::Udp,
        link if mark::WIREGUARD.contains(&link) => Backend::Wireguard,
        _ => Backend::HostGw,
    }
}
