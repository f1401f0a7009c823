use tartan_datapath::{
    model::{Action, Family, IkeCredentials, PublicKey, Value},
    pair::{Pairing, Path},
};

use super::*;

fn good() -> Facts {
    Facts { nft: true, net_admin: true, ..Facts::default() }
}

fn findings(facts: &Facts) -> Findings<'_> {
    Findings {
        facts,
        failed: &[],
        unseen: &[],
        conflicts: &[],
        problems: &[],
        faults: &[],
        frozen: None,
        shadowing: None,
        files: None,
        foreign_file: None,
        paths: &[],
        no_ground: None,
        unmet: &[],
        extension: &[],
        spare: BTreeSet::new(),
        no_key: None,
        wireguard_links: vec![],
        second_vxlan: false,
        outdated_preshared: 0,
        daemon_awaited: false,
        unanswered: vec![],
        no_handshake: vec![],
        process_awaited: false,
    }
}

fn failed(key: Key, reason: &'static str) -> Assessment {
    let value = Value::ForwardException;
    let step = Step { action: Action::Create, key: key.clone(), value, before: None };
    let failed = [(step, Failed { key, reason, message: "no".into() })];
    assess(&Findings { failed: &failed, ..findings(&good()) })
}

fn summary(assessment: &Assessment) -> (Option<&'static str>, Vec<&'static str>, bool) {
    let Assessment { not_ready, troubles, reception, lost: _, lost_links: _ } = assessment;
    let troubles = troubles.iter().map(|trouble| trouble.reason).collect();
    (not_ready.as_ref().map(|not_ready| not_ready.reason), troubles, *reception)
}

#[test]
fn a_quiet_round_is_ready() {
    assert_eq!(assess(&findings(&good())), Assessment { reception: true, ..Assessment::default() });
}

#[test]
fn what_fails_for_this_node_breaks_it_and_what_fails_for_a_peer_does_not() {
    let route = Key::Route { destination: "10.244.2.0/24".parse().unwrap(), metric: 0 };
    assert_eq!(summary(&failed(route, "refused")), (None, vec![reason::APPLY_FAILED], true));
    let vxlan = Key::Link(mark::VXLAN.into());
    assert_eq!(
        summary(&failed(vxlan, "permission-denied")),
        (Some(reason::PERMISSION_DENIED), vec![], false)
    );
    let forward = Key::Sysctl("ipv4/ip_forward".into());
    assert_eq!(
        summary(&failed(forward, "sysctl-read-only")),
        (Some(reason::SYSCTL_READ_ONLY), vec![], false)
    );
    let filter = Key::Sysctl("ipv4/conf/eth0/rp_filter".into());
    assert_eq!(summary(&failed(filter, "sysctl-read-only")), (None, vec![reason::SYSCTL_READ_ONLY], true));
}

#[test]
fn a_foreign_device_in_our_place_breaks_the_node() {
    let conflicts =
        [Conflict { key: Key::Link(mark::VXLAN.into()), found: "a vxlan device without our mark".into() }];
    let assessment = assess(&Findings { conflicts: &conflicts, ..findings(&good()) });
    assert_eq!(summary(&assessment), (Some(reason::FOREIGN_OBJECT), vec![], false));
}

#[test]
fn a_second_vxlan_device_that_fails_costs_the_peers_that_need_it() {
    let key = Key::Link(mark::VXLAN6.into());
    let conflicts = [Conflict { key: key.clone(), found: "another program's".into() }];
    let step =
        Step { action: Action::Create, key: key.clone(), value: Value::ForwardException, before: None };
    let failed = [(step, Failed { key, reason: "refused", message: "no".into() })];
    let good = good();
    for findings in [
        Findings { conflicts: &conflicts, ..findings(&good) },
        Findings { failed: &failed, ..findings(&good) },
    ] {
        let beside = assess(&Findings { second_vxlan: true, ..findings.clone() });
        assert_eq!(summary(&beside), (None, vec![reason::BACKEND_UNAVAILABLE], true));
        assert!(
            beside.lost.is_empty() && beside.troubles[0].message.contains("no IPv4 address"),
            "{beside:?}"
        );
        let alone = summary(&assess(&findings));
        assert!(alone.0.is_some() && !alone.2, "{alone:?}");
    }
}

#[test]
fn a_backend_that_only_others_send_by_may_be_missing() {
    let ipip = Key::Link(mark::IPIP.into());
    assert_eq!(summary(&failed(ipip.clone(), "refused")), (Some(reason::APPLY_FAILED), vec![], false));
    let step =
        Step { action: Action::Create, key: ipip.clone(), value: Value::ForwardException, before: None };
    let failed = [(step, Failed { key: ipip, reason: "refused", message: "not supported".into() })];
    let spare = BTreeSet::from([Backend::Ipip]);
    let assessment = assess(&Findings { failed: &failed, spare: spare.clone(), ..findings(&good()) });
    assert_eq!(summary(&assessment), (None, vec![reason::BACKEND_UNAVAILABLE], true));
    assert_eq!(assessment.lost, spare);
}

#[test]
fn a_kernel_without_a_tunnel_is_told_with_its_remedy() {
    let link = || Key::Link(mark::wireguard(0).into());
    let alone = failed(link(), "unsupported");
    assert_eq!(summary(&alone), (Some(reason::APPLY_FAILED), vec![], false));
    assert!(alone.not_ready.unwrap().message.contains("install its module wireguard, or have it done"));
    let spared = failed(Key::Link(mark::IPIP.into()), "unsupported");
    assert!(spared.not_ready.unwrap().message.contains("install its module ipip, or choose another backend"));
    let port = failed(Key::WireguardDevice(mark::wireguard(0).into()), "in-use");
    assert!(port.not_ready.unwrap().message.contains("another program has its UDP port"));
    let port = failed(Key::Link(mark::VXLAN6.into()), "in-use");
    assert!(port.not_ready.unwrap().message.contains("set another backends.vxlan.port"));
}

#[test]
fn a_second_wireguard_link_that_fails_costs_a_rotation_and_nothing_else() {
    let [first, second] = mark::WIREGUARD;
    let device = Key::WireguardDevice(second.into());
    let step =
        Step { action: Action::Create, key: device.clone(), value: Value::ForwardException, before: None };
    let failed = [(step, Failed { key: device, reason: "in-use", message: "address in use".into() })];
    let good = good();
    let with = |links: Vec<&'static str>| {
        assess(&Findings { failed: &failed, wireguard_links: links, ..findings(&good) })
    };
    let assessment = with(vec![first, second]);
    assert_eq!(summary(&assessment), (None, vec![reason::BACKEND_UNAVAILABLE], true));
    assert_eq!(assessment.lost_links, BTreeSet::from([second]));
    assert!(assessment.lost.is_empty());
    assert!(assessment.troubles[0].message.contains("UDP port"), "{assessment:?}");
    let alone = with(vec![second]);
    assert_eq!(summary(&alone), (Some(reason::APPLY_FAILED), vec![], false));
}

#[test]
fn troubles_come_worst_first_and_many_of_a_kind_are_counted() {
    let facts = Facts { leftovers: vec!["flannel.1 is there".into()], ..good() };
    let faults: Vec<PeerFault> =
        (0..9).map(|n| PeerFault { node: format!("n{n}"), message: "bad".into() }).collect();
    let assessment = assess(&Findings {
        faults: &faults,
        frozen: Some("too much vanished".into()),
        shadowing: Some("00-other.conf"),
        unmet: &[
            NotReady::new(reason::PODS_EXCEED_MTU, "pods"),
            NotReady::new(reason::MTU_TOO_LARGE, "asked for"),
        ],
        ..findings(&facts)
    });
    assert_eq!(
        summary(&assessment),
        (
            None,
            vec![
                reason::DELETIONS_FROZEN,
                reason::CNI_SHADOWED,
                reason::LEFTOVER_FLANNEL,
                reason::MTU_TOO_LARGE,
                reason::PEER_INVALID,
                reason::PODS_EXCEED_MTU,
            ],
            true
        )
    );
    assert!(assessment.troubles[4].message.ends_with("and 5 more"));
}

#[test]
fn a_refused_pair_is_a_trouble_and_one_that_waits_is_not() {
    let path = |node: &str, path: Path, reason: Reason| PeerPath {
        node: node.into(),
        family: Family::V4,
        subnets: vec![],
        pairing: Pairing { path, reason },
        sealed: false,
        mtu: 1450,
    };
    let gateway = "192.0.2.9".parse().unwrap();
    let paths = [
        path("new", Path::None, Reason::NoAddress),
        path("moving", Path::None, Reason::NoEndpoint),
        path("good", Path::Direct { gateway }, Reason::OnLink),
    ];
    assert_eq!(
        assess(&Findings { paths: &paths, ..findings(&good()) }),
        assess(&findings(&good())),
        "only waiting"
    );
    let paths = [path("deaf", Path::None, Reason::NotAccepted)];
    let assessment = assess(&Findings { paths: &paths, ..findings(&good()) });
    assert_eq!(summary(&assessment), (None, vec![reason::PEERS_WITHOUT_PATH], true));
    assert!(assessment.troubles[0].message.contains("node deaf"), "{assessment:?}");
}

#[test]
fn a_missing_program_or_right_is_named_with_its_remedy() {
    let facts = Facts { nft: false, ..good() };
    let assessment = assess(&findings(&facts));
    assert_eq!(summary(&assessment), (Some(reason::NFT_MISSING), vec![], false));
    assert!(assessment.not_ready.unwrap().message.contains("install"));
}

#[test]
fn nodes_that_make_no_handshake_are_told_of() {
    let nodes = vec!["a", "b", "c", "d", "e"];
    let assessment = assess(&Findings { no_handshake: nodes, ..findings(&good()) });
    assert_eq!(summary(&assessment), (None, vec![reason::WIREGUARD_UNANSWERED], true));
    assert!(
        assessment.troubles[0].message.contains("with node a, b, c, d and 1 more: let the UDP port"),
        "{assessment:?}"
    );
}

#[test]
fn nodes_that_do_not_answer_the_ike_daemon_are_told_of() {
    let assessment = assess(&Findings { unanswered: vec!["node2", "node3"], ..findings(&good()) });
    assert_eq!(summary(&assessment), (None, vec![reason::IKE_UNANSWERED], true));
    assert!(assessment.troubles[0].message.contains("node2, node3: let UDP ports 500"), "{assessment:?}");
}

#[test]
fn an_ike_daemon_that_ended_is_missed_and_one_that_never_was_costs_the_backend() {
    let found = |reason: &'static str, spare: &[Backend], daemon_awaited: bool| {
        let key = Key::IkeCredentials;
        let value = Value::IkeCredentials(IkeCredentials::PresharedKey);
        let step = Step { action: Action::Create, key: key.clone(), value, before: None };
        let failed = [(step, Failed { key, reason, message: "no".into() })];
        let spare = spare.iter().copied().collect();
        assess(&Findings { failed: &failed, spare, daemon_awaited, ..findings(&good()) })
    };
    let of = |reason, spare: &[Backend]| found(reason, spare, false);
    for spare in [&[][..], &[Backend::Ipsec]] {
        let ended = of("ike-daemon-ended", spare);
        assert_eq!(summary(&ended), (None, vec![reason::BACKEND_UNAVAILABLE], true));
        assert!(ended.lost.is_empty());
    }
    // What was negotiated while it was valid goes on for a while.
    for old in ["ike-certificate-expired", "ike-renewal-unfit"] {
        let old = of(old, &[]);
        assert_eq!(summary(&old), (None, vec![reason::BACKEND_UNAVAILABLE], true));
        assert!(old.lost.is_empty());
    }
    for away in ["ike-daemon-unreachable", "ike-daemon-silent"] {
        let absent = of(away, &[]);
        assert_eq!(summary(&absent), (Some(reason::BACKEND_UNAVAILABLE), vec![], false));
        let spare = of(away, &[Backend::Ipsec]);
        assert_eq!(summary(&spare), (None, vec![reason::BACKEND_UNAVAILABLE], true));
        assert_eq!(spare.lost, BTreeSet::from([Backend::Ipsec]));
        // Agent and daemon were started anew together.
        let awaited = found(away, &[], true);
        assert_eq!(summary(&awaited), (None, vec![reason::BACKEND_UNAVAILABLE], true));
        assert!(awaited.lost.is_empty());
    }
}

#[test]
fn a_process_of_the_user_space_wireguard_that_is_away_costs_the_encrypted_pairs_alone() {
    let device = |link: &str| Key::WireguardDevice(link.to_owned());
    let peer = Key::WireguardPeer { link: mark::WIREGUARD[0].into(), key: PublicKey([1; 32]) };
    let check = |keys: Vec<Key>, links: Vec<&'static str>, process_awaited: bool| {
        let failed: Vec<(Step, Failed)> = keys
            .into_iter()
            .map(|key| {
                let value = Value::ForwardException;
                let step = Step { action: Action::Create, key: key.clone(), value, before: None };
                (step, Failed { key, reason: WIREGUARD_PROCESS_ABSENT, message: "away".into() })
            })
            .collect();
        let facts = good();
        let findings =
            Findings { failed: &failed, wireguard_links: links, process_awaited, ..findings(&facts) };
        let found = assess(&findings);
        (summary(&found), found.lost, found.lost_links)
    };
    let [even, odd] = mark::WIREGUARD;
    let told = (None, vec![reason::WIREGUARD_NOT_RUNNING], true);
    let (found, lost, _) = check(vec![device(even), peer.clone()], vec![even], false);
    assert_eq!((found, lost), (told.clone(), [Backend::Wireguard].into()), "said once, peers are not");
    // For a moment nobody need hear of it.
    let (found, lost, _) = check(vec![device(even), peer], vec![even], true);
    assert_eq!((found, lost), (told, [].into()));
    // One device of two: keys aren't rotated, and that is all.
    let (found, lost, links) = check(vec![device(odd)], vec![even, odd], false);
    assert_eq!((found.0, lost, links), (None, [].into(), [odd].into()));
}
