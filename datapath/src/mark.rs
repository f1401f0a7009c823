//! How our objects are recognised in the kernel. docs/host-footprint.md lists them for administrators.

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
/// The VXLAN device.
pub const VXLAN: &str = "tartan-vxlan";
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
/// All devices that wrap packets.
pub const TUNNELS: [&str; 5] = [VXLAN, IPIP, WIREGUARD[0], WIREGUARD[1], IPSEC];
/// Devices whose packets nobody on the way can read or make.
pub const ENCRYPTING: [&str; 3] = [WIREGUARD[0], WIREGUARD[1], IPSEC];
/// An address on each tunnel device that nothing sends from or to. On a device without any, the kernel
/// takes a loose reverse-path filter as a strict one (`no_addr` in `__fib_validate_source`,
/// net/ipv4/fib_frontend.c), and drops what comes by the tunnel while our own route already, or still, leads
/// elsewhere. In 127.0.0.0/8 the kernel gives it scope host, and it can be nobody else's.
pub const TUNNEL_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 84, 84, 84);

/// The device of a generation of WireGuard keys: even ones have the first, odd ones the second.
pub fn wireguard(generation: u32) -> &'static str {
    let [even, odd] = WIREGUARD;
    if generation.is_multiple_of(2) { even } else { odd }
}
