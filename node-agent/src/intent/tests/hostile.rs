//! What a node in wrong hands may publish in its lease's status: it costs that node, and nothing of the others.

use std::collections::BTreeSet;

use tartan_crds::{BackendType, Endpoint, SubnetLeaseStatus};
use tartan_datapath::{
    desired::desired,
    model::{Elements, Key, PublicKey, Value},
};

use super::*;
use crate::testing::{Known, answered, known, status};

/// node2 as it is, and the intruder, which sorts before it and has the newer lease.
fn with_intruder(publish: impl FnOnce(&mut SubnetLeaseStatus)) -> Known {
    let mut known = known();
    known.own().node_addresses = vec!["192.0.2.11".parse().unwrap()];
    known.add(answered(2, "node2")).node_addresses = vec!["192.0.2.12".parse().unwrap()];
    let intruder = known.add(answered(9, "an-intruder"));
    intruder.created = 1_000;
    intruder.node_addresses = vec!["192.0.2.19".parse().unwrap()];
    publish(intruder.status.as_mut().unwrap());
    known
}

/// What a node without the intruder would hold.
fn undisturbed() -> Built {
    let mut known = known();
    known.own().node_addresses = vec!["192.0.2.11".parse().unwrap()];
    known.add(answered(2, "node2")).node_addresses = vec!["192.0.2.12".parse().unwrap()];
    known.build().unwrap()
}

/// All objects, and the members of the sets that the table's rules ask, less what is the intruder's own.
fn of_others(built: &Built) -> (Elements, BTreeSet<String>) {
    let mut elements = desired(&built.intent).elements;
    let mut members = BTreeSet::new();
    if let Some(Value::NftTable(table)) = elements.remove(&Key::NftTable) {
        for (set, all) in table.elements {
            members.extend(all.into_iter().map(|member| format!("{set} {member}")));
        }
    }
    elements.retain(|key, _| match key {
        Key::Route { destination, .. } => destination.to_string() != "10.244.9.0/24",
        Key::Neighbour { address, .. } => address.to_string() != "10.244.9.0",
        Key::Fdb { mac, .. } => mac.to_string() != "02:00:00:00:00:09",
        _ => true,
    });
    let own = ["peers4 192.0.2.19", "protected4 192.0.2.19", "direct4 10.244.9.0/24"];
    members.retain(|member| !own.contains(&member.as_str()));
    (elements, members)
}

type Publish = fn(&mut SubnetLeaseStatus);

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_an_intruder_publishes_costs_only_itself() {
    let cases: [(&str, Publish, &str); 11] = [
        ("another node's address", |s| s.public_ips = addresses(&["192.0.2.12"]), "is that of Node node2"),
        ("our address", |s| s.public_ips = addresses(&["192.0.2.11"]), "is that of Node node1"),
        ("a pod's address", |s| s.public_ips = addresses(&["10.244.2.7"]), "lies in the pod network"),
        ("the API server's address", |s| s.public_ips = addresses(&["198.51.100.1"]), "is the API server's"),
        (
            "a multicast address",
            |s| s.public_ips = addresses(&["224.0.0.1"]),
            "none that packets can be sent",
        ),
        ("packets from a pod's address", |s| s.tunnel_sources = addresses(&["10.244.2.7"]), "tunnel source"),
        ("packets from the API server", |s| s.tunnel_sources = addresses(&["198.51.100.1"]), "tunnel source"),
        ("packets from another node", |s| s.tunnel_sources = addresses(&["192.0.2.12"]), ""),
        ("everything on its link", |s| s.uplink_prefixes = vec!["0.0.0.0/0".parse().unwrap()], ""),
        ("the least MTU", |s| s.mtu = Some(576), ""),
        (
            "another node's end point",
            |s| s.endpoints[0].vtep_mac = Some(mac("uid-of-node2", Role::Vtep).to_string()),
            "is that of node node2",
        ),
    ];
    let expected = of_others(&undisturbed());
    for (case, publish, complaint) in cases {
        let built = with_intruder(publish).build().unwrap();
        assert_eq!(of_others(&built), expected, "{case}");
        let said: Vec<&str> = built.faults.iter().map(|fault| fault.message.as_str()).collect();
        if complaint.is_empty() {
            assert_eq!(said, [] as [&str; 0], "{case}");
        } else {
            assert!(said.len() == 1 && said[0].contains(complaint), "{case}: {said:?}");
            assert!(built.faults.iter().all(|fault| fault.node == "an-intruder"), "{case}");
        }
    }
}

/// Two nodes with one key are one peer to WireGuard. The intruder sorts first.
#[test]
fn another_nodes_key_costs_only_who_was_not_the_first_to_publish_it() {
    let key = PublicKey([7; 32]);
    let encrypts = |published: &mut SubnetLeaseStatus| {
        published.endpoints.push(Endpoint {
            public_key: Some(key.to_string()),
            port: Some(51820),
            ..Endpoint::plain(BackendType::Wireguard)
        });
    };
    let mut known = with_intruder(encrypts);
    // It is there already.
    let node2 = known.add(answered(2, "node2"));
    node2.wireguard_keys = vec![key.to_string()];
    encrypts(node2.status.as_mut().unwrap());
    let built = known.build().unwrap();
    let keys: Vec<(&str, usize)> = built
        .intent
        .peers
        .iter()
        .map(|peer| (peer.node.as_str(), peer.side.endpoints.wireguard.len()))
        .collect();
    assert_eq!(keys, [("an-intruder", 0), ("node2", 1)]);
    assert!(built.faults.len() == 1 && built.faults[0].node == "an-intruder", "{:?}", built.faults);
    assert!(built.faults[0].message.contains("is that of node node2, which published it first"));
}

#[test]
fn an_address_that_no_node_names_is_believed_as_before() {
    let mut known = known();
    known.add(answered(2, "node2")).status.as_mut().unwrap().public_ips = addresses(&["203.0.113.2"]);
    let built = known.build().unwrap();
    assert_eq!(built.faults, []);
    assert_eq!(built.intent.peers[0].side.public_ips, addresses(&["203.0.113.2"]));
}

/// A machine whose addresses are in an entry's range is a node all the same: nobody leases the block around it.
#[test]
fn an_address_in_the_pod_network_is_believed_where_its_node_names_it() {
    let mut known = known();
    let other = known.add(answered(2, "node2"));
    other.node_addresses = addresses(&["10.244.200.5"]);
    other.status.as_mut().unwrap().public_ips = addresses(&["10.244.200.5"]);
    let built = known.build().unwrap();
    assert_eq!(built.faults, []);
    assert!(built.intent.protected.iter().any(|p| p.address.to_string() == "10.244.200.5"));
}

/// Two sites behind translation may use the same private addresses.
#[test]
fn a_tunnel_source_that_two_nodes_have_is_no_fault_and_its_packets_are_taken() {
    let mut known = known();
    for (number, name) in [(2, "node2"), (3, "node3")] {
        let other = known.add(answered(number, name));
        other.node_addresses = addresses(&[&format!("203.0.113.{number}")]);
        let mut published = status(number);
        published.public_ips = other.node_addresses.clone();
        published.tunnel_sources = addresses(&["192.168.1.10"]);
        other.status = Some(published);
    }
    let built = known.build().unwrap();
    assert_eq!(built.faults, []);
    let sources: Vec<_> = built.intent.peers.iter().flat_map(|peer| &peer.side.tunnel_sources).collect();
    assert_eq!(sources, [&addresses(&["192.168.1.10"])[0]]);
}
