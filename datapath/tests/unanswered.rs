//! Peers that packets are to go to encrypted, and that have not answered yet: what stands in for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{intent, neighbour, net, remote, route_of};
use tartan_datapath::{
    desired::desired,
    model::{Backend, Intent, PublicKey, Side, Value, WireguardEndpoint},
    pair::Reason,
};

fn encrypting(side: &mut Side, generations: &[u32], number: u8) {
    side.accepts.insert(Backend::Wireguard);
    let end = |generation| {
        let key = PublicKey([number + 100 * u8::try_from(generation).unwrap(); 32]);
        WireguardEndpoint { generation, key, port: 51820 }
    };
    side.endpoints.wireguard = generations.iter().copied().map(end).collect();
}

/// With a peer; both can be sent to by WireGuard and by IPsec.
fn by_either() -> Intent {
    let mut intent = intent(vec![remote(1)]);
    encrypting(&mut intent.local.side, &[0], 9);
    encrypting(&mut intent.peers[0].side, &[0], 1);
    for side in [&mut intent.local.side, &mut intent.peers[0].side] {
        side.accepts.insert(Backend::Ipsec);
        side.endpoints.ipsec = true;
    }
    intent
}

/// Keepalives of WireGuard's peers, in the order of links and keys.
fn keepalives(intent: &Intent) -> Vec<u16> {
    let peer = |value: Value| match value {
        Value::WireguardPeer(peer) => Some(peer.keepalive),
        _ => None,
    };
    desired(intent).elements.into_values().filter_map(peer).collect()
}

#[test]
fn a_peer_that_is_to_be_sent_to_by_wireguard_keeps_its_path_until_it_has_answered() {
    let mut intent = intent(vec![remote(1), neighbour(12)]);
    encrypting(&mut intent.local.side, &[0], 9);
    encrypting(&mut intent.peers[0].side, &[0], 1);
    encrypting(&mut intent.peers[1].side, &[0], 2);
    let routes = |intent: &Intent| ["10.64.1.0/24", "10.250.12.0/24"].map(|subnet| route_of(intent, subnet));
    let before = routes(&intent);
    assert_eq!(keepalives(&intent), [0, 0], "who is not sent to is not asked");

    intent.local.side.backend = Backend::Wireguard;
    intent.present.ways =
        [(net("10.64.1.0/24"), Backend::Vxlan), (net("10.250.12.0/24"), Backend::HostGw)].into();
    assert_eq!(routes(&intent), before);
    assert_eq!(keepalives(&intent), [5, 5]);
    let reasons: Vec<Reason> = desired(&intent).paths.iter().map(|path| path.pairing.reason).collect();
    assert_eq!(reasons, [Reason::NoHandshake; 2]);
    for (asked, expected) in [(3, 3), (25, 5)] {
        intent.wireguard.keepalive = asked;
        assert_eq!(keepalives(&intent), [expected; 2]);
    }
    intent.wireguard.keepalive = 0;

    intent.wireguard.sessions.insert(PublicKey([1; 32]));
    assert!(routes(&intent)[0].contains("dev tartan-wg0"), "{:?}", routes(&intent));
    assert_eq!(routes(&intent)[1], before[1]);
    assert_eq!(keepalives(&intent), [0, 5]);

    // A plain route takes nothing of the other end.
    let mut plain = intent.clone();
    plain.local.side.accepts.remove(&Backend::HostGw);
    assert_eq!(routes(&plain)[1], before[1]);

    // What has gone by it does not leave it, nor does what went no way; nothing else is left to send by; nothing else may
    // be sent by.
    let mut none = intent.clone();
    none.present.ways.clear();
    let mut gone = intent.clone();
    gone.wireguard.sessions.clear();
    gone.present.ways.values_mut().for_each(|way| *way = Backend::Wireguard);
    let mut alone = intent.clone();
    alone.local.side.accepts = [Backend::Wireguard].into();
    alone.peers.remove(1);
    let mut sealed = intent.clone();
    sealed.local.side.sealed = true;
    for intent in [none, gone, alone, sealed] {
        for (peer, route) in intent.peers.iter().zip(routes(&intent)) {
            assert!(route.contains("dev tartan-wg0"), "{}: {route}", peer.node);
        }
        assert!(keepalives(&intent).iter().all(|keepalive| *keepalive == 0));
    }
}

/// The newest key may never be answered, as behind a firewall that lets the first port through alone.
#[test]
fn a_peer_that_moves_to_wireguard_while_keys_are_rotated_is_asked_by_both_keys() {
    let mut intent = intent(vec![remote(1)]);
    encrypting(&mut intent.local.side, &[0, 1], 9);
    encrypting(&mut intent.peers[0].side, &[0, 1], 1);
    assert_eq!(keepalives(&intent), [0, 5]);
    intent.local.side.backend = Backend::Wireguard;
    intent.present.ways = [(net("10.64.1.0/24"), Backend::Vxlan)].into();
    assert_eq!(keepalives(&intent), [5, 5]);
    assert!(route_of(&intent, "10.64.1.0/24").contains("tartan-vxlan"));
    intent.wireguard.sessions.insert(PublicKey([1; 32]));
    assert_eq!(keepalives(&intent), [0, 5]);
    assert!(route_of(&intent, "10.64.1.0/24").contains("dev tartan-wg0"));
}

#[test]
fn a_peer_that_is_to_be_sent_to_by_ipsec_keeps_its_path_until_there_is_an_association() {
    let mut intent = by_either();
    intent.peers[0].side.backend = Backend::Ipsec;
    intent.present.ways = [(net("10.64.1.0/24"), Backend::Vxlan)].into();
    let device = |intent: &Intent| route_of(intent, "10.64.1.0/24");
    assert!(device(&intent).contains("tartan-vxlan"), "{}", device(&intent));
    assert_eq!(desired(&intent).paths[0].pairing.reason, Reason::NoAssociation);
    // Sealed, it is no way out, and wireguard is where packets went by it.
    let mut sealed = intent.clone();
    sealed.peers[0].side.sealed = true;
    assert!(device(&sealed).contains("dev tartan-ipsec"), "{}", device(&sealed));
    sealed.present.ways = [(net("10.64.1.0/24"), Backend::Wireguard)].into();
    assert!(device(&sealed).contains("dev tartan-wg0"), "{}", device(&sealed));
    let mut gone = intent.clone();
    gone.present.ways = [(net("10.64.1.0/24"), Backend::Ipsec)].into();
    intent.present.associations.insert("198.51.0.1".parse().unwrap());
    for intent in [gone, intent] {
        assert!(device(&intent).contains("dev tartan-ipsec"), "{}", device(&intent));
        assert_eq!(keepalives(&intent), [0], "wireguard is not asked for");
    }
}

#[test]
fn ipsec_stands_in_for_wireguard_only_where_packets_go_by_it() {
    let mut intent = by_either();
    intent.local.side.backend = Backend::Wireguard;
    intent.peers[0].side.backend = Backend::Wireguard;
    let device = |intent: &Intent| route_of(intent, "10.64.1.0/24");
    for sealed in [false, true] {
        intent.local.side.sealed = sealed;
        intent.present.ways.clear();
        assert!(device(&intent).contains("dev tartan-wg0"), "{}", device(&intent));
        intent.present.ways = [(net("10.64.1.0/24"), Backend::Ipsec)].into();
        assert!(device(&intent).contains("dev tartan-ipsec"), "{}", device(&intent));
    }
}
