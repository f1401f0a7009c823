//! What must hold for any two nodes.

use ipnetwork::IpNetwork;
use proptest::{collection, prelude::*, sample::subsequence};
use tartan_datapath::{
    model::{Backend, Endpoints, Family, Mac, Side, WireguardEndpoint},
    pair::{Path, Reason, pair},
};

use super::{wireguard, word};

fn any_side() -> impl Strategy<Value = Side> {
    let prefixes = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "198.51.100.0/24", "2001:db8::/64"];
    let addresses = ["192.0.2.1", "192.0.2.200", "198.51.100.7", "2001:db8::1", "2001:db8::2"];
    (
        prop::sample::select(&Backend::ALL[..]),
        subsequence(Backend::ALL.to_vec(), 0..=Backend::ALL.len()),
        (
            prop::option::of(any::<[u8; 6]>()),
            any::<[bool; 4]>(),
            prop::option::of(any::<u16>()),
            subsequence(vec![0, 1, 2], 0..=2),
        ),
        collection::vec(prop::sample::select(addresses.to_vec()), 0..=2),
        subsequence(prefixes.to_vec(), 0..=5),
    )
        .prop_map(
            |(
                backend,
                accepts,
                (mac, [ipip, host_gw, ipsec, direct_routing], udp, generations),
                addresses,
                prefixes,
            )| Side {
                backend,
                accepts: accepts.into_iter().collect(),
                endpoints: Endpoints {
                    wireguard: generations
                        .into_iter()
                        .map(|generation| WireguardEndpoint { generation, ..wireguard(7) })
                        .collect(),
                    vxlan: mac.map(Mac),
                    ipip,
                    host_gw,
                    ipsec,
                    udp,
                },
                direct_routing,
                public_ips: addresses.into_iter().map(|a| a.parse().unwrap()).collect(),
                tunnel_sources: vec![],
                uplink_prefixes: prefixes.into_iter().map(|p| p.parse::<IpNetwork>().unwrap()).collect(),
                pairing_version: 1,
                sealed: false,
            },
        )
}

proptest! {
    #[test]
    fn both_ends_agree_and_each_path_is_received(a in any_side(), b in any_side(), v4 in any::<bool>()) {
        let family = if v4 { Family::V4 } else { Family::V6 };
        let (there, back) = (pair(&a, &b, Backend::Vxlan, family), pair(&b, &a, Backend::Vxlan, family));
        prop_assert_eq!(word(there.path), word(back.path));
        prop_assert_eq!(there.reason, back.reason);
        if let Some(backend) = there.path.backend() {
            for side in [&a, &b] {
                prop_assert!(side.accepts.contains(&backend));
                prop_assert!(side.endpoints.has(backend));
            }
        }
        if [&a, &b].iter().any(|side| !side.backend.has_paths()) {
            prop_assert_eq!((there.path, there.reason), (Path::None, Reason::Unmanaged));
        }
        if [&a, &b].iter().any(|side| side.backend.encrypts()) {
            prop_assert!(there.path.backend().is_none_or(Backend::encrypts), "in clear: {:?}", there);
        }
        match there.path {
            // The kernel takes no gateway of the other family for IPv6.
            Path::Direct { gateway } if Family::of_address(gateway) != family => prop_assert!(false, "{:?}", there),
            Path::Ipip { destination } | Path::Udp { destination, .. } if family == Family::V6 || destination.is_ipv6() => prop_assert!(false, "{:?}", there),
            Path::Direct { gateway: to } | Path::Vxlan { destination: to, .. } | Path::Ipip { destination: to } | Path::Wireguard { destination: to, .. } | Path::Ipsec { destination: to } | Path::Udp { destination: to, .. } => prop_assert!(b.public_ips.contains(&to)),
            Path::None => {}
        }
    }
}

proptest! {
    /// There is one version of the rules. Nothing reads which one a node publishes, none at all (0) included.
    #[test]
    fn the_verdict_is_the_same_whatever_versions_are_published(
        a in any_side(), b in any_side(), versions in [0u32..1001, 0u32..1001], v4 in any::<bool>(),
    ) {
        let family = if v4 { Family::V4 } else { Family::V6 };
        let with = |side: &Side, pairing_version| Side { pairing_version, ..side.clone() };
        let (other_a, other_b) = (with(&a, versions[0]), with(&b, versions[1]));
        prop_assert_eq!(
            pair(&other_a, &other_b, Backend::Vxlan, family),
            pair(&a, &b, Backend::Vxlan, family)
        );
    }
}
