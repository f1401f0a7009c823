//! [`Intent`]: the whole of what one node must know to program its data path, from one snapshot of all
//! inputs. Plain data; whoever builds it (the agent, a test, a bench) has validated it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{ForwardException, IkeSettings, Preshared, PublicKey, WireguardEndpoint};

/// A kind of path. The order is the rank of overlays: the first of two is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    Wireguard,
    Ipsec,
    Vxlan,
    Ipip,
    Udp,
    HostGw,
    /// Somebody else makes the paths.
    Alloc,
    /// The administrator's commands make the paths.
    Extension,
}

impl Backend {
    pub const ALL: [Self; 8] = [
        Self::Wireguard,
        Self::Ipsec,
        Self::Vxlan,
        Self::Ipip,
        Self::Udp,
        Self::HostGw,
        Self::Alloc,
        Self::Extension,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wireguard => "wireguard",
            Self::Ipsec => "ipsec",
            Self::Vxlan => "vxlan",
            Self::Ipip => "ipip",
            Self::Udp => "udp",
            Self::HostGw => "host-gw",
            Self::Alloc => "alloc",
            Self::Extension => "extension",
        }
    }

    /// Whether packets are wrapped, so that the path needs no common link.
    pub fn is_overlay(self) -> bool {
        match self {
            Self::Wireguard | Self::Ipsec | Self::Vxlan | Self::Ipip | Self::Udp => true,
            Self::HostGw | Self::Alloc | Self::Extension => false,
        }
    }

    /// Whether nobody on the way can read or make its packets.
    pub fn encrypts(self) -> bool {
        match self {
            Self::Wireguard | Self::Ipsec => true,
            Self::Vxlan | Self::Ipip | Self::Udp | Self::HostGw | Self::Alloc | Self::Extension => false,
        }
    }

    /// Whether we make the paths of its nodes.
    pub fn has_paths(self) -> bool {
        !matches!(self, Self::Alloc | Self::Extension)
    }

    /// Whether it carries packets of `inner` between nodes whose addresses are of `outer`.
    pub fn carries(self, inner: Family, outer: Family) -> bool {
        match self {
            Self::Wireguard | Self::Ipsec | Self::Vxlan => true,
            // RFC 2003: IPv4 in IPv4. So does the wire format of udp.
            Self::Ipip | Self::Udp => inner == Family::V4 && outer == Family::V4,
            Self::HostGw => inner == outer,
            Self::Alloc | Self::Extension => false,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(prefix: &IpNetwork) -> Self {
        if prefix.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn of_address(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A text that is no [`Mac`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a hardware address: write six hexadecimal bytes separated by colons")]
pub struct MacError(pub String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2).ok_or_else(|| MacError(text.to_owned()))?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError(text.to_owned()))?;
        }
        if parts.next().is_some() { Err(MacError(text.to_owned())) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What must be programmed on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    pub local: Local,
    /// Every other node that holds a lease which is not released.
    pub peers: Vec<Peer>,
    /// The CIDR entries of the cluster: all pod addresses lie in one of them.
    pub entries: Vec<IpNetwork>,
    pub vxlan: Vxlan,
    pub wireguard: Wireguard,
    pub ipsec: IkeSettings,
    pub udp: Udp,
    /// The overlay for pairs that no direct route can join.
    pub fallback: Backend,
    /// `None`: pod addresses leave the node as they are.
    pub masquerade: Option<Masquerade>,
    /// Addresses that must stay reachable whatever the entries cover.
    pub protected: Vec<Protected>,
    pub host: Host,
    pub present: Present,
}

impl Intent {
    /// Backends that this node receives only for nodes that send by them.
    pub fn spare_backends(&self) -> BTreeSet<Backend> {
        let Side { backend, accepts, .. } = &self.local.side;
        accepts.iter().copied().filter(|other| other != backend && *other != self.fallback).collect()
    }
}

/// How packets to other nodes go now, as far as that is known: what is to change may have to wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Present {
    /// Their backends, by destination.
    pub ways: BTreeMap<IpNetwork, Backend>,
    /// The other ends of IPsec associations, by outer address.
    pub associations: BTreeSet<IpAddr>,
}

/// What the host's own settings ask of us.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Host {
    /// Forward chains of other programs whose policy is drop, so that they need our exception.
    pub forward_drop: BTreeSet<ForwardException>,
    /// Links of pods, which are ports of our bridge.
    pub ports: BTreeSet<String>,
    /// The br_netfilter module is there: bridged packets of a Service then pass through NAT.
    pub bridge_netfilter: bool,
    /// The uplink's reverse-path filter is strict, which drops a peer's packets while a path changes.
    pub uplink_strict_rp_filter: bool,
}

/// One end of a pair, as it is published: all that the pair function looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// What the node sends by.
    pub backend: Backend,
    /// What the node receives.
    pub accepts: BTreeSet<Backend>,
    pub endpoints: Endpoints,
    /// Overlays only: plain routes towards nodes on the same link.
    pub direct_routing: bool,
    /// Addresses to send to, at most one per family, the preferred first.
    pub public_ips: Vec<IpAddr>,
    /// Further addresses that the node's tunnel packets come from.
    pub tunnel_sources: Vec<IpAddr>,
    /// Prefixes on the uplink.
    pub uplink_prefixes: Vec<IpNetwork>,
    /// Version of the rules by which this node's agent chooses. There is one so far.
    pub pairing_version: u32,
    /// Encrypting backends: every node of its pool sends encrypted, so nothing of its pairs may come in clear.
    pub sealed: bool,
}

/// Backends that are ready to receive, with what a sender needs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// At most one of each generation.
    pub wireguard: Vec<WireguardEndpoint>,
    /// Hardware address of the VXLAN tunnel end point.
    pub vxlan: Option<Mac>,
    pub ipip: bool,
    pub host_gw: bool,
    pub ipsec: bool,
    /// UDP port of the forwarder.
    pub udp: Option<u16>,
}

impl Endpoints {
    /// Whether one for `backend` is there. What has no paths needs none.
    pub fn has(&self, backend: Backend) -> bool {
        match backend {
            Backend::Wireguard => !self.wireguard.is_empty(),
            Backend::Ipsec => self.ipsec,
            Backend::Vxlan => self.vxlan.is_some(),
            Backend::Ipip => self.ipip,
            Backend::Udp => self.udp.is_some(),
            Backend::HostGw => self.host_gw,
            Backend::Alloc | Backend::Extension => true,
        }
    }

    /// Without these.
    pub fn lose(&mut self, lost: &BTreeSet<Backend>) {
        for backend in lost {
            match backend {
                Backend::Wireguard => self.wireguard.clear(),
                Backend::Ipsec => self.ipsec = false,
                Backend::Vxlan => self.vxlan = None,
                Backend::Ipip => self.ipip = false,
                Backend::Udp => self.udp = None,
                Backend::HostGw => self.host_gw = false,
                Backend::Alloc | Backend::Extension => {}
            }
        }
    }
}

/// A block of pod addresses on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    pub prefix: IpNetwork,
    /// The node's first block of the family. Its network address is the node's base address.
    pub primary: bool,
    /// One of the equal blocks that its entry is cut into. What isn't was leased by hand, and gives way to what is.
    pub regular: bool,
}

/// This node.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    pub node: String,
    pub side: Side,
    pub subnets: Vec<Subnet>,
    pub uplink: Uplink,
    /// MTU of pods and of the bridge, in bytes. See [`crate::mtu`] for the rule.
    pub mtu: u32,
    /// Hardware addresses of our links: stable over restarts and reboots.
    pub vxlan_mac: Mac,
    pub bridge_mac: Mac,
}

/// The interface that carries traffic between nodes, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uplink {
    pub name: String,
    /// Kernel interface index.
    pub index: u32,
    /// In bytes.
    pub mtu: u32,
    /// Addresses with their prefix lengths (host bits kept), at most one per family.
    pub addresses: Vec<IpNetwork>,
    /// All prefixes on the link.
    pub prefixes: Vec<IpNetwork>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub node: String,
    pub side: Side,
    pub subnets: Vec<Subnet>,
    /// Pod MTU there, in bytes, when it is known.
    pub mtu: Option<u32>,
}

/// Shared VXLAN parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub port: u16,
    pub learning: bool,
    pub gbp: bool,
    pub tx_checksum_offload: bool,
}

/// What WireGuard links need beside the end points that are published.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Wireguard {
    /// A process does it on this node, not the kernel.
    pub user_space: bool,
    /// Seconds between packets that keep a NAT on the way open; 0: none are sent.
    pub keepalive: u16,
    pub preshared: Preshared,
    /// End points of ours that we tell nobody any more and by which peers may still send.
    pub leaving: Vec<WireguardEndpoint>,
    /// Keys of peers with which a handshake was completed: they have ours.
    pub sessions: BTreeSet<PublicKey>,
}

/// Shared parameters of the udp path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Where every forwarder receives.
    pub port: u16,
}

/// Translation of pod addresses towards the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Destinations that see pod addresses as they are.
    pub except: Vec<IpNetwork>,
    pub fully_random: bool,
    pub v4: bool,
    pub v6: bool,
}

/// An address that must stay reachable, and what it is (for messages).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protected {
    pub address: IpAddr,
    pub what: &'static str,
}
