//! How our objects are recognised in the kernel. docs/host-footprint.md lists them for administrators.

use std::net::{IpAddr, SocketAddrV4};

/// Route protocol (rtnetlink `rtm_protocol`) of every route of ours. Not assigned in
/// linux/rtnetlink.h nor in iproute2's rt_protos.
pub const ROUTE_PROTOCOL: u8 = 84;
/// `IFLA_IFALIAS` of every link of ours.
pub const LINK_ALIAS: &str = "tartan: managed by tartan-node-agent";
/// `IFLA_IFALIAS` of the host's end of a pod's link. Not a link of ours: only that it is a port of
/// [`BRIDGE`] is.
pub const PORT_ALIAS: &str = "tartan: port of tartan0";
/// Our nft table, family `inet`.
pub const NFT_TABLE: &str = "tartan";
/// Comment on the rules that we put into chains of others.
pub const RULE_COMMENT: &str = "tartan";
/// The bridge that pods hang on. kube-proxy's `detectLocalMode: BridgeInterface` names it.
pub const BRIDGE: &str = "tartan0";
/// The VXLAN device over IPv4.
pub const VXLAN: &str = "tartan-vxlan";
/// The VXLAN device over IPv6: one device has sockets of one family. A node has both where it has addresses of both and
/// a peer that has no IPv4. See [`vxlan`].
pub const VXLAN6: &str = "tartan-vxlan6";
/// The IP-in-IP device.
pub const IPIP: &str = "tartan-ipip";
/// The WireGuard devices: one in use, and a second while keys are rotated. See [`wireguard`].
pub const WIREGUARD: [&str; 2] = ["tartan-wg0", "tartan-wg1"];
/// The IPsec device.
pub const IPSEC: &str = "tartan-ipsec";
/// Number of the IPsec device (`IFLA_XFRM_IF_ID`), and so of all IPsec policies of ours: 84, as the route protocol.
pub const XFRM_INTERFACE: u32 = 84;
/// How the names of our connections in the IKE daemon begin.
pub const IKE_PREFIX: &str = "tartan-";
/// The TUN device of the udp path, which `tartan-forwarder` reads and writes.
pub const UDP: &str = "tartan-udp";
/// The routing table that no rule leads to, from which the forwarder learns who the peers are: each of their subnets
/// via the peer's address. Which packets go to the device at all is for the main table to say.
pub const UDP_TABLE: u32 = 84;
/// All devices that wrap packets.
pub const TUNNELS: [&str; 7] = [VXLAN, VXLAN6, IPIP, WIREGUARD[0], WIREGUARD[1], IPSEC, UDP];
/// Devices whose packets nobody on the way can read or make.
pub const ENCRYPTING: [&str; 3] = [WIREGUARD[0], WIREGUARD[1], IPSEC];
/// An address on each tunnel device that nothing sends from or to. On a device without any, the kernel
/// takes a loose reverse-path filter as a strict one (`no_addr` in `__fib_validate_source`,
/// net/ipv4/fib_frontend.c), and drops what comes by the tunnel while our own route already, or still, leads
/// elsewhere. In 127.0.0.0/8 the kernel gives it scope host, and it can be nobody else's.
pub const TUNNEL_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 84, 84, 84);

/// The VXLAN device that reaches this underlay address.
pub fn vxlan(underlay: IpAddr) -> &'static str {
    if underlay.is_ipv4() { VXLAN } else { VXLAN6 }
}

/// The device of a generation of WireGuard keys: even ones have the first, odd ones the second.
pub fn wireguard(generation: u32) -> &'static str {
    let [even, odd] = WIREGUARD;
    if generation.is_multiple_of(2) { even } else { odd }
}

/// Between our mark and where the forwarder receives, in the alias of [`UDP`]: the device itself tells, so that
/// neither process needs a file of the other.
const UDP_ALIAS: &str = "; udp ";

/// The alias of [`UDP`].
pub fn udp_alias(local: SocketAddrV4) -> String {
    format!("{LINK_ALIAS}{UDP_ALIAS}{local}")
}

/// Where the forwarder receives, of an alias that [`udp_alias`] made.
pub fn udp_local(alias: &str) -> Option<SocketAddrV4> {
    alias.strip_prefix(LINK_ALIAS)?.strip_prefix(UDP_ALIAS)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alias_tells_where_the_forwarder_receives() {
        let local = SocketAddrV4::new(std::net::Ipv4Addr::new(192, 0, 2, 1), 8285);
        assert_eq!(udp_local(&udp_alias(local)), Some(local));
        assert_eq!(udp_local(LINK_ALIAS), None);
        assert_eq!(udp_local("; udp 192.0.2.1:8285"), None);
    }
}
