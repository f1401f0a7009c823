//! The MTU rule, in bytes.
//!
//! A node's pod MTU is its uplink's MTU less the largest overhead of any backend that it may use, so that
//! no change of a pair's path strands running pods. Each peer's route carries the smaller of both ends.

use crate::model::{Backend, Family};

/// The least MTU with which IPv4 hosts must work (RFC 791 section 3.1: 576).
pub const LEAST: u32 = 576;
/// The least MTU of a link that carries IPv6 (RFC 8200 section 5). Below it the kernel has no IPv6 on a device.
pub const LEAST_V6: u32 = 1280;

/// What a backend adds to each packet over an underlay of this family.
pub fn overhead(backend: Backend, underlay: Family) -> u32 {
    /// RFC 791 section 3.1, without options.
    const IPV4: u32 = 20;
    /// RFC 8200 section 3.
    const IPV6: u32 = 40;
    let ip = match underlay {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    };
    match backend {
        Backend::HostGw | Backend::Alloc | Backend::Extension => 0,
        Backend::Ipip => ip,
        // UDP (RFC 768).
        Backend::Udp => ip + 8,
        // UDP 8 (RFC 3948), which the IKE daemon goes over to where addresses are translated on the way; ESP's
        // header 8, trailer 2 and padding to words, 3 at most (RFC 4303 section 2); AES-GCM's initialisation vector
        // 8 and check value 16 (RFC 4106 sections 3.1 and 6). ChaCha20-Poly1305 takes the same (RFC 7634).
        Backend::Ipsec => ip + 8 + 8 + 8 + 3 + 2 + 16,
        // UDP 8, data message 16 and its tag 16 (WireGuard: Next Generation Kernel Network Tunnel, section 5.4.6).
        Backend::Wireguard => ip + 8 + 32,
        // UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348 section 5).
        Backend::Vxlan => ip + 8 + 8 + 14,
    }
}

/// What a backend's device can carry without fragments.
pub fn inside(uplink_mtu: u32, backend: Backend, underlay: Family) -> u32 {
    uplink_mtu.saturating_sub(overhead(backend, underlay)).max(LEAST)
}

/// Pod MTU of a node: as asked for, else what the uplink leaves inside of the backend that adds the most. The
/// asked-for value is bounded by that, and both by `least`: what pods' family takes.
pub fn pod_mtu(
    uplink_mtu: u32,
    underlay: Family,
    backends: impl IntoIterator<Item = Backend>,
    wanted: Option<u32>,
    least: u32,
) -> u32 {
    let most = backends.into_iter().map(|backend| inside(uplink_mtu, backend, underlay)).min();
    let most = most.unwrap_or(uplink_mtu).max(least);
    wanted.map_or(most, |wanted| wanted.clamp(least, most))
}

/// MTU of the route to a peer.
pub fn route_mtu(ours: u32, theirs: Option<u32>) -> u32 {
    theirs.filter(|theirs| *theirs >= LEAST).map_or(ours, |theirs| ours.min(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_mtu_leaves_room_for_the_largest_header() {
        use Backend::{HostGw, Ipip, Vxlan};
        use Family::{V4, V6};
        fn pod_mtu<const N: usize>(
            uplink: u32,
            underlay: Family,
            backends: [Backend; N],
            wanted: Option<u32>,
        ) -> u32 {
            super::pod_mtu(uplink, underlay, backends, wanted, LEAST)
        }
        let six = |uplink, wanted| super::pod_mtu(uplink, V4, [Vxlan], wanted, LEAST_V6);
        assert_eq!(pod_mtu(1500, V4, [Vxlan, HostGw], None), 1450);
        assert_eq!(pod_mtu(1500, V6, [Vxlan], None), 1430);
        assert_eq!(pod_mtu(1500, V4, [Ipip, HostGw], None), 1480);
        assert_eq!(pod_mtu(1500, V4, [Ipip, Vxlan], None), 1450);
        assert_eq!(pod_mtu(1500, V4, [HostGw], None), 1500);
        assert_eq!(pod_mtu(9001, V4, [Vxlan], Some(1400)), 1400);
        assert_eq!(pod_mtu(1500, V4, [Vxlan], Some(9000)), 1450);
        assert_eq!(pod_mtu(1500, V4, [Backend::Wireguard, Vxlan], None), 1440);
        assert_eq!(pod_mtu(1500, V6, [Backend::Wireguard, Vxlan], None), 1420);
        assert_eq!(pod_mtu(1500, V4, [Backend::Udp], None), 1472);
        assert_eq!(pod_mtu(1500, V4, [Backend::Ipsec, Vxlan], None), 1435);
        assert_eq!(pod_mtu(1500, V6, [Backend::Ipsec, Vxlan], None), 1415);
        assert_eq!(pod_mtu(1500, V4, [Backend::Alloc], None), 1500);
        assert_eq!(pod_mtu(500, V4, [Vxlan], None), LEAST);
        // Pods of IPv6 have it on their node at least, whatever was asked for and whatever the uplink leaves.
        assert_eq!(six(1300, None), LEAST_V6);
        assert_eq!(six(1500, Some(1000)), LEAST_V6);
        assert_eq!(six(1500, Some(1400)), 1400);
    }

    #[test]
    fn a_route_carries_the_smaller_mtu_and_ignores_nonsense() {
        assert_eq!(route_mtu(1450, Some(1400)), 1400);
        assert_eq!(route_mtu(1400, Some(1450)), 1400);
        assert_eq!(route_mtu(1450, None), 1450);
        assert_eq!(route_mtu(1450, Some(3)), 1450);
    }
}
