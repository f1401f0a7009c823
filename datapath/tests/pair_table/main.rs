//! The pair function against a table written by hand, and, in `properties`, what must hold for any two nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod properties;

use std::{collections::BTreeSet, net::IpAddr};

use tartan_datapath::{
    model::{Backend, Endpoints, Family, Mac, PublicKey, Side, WireguardEndpoint},
    pair::{Path, Reason, is_sealed, others, pair},
};

fn wireguard(number: u8) -> WireguardEndpoint {
    WireguardEndpoint { generation: 0, key: PublicKey([number; 32]), port: 51820 }
}

fn side(backend: Backend, direct_routing: bool, number: u8, prefix: &str) -> Side {
    Side {
        backend,
        accepts: BTreeSet::from(Backend::ALL),
        endpoints: Endpoints {
            wireguard: vec![wireguard(number)],
            vxlan: Some(Mac([2, 0, 0, 0, 0, number])),
            ipip: true,
            host_gw: true,
            ipsec: true,
            udp: Some(8285),
        },
        direct_routing,
        public_ips: vec![format!("192.0.2.{number}").parse().unwrap()],
        tunnel_sources: vec![],
        uplink_prefixes: vec![prefix.parse().unwrap()],
        pairing_version: 1,
        sealed: false,
    }
}

/// One word for the path, as in the table of ARCHITECTURE.md.
fn word(path: Path) -> &'static str {
    match path {
        Path::Direct { .. } => "direct",
        Path::Vxlan { .. } => "vxlan",
        Path::Ipip { .. } => "ipip",
        Path::Wireguard { .. } => "wireguard",
        Path::Ipsec { .. } => "ipsec",
        Path::Udp { .. } => "udp",
        Path::None => "none",
    }
}

#[test]
fn a_pair_is_sealed_where_an_encrypting_side_is_and_both_ends_say_so() {
    let sealed = |backend, sealed| Side { sealed, ..side(backend, false, 1, "192.0.2.0/24") };
    for ours in Backend::ALL {
        for theirs in Backend::ALL {
            for (we, they) in [(false, false), (true, false), (false, true), (true, true)] {
                let (ours, theirs) = (sealed(ours, we), sealed(theirs, they));
                let managed = ours.backend.has_paths() && theirs.backend.has_paths();
                let expected =
                    managed && [&ours, &theirs].iter().any(|side| side.sealed && side.backend.encrypts());
                assert_eq!(is_sealed(&ours, &theirs), expected, "{ours:?} {theirs:?}");
                assert_eq!(is_sealed(&theirs, &ours), expected);
                let path = pair(&ours, &theirs, Backend::Vxlan, Family::V4).path;
                let encrypted = matches!(path, Path::Wireguard { .. } | Path::Ipsec { .. });
                assert!(encrypted || path == Path::None || !expected, "a sealed pair has {path:?}");
            }
        }
    }
}

#[test]
fn every_pair_of_backends_has_the_path_of_the_table() {
    use Reason::{Encrypted, Fallback, OnLink, OverlayOnOneSide, SameBackend, Unmanaged};
    let host_gw = (Backend::HostGw, false);
    let vxlan = (Backend::Vxlan, false);
    let vxlan_direct = (Backend::Vxlan, true);
    let ipip = (Backend::Ipip, false);
    let ipip_direct = (Backend::Ipip, true);
    let udp = (Backend::Udp, false);
    let udp_direct = (Backend::Udp, true);
    let wireguard = (Backend::Wireguard, false);
    let ipsec = (Backend::Ipsec, false);
    let alloc = (Backend::Alloc, false);
    let extension = (Backend::Extension, false);
    // One side, other side, path on one link, path elsewhere.
    let mut table = vec![
        (host_gw, host_gw, ("direct", SameBackend), ("vxlan", Fallback)),
        (host_gw, vxlan, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (host_gw, vxlan_direct, ("direct", OnLink), ("vxlan", OverlayOnOneSide)),
        (host_gw, ipip, ("ipip", OverlayOnOneSide), ("ipip", OverlayOnOneSide)),
        (host_gw, ipip_direct, ("direct", OnLink), ("ipip", OverlayOnOneSide)),
        (host_gw, udp, ("udp", OverlayOnOneSide), ("udp", OverlayOnOneSide)),
        (host_gw, udp_direct, ("direct", OnLink), ("udp", OverlayOnOneSide)),
        (vxlan, vxlan, ("vxlan", SameBackend), ("vxlan", SameBackend)),
        (vxlan, vxlan_direct, ("vxlan", SameBackend), ("vxlan", SameBackend)),
        (vxlan_direct, vxlan_direct, ("direct", OnLink), ("vxlan", SameBackend)),
        (vxlan, ipip, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (vxlan, ipip_direct, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (vxlan_direct, ipip, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (vxlan_direct, ipip_direct, ("direct", OnLink), ("vxlan", OverlayOnOneSide)),
        (vxlan, udp, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (vxlan, udp_direct, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (vxlan_direct, udp, ("vxlan", OverlayOnOneSide), ("vxlan", OverlayOnOneSide)),
        (vxlan_direct, udp_direct, ("direct", OnLink), ("vxlan", OverlayOnOneSide)),
        (ipip, ipip, ("ipip", SameBackend), ("ipip", SameBackend)),
        (ipip, ipip_direct, ("ipip", SameBackend), ("ipip", SameBackend)),
        (ipip_direct, ipip_direct, ("direct", OnLink), ("ipip", SameBackend)),
        (ipip, udp, ("ipip", OverlayOnOneSide), ("ipip", OverlayOnOneSide)),
        (ipip, udp_direct, ("ipip", OverlayOnOneSide), ("ipip", OverlayOnOneSide)),
        (ipip_direct, udp, ("ipip", OverlayOnOneSide), ("ipip", OverlayOnOneSide)),
        (ipip_direct, udp_direct, ("direct", OnLink), ("ipip", OverlayOnOneSide)),
        (udp, udp, ("udp", SameBackend), ("udp", SameBackend)),
        (udp, udp_direct, ("udp", SameBackend), ("udp", SameBackend)),
        (udp_direct, udp_direct, ("direct", OnLink), ("udp", SameBackend)),
        (wireguard, wireguard, ("wireguard", SameBackend), ("wireguard", SameBackend)),
        (wireguard, ipsec, ("wireguard", Encrypted), ("wireguard", Encrypted)),
        (ipsec, ipsec, ("ipsec", SameBackend), ("ipsec", SameBackend)),
    ];
    let clear = [host_gw, vxlan, vxlan_direct, ipip, ipip_direct, udp, udp_direct];
    for other in clear {
        table.push((wireguard, other, ("wireguard", Encrypted), ("wireguard", Encrypted)));
        table.push((ipsec, other, ("ipsec", Encrypted), ("ipsec", Encrypted)));
    }
    for unmanaged in [alloc, extension] {
        for other in clear.into_iter().chain([wireguard, ipsec, alloc, extension]) {
            table.push((unmanaged, other, ("none", Unmanaged), ("none", Unmanaged)));
        }
    }
    let kinds = clear.len() + 4;
    let pairs: BTreeSet<_> = table.iter().map(|(one, other, ..)| (one.min(other), one.max(other))).collect();
    assert_eq!(pairs.len(), kinds * (kinds + 1) / 2, "each pair is in the table");
    for (one, other, on_link, elsewhere) in table {
        // Both prefixes cover the other's address; none does; only one does, which is not "on one link".
        let prefixes = [
            ("192.0.2.0/24", "192.0.2.0/24", on_link),
            ("192.0.2.0/30", "192.0.2.128/25", elsewhere),
            ("192.0.2.0/24", "192.0.2.128/25", elsewhere),
            ("192.0.2.0/30", "192.0.2.0/24", elsewhere),
        ];
        for (ours, theirs, expected) in prefixes {
            let (a, b) = (side(one.0, one.1, 1, ours), side(other.0, other.1, 200, theirs));
            for (from, to) in [(&a, &b), (&b, &a)] {
                let found = pair(from, to, Backend::Vxlan, Family::V4);
                assert_eq!(
                    (word(found.path), found.reason),
                    expected,
                    "{one:?} with {other:?}, prefixes {ours} {theirs}"
                );
            }
        }
    }
}

#[test]
fn a_path_leads_to_what_the_other_end_published() {
    let (a, b) =
        (side(Backend::Vxlan, true, 1, "192.0.2.0/24"), side(Backend::HostGw, false, 2, "192.0.2.0/24"));
    let gateway: IpAddr = "192.0.2.2".parse().unwrap();
    assert_eq!(pair(&a, &b, Backend::Vxlan, Family::V4).path, Path::Direct { gateway });
    let b = side(Backend::Vxlan, false, 2, "192.0.2.0/24");
    assert_eq!(
        pair(&a, &b, Backend::Vxlan, Family::V4).path,
        Path::Vxlan { destination: gateway, mac: Mac([2, 0, 0, 0, 0, 2]) }
    );
}

#[test]
fn what_is_missing_is_the_reason_on_both_ends() {
    let whole = || side(Backend::Vxlan, false, 2, "192.0.2.0/24");
    type Spoil = fn(&mut Side);
    let cases: [(Spoil, Reason); 8] = [
        (|side| side.public_ips.clear(), Reason::NoAddress),
        (|side| side.public_ips = vec!["2001:db8::1".parse().unwrap()], Reason::NoCommonFamily),
        (|side| side.public_ips = vec!["192.0.2.2".parse().unwrap()], Reason::SameAddress),
        (|side| side.accepts = BTreeSet::from([Backend::HostGw]), Reason::NotAccepted),
        (|side| side.accepts.clear(), Reason::NotAccepted),
        (|side| side.endpoints = Endpoints::default(), Reason::NoEndpoint),
        // Of the others one is received but there is no link for it, and two have no end point.
        (
            |side| {
                side.endpoints =
                    Endpoints { ipip: true, host_gw: true, udp: Some(1), ..Endpoints::default() };
                side.accepts.remove(&Backend::Ipip);
                side.accepts.remove(&Backend::Udp);
                side.uplink_prefixes.clear();
            },
            Reason::NoEndpoint,
        ),
        (
            |side| {
                side.endpoints.vxlan = None;
                side.accepts = BTreeSet::from([Backend::Vxlan]);
            },
            Reason::NoEndpoint,
        ),
    ];
    for (spoil, reason) in cases {
        let mut spoiled = side(Backend::Vxlan, false, 1, "192.0.2.0/24");
        spoil(&mut spoiled);
        for (from, to) in [(&spoiled, &whole()), (&whole(), &spoiled)] {
            let found = pair(from, to, Backend::Vxlan, Family::V4);
            assert_eq!((found.path, found.reason), (Path::None, reason));
        }
    }
}

#[test]
fn a_pair_that_waits_for_an_end_point_keeps_another_path() {
    let moved = |backend, spoil: fn(&mut Endpoints)| {
        let mut side = side(backend, false, 1, "192.0.2.0/24");
        spoil(&mut side.endpoints);
        side
    };
    let only = |there: &mut Endpoints| *there = Endpoints { host_gw: true, ..Endpoints::default() };
    // Nobody knows whether the other end answers there.
    let encrypted_only = |there: &mut Endpoints| {
        *there = Endpoints { wireguard: there.wireguard.clone(), ipsec: there.ipsec, ..Endpoints::default() }
    };
    let cases = [
        (moved(Backend::HostGw, |there| there.host_gw = false), Backend::HostGw, "vxlan"),
        (moved(Backend::Vxlan, |there| there.vxlan = None), Backend::HostGw, "ipip"),
        (moved(Backend::Vxlan, encrypted_only), Backend::HostGw, "wireguard"),
        (moved(Backend::Vxlan, only), Backend::HostGw, "direct"),
        (moved(Backend::Vxlan, only), Backend::Vxlan, "direct"),
        (moved(Backend::Ipip, |there| there.ipip = false), Backend::Ipip, "vxlan"),
    ];
    for (waiting, other, expected) in cases {
        let other = side(other, false, 2, "192.0.2.0/24");
        for (from, to) in [(&waiting, &other), (&other, &waiting)] {
            let found = pair(from, to, Backend::Vxlan, Family::V4);
            assert_eq!((word(found.path), found.reason), (expected, Reason::Interim));
        }
    }
}

#[test]
fn a_plain_route_needs_a_link_of_its_own_family_and_a_tunnel_carries_both() {
    let two = |number: u8, v6_prefix: &str| {
        let mut side = side(Backend::HostGw, false, number, "192.0.2.0/24");
        side.public_ips.push(format!("2001:db8::{number}").parse().unwrap());
        side.uplink_prefixes.push(v6_prefix.parse().unwrap());
        side
    };
    let word_of = |a: &Side, b: &Side, family| word(pair(a, b, Backend::Vxlan, family).path);
    let (a, b) = (two(1, "2001:db8::/64"), two(2, "2001:db8::/64"));
    assert_eq!((word_of(&a, &b, Family::V4), word_of(&a, &b, Family::V6)), ("direct", "direct"));
    let gateway: IpAddr = "2001:db8::2".parse().unwrap();
    assert_eq!(pair(&a, &b, Backend::Vxlan, Family::V6).path, Path::Direct { gateway });
    // IPv6 on other links, or no IPv6 on the uplink at all.
    let elsewhere = two(2, "2001:db8:1::/64");
    let without = side(Backend::HostGw, false, 2, "192.0.2.0/24");
    for other in [elsewhere, without] {
        assert_eq!((word_of(&a, &other, Family::V4), word_of(&a, &other, Family::V6)), ("direct", "vxlan"));
    }
}

#[test]
fn where_one_side_encrypts_nothing_stands_in_for_it() {
    type Spoil = fn(&mut Side);
    let spoils: [(Spoil, Reason); 2] = [
        (|side| side.endpoints.wireguard.clear(), Reason::NoEndpoint),
        (|side| _ = side.accepts.remove(&Backend::Wireguard), Reason::NotAccepted),
    ];
    for (spoil, reason) in spoils {
        for other in Backend::ALL.into_iter().filter(|backend| backend.has_paths()) {
            let encrypting = side(Backend::Wireguard, false, 1, "192.0.2.0/24");
            let mut other = side(other, false, 2, "192.0.2.0/24");
            spoil(&mut other);
            for (from, to) in [(&encrypting, &other), (&other, &encrypting)] {
                let found = pair(from, to, Backend::Vxlan, Family::V4);
                assert_eq!((found.path, found.reason), (Path::None, reason));
            }
        }
    }
}

#[test]
fn ipip_carries_ipv4_over_ipv4_and_the_fallback_the_rest() {
    let two = |number: u8| {
        let mut side = side(Backend::Ipip, false, number, "192.0.2.0/24");
        side.public_ips.push(format!("2001:db8::{number}").parse().unwrap());
        side
    };
    let of = |a: &Side, b: &Side, family| {
        let found = pair(a, b, Backend::Vxlan, family);
        (word(found.path), found.reason)
    };
    let (a, b) = (two(1), two(2));
    assert_eq!(of(&a, &b, Family::V4), ("ipip", Reason::SameBackend));
    assert_eq!(of(&a, &b, Family::V6), ("vxlan", Reason::OtherFamily));
    // An underlay of IPv6 alone.
    let six = |number| {
        let mut side = two(number);
        side.public_ips.remove(0);
        side
    };
    assert_eq!(of(&six(1), &six(2), Family::V4), ("vxlan", Reason::OtherFamily));
}

#[test]
fn what_may_stand_in_for_wireguard_encrypts_where_the_pair_is_sealed() {
    let of = |ours: &Side, theirs: &Side| -> Vec<&str> {
        let found = [(ours, theirs), (theirs, ours)].map(|(from, to)| {
            others(from, to, Backend::Wireguard, Family::V4).into_iter().map(word).collect::<Vec<_>>()
        });
        assert_eq!(found[0], found[1]);
        found[0].clone()
    };
    let mut ours = side(Backend::Wireguard, false, 1, "192.0.2.0/24");
    let mut theirs = side(Backend::Vxlan, false, 2, "192.0.2.0/24");
    assert_eq!(of(&ours, &theirs), ["ipsec", "vxlan", "ipip", "udp", "direct"]);
    ours.sealed = true;
    assert_eq!(of(&ours, &theirs), ["ipsec"]);
    ours.sealed = false;
    theirs.accepts = BTreeSet::from([Backend::Wireguard, Backend::Vxlan]);
    assert_eq!(of(&ours, &theirs), ["vxlan"]);
    ours.public_ips.clear();
    assert!(of(&ours, &theirs).is_empty());
}
