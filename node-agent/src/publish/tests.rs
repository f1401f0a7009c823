use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use tartan_crds::{BackendType, ObservedLease, PathCount};
use tartan_datapath::desired::desired;

use super::{status::NodeView, told::Told, *};
use crate::{
    intent::{NotReady, WireguardKey},
    testing::{Known, answered, known, lease},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn published(known: &Known, second: i64, troubles: &[NotReady]) -> Published {
    let built = known.build().unwrap();
    let paths = desired(&built.intent).paths;
    let lost = BTreeSet::new();
    let view = NodeView {
        generation: Some(1),
        observed_lease: observed_lease(Some(&built), &known.snapshot()),
        ending: &built.ending,
        kernel_version: "6.1.0",
        intent: Some(&built.intent),
        paths: &paths,
        receives: true,
        lost: &lost,
        address_use: &[],
        not_ready: None,
        troubles,
    };
    Published {
        lease: Some(status::lease(&built.intent, &lost, &BTreeSet::new())),
        primary_leases: built.primary_leases,
        further_leases: vec![],
        is_awaited: !built.ending.is_empty(),
        is_blind: false,
        node_network: status::node_network(view, at(second)),
        availability: Some(Availability::Available),
    }
}

/// The API after `writes`.
fn take(known: &mut Known, writes: &Writes) {
    for (name, status) in &writes.leases {
        known.leases.get_mut(name).unwrap().status = Some(status.clone());
    }
    if let Some(write) = &writes.node_network {
        known.node_net.as_mut().unwrap().status = Some(Box::new(write.status.clone()));
    }
    if let Some(availability) = &writes.availability {
        let (status, reason) = match availability {
            Availability::Available => ("False", NODE_REASON),
            Availability::Unavailable(why) => ("True", why.reason),
        };
        known.node.as_mut().unwrap().network_unavailable = Some((status.into(), reason.into()));
    }
}

#[test]
fn what_the_api_has_is_not_written_again() {
    let mut known = known();
    known.add(answered(2, "node2"));
    let first = writes(&published(&known, 1, &[]), &known.snapshot(), &Told::default());
    assert_eq!(first.leases.len(), 1);
    assert!(first.node_network.as_ref().unwrap().urgent && first.availability.is_some());
    take(&mut known, &first);
    // The operator's own condition stands in the same list.
    let conditions = &mut known.node_net.as_mut().unwrap().status.as_mut().unwrap().conditions;
    let mut leased = conditions[0].clone();
    leased.type_ = "Leased".into();
    conditions.insert(0, leased);
    // Later, as after a restart.
    let second = writes(&published(&known, 100, &[]), &known.snapshot(), &Told::default());
    assert!(second.is_empty(), "{second:?}");
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut known = known();
    let first = writes(&published(&known, 1, &[]), &known.snapshot(), &Told::default());
    take(&mut known, &first);
    let trouble = NotReady::new("ForeignObject", "a foreign bridge tartan0 is in the way");
    let second = writes(&published(&known, 100, &[trouble]), &known.snapshot(), &Told::default());
    let write = second.node_network.unwrap();
    assert!(write.urgent);
    let times: Vec<_> = write
        .status
        .conditions
        .iter()
        .map(|c| (c.type_.as_str(), c.status.as_str(), c.last_transition_time.0.as_second()))
        .collect();
    assert_eq!(times, [("Ready", "True", 1), ("Degraded", "True", 100)]);
}

#[test]
fn figures_may_wait_and_verdicts_may_not() {
    let mut known = known();
    let first = writes(&published(&known, 1, &[]), &known.snapshot(), &Told::default());
    take(&mut known, &first);
    known.add(answered(2, "node2"));
    known.add(lease(3, "node3"));
    let second = writes(&published(&known, 2, &[]), &known.snapshot(), &Told::default());
    let write = second.node_network.unwrap();
    assert!(!write.urgent);
    assert_eq!((write.status.peers, write.status.peers_without_path_count), (2, 1));
    assert_eq!(write.status.peers_without_path[0].node, "node3");
    let vxlan =
        PathCount { backend: BackendType::Vxlan, direct: false, reason: "same-backend".into(), peers: 1 };
    assert_eq!(write.status.paths, [vxlan]);
}

#[test]
fn which_lease_it_goes_by_is_told_at_once_where_that_is_waited_for() {
    let mut known = known();
    let rewrite = |known: &mut Known, ending: &[&str]| {
        let before = writes(&published(known, 1, &[]), &known.snapshot(), &Told::default());
        take(known, &before);
        let own = known.leases.values_mut().find(|lease| lease.node == "node1").unwrap();
        own.generation += 1;
        own.backend.ending = ending.iter().map(|text| (*text).to_owned()).collect();
        let (uid, generation) = (own.uid.clone(), own.generation);
        let write =
            writes(&published(known, 2, &[]), &known.snapshot(), &Told::default()).node_network.unwrap();
        assert_eq!(write.status.observed_lease, Some(ObservedLease { uid, generation }));
        write
    };
    assert!(!rewrite(&mut known, &[]).urgent);
    assert!(rewrite(&mut known, &["clear:other"]).urgent);
    let write = rewrite(&mut known, &["receive:vxlan"]);
    assert_eq!(write.status.receives, [], "what ends is not to begin with");
    // Where nothing is built.
    take(&mut known, &Writes { node_network: Some(write.clone()), ..Writes::default() });
    assert_eq!(observed_lease(None, &known.snapshot()), write.status.observed_lease);
}

#[test]
fn a_peer_that_is_reached_in_clear_by_two_backends_is_one_peer() {
    let mut known = known();
    known.add(answered(2, "node2"));
    known.add(answered(3, "node3"));
    let built = known.build().unwrap();
    let mut paths = desired(&built.intent).paths;
    // As for IPv4 by ipip while IPv6 goes by the fallback.
    let mut other = paths[0].clone();
    other.pairing.path = tartan_datapath::pair::Path::Ipip { destination: "192.0.2.12".parse().unwrap() };
    paths.push(other);
    let lost = BTreeSet::new();
    let view = NodeView {
        generation: Some(1),
        observed_lease: None,
        ending: &[],
        kernel_version: "6.1.0",
        intent: Some(&built.intent),
        paths: &paths,
        receives: true,
        lost: &lost,
        address_use: &[],
        not_ready: None,
        troubles: &[],
    };
    let status = status::node_network(view, at(1));
    assert_eq!(status.clear_peers, Some(2));
    assert_eq!(status.paths.iter().map(|path| path.peers).sum::<i64>(), 3);
}

#[test]
fn a_lease_is_answered_only_when_reception_is_up() {
    let known = known();
    let wanted = Published { lease: None, ..published(&known, 1, &[]) };
    assert!(writes(&wanted, &known.snapshot(), &Told::default()).leases.is_empty());
}

#[test]
fn an_address_behind_translation_is_told_apart_from_the_tunnels_source() {
    let mut known = known();
    known.node_net.as_mut().unwrap().spec.public_ips = vec!["198.51.100.77".parse().unwrap()];
    let lease = published(&known, 1, &[]).lease.unwrap();
    assert_eq!(lease.public_ips, ["198.51.100.77".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(lease.tunnel_sources, ["192.0.2.11".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn the_node_says_that_its_network_is_gone_once_and_that_it_is_back_once() {
    let mut known = known();
    let mut say = |availability: Option<Availability>| {
        let wanted = Published { availability, ..published(&known, 1, &[]) };
        let said = writes(&wanted, &known.snapshot(), &Told::default());
        take(&mut known, &said);
        said.availability.is_some()
    };
    let broken = |message: &str| Some(Availability::Unavailable(NotReady::new("NoUplink", message)));
    assert!(say(Some(Availability::Available)));
    assert!(!say(Some(Availability::Available)));
    assert!(!say(None), "nothing new");
    assert!(say(broken("eth0 is gone")));
    assert!(!say(broken("eth0 is still gone")), "words alone are no news to a scheduler");
    assert!(!say(None));
    assert!(say(Some(Availability::Unavailable(NotReady::new("ForeignObject", "another tartan0")))));
    assert!(say(Some(Availability::Available)));
}

#[test]
fn a_node_that_receives_wireguard_publishes_its_key_and_one_without_a_key_says_why() {
    let mut known = known();
    let lease = known.leases.get_mut("10.244.1.0-24").unwrap();
    lease.backend.accepts.push(BackendType::Wireguard);
    let key: tartan_datapath::model::PublicKey =
        "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
    known.wireguard.keys = [(0, WireguardKey { key: Some(key), problem: None })].into();
    let built = known.build().unwrap();
    let endpoints = status::lease(&built.intent, &BTreeSet::new(), &BTreeSet::new()).endpoints;
    let own = endpoints.iter().find(|endpoint| endpoint.kind == BackendType::Wireguard).unwrap();
    assert_eq!((own.public_key.clone(), own.port), (Some(key.to_string()), Some(51820)));
    assert_eq!(built.intent.local.mtu, 1440, "room for the larger header");
    let problem = Some("no WireGuard key: the file may be read by others".to_owned());
    known.wireguard.keys = [(0, WireguardKey { key: Some(key), problem: problem.clone() })].into();
    let built = known.build().unwrap();
    assert_eq!(
        built.intent.local.side.endpoints.wireguard.first().map(|own| own.key),
        Some(key),
        "what works goes on"
    );
    assert!(
        built.no_key.is_none() && built.troubles.iter().any(|trouble| trouble.message.contains("others"))
    );
    known.wireguard.keys = [(0, WireguardKey { key: None, problem })].into();
    let built = known.build().unwrap();
    assert!(built.no_key.unwrap().contains("may be read by others"));
    let endpoints = status::lease(&built.intent, &BTreeSet::new(), &BTreeSet::new()).endpoints;
    assert!(endpoints.iter().all(|endpoint| endpoint.kind != BackendType::Wireguard));
}

#[test]
fn the_answer_to_a_request_for_a_block_is_written_once_and_taken_back() {
    let mut known = known();
    known.add(lease(9, "node1")).primary = false;
    let start = writes(&published(&known, 1, &[]), &known.snapshot(), &Told::default());
    take(&mut known, &start);
    let name = "10.244.9.0-24".to_owned();
    let asked = Time("2026-01-01T00:00:00Z".parse().unwrap());
    for answer in [Some(asked), None] {
        let wanted =
            Published { further_leases: vec![(name.clone(), answer.clone())], ..published(&known, 1, &[]) };
        let first = writes(&wanted, &known.snapshot(), &Told::default());
        assert_eq!(first.leases.len(), 1, "{answer:?}");
        assert_eq!(first.leases[0].1.emptied, answer);
        take(&mut known, &first);
        assert!(writes(&wanted, &known.snapshot(), &Told::default()).is_empty(), "{answer:?}");
    }
}

/// A watch may be late, and the next round begins before it has brought what the last one said.
#[test]
fn what_was_taken_back_is_said_again_though_the_watch_has_brought_neither() {
    let mut known = known();
    let first = published(&known, 1, &[]);
    let said = writes(&first, &known.snapshot(), &Told::default());
    take(&mut known, &said);
    let told = Told::default();
    assert!(writes(&first, &known.snapshot(), &told).is_empty(), "who starts anew says nothing again");
    // Reception by all but one is taken back, and the API is told, which the watch does not bring.
    let mut less = first.clone();
    less.lease.as_mut().unwrap().endpoints.pop();
    less.node_network.receives.pop();
    let said = writes(&less, &known.snapshot(), &told);
    let (name, status) = said.leases.first().unwrap();
    let network = &said.node_network.as_ref().unwrap().status;
    for arrived in [false, true] {
        told.lease(name, status, arrived);
        told.node_network(network, arrived);
        // It is as it was: what the watch has brought is what is wanted, and not what the API has.
        let again = writes(&first, &known.snapshot(), &told);
        assert_eq!(again.leases.len(), 1);
        assert!(again.node_network.unwrap().urgent);
        // The same once more is under way, or there.
        let same = writes(&less, &known.snapshot(), &told);
        assert_eq!(same, said, "what the watch has not brought yet is no reason to leave it out");
    }
    // A round that could not look at the kernel leaves what was said of the lease, and that is what we said.
    let mut blind = Published { is_blind: true, ..less.clone() };
    blind.node_network.observed_lease.as_mut().unwrap().generation -= 1;
    assert_eq!(writes(&blind, &known.snapshot(), &told), said);
    take(&mut known, &said);
    assert!(writes(&less, &known.snapshot(), &told).is_empty());
    // Whether it has arrived is not known: it is said until it has.
    told.lease(name, status, false);
    assert_eq!(writes(&less, &known.snapshot(), &told).leases, said.leases);
}
