//! Facts about the host, for building an intent.

use std::{collections::BTreeMap, net::IpAddr};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    route::{RouteAttribute, RouteMessage, RouteType},
};

use super::{Kernel, decode, encode::family, error::ObserveError, socket::RequestError};
use crate::model::{AddressFacts, DefaultRoute, Facts, ForwardException, LinkFacts};

/// Asking the kernel for a route failed.
#[derive(Debug, thiserror::Error)]
#[error("look up the route to {target}")]
pub struct LookUpError {
    target: IpAddr,
    source: RequestError,
}

impl Kernel {
    /// A look at the host.
    pub async fn facts(&mut self) -> Result<Facts, ObserveError> {
        let links = self.links().await?;
        self.learn_user_space(&links);
        let mut addresses: BTreeMap<u32, Vec<AddressFacts>> = BTreeMap::new();
        let dump = self.socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default())).await;
        for message in dump.map_err(|source| ObserveError::Dump { what: "addresses", source })? {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && let Some((index, facts)) = decode::address(&message)
            {
                addresses.entry(index).or_default().push(facts);
            }
        }
        let mut facts = Facts {
            rp_filter_all: self.rp_filter("all"),
            bridge_netfilter: self.sysctls.path("bridge/bridge-nf-call-iptables").exists(),
            kernel_version: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            net_admin: has_net_admin(),
            resolvers: self.resolvers(),
            ..Facts::default()
        };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for route in self.routes(family).await? {
                if route.ours {
                    facts.routed.insert(route.destination);
                }
                if route.destination.prefix() == 0 && route.kind == RouteType::Unicast {
                    facts.default_routes.push(DefaultRoute {
                        v4: route.destination.is_ipv4(),
                        metric: route.metric,
                        links: route.links,
                        gateways: route.gateways,
                    });
                }
            }
        }
        let bridge = decode::our_bridge(&links);
        for link in links.into_values() {
            if link.as_port(bridge).is_some() {
                facts.ports.insert(link.name.clone());
            }
            let ours = link.is_ours();
            if !ours && (link.name.starts_with("flannel") || link.name == "cni0") {
                facts.leftovers.push(format!("link {}", link.name));
            }
            facts.links.push(LinkFacts {
                rp_filter: self.rp_filter(&link.name),
                addresses: addresses.remove(&link.index).unwrap_or_default(),
                ours,
                name: link.name,
                index: link.index,
                mtu: link.mtu,
                up: link.up,
                carrier: link.carrier,
                kind: link.kind,
            });
        }
        facts.nft = true;
        for chain in ForwardException::ALL {
            match self.nft.forward(chain).await {
                Ok(seen) => {
                    if seen.as_ref().is_some_and(|forward| forward.drops) {
                        self.forward_drop.insert(chain);
                    } else {
                        self.forward_drop.remove(&chain);
                    }
                    self.forward_seen.insert(chain, seen);
                }
                // What was true stays so: an exception is not taken back on a failure.
                Err(error) => {
                    self.forward_seen.remove(&chain);
                    facts.nft &= error.reason() != "nft-missing";
                }
            }
        }
        facts.forward_drop.clone_from(&self.forward_drop);
        Ok(facts)
    }

    /// The link by which the kernel would send to `target`; `None` where there is no route.
    pub async fn route_get(&self, target: IpAddr) -> Result<Option<u32>, LookUpError> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(target);
        request.header.destination_prefix_length = if target.is_ipv4() { 32 } else { 128 };
        request.attributes.push(RouteAttribute::Destination(target.into()));
        match self.socket.get(RouteNetlinkMessage::GetRoute(request)).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => {
                Ok(route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }))
            }
            Ok(_) => Ok(None),
            // ENETUNREACH, EHOSTUNREACH.
            Err(error) if matches!(error.errno(), Some(101 | 113)) => Ok(None),
            Err(source) => Err(LookUpError { target, source }),
        }
    }

    fn rp_filter(&self, link: &str) -> u8 {
        let value = self.sysctls.read(&format!("ipv4/conf/{link}/rp_filter"));
        value.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn resolvers(&self) -> Vec<IpAddr> {
        let text = std::fs::read_to_string(&self.options.resolv_conf).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .filter_map(|rest| rest.trim().parse().ok())
            .collect()
    }
}

/// `CAP_NET_ADMIN` (linux/capability.h: 12) among the effective capabilities of this thread.
fn has_net_admin() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    effective.and_then(|hex| u64::from_str_radix(hex, 16).ok()).is_some_and(|bits| bits & (1 << 12) != 0)
}
