//! What is asked of the kernel, against texts written by hand; and clumsy or hostile peers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{in_namespace, intent, ip, neighbour, net, remote, route_of, run};
use tartan_datapath::{
    desired::desired,
    model::{Backend, Intent, Key, NftTable, Peer, Protected, Side, Subnet, Value},
};

/// The elements in words, without the table.
fn in_words(intent: &Intent) -> Vec<String> {
    let elements = desired(intent).elements;
    elements
        .iter()
        .filter(|(key, _)| **key != Key::NftTable)
        .map(|(key, value)| format!("{key} {value}"))
        .collect()
}

fn table(intent: &Intent) -> NftTable {
    match desired(intent).elements.remove(&Key::NftTable) {
        Some(Value::NftTable(table)) => table,
        other => panic!("{other:?}"),
    }
}

fn problems(peers: Vec<Peer>) -> Vec<(&'static str, String)> {
    desired(&intent(peers))
        .problems
        .iter()
        .map(|problem| (problem.kind.as_str(), problem.node.clone()))
        .collect()
}

/// The words of all that IPsec adds.
fn of_ipsec(intent: &Intent) -> Vec<String> {
    let words = ["tartan-ipsec", "ike ", "xfrm "];
    in_words(intent).into_iter().filter(|line| words.iter().any(|word| line.contains(word))).collect()
}

#[test]
fn an_ipsec_pair_is_wrapped_by_policies_that_are_there_before_its_route() {
    let mut intent = intent(vec![remote(1), remote(2)]);
    let receive = |side: &mut Side| {
        side.accepts.insert(Backend::Ipsec);
        side.endpoints.ipsec = true;
    };
    receive(&mut intent.local.side);
    receive(&mut intent.peers[0].side);
    let policies = [
        "xfrm policy src 10.64.1.0/24 dst 0.0.0.0/0 dir in tmpl src 198.51.0.1 dst 192.0.2.11 proto esp reqid 3325231105 mode tunnel",
        "xfrm policy src 10.64.1.0/24 dst 0.0.0.0/0 dir fwd tmpl src 198.51.0.1 dst 192.0.2.11 proto esp reqid 3325231105 mode tunnel",
        "xfrm policy src 0.0.0.0/0 dst 10.64.1.0/24 dir out tmpl src 192.0.2.11 dst 198.51.0.1 proto esp reqid 3325231105 mode tunnel",
    ];
    let head = [
        "link tartan-ipsec type xfrm if_id 84 mtu 1435 up",
        "address 127.84.84.84/32 dev tartan-ipsec ",
        "sysctl net.ipv4.conf.tartan-ipsec.rp_filter = 2",
    ];
    let tail = [
        "ike credentials preshared key",
        "ike connection tartan-198-51-0-1 local 192.0.2.11 remote 198.51.0.1 esp aes128gcm16-sha256-prfsha256-ecp256 ike aes256-sha256-modp4096",
    ];
    // Both only receive: everything is ready, and the packets still go by vxlan.
    let mut expected: Vec<&str> = head.into_iter().chain(policies).chain(tail).collect();
    assert_eq!(of_ipsec(&intent), expected);
    assert!(route_of(&intent, "10.64.1.0/24").contains("dev tartan-vxlan"));
    intent.present.associations = [ip("198.51.0.1"), ip("198.51.0.2")].into();
    // The other peer does not receive: it has no policy, and no path as soon as we encrypt.
    intent.local.side.backend = Backend::Ipsec;
    expected.push("route 10.64.1.0/24 dev tartan-ipsec src 10.251.1.0 mtu 1435");
    assert_eq!(of_ipsec(&intent), expected);
    assert_eq!(route_of(&intent, "10.64.2.0/24"), "unreachable");
}

#[test]
fn a_node_with_one_peer_of_each_kind_holds_exactly_this() {
    let mut silent = remote(3);
    silent.side.public_ips.clear();
    assert_eq!(
        in_words(&intent(vec![remote(1), neighbour(12), silent])),
        [
            "link tartan-vxlan type vxlan id 1 dev eth0 local 192.0.2.11 dstport 8472 nolearning address 02:00:00:fe:00:01 mtu 1450 up",
            "link tartan0 type bridge address 02:01:00:fe:00:01 mtu 1450 up",
            "offload of tartan-vxlan tx checksum on",
            "address 127.84.84.84/32 dev tartan-vxlan ",
            "address 10.251.1.0/32 dev tartan0 ",
            "address 10.251.1.1/24 dev tartan0 ",
            "sysctl net.ipv4.conf.tartan-vxlan.rp_filter = 2",
            "sysctl net.ipv4.conf.tartan0.rp_filter = 2",
            "sysctl net.ipv4.ip_forward = 1",
            "neighbour 10.64.1.0 dev tartan-vxlan lladdr 02:00:00:00:00:01 nud permanent",
            "fdb 02:00:00:00:00:01 dev tartan-vxlan dst 198.51.0.1 self permanent",
            "route 10.64.1.0/24 via 10.64.1.0 dev tartan-vxlan onlink src 10.251.1.0 mtu 1450",
            "route 10.64.3.0/24 unreachable",
            "route 10.250.12.0/24 via 192.0.2.12 dev eth0 src 10.251.1.0 mtu 1400",
        ]
    );
}

/// A node with addresses of both families; the first peer has no IPv4.
fn on_both_underlays() -> Intent {
    let mut six = remote(1);
    (six.side.public_ips, six.mtu) = (vec![ip("2001:db8::1")], None);
    let mut intent = intent(vec![six, remote(2)]);
    intent.local.uplink.addresses.push(net("2001:db8::11/64"));
    intent.local.side.public_ips.push(ip("2001:db8::11"));
    intent
}

#[test]
fn peers_without_ipv4_have_a_device_of_their_own() {
    let of_peers = |intent: &Intent| -> Vec<String> {
        let words = ["link tartan-vxlan", "fdb", "route", "offload", "tartan-vxlan6.rp_filter"];
        in_words(intent).into_iter().filter(|line| words.iter().any(|word| line.contains(word))).collect()
    };
    let mut intent = on_both_underlays();
    let device = |name: &str, local: &str, mtu: u32| {
        format!(
            "link {name} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning address 02:00:00:fe:00:01 mtu {mtu} up"
        )
    };
    let both = [
        &device("tartan-vxlan", "192.0.2.11", 1450),
        &device("tartan-vxlan6", "2001:db8::11", 1430),
        "offload of tartan-vxlan tx checksum on",
        "offload of tartan-vxlan6 tx checksum on",
        "sysctl net.ipv4.conf.tartan-vxlan6.rp_filter = 2",
        "fdb 02:00:00:00:00:02 dev tartan-vxlan dst 198.51.0.2 self permanent",
        "fdb 02:00:00:00:00:01 dev tartan-vxlan6 dst 2001:db8::1 self permanent",
        "route 10.64.1.0/24 via 10.64.1.0 dev tartan-vxlan6 onlink src 10.251.1.0 mtu 1430",
        "route 10.64.2.0/24 via 10.64.2.0 dev tartan-vxlan onlink src 10.251.1.0 mtu 1450",
    ];
    assert_eq!(of_peers(&intent), both);
    // With an IPv4 address the peer is one like the others, and nobody is reached by the second device.
    intent.peers[0].side.public_ips.insert(0, ip("198.51.0.1"));
    let found = of_peers(&intent);
    assert!(!found.iter().any(|line| line.contains("tartan-vxlan6")), "{found:?}");
    // Without one of our own all is over IPv6, and peers that have none have no path.
    intent.local.uplink.addresses.remove(0);
    intent.local.side.public_ips.remove(0);
    assert_eq!(
        of_peers(&intent),
        [
            &device("tartan-vxlan6", "2001:db8::11", 1430),
            "offload of tartan-vxlan6 tx checksum on",
            "sysctl net.ipv4.conf.tartan-vxlan6.rp_filter = 2",
            "fdb 02:00:00:00:00:01 dev tartan-vxlan6 dst 2001:db8::1 self permanent",
            "route 10.64.1.0/24 via 10.64.1.0 dev tartan-vxlan6 onlink src 10.251.1.0 mtu 1430",
            "route 10.64.2.0/24 unreachable",
        ]
    );
}

#[test]
fn an_uplink_too_small_for_ipv6_in_a_tunnel_is_named() {
    let mut intent = intent(vec![]);
    intent.local.uplink.mtu = 1320;
    assert!(desired(&intent).problems.is_empty(), "IPv4 takes less");
    intent.local.subnets.push(Subnet { prefix: net("fd00:10:1::/64"), primary: true, regular: true });
    let said =
        |intent: &Intent| desired(intent).problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>();
    assert_eq!(
        said(&intent),
        [
            "the uplink eth0 has MTU 1320, which leaves less than 1280 bytes for IPv6 inside of a tunnel: raise it, or choose another uplink"
        ]
    );
    intent.local.uplink.mtu = 1330;
    assert!(said(&intent).is_empty());
    // WireGuard takes ten bytes more than vxlan.
    intent.local.side.accepts.insert(Backend::Wireguard);
    assert!(said(&intent)[0].contains("has MTU 1330"), "{:?}", said(&intent));
    intent.local.uplink.mtu = 1340;
    assert!(said(&intent).is_empty());
}

#[test]
fn ipip_peers_are_routes_by_their_address_on_one_device() {
    let ipip = |side: &mut Side| {
        side.backend = Backend::Ipip;
        side.accepts.insert(Backend::Ipip);
        side.endpoints.ipip = true;
    };
    let mut peer = remote(1);
    ipip(&mut peer.side);
    let mut intent = intent(vec![peer]);
    ipip(&mut intent.local.side);
    let of_ipip: Vec<String> = in_words(&intent)
        .into_iter()
        .filter(|line| line.contains("ipip") || line.starts_with("route"))
        .collect();
    assert_eq!(
        of_ipip,
        [
            "link tartan-ipip type ipip local 192.0.2.11 remote any mtu 1480 up",
            "address 127.84.84.84/32 dev tartan-ipip ",
            "sysctl net.ipv4.conf.tartan-ipip.rp_filter = 2",
            "route 10.64.1.0/24 via 198.51.0.1 dev tartan-ipip onlink src 10.251.1.0 mtu 1450",
        ]
    );
}

#[test]
fn udp_peers_are_told_to_the_forwarder_whatever_path_leads_to_them() {
    let udp = |side: &mut Side| {
        side.backend = Backend::Udp;
        side.accepts.insert(Backend::Udp);
        side.endpoints.udp = Some(8285);
    };
    let mut peers = vec![remote(1), remote(2), remote(3)];
    // The first sends by udp, the second has not said that it receives it, and may send all the same; the third is
    // asked at another port than it says.
    udp(&mut peers[0].side);
    peers[0].side.tunnel_sources = vec![ip("203.0.113.1")];
    peers[1].side.endpoints.udp = None;
    udp(&mut peers[2].side);
    peers[2].side.endpoints.udp = Some(9999);
    let mut intent = intent(peers);
    udp(&mut intent.local.side);
    let of_udp: Vec<String> = in_words(&intent)
        .into_iter()
        .filter(|line| line.contains("udp") || line.starts_with("route"))
        .collect();
    assert_eq!(
        of_udp,
        [
            "link tartan-udp type tun local 192.0.2.11:8285 mtu 1472 up",
            "address 127.84.84.84/32 dev tartan-udp ",
            "sysctl net.ipv4.conf.tartan-udp.accept_local = 1",
            "sysctl net.ipv4.conf.tartan-udp.rp_filter = 2",
            "udp peer's subnet 10.64.1.0/24 via 198.51.0.1 table 84 src 10.251.1.0",
            "udp peer's subnet 10.64.2.0/24 via 198.51.0.2 table 84 src 10.251.1.0",
            "udp peer's subnet 10.64.3.0/24 via 198.51.0.3 table 84 src 10.251.1.0",
            "udp peer's subnet 203.0.113.1/32 via 198.51.0.1 table 84",
            "route 10.64.1.0/24 dev tartan-udp src 10.251.1.0 mtu 1450",
            "route 10.64.2.0/24 via 10.64.2.0 dev tartan-vxlan onlink src 10.251.1.0 mtu 1450",
            "route 10.64.3.0/24 unreachable",
        ]
    );
}

#[test]
fn the_table_is_the_committed_one() {
    let mut intent = intent(vec![neighbour(12)]);
    intent.local.side.accepts.extend([Backend::Ipip, Backend::Udp]);
    intent.protected = vec![Protected { address: ip("192.0.2.1"), what: "default gateway" }];
    let table = table(&intent);
    let shown = format!("{}\n{:#?}\n", table.declaration, table.elements);
    insta::assert_snapshot!("nft_table", shown);
}

/// A peer that sends encrypted, of a pool that is sealed.
fn sealed(mut peer: Peer) -> Peer {
    peer.side.backend = Backend::Wireguard;
    peer.side.sealed = true;
    peer
}

#[test]
fn the_table_of_a_node_with_a_sealed_peer_is_the_committed_one() {
    let mut intent = intent(vec![neighbour(12), sealed(remote(1))]);
    intent.local.side.accepts.extend([Backend::Ipip, Backend::Wireguard]);
    let table = table(&intent);
    let shown = format!("{}\n{:#?}\n", table.declaration, table.elements);
    insta::assert_snapshot!("nft_table_sealed", shown);
}

#[test]
fn what_no_sealed_peer_may_hold_is_in_no_set() {
    let mut thief = sealed(remote(1));
    thief.subnets = vec![Subnet { prefix: net("10.251.1.0/25"), primary: true, regular: true }];
    let mut unmanaged = sealed(remote(2));
    unmanaged.side.backend = Backend::Alloc;
    let mut other = sealed(remote(3));
    other.side.sealed = false;
    let table = table(&intent(vec![thief, unmanaged, other, sealed(remote(4))]));
    assert_eq!(table.elements["sealednets4"], ["10.64.4.0/24"]);
    assert_eq!(table.elements["sealed4"], ["198.51.0.1", "198.51.0.4"]);
}

#[test]
fn nft_takes_the_table_of_every_kind_of_node() {
    let mut six = intent(vec![neighbour(12)]);
    six.entries.push(net("fd00:10::/32"));
    six.local.subnets.push(Subnet { prefix: net("fd00:10:1::/64"), primary: true, regular: true });
    let mut plain = intent(vec![]);
    plain.masquerade = None;
    let mut encrypted = six.clone();
    encrypted.peers = vec![sealed(remote(1))];
    encrypted.local.side.accepts.extend([Backend::Ipip, Backend::Wireguard]);
    for table in [table(&intent(vec![remote(1)])), table(&six), table(&plain), table(&encrypted)] {
        in_namespace(move || async move {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &table.declaration).unwrap();
            run(&format!("nft -f {}", file.path().display()));
        });
    }
}

#[test]
fn a_peer_that_claims_what_is_anothers_costs_only_itself() {
    let good = remote(1);
    let with = |change: fn(&mut Peer)| {
        let mut bad = remote(9);
        bad.node = "zz-bad".into();
        change(&mut bad);
        bad
    };
    type Change = fn(&mut Peer);
    let cases: [(Change, &str); 6] = [
        (|bad| bad.subnets[0].prefix = net("192.168.0.0/24"), "subnet-outside"),
        (|bad| bad.subnets[0].prefix = net("10.64.1.0/24"), "subnet-overlap"),
        (|bad| bad.subnets[0].prefix = net("10.64.1.128/25"), "subnet-overlap"),
        (|bad| bad.subnets[0].prefix = net("10.251.1.0/24"), "subnet-overlap"),
        (|bad| bad.side.endpoints.vxlan = remote(1).side.endpoints.vxlan, "duplicate-mac"),
        (|bad| bad.side.public_ips = remote(1).side.public_ips, "duplicate-address"),
    ];
    for (change, kind) in cases {
        let peers = vec![with(change), good.clone()];
        assert_eq!(problems(peers.clone()), [(kind, "zz-bad".to_owned())], "{kind}");
        let whole = intent(peers);
        assert_eq!(
            route_of(&whole, "10.64.1.0/24"),
            route_of(&intent(vec![good.clone()]), "10.64.1.0/24"),
            "{kind}"
        );
        let elements = desired(&whole).elements;
        let own = desired(&intent(vec![good.clone()])).elements;
        for (key, value) in &own {
            if *key != Key::NftTable {
                assert_eq!(elements.get(key), Some(value), "{kind}: {key}");
            }
        }
    }
}

#[test]
fn a_lease_by_hand_that_covers_others_blocks_gets_no_route_wherever_it_sorts() {
    for (wide, node) in [("10.64.0.0/16", "aa-bad"), ("10.64.2.0/23", "zz-bad"), ("10.64.1.0/24", "aa-bad")] {
        let mut bad = remote(9);
        bad.node = node.into();
        bad.subnets = vec![Subnet { prefix: net(wide), primary: true, regular: false }];
        let peers = vec![bad, remote(1), remote(2)];
        let expected = vec![("subnet-overlap", node.to_owned())];
        assert_eq!(problems(peers.clone()), expected, "{wide}");
        let whole = intent(peers);
        for block in ["10.64.1.0/24", "10.64.2.0/24"] {
            let alone = route_of(&intent(vec![remote(1), remote(2)]), block);
            assert_eq!(route_of(&whole, block), alone, "{wide}: {block}");
        }
    }
}

#[test]
fn a_peer_with_ten_thousand_subnets_is_no_trouble() {
    let mut huge = remote(1);
    huge.subnets = (0..10_000u32)
        .map(|i| Subnet {
            prefix: format!("10.128.{}.{}/32", i >> 8, i & 255).parse().unwrap(),
            primary: i == 0,
            regular: true,
        })
        .collect();
    let whole = intent(vec![huge, remote(2)]);
    assert!(desired(&whole).problems.is_empty());
    assert!(route_of(&whole, "10.64.2.0/24").starts_with("via"));
}

#[test]
fn an_entry_that_covers_the_api_server_is_named() {
    let mut intent = intent(vec![]);
    intent.protected = vec![Protected { address: ip("10.1.2.3"), what: "API server" }];
    let problems = desired(&intent).problems;
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].message.contains("10.1.2.3 (API server) lies in the pod network 10.0.0.0/8"),
        "{}",
        problems[0].message
    );
}
