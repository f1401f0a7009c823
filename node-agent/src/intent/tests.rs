mod hostile;

use std::collections::BTreeSet;

use tartan_crds::{SubnetLeaseStatus, UplinkSelection};
use tartan_datapath::model::{Backend, LinkFacts};

use super::*;
use crate::testing::{Known, answered, entry, known, lease, status};

/// What it is called, how it is spoilt, what is expected.
type Case<T> = (&'static str, fn(&mut T), &'static str);

fn reason_of(known: &Known) -> &'static str {
    known.build().map_or_else(|not_ready| not_ready.reason, |_| "ready")
}

fn message_of(known: &Known) -> String {
    known.build().unwrap_err().message
}

#[test]
fn a_node_alone_is_programmed_with_its_own_side() {
    let built = known().build().unwrap();
    assert_eq!(built.primary_leases, ["10.244.1.0-24"]);
    assert!(built.faults.is_empty());
    let local = built.intent.local;
    assert_eq!(local.uplink.name, "eth0");
    assert_eq!(local.mtu, 1450);
    assert_eq!(local.side.public_ips, ["192.0.2.11".parse::<IpAddr>().unwrap()]);
    assert_eq!(local.side.endpoints, Endpoints { vxlan: Some(local.vxlan_mac), ..Endpoints::default() });
    assert_ne!(local.vxlan_mac, local.bridge_mac);
    let protected: Vec<String> =
        built.intent.protected.iter().map(|p| format!("{} {}", p.address, p.what)).collect();
    assert_eq!(
        protected,
        [
            "192.0.2.1 a gateway",
            "192.0.2.11 an address of this node",
            "192.0.2.53 a name server",
            "198.51.100.1 the API server",
            "203.0.113.11 an address of this node",
        ]
    );
}

#[test]
fn what_is_missing_is_named() {
    let cases: [Case<Known>; 9] = [
        ("no network", |k| k.network = None, reason::NO_CLUSTER_NETWORK),
        ("no node", |k| k.node = None, reason::INPUTS_INCOMPLETE),
        ("no node network", |k| k.node_net = None, reason::INPUTS_INCOMPLETE),
        ("no lease", |k| k.leases.clear(), reason::NO_LEASE),
        ("lease of the last node of this name", |k| k.own().node_uid = "other".into(), reason::NO_LEASE),
        ("lease is released", |k| k.own().released = true, reason::NO_LEASE),
        ("only a secondary lease", |k| k.own().primary = false, reason::NO_LEASE),
        (
            "podCIDR of someone else",
            |k| k.node.as_mut().unwrap().pod_cidrs = vec!["10.9.0.0/24".into()],
            reason::POD_CIDR_MISMATCH,
        ),
        ("no default route", |k| k.facts.default_routes.clear(), reason::NO_UPLINK),
    ];
    for (case, spoil, expected) in cases {
        let mut known = known();
        spoil(&mut known);
        assert_eq!(reason_of(&known), expected, "{case}");
    }
}

#[test]
fn pod_cidrs_count_only_when_they_are_set_and_not_ignored() {
    let mut known = known();
    known.node.as_mut().unwrap().pod_cidrs.clear();
    assert_eq!(reason_of(&known), "ready");
    known.node.as_mut().unwrap().pod_cidrs = vec!["10.9.0.0/24".into()];
    assert!(message_of(&known).contains("10.9.0.0/24 but its primary leases are 10.244.1.0/24"));
    known.network.as_mut().unwrap().pod_cidrs_ignored = true;
    assert_eq!(reason_of(&known), "ready");
    known.network.as_mut().unwrap().pod_cidrs_ignored = false;
    known.node.as_mut().unwrap().pod_cidrs = vec!["10.244.1.0/24".into(), "fd00::/64".into()];
    assert_eq!(reason_of(&known), "ready", "a family that we don't lease is another's");
}

fn six() -> Lease {
    Lease { subnet: "fd00:10:244:1::/64".parse().unwrap(), ..lease(1, "node1") }
}

#[test]
fn a_family_that_came_after_the_pod_cidrs_is_none_of_theirs() {
    let mut known = known();
    known.add(six());
    let built = known.build().unwrap();
    assert_eq!(built.primary_leases, ["10.244.1.0-24", "fd00-10-244-1---64"]);
    let mut pod_cidrs = |texts: &[&str]| {
        known.node.as_mut().unwrap().pod_cidrs = texts.iter().map(|text| (*text).to_owned()).collect();
        reason_of(&known)
    };
    assert_eq!(pod_cidrs(&["fd00:10:244:1::/64", "10.244.1.0/24"]), "ready");
    assert_eq!(pod_cidrs(&["10.244.1.0/24", "fd00:10:244:2::/64"]), reason::POD_CIDR_MISMATCH);
    assert_eq!(pod_cidrs(&["10.244.2.0/24"]), reason::POD_CIDR_MISMATCH);
    assert_eq!(pod_cidrs(&["nonsense", "10.244.1.0/24"]), reason::POD_CIDR_MISMATCH);
    // Leases and podCIDRs that have no family in common are two networks.
    known.leases.remove("10.244.1.0-24");
    known.node.as_mut().unwrap().pod_cidrs = vec!["10.244.1.0/24".into()];
    assert_eq!(reason_of(&known), reason::POD_CIDR_MISMATCH);
    let said = message_of(&known);
    assert!(said.contains("are 10.244.1.0/24 but its primary leases are fd00:10:244:1::/64"), "{said}");
}

#[test]
fn the_uplink_is_the_one_that_was_asked_for() {
    let by = |selection: UplinkSelection, reach: Option<u32>| {
        let mut known = known();
        known.node_net.as_mut().unwrap().spec.uplink = Some(selection);
        known.reach_link = reach;
        known.build().map(|built| built.intent.local.uplink.name).map_err(|e| (e.reason, e.message))
    };
    let none = UplinkSelection::default;
    let interface = |name: &str| UplinkSelection { interface: Some(name.into()), ..none() };
    assert_eq!(by(interface("eth1"), None).unwrap(), "eth1");
    assert_eq!(by(UplinkSelection { default_route: Some(true), ..none() }, None).unwrap(), "eth0");
    assert_eq!(by(UplinkSelection { interface_regex: Some("1$".into()), ..none() }, None).unwrap(), "eth1");
    assert_eq!(
        by(UplinkSelection { address: Some("203.0.113.0/24".into()), ..none() }, None).unwrap(),
        "eth1"
    );
    assert_eq!(by(UplinkSelection { internal_ip: Some(true), ..none() }, None).unwrap(), "eth0");
    let reach = UplinkSelection { can_reach: Some("203.0.113.1".parse().unwrap()), ..none() };
    assert_eq!(by(reach.clone(), Some(3)).unwrap(), "eth1");
    assert_eq!(by(reach, None).unwrap_err().0, reason::NO_UPLINK);
    let (wrong, message) = by(interface("eth7"), None).unwrap_err();
    assert_eq!(wrong, reason::NO_UPLINK);
    assert!(message.contains("eth7") && message.contains("eth0"), "{message}");
    let (wrong, message) =
        by(UplinkSelection { interface_regex: Some("(".into()), ..none() }, None).unwrap_err();
    assert_eq!(wrong, reason::NO_UPLINK);
    assert!(message.contains("uplink.interfaceRegex"), "{message}");
}

#[test]
fn a_public_address_of_the_nodes_own_setting_is_published() {
    let mut known = known();
    known.node_net.as_mut().unwrap().spec.public_ips = vec!["198.51.100.77".parse().unwrap()];
    let side = known.build().unwrap().intent.local.side;
    assert_eq!(side.public_ips, ["198.51.100.77".parse::<IpAddr>().unwrap()]);
}

#[test]
fn direct_routing_means_that_plain_routes_are_received() {
    let mut known = known();
    known.own().backend.direct_routing = true;
    known.add(answered(2, "node2")).backend.direct_routing = true;
    let intent = known.build().unwrap().intent;
    assert_eq!(intent.local.side.accepts, BTreeSet::from([Backend::Vxlan, Backend::HostGw]));
    assert!(intent.local.side.endpoints.host_gw);
    let [peer] = intent.peers.as_slice() else { panic!("one peer") };
    assert_eq!(peer.side.accepts, BTreeSet::from([Backend::Vxlan, Backend::HostGw]));
    assert!(!peer.side.endpoints.host_gw, "node2 has not published it");
}

#[test]
fn the_nodes_own_masquerade_setting_overrules_the_networks() {
    let mut known = known();
    assert!(known.build().unwrap().intent.masquerade.is_some());
    known.node_net.as_mut().unwrap().spec.masquerade = Some(false);
    assert!(known.build().unwrap().intent.masquerade.is_none());
    known.network.as_mut().unwrap().masquerade.enabled = false;
    known.node_net.as_mut().unwrap().spec.masquerade = Some(true);
    assert!(known.build().unwrap().intent.masquerade.is_some());
}

#[test]
fn the_mtu_is_the_pools_then_the_networks_then_what_the_uplink_leaves() {
    let mut known = known();
    let mtu = |known: &Known| known.build().unwrap().intent.local.mtu;
    assert_eq!(mtu(&known), 1450);
    known.network.as_mut().unwrap().mtu = Some(1400);
    assert_eq!(mtu(&known), 1400);
    known.own().mtu = Some(1300);
    assert_eq!(mtu(&known), 1300);
    known.own().mtu = Some(9000);
    assert_eq!(mtu(&known), 1450);
}

#[test]
fn pods_that_were_started_with_a_larger_mtu_are_told() {
    let mut known = known();
    let port = |name: &str, mtu: u32| LinkFacts { name: name.into(), mtu, ..known.facts.links[0].clone() };
    let ports = [port("veth1", 1450), port("veth2", 1500), port("veth3", 1480)];
    // eth0 has 1500 as well, and is no pod's.
    known.facts.ports = ports.iter().map(|port| port.name.clone()).collect();
    known.facts.links.extend(ports);
    let [trouble] = &known.build().unwrap().troubles[..] else { panic!("{:?}", known.build()) };
    assert_eq!(trouble.reason, reason::PODS_EXCEED_MTU);
    assert!(trouble.message.starts_with("2 running pods"), "{}", trouble.message);
    assert!(trouble.message.contains("veth2 has 1500"), "{}", trouble.message);
}

#[test]
fn pods_of_ipv6_have_the_mtu_that_it_takes_and_less_is_said() {
    let mut known = known();
    known.add(six());
    known.network.as_mut().unwrap().entries.push(entry("fd00:10:244::/48", 64));
    known.network.as_mut().unwrap().mtu = Some(1000);
    let built = known.build().unwrap();
    assert_eq!(built.intent.local.mtu, 1280);
    let [trouble] = built.troubles.as_slice() else { panic!("{:?}", built.troubles) };
    assert_eq!(trouble.reason, reason::MTU_TOO_SMALL);
    assert!(trouble.message.contains("1000") && trouble.message.contains("IPv6 takes 1280"), "{trouble:?}");
    known.network.as_mut().unwrap().mtu = Some(1300);
    let built = known.build().unwrap();
    assert_eq!((built.intent.local.mtu, built.troubles.len()), (1300, 0));
}

#[test]
fn a_strict_filter_on_the_uplink_is_noticed() {
    for (all, link, strict) in [(0, 0, false), (1, 0, true), (0, 1, true), (2, 1, false), (1, 2, false)] {
        let mut known = known();
        known.facts.rp_filter_all = all;
        known.facts.links[0].rp_filter = link;
        assert_eq!(known.build().unwrap().intent.host.uplink_strict_rp_filter, strict, "{all} {link}");
    }
}

#[test]
fn peers_are_the_other_nodes_with_leases_in_force() {
    let mut known = known();
    known.add(answered(2, "node2"));
    let mut second = lease(20, "node2");
    second.primary = false;
    known.add(second);
    known.add(lease(3, "node3"));
    known.add(answered(4, "node4")).released = true;
    let Built { intent, faults, .. } = known.build().unwrap();
    assert_eq!(faults, []);
    let [two, three] = intent.peers.as_slice() else { panic!("{:?}", intent.peers) };
    assert_eq!((two.node.as_str(), two.subnets.len(), two.mtu), ("node2", 2, Some(1450)));
    assert_eq!(two.side.endpoints.vxlan.unwrap().to_string(), "02:00:00:00:00:02");
    assert_eq!((three.node.as_str(), three.side.public_ips.len()), ("node3", 0));
    assert!(intent.protected.iter().any(|p| p.address == "192.0.2.12".parse::<IpAddr>().unwrap()));
}

#[test]
fn a_bad_value_costs_only_the_peer_that_published_it() {
    let cases: [Case<SubnetLeaseStatus>; 5] = [
        (
            "mac",
            |s| s.endpoints[0].vtep_mac = Some("nonsense".into()),
            "\"nonsense\" is not a hardware address",
        ),
        ("no mac", |s| s.endpoints[0].vtep_mac = None, "without a hardware address"),
        (
            "multicast",
            |s| s.endpoints[0].vtep_mac = Some("01:00:5e:00:00:01".into()),
            "no address of one node",
        ),
        ("zero", |s| s.public_ips = vec!["0.0.0.0".parse().unwrap()], "none that packets can be sent to"),
        (
            "loopback",
            |s| s.public_ips = vec!["127.0.0.1".parse().unwrap()],
            "none that packets can be sent to",
        ),
    ];
    for (case, spoil, expected) in cases {
        let mut known = known();
        known.add(answered(3, "node3"));
        let bad = known.add(answered(2, "node2"));
        let mut published = status(2);
        spoil(&mut published);
        bad.status = Some(published);
        let Built { intent, faults, .. } = known.build().unwrap();
        let [fault] = faults.as_slice() else { panic!("{case}: {faults:?}") };
        assert_eq!(fault.node, "node2");
        assert!(fault.message.contains(expected), "{case}: {}", fault.message);
        let [two, three] = intent.peers.as_slice() else { panic!("{case}") };
        assert!(two.side.endpoints.vxlan.is_none() || two.side.public_ips.is_empty(), "{case}");
        assert!(three.side.endpoints.vxlan.is_some() && three.side.public_ips.len() == 1, "{case}");
    }
}

#[test]
fn of_two_leases_with_one_address_the_newer_is_believed() {
    let mut known = known();
    known.add(answered(2, "old-name")).created = 100;
    let new = known.add(answered(3, "new-name"));
    new.created = 200;
    new.status.as_mut().unwrap().public_ips = status(2).public_ips;
    let Built { intent, faults, .. } = known.build().unwrap();
    assert_eq!(faults.len(), 1);
    let addresses =
        |name: &str| intent.peers.iter().find(|peer| peer.node == name).unwrap().side.public_ips.len();
    assert_eq!((addresses("old-name"), addresses("new-name")), (0, 1));
}

#[test]
fn an_unreadable_lease_is_reported_and_stops_nothing() {
    let mut known = known();
    known.unreadable.insert("10.244.9.0-24".into(), "unknown backend".into());
    let built = known.build().unwrap();
    assert_eq!(built.faults.len(), 1);
    assert!(built.faults[0].message.contains("10.244.9.0-24"));
}

#[test]
fn a_subnet_in_use_stays_in_the_pod_network_when_its_entry_goes() {
    let mut known = known();
    known.add(answered(2, "node2"));
    known.add(answered(3, "node3"));
    known.facts.routed = BTreeSet::from(["10.244.2.0/24".parse().unwrap(), "10.9.0.0/24".parse().unwrap()]);
    known.network.as_mut().unwrap().entries = vec![entry("10.99.0.0/16", 24)];
    let built = known.build().unwrap();
    let entries: Vec<String> = built.intent.entries.iter().map(ToString::to_string).collect();
    // Our own and the one that we have a route to; node3's is new here, and no lease speaks of 10.9.0.0/24.
    assert_eq!(entries, ["10.99.0.0/16", "10.244.1.0/24", "10.244.2.0/24"]);
    assert_eq!(built.troubles[0].reason, reason::ENTRY_IN_USE);
    known.network.as_mut().unwrap().entries = vec![entry("10.244.0.0/16", 24)];
    assert!(known.build().unwrap().troubles.is_empty());
}

#[test]
fn a_tunnel_end_point_belongs_to_the_node_whose_uid_it_derives_from() {
    let mut known = known();
    known.add(answered(2, "node2"));
    known.add(answered(3, "a-thief"));
    let uid = |known: &Known, name: &str| {
        known.leases.values().find(|lease| lease.node == name).unwrap().node_uid.clone()
    };
    let stolen = mac(&uid(&known, "node2"), Role::Vtep);
    for lease in known.leases.values_mut().filter(|lease| lease.node != "node1") {
        lease.status.as_mut().unwrap().endpoints[0].vtep_mac = Some(stolen.to_string());
    }
    let built = known.build().unwrap();
    let ends: Vec<_> =
        built.intent.peers.iter().map(|peer| (peer.node.as_str(), peer.side.endpoints.vxlan)).collect();
    assert_eq!(ends, [("a-thief", None), ("node2", Some(stolen))], "{:?}", built.faults);
}
