//! The MTU rule, in bytes.
//!
//! A node's pod MTU is its uplink's MTU less the largest overhead of any backend that it may use, so that
//! no change of a pair's path strands running pods. Each peer's route carries the smaller of both ends.

use std::net::IpAddr;

/// VXLAN over IPv4: Ethernet 14 + IPv4 20 + UDP 8 + VXLAN 8 (RFC 7348 section 5).
pub const VXLAN_OVER_V4: u32 = 50;
/// VXLAN over IPv6, whose header is 20 bytes longer (RFC 8200 section 3).
pub const VXLAN_OVER_V6: u32 = 70;
/// The least MTU with which IPv4 hosts must work (RFC 791 section 3.1: 576).
pub const LEAST: u32 = 576;

/// Pod MTU of a node: as asked for, else what the uplink leaves. The asked-for value is bounded by what
/// the uplink can carry.
pub fn pod_mtu(uplink_mtu: u32, underlay: IpAddr, wanted: Option<u32>) -> u32 {
    let overhead = if underlay.is_ipv4() { VXLAN_OVER_V4 } else { VXLAN_OVER_V6 };
    let most = uplink_mtu.saturating_sub(overhead).max(LEAST);
    wanted.map_or(most, |wanted| wanted.clamp(LEAST, most))
}

/// MTU of the route to a peer.
pub fn route_mtu(ours: u32, theirs: Option<u32>) -> u32 {
    theirs.filter(|theirs| *theirs >= LEAST).map_or(ours, |theirs| ours.min(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_mtu_leaves_room_for_the_tunnel_header() {
        let v4 = "192.0.2.1".parse().unwrap();
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(pod_mtu(1500, v4, None), 1450);
        assert_eq!(pod_mtu(1500, v6, None), 1430);
        assert_eq!(pod_mtu(9001, v4, Some(1400)), 1400);
        assert_eq!(pod_mtu(1500, v4, Some(9000)), 1450);
        assert_eq!(pod_mtu(500, v4, None), LEAST);
    }

    #[test]
    fn a_route_carries_the_smaller_mtu_and_ignores_nonsense() {
        assert_eq!(route_mtu(1450, Some(1400)), 1400);
        assert_eq!(route_mtu(1400, Some(1450)), 1400);
        assert_eq!(route_mtu(1450, None), 1450);
        assert_eq!(route_mtu(1450, Some(3)), 1450);
    }
}
