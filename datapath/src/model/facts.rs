//! Facts about the host that intent is built from: what the kernel says, before anything is decided.

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::ForwardException;

/// A link of the host with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkFacts {
    pub name: String,
    /// Kernel interface index.
    pub index: u32,
    /// In bytes.
    pub mtu: u32,
    pub up: bool,
    /// Somebody holds the other end: the cable of a card, the process of a TUN device.
    pub carrier: bool,
    /// Carries our mark.
    pub ours: bool,
    /// `IFLA_INFO_KIND`, empty for a device without one (a physical one, say).
    pub kind: String,
    pub addresses: Vec<AddressFacts>,
    /// `net.ipv4.conf.LINK.rp_filter`: 0 off, 1 strict, 2 loose. The greater of it and `all` is in force.
    pub rp_filter: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressFacts {
    /// With host bits, as it is set.
    pub address: IpNetwork,
    /// Scope global (`RT_SCOPE_UNIVERSE`).
    pub global: bool,
    pub secondary: bool,
    pub deprecated: bool,
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DefaultRoute {
    pub v4: bool,
    pub metric: u32,
    /// Links of its next hops: more than one with ECMP.
    pub links: Vec<u32>,
    pub gateways: Vec<IpAddr>,
}

/// What a look at the host finds.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Facts {
    pub links: Vec<LinkFacts>,
    pub default_routes: Vec<DefaultRoute>,
    /// Name servers of the host.
    pub resolvers: Vec<IpAddr>,
    /// Forward chains of other programs with policy drop.
    pub forward_drop: BTreeSet<ForwardException>,
    /// Links that are ports of our bridge, or were when it was deleted.
    pub ports: BTreeSet<String>,
    /// Destinations of our routes, as an agent before us may have left them.
    pub routed: BTreeSet<IpNetwork>,
    /// Things that others left and that an administrator should know of, such as a `flannel.1` device.
    pub leftovers: Vec<String>,
    /// `net.ipv4.conf.all.rp_filter`.
    pub rp_filter_all: u8,
    /// The br_netfilter module is there.
    pub bridge_netfilter: bool,
    pub kernel_version: String,
    pub nft: bool,
    pub net_admin: bool,
}

impl Facts {
    /// Of all links.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.links.iter().flat_map(|link| &link.addresses).map(|address| address.address.ip())
    }
}
