//! This node's own objects: links, addresses, settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnetwork::IpNetwork;

use super::{Desired, receives};
use crate::{
    mark,
    model::{
        Address, Backend, Elements, Family, IkeAuthentication, IkeCredentials, Intent, Key, Link, LinkKind,
        Offload, Port, Sysctl, Uplink, Value, WireguardDevice, WireguardEndpoint,
    },
    mtu, pair,
    problem::{Problem, ProblemKind},
};

pub(super) fn add(intent: &Intent, desired: &mut Desired) {
    let elements = &mut desired.elements;
    let local = &intent.local;
    elements.insert(
        Key::Link(mark::BRIDGE.into()),
        Value::Link(Link { kind: LinkKind::Bridge, mac: Some(local.bridge_mac), mtu: local.mtu, up: true }),
    );
    for subnet in &local.subnets {
        if let Some(gateway) = gateway(subnet.prefix) {
            add_address(elements, mark::BRIDGE, gateway);
        }
    }
    let mut tunnels = vec![];
    for underlay in vxlan_underlays(intent).filter(|_| receives(intent, Backend::Vxlan)) {
        tunnels.push(add_vxlan(intent, underlay, elements));
    }
    if receives(intent, Backend::Ipip) && add_ipip(intent, elements) {
        tunnels.push(mark::IPIP);
    }
    for own in wireguard_ends(intent) {
        if receives(intent, Backend::Wireguard) && add_wireguard(intent, own, elements) {
            tunnels.push(mark::wireguard(own.generation));
        }
    }
    if receives(intent, Backend::Ipsec) && add_ipsec(intent, elements) {
        tunnels.push(mark::IPSEC);
    }
    if receives(intent, Backend::Udp) && add_udp(intent, elements) {
        tunnels.push(mark::UDP);
    }
    // On the bridge and not on the tunnel: when a link goes, the kernel drops every route whose source was
    // one of its addresses, and plain routes shall outlive the tunnel.
    for subnet in local.subnets.iter().filter(|subnet| subnet.primary && subnet.prefix.is_ipv4()) {
        add_address(elements, mark::BRIDGE, IpNetwork::from(base(subnet.prefix)));
    }
    add_sysctls(intent, &tunnels, elements);
    for port in &intent.host.ports {
        elements.insert(Key::Port(port.clone()), Value::Port(Port { attached: true, hairpin: true }));
    }
    for chain in &intent.host.forward_drop {
        elements.insert(Key::ForwardException(*chain), Value::ForwardException);
    }
    check(intent, &mut desired.problems);
}

/// Addresses that VXLAN devices send from: the uplink's first, and that of another family where a peer has no other.
fn vxlan_underlays(intent: &Intent) -> impl Iterator<Item = IpAddr> {
    let addresses = intent.local.uplink.addresses.iter().map(IpNetwork::ip).enumerate();
    addresses.filter(|(place, local)| *place == 0 || has_peer_by(intent, *local)).map(|(_, local)| local)
}

fn has_peer_by(intent: &Intent, local: IpAddr) -> bool {
    let mut theirs =
        intent.peers.iter().filter_map(|peer| pair::outer_address(&intent.local.side, &peer.side));
    theirs.any(|theirs| theirs.is_ipv4() == local.is_ipv4())
}

/// The answer is the device's name.
fn add_vxlan(intent: &Intent, local: IpAddr, elements: &mut Elements) -> &'static str {
    let uplink = &intent.local.uplink;
    let name = mark::vxlan(local);
    let kind = LinkKind::Vxlan {
        vni: intent.vxlan.vni,
        port: intent.vxlan.port,
        device: uplink.name.clone(),
        local,
        learning: intent.vxlan.learning,
        gbp: intent.vxlan.gbp,
    };
    let mtu = mtu::inside(uplink.mtu, Backend::Vxlan, Family::of_address(local));
    elements.insert(
        Key::Link(name.into()),
        Value::Link(Link { kind, mac: Some(intent.local.vxlan_mac), mtu, up: true }),
    );
    add_address(elements, name, IpNetwork::from(IpAddr::V4(mark::TUNNEL_ADDRESS)));
    elements.insert(
        Key::Offload(name.into()),
        Value::Offload(Offload { tx_checksum: intent.vxlan.tx_checksum_offload }),
    );
    name
}

/// False where the uplink has no IPv4 address to send from.
fn add_ipip(intent: &Intent, elements: &mut Elements) -> bool {
    let uplink = &intent.local.uplink;
    let Some(local) = v4_address(uplink) else { return false };
    let mtu = mtu::inside(uplink.mtu, Backend::Ipip, Family::V4);
    let kind = LinkKind::Ipip { local };
    elements.insert(Key::Link(mark::IPIP.into()), Value::Link(Link { kind, mac: None, mtu, up: true }));
    add_address(elements, mark::IPIP, IpNetwork::from(IpAddr::V4(mark::TUNNEL_ADDRESS)));
    true
}

/// False where the uplink has no IPv4 address to receive at.
fn add_udp(intent: &Intent, elements: &mut Elements) -> bool {
    let uplink = &intent.local.uplink;
    let Some(local) = v4_address(uplink) else { return false };
    let kind = LinkKind::Tun { local: SocketAddrV4::new(local, intent.udp.port) };
    let mtu = mtu::inside(uplink.mtu, Backend::Udp, Family::V4);
    elements.insert(Key::Link(mark::UDP.into()), Value::Link(Link { kind, mac: None, mtu, up: true }));
    add_address(elements, mark::UDP, IpNetwork::from(IpAddr::V4(mark::TUNNEL_ADDRESS)));
    true
}

fn v4_address(uplink: &Uplink) -> Option<Ipv4Addr> {
    uplink.addresses.iter().find_map(|address| match address.ip() {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => None,
    })
}

/// The link of an end point of ours. False where the uplink has no address.
fn add_wireguard(intent: &Intent, own: WireguardEndpoint, elements: &mut Elements) -> bool {
    let uplink = &intent.local.uplink;
    let Some(underlay) = uplink.addresses.first().map(Family::of) else { return false };
    let name = mark::wireguard(own.generation);
    let mtu = mtu::inside(uplink.mtu, Backend::Wireguard, underlay);
    let link = Link { kind: LinkKind::Wireguard, mac: None, mtu, up: true };
    elements.insert(Key::Link(name.into()), Value::Link(link));
    let device = WireguardDevice { key: own.key, port: own.port };
    elements.insert(Key::WireguardDevice(name.into()), Value::WireguardDevice(device));
    add_address(elements, name, IpNetwork::from(IpAddr::V4(mark::TUNNEL_ADDRESS)));
    true
}

/// Where this node receives by WireGuard, published or not.
pub(super) fn wireguard_ends(intent: &Intent) -> Vec<WireguardEndpoint> {
    intent.local.side.endpoints.wireguard.iter().chain(&intent.wireguard.leaving).copied().collect()
}

/// False where the uplink has no address to send from.
fn add_ipsec(intent: &Intent, elements: &mut Elements) -> bool {
    let uplink = &intent.local.uplink;
    let Some(underlay) = uplink.addresses.first().map(Family::of) else { return false };
    let mtu = mtu::inside(uplink.mtu, Backend::Ipsec, underlay);
    let kind = LinkKind::Xfrm { number: mark::XFRM_INTERFACE };
    elements.insert(Key::Link(mark::IPSEC.into()), Value::Link(Link { kind, mac: None, mtu, up: true }));
    add_address(elements, mark::IPSEC, IpNetwork::from(IpAddr::V4(mark::TUNNEL_ADDRESS)));
    let credentials = match intent.ipsec.authentication {
        IkeAuthentication::PresharedKey => IkeCredentials::PresharedKey,
        IkeAuthentication::Certificate => IkeCredentials::Certificate { node: intent.local.node.clone() },
    };
    elements.insert(Key::IkeCredentials, Value::IkeCredentials(credentials));
    true
}

/// docs/host-footprint.md explains each.
fn add_sysctls(intent: &Intent, tunnels: &[&str], elements: &mut Elements) {
    let mut set = |path: String, value: &str| {
        elements.insert(Key::Sysctl(path), Value::Sysctl(Sysctl { value: value.into() }));
    };
    if intent.local.subnets.iter().any(|subnet| subnet.prefix.is_ipv4()) {
        set("ipv4/ip_forward".into(), "1");
    }
    if intent.local.subnets.iter().any(|subnet| subnet.prefix.is_ipv6()) {
        set("ipv6/conf/all/forwarding".into(), "1");
        // With forwarding on, 1 would mean to ignore router advertisements, by which the uplink may
        // have its default route.
        set(format!("ipv6/conf/{}/accept_ra", intent.local.uplink.name), "2");
        // A hardened host gives new links no IPv6. Its own links are its own business.
        for link in tunnels.iter().chain([&mark::BRIDGE]) {
            set(format!("ipv6/conf/{link}/disable_ipv6"), "0");
        }
    }
    // Loose: a peer may still send by the path that this node has already left. The greater value of the
    // link's and `all` is in force, so 0 would not help where `all` is strict.
    set(format!("ipv4/conf/{}/rp_filter", mark::BRIDGE), "2");
    for tunnel in tunnels {
        set(format!("ipv4/conf/{tunnel}/rp_filter"), "2");
    }
    if tunnels.contains(&mark::UDP) {
        // The forwarder's ICMP errors come from the device with this node's own source. From peers nothing can:
        // the forwarder takes from each only its subnets.
        set(format!("ipv4/conf/{}/accept_local", mark::UDP), "1");
    }
    let in_kernel = |tunnel: &&str| mark::WIREGUARD.contains(tunnel) && !intent.wireguard.user_space;
    if tunnels.iter().any(in_kernel) {
        // The kernel does so itself when the link comes up, and leaves it so (wg_open, drivers/net/wireguard/device.c).
        set("ipv4/conf/all/send_redirects".into(), "0");
    }
    if intent.host.uplink_strict_rp_filter {
        set(format!("ipv4/conf/{}/rp_filter", intent.local.uplink.name), "2");
    }
    if intent.host.bridge_netfilter {
        set("bridge/bridge-nf-call-iptables".into(), "1");
    }
}

fn add_address(elements: &mut Elements, link: &str, address: IpNetwork) {
    elements.insert(Key::Address { link: link.into(), address }, Value::Address(Address {}));
}

/// A node's base address, of its primary subnet: the source of its own packets to peers. IPv4: the network address,
/// which no pod can have. IPv6: the gateway's, since there the network address is the routers' anycast address
/// (RFC 4291, section 2.6.1), from which nothing may be sent.
pub fn base(subnet: IpNetwork) -> IpAddr {
    let network = subnet.network();
    if subnet.is_ipv4() { network } else { gateway(subnet).map_or(network, |gateway| gateway.ip()) }
}

/// The first host address of a subnet, with the subnet's length: pods' default gateway.
pub fn gateway(subnet: IpNetwork) -> Option<IpNetwork> {
    let address = match subnet {
        IpNetwork::V4(prefix) => {
            u32::from(prefix.network()).checked_add(1).map(|bits| IpAddr::V4(bits.into()))
        }
        IpNetwork::V6(prefix) => {
            u128::from(prefix.network()).checked_add(1).map(|bits| IpAddr::V6(bits.into()))
        }
    }?;
    IpNetwork::new(address, subnet.prefix()).ok()
}

fn check(intent: &Intent, problems: &mut Vec<Problem>) {
    let uplink = &intent.local.uplink;
    let underlay = uplink.addresses.first().map_or(Family::V4, Family::of);
    let v6 = intent.local.subnets.iter().any(|subnet| subnet.prefix.is_ipv6());
    let (least, what) = if v6 { (mtu::LEAST_V6, " for IPv6") } else { (mtu::LEAST, "") };
    let backends = intent.local.side.accepts.iter().chain([&intent.local.side.backend, &intent.fallback]);
    let overhead = backends.map(|backend| mtu::overhead(*backend, underlay)).max().unwrap_or(0);
    if uplink.mtu < least + overhead {
        problems.push(Problem {
            kind: ProblemKind::SmallMtu,
            node: intent.local.node.clone(),
            message: format!(
                "the uplink {} has MTU {}, which leaves less than {least} bytes{what} inside of a tunnel: raise it, or choose another uplink",
                uplink.name, uplink.mtu
            ),
        });
    }
    for protected in &intent.protected {
        if let Some(entry) = intent.entries.iter().find(|entry| entry.contains(protected.address)) {
            problems.push(Problem {
                kind: ProblemKind::ProtectedInEntry,
                node: intent.local.node.clone(),
                message: format!(
                    "{} ({}) lies in the pod network {entry}: pods may not reach it; choose another range in ClusterNetwork.spec.cidrs",
                    protected.address, protected.what
                ),
            });
        }
    }
}
