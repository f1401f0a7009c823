use std::collections::BTreeSet;

use tartan_crds::SubnetLeaseStatus;
use tartan_datapath::desired::desired;

use super::*;
use crate::testing::{Known, answered, known};

fn by_extension(known: &mut Known, lease: &str, data: Option<&str>) {
    let lease = known.leases.get_mut(lease).unwrap();
    lease.backend.kind = BackendType::Extension;
    lease.backend.accepts = vec![BackendType::Extension];
    if let (Some(data), Some(SubnetLeaseStatus { endpoints, .. })) = (data, &mut lease.status) {
        *endpoints = vec![Endpoint { data: Some(data.into()), ..Endpoint::plain(BackendType::Extension) }];
    }
}

fn wanted_of(known: &Known) -> Wanted {
    let built = known.build().unwrap();
    let paths = desired(&built.intent).paths;
    wanted(known.network.as_ref().unwrap(), &known.snapshot(), &built.intent, &paths)
}

fn pairs(environment: &Environment) -> Vec<String> {
    environment.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[test]
fn programs_are_told_of_this_node_and_of_every_peer_that_can_be_reached() {
    let mut known = known();
    known.add(answered(2, "node2"));
    known.add(answered(3, "node3"));
    known.add(crate::testing::lease(4, "node4"));
    by_extension(&mut known, "10.244.1.0-24", None);
    by_extension(&mut known, "10.244.2.0-24", Some("$(reboot)"));
    let wanted = wanted_of(&known);
    assert_eq!(
        pairs(&wanted.own.unwrap()),
        ["NETWORK=10.244.0.0/16", "NODE=node1", "PUBLIC_IP=192.0.2.11", "SUBNET=10.244.1.0/24"]
    );
    let told: Vec<_> =
        wanted.peers.iter().map(|(subnet, told)| (subnet.as_str(), told.data.as_str())).collect();
    assert_eq!(
        told,
        [("10.244.2.0/24", "$(reboot)"), ("10.244.3.0/24", "")],
        "node4 has not said where it is"
    );
    assert_eq!(
        pairs(&wanted.peers["10.244.2.0/24"].environment),
        ["BACKEND=extension", "NODE=node2", "PUBLIC_IP=192.0.2.12", "SUBNET=10.244.2.0/24"]
    );
}

#[test]
fn a_node_of_another_backend_tells_nobody_anything() {
    let mut known = known();
    known.add(answered(2, "node2"));
    by_extension(&mut known, "10.244.2.0-24", Some("x"));
    assert_eq!(wanted_of(&known), Wanted::default());
}

#[test]
fn what_was_printed_is_published_only_by_a_node_of_this_backend() {
    let report = Report { data: Some("key".into()), failed: vec![] };
    let mut known = known();
    assert_eq!(report.end_point(&known.build().unwrap().intent), None);
    by_extension(&mut known, "10.244.1.0-24", None);
    let end_point = report.end_point(&known.build().unwrap().intent).unwrap();
    assert_eq!((end_point.kind, end_point.data.as_deref()), (BackendType::Extension, Some("key")));
    let plain =
        crate::publish::status::lease(&known.build().unwrap().intent, &BTreeSet::new(), &BTreeSet::new());
    assert_eq!(plain.endpoints, []);
}

#[test]
fn failures_are_one_trouble_that_names_the_first() {
    assert_eq!(Report::default().troubles(), []);
    let failed = (0..6).map(|n| format!("fault {n}")).collect();
    let [trouble] = &Report { data: None, failed }.troubles()[..] else { panic!("one") };
    assert_eq!(trouble.reason, reason::EXTENSION_FAILED);
    assert!(trouble.message.ends_with("fault 3; and 2 more"), "{}", trouble.message);
}
