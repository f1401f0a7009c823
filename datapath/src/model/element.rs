//! Kernel objects as plain values. Desired and observed hold the same types: [`Key`] is the kernel's own
//! identity of an object, [`Value`] only what we set on it.
//!
//! Links are named, not numbered, in keys: an index changes when a link is made anew. Routes are those of
//! the main table. Ownership is not here: observing tells ours from foreign by the marks of
//! [`crate::mark`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use ipnetwork::IpNetwork;
use serde::Serialize;

use super::{Direction, IkeConnection, IkeCredentials, Mac, Preshared, PublicKey, XfrmPolicy};

/// What identifies an object in the kernel. The order is the order of creation: a link stands before
/// what hangs on it, and a route comes after all that it needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    Link(String),
    /// The host's end of a pod's link, by its name: a port of our bridge.
    Port(String),
    /// Offload feature switch of a link, by the link's name.
    Offload(String),
    Address {
        link: String,
        address: IpNetwork,
    },
    /// `/proc/sys` path below `net/`, such as `ipv4/ip_forward`.
    Sysctl(String),
    /// Our whole nft table: rules are replaced in one transaction.
    NftTable,
    /// Our exception in another's FORWARD chain whose policy is drop.
    ForwardException(ForwardException),
    /// Key and port of a WireGuard link, by the link's name.
    WireguardDevice(String),
    WireguardPeer {
        link: String,
        key: PublicKey,
    },
    /// Those of our interface number.
    XfrmPolicy {
        direction: Direction,
        source: IpNetwork,
        destination: IpNetwork,
    },
    /// By which the IKE daemon proves who this node is.
    IkeCredentials,
    /// Associations of a peer that are not needed, or not any more, by the daemon's number. Its connection is removed
    /// before them, or it would begin anew.
    IkeAssociation(u32),
    /// A connection of the IKE daemon, by its name there.
    IkeConnection(String),
    Neighbour {
        link: String,
        address: IpAddr,
    },
    Fdb {
        link: String,
        mac: Mac,
    },
    /// A peer's subnet for the forwarder of the udp path: a route in the table [`crate::mark::UDP_TABLE`].
    UdpPeer(IpNetwork),
    Route {
        destination: IpNetwork,
        metric: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    Sysctl(Sysctl),
    Link(Link),
    Port(Port),
    Offload(Offload),
    Address(Address),
    NftTable(NftTable),
    ForwardException,
    WireguardDevice(WireguardDevice),
    WireguardPeer(WireguardPeer),
    XfrmPolicy(XfrmPolicy),
    IkeCredentials(IkeCredentials),
    IkeConnection(IkeConnection),
    IkeAssociation,
    Neighbour(Neighbour),
    Fdb(Fdb),
    UdpPeer(UdpPeer),
    Route(Route),
}

pub type Elements = BTreeMap<Key, Value>;

/// A kernel setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sysctl {
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    pub kind: LinkKind,
    /// `None` for links without a link layer.
    pub mac: Option<Mac>,
    /// In bytes.
    pub mtu: u32,
    pub up: bool,
}

/// What the kernel can't change on a link that exists: a difference means building it anew, with all
/// that hangs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    Bridge,
    /// `IFLA_VXLAN_*` of linux/if_link.h.
    Vxlan {
        vni: u32,
        port: u16,
        device: String,
        local: IpAddr,
        learning: bool,
        gbp: bool,
    },
    /// IP in IP (RFC 2003) from `local` to any; `IFLA_IPTUN_*` of linux/if_tunnel.h. The time to live is the inner
    /// packet's, and the outer one may be fragmented where the inner one may.
    Ipip {
        local: Ipv4Addr,
    },
    Wireguard,
    /// A TUN device with a process that does the same, where the kernel has no WireGuard. Never desired: where it is
    /// allowed it is seen as [`Self::Wireguard`].
    WireguardTun,
    /// What is routed to it is wrapped by the policies of its number, or dropped (`IFLA_XFRM_*`).
    Xfrm {
        number: u32,
    },
    /// A TUN device with several queues, which stays when the forwarder goes (linux/if_tun.h). Its alias tells the
    /// forwarder where to receive.
    Tun {
        local: SocketAddrV4,
    },
}

/// A port of our bridge (`IFLA_MASTER`, `IFLA_BRPORT_MODE`). Pods' links are made by the bridge plugin; that
/// they are ports of ours is kept in their alias, since a bridge that is deleted forgets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    pub attached: bool,
    /// Packets may go back to where they came from: a pod that reaches itself through a Service.
    pub hairpin: bool,
}

/// Transmit checksum offload (ethtool `tx-checksum-ip-generic`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offload {
    pub tx_checksum: bool,
}

/// An address on a link: its presence says it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Address {}

/// Rules and sets of our table (family inet) as nft's own text, with the elements of sets apart, since
/// these are diffed one by one so that counters survive.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct NftTable {
    /// `nft -f` text that declares the table, its sets (without elements), chains and rules.
    pub declaration: String,
    /// Elements by set name, in nft's text form, sorted.
    pub elements: BTreeMap<String, Vec<String>>,
}

/// A chain of another program at the forward hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardException {
    /// `ip filter FORWARD`, as iptables-nft, Docker and ufw use it.
    Ip,
    /// `ip6 filter FORWARD`.
    Ip6,
}

impl ForwardException {
    pub const ALL: [Self; 2] = [Self::Ip, Self::Ip6];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip filter FORWARD",
            Self::Ip6 => "ip6 filter FORWARD",
        }
    }
}

/// What a WireGuard link is set to (`WGDEVICE_A_*` of linux/wireguard.h). The private key is the kernel edge's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WireguardDevice {
    pub key: PublicKey,
    pub port: u16,
}

/// A peer of it (`WGPEER_A_*`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WireguardPeer {
    pub endpoint: SocketAddr,
    /// Inner addresses that may come from it and go to it.
    pub allowed: BTreeSet<IpNetwork>,
    /// In seconds; 0: none.
    pub keepalive: u16,
    pub preshared: Preshared,
}

/// A permanent neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Neighbour {
    pub mac: Mac,
}

/// A permanent VXLAN forwarding entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fdb {
    pub destination: IpAddr,
}

/// Where the forwarder sends what is for a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UdpPeer {
    /// The peer's outer address.
    pub gateway: Ipv4Addr,
    /// Our own address among the pods', from which the forwarder answers.
    pub source: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    pub kind: RouteKind,
    /// Preferred source address of the node's own packets.
    pub source: Option<IpAddr>,
    /// Route MTU in bytes (`RTAX_MTU`).
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// `via gateway dev link [onlink]`
    Via { gateway: IpAddr, link: String, onlink: bool },
    /// `dev link`: the link itself knows where packets go.
    Device { link: String },
    /// Packets are refused with ICMP host unreachable.
    Unreachable,
}
