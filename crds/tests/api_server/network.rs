//! ClusterNetworks that are taken, and what may change in them.

use super::*;

#[test]
fn a_cluster_network_that_makes_no_sense_is_refused_with_the_reason() {
    let api = api();
    let cidrs = |entries: &[Value]| json!({ "cidrs": entries });
    let one = |cidr: &str, mask: u8| cidrs(&[entry("a", cidr, mask)]);
    let canonical = "must be a CIDR in canonical form";
    let mask = "nodeMaskSize must lie between the entry's own length and 30 (IPv4) or 126 (IPv6)";
    let table = [
        (
            "no entry",
            cidrs(&[]),
            "spec.cidrs: Invalid value: 0: spec.cidrs in body should have at least 1 items",
        ),
        ("no list of entries", json!({ "cidrs": null }), "spec.cidrs: Required value"),
        ("host bits", one("10.244.0.1/16", 24), canonical),
        ("leading zero", one("10.244.00.0/16", 24), canonical),
        ("upper case", one("FD00::/48", 64), canonical),
        ("no RFC 5952", one("fd00:0:0:0:1:0:0:0/80", 96), canonical),
        ("IPv4 in IPv6", one("::ffff:10.0.0.0/104", 120), canonical),
        ("a bare address", one("10.244.0.0", 24), canonical),
        ("loopback", one("127.0.0.0/16", 24), "no pod can have an address of"),
        ("all of IPv4", one("0.0.0.0/0", 20), "no pod can have an address of"),
        ("link-local", one("169.254.0.0/16", 24), "no pod can have an address of"),
        ("multicast", one("239.1.0.0/16", 24), "no pod can have an address of"),
        ("IPv6 link-local", one("fe80::/48", 64), "no pod can have an address of"),
        ("IPv6 multicast", one("ff0e::/48", 64), "no pod can have an address of"),
        ("blocks larger than the entry", one("10.244.0.0/16", 15), mask),
        ("blocks without room for a pod", one("10.244.0.0/16", 31), mask),
        (
            "IPv6 blocks without room for a pod",
            one("fd00:1::/120", 127),
            "should be less than or equal to 126",
        ),
        ("too many blocks", one("fd00::/40", 64), "an entry may hold at most 2^20 blocks"),
        (
            "overlap",
            cidrs(&[entry("a", "10.244.0.0/16", 24), entry("b", "10.244.128.0/17", 24)]),
            "spec.cidrs: Invalid value: entries must not overlap",
        ),
        (
            "one range twice",
            cidrs(&[entry("a", "10.244.0.0/16", 24), entry("b", "10.244.0.0/16", 25)]),
            "entries must not overlap",
        ),
        (
            "one name twice",
            cidrs(&[entry("a", "10.244.0.0/16", 24), entry("a", "10.245.0.0/16", 24)]),
            "entry names must be unique",
        ),
        ("a name in upper case", cidrs(&[entry("A", "10.244.0.0/16", 24)]), "spec.cidrs[0].name"),
        (
            "65 entries",
            cidrs(
                &(0..65).map(|i| entry(&format!("e{i}"), &format!("10.{i}.0.0/16"), 24)).collect::<Vec<_>>(),
            ),
            "must have at most 64 items",
        ),
        (
            "unknown backend",
            json!({ "defaultBackend": { "type": "gre" } }),
            "supported values: \"vxlan\", \"ipip\", \"wireguard\", \"ipsec\", \"udp\", \"host-gw\", \"alloc\", \"extension\"",
        ),
        (
            "a fallback that needs a link",
            json!({ "fallbackBackend": "host-gw" }),
            "must be an overlay: vxlan",
        ),
        ("VNI 0", json!({ "backends": { "vxlan": { "vni": 0 } } }), "spec.backends.vxlan.vni"),
        (
            "VNI of 25 bits",
            json!({ "backends": { "vxlan": { "vni": 16_777_216 } } }),
            "spec.backends.vxlan.vni",
        ),
        (
            "a proposal without authentication",
            json!({ "backends": { "ipsec": { "espProposal": "aes128" } } }),
            "spec.backends.ipsec.espProposal",
        ),
        ("port 65536", json!({ "backends": { "vxlan": { "port": 65_536 } } }), "spec.backends.vxlan.port"),
        ("MTU 100", json!({ "mtu": 100 }), "spec.mtu"),
        ("days", json!({ "reclaimAfter": "1d" }), "must be a duration such as 1h, 30m or 90s"),
        ("eleven years", json!({ "reclaimAfter": "96360h" }), "of at most ten years (87600h)"),
        ("more than a clock holds", json!({ "reclaimAfter": "9999999999999999h" }), "of at most ten years"),
        (
            "more than a clock holds between two blocks",
            json!({ "growth": { "coolDown": "9999999999999999h" } }),
            "spec.growth.coolDown",
        ),
        (
            "more than a clock holds in a sum",
            json!({ "transition": { "deadline": "9999999h9999999h9999999h" } }),
            "spec.transition.deadline",
        ),
        (
            "unknown mode",
            json!({ "podCIDRMode": "Steal" }),
            "supported values: \"Auto\", \"Adopt\", \"Mirror\", \"Ignore\"",
        ),
        (
            "masquerade exception with host bits",
            json!({ "masquerade": { "nonMasqueradeCIDRs": ["10.0.0.1/8"] } }),
            canonical,
        ),
        ("a misspelled field", json!({ "defaultBackends": {} }), "unknown field \"spec.defaultBackends\""),
    ];
    for (what, change, expected) in &table {
        check_refused(&api, what, &network(change), expected);
    }
    let reserving = |reserved: Value| {
        let mut entry = entry("a", "10.244.0.0/16", 24);
        entry["reserved"] = reserved;
        cidrs(&[entry])
    };
    for (what, reserved, expected) in [
        ("a reserved range with host bits", json!([{ "cidr": "10.244.3.1/24" }]), canonical),
        (
            "a reserved range outside of its entry",
            json!([{ "cidr": "10.245.0.0/24" }]),
            "reserved ranges must lie inside of the entry's cidr",
        ),
        (
            "a reserved range around its entry",
            json!([{ "cidr": "10.0.0.0/8" }]),
            "reserved ranges must lie inside of the entry's cidr",
        ),
        (
            "reserved ranges that overlap",
            json!([{ "cidr": "10.244.3.0/24" }, { "cidr": "10.244.3.128/25" }]),
            "reserved ranges must not overlap",
        ),
        (
            "half a block for a node",
            json!([{ "cidr": "10.244.3.0/25", "nodeName": "n" }]),
            "must be exactly one block: its length must be the entry's nodeMaskSize",
        ),
        (
            "two blocks for a node",
            json!([{ "cidr": "10.244.2.0/24", "nodeName": "n" }, { "cidr": "10.244.3.0/24", "nodeName": "n" }]),
            "a node may have one reserved block in an entry",
        ),
        (
            "a block for a node without a name",
            json!([{ "cidr": "10.244.2.0/24", "nodeName": "" }]),
            "nodeName",
        ),
    ] {
        check_refused(&api, what, &network(&reserving(reserved)), expected);
    }
    for (what, growth, expected) in [
        ("no block", json!({ "maxBlocksPerNode": 0 }), "spec.growth.maxBlocksPerNode"),
        (
            "more blocks than a node may have",
            json!({ "maxBlocksPerNode": 17 }),
            "spec.growth.maxBlocksPerNode",
        ),
        ("a threshold that is never passed", json!({ "grantBelowFree": 0 }), "spec.growth.grantBelowFree"),
        ("a threshold that leaves nothing", json!({ "grantBelowFree": 51 }), "spec.growth.grantBelowFree"),
        ("a cool-down in days", json!({ "coolDown": "1d" }), "must be a duration such as 1h, 30m or 90s"),
        ("an empty time", json!({ "returnEmptyAfter": "" }), "must be a duration such as 1h, 30m or 90s"),
    ] {
        check_refused(&api, what, &network(&json!({ "growth": growth })), expected);
    }
    let mut other = network(&json!({}));
    other["metadata"]["name"] = "other".into();
    check_refused(
        &api,
        "a second network",
        &other,
        "metadata.name: Invalid value: the only ClusterNetwork is named default",
    );
    for (what, cidr, block) in
        [("IPv4", "10.0.0.0/10", 30), ("IPv6", "fd00:10::/48", 64), ("one block", "10.9.0.0/24", 24)]
    {
        assert_eq!(refusal(&api, &network(&one(cidr, block))), None, "{what}");
    }
}

#[test]
fn entries_are_appended_and_drained_but_never_changed() {
    let api = ApiServer::start(ApiServerOptions::default()).unwrap();
    install(&api);
    let start = [entry("a", "10.244.0.0/16", 24), entry("b", "10.245.0.0/16", 24)];
    send(&api, &["create"], &network(&json!({ "cidrs": start }))).ok().unwrap();
    let update =
        |entries: &[Value]| patch(&api, &["cnet", "default"], &json!({ "spec": { "cidrs": entries } }));
    let refused = |what: &str, entries: &[Value], expected: &str| {
        let said = update(entries).unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(said.contains(expected), "{what}: {said}");
    };
    let [a, b] = start;
    let draining = |entry: &Value| with(entry.clone(), &json!({ "drain": true }));
    let (changed, removed) =
        ("never change: append a new entry", "only an entry with drain: true may be removed");

    refused("another range", &[entry("a", "10.246.0.0/16", 24), b.clone()], changed);
    refused("another block size", &[entry("a", "10.244.0.0/16", 25), b.clone()], changed);
    refused("removal", std::slice::from_ref(&b), removed);
    refused("renaming", &[entry("c", "10.244.0.0/16", 24), b.clone()], removed);

    let c = entry("c", "fd00:10:244::/48", 64);
    assert_eq!(update(&[b.clone(), a.clone(), c.clone()]), None, "append and reorder");
    assert_eq!(update(&[b.clone(), draining(&a), c.clone()]), None, "drain");
    refused(
        "a draining entry takes another range",
        &[b.clone(), entry("a", "10.246.0.0/16", 24), c.clone()],
        changed,
    );
    assert_eq!(update(&[b.clone(), a.clone(), c.clone()]), None, "drain no more");
    assert_eq!(update(&[b.clone(), draining(&a), c.clone()]), None, "drain again");
    assert_eq!(update(&[b.clone(), c.clone()]), None, "remove the drained entry");

    // As many as there may be: what the estimate accepted must pass when it is run, too.
    let full: Vec<Value> = [b, c]
        .into_iter()
        .chain((0..62).map(|i| entry(&format!("e{i}"), &format!("10.{i}.0.0/16"), 24)))
        .collect();
    assert_eq!(update(&full), None, "64 entries");
    assert_eq!(update(&full.iter().rev().cloned().collect::<Vec<_>>()), None, "64 entries in another order");
    let reserving = |entry: &Value| {
        let Some((network, _)) = entry["cidr"].as_str().and_then(|cidr| cidr.split_once(".0.0/16")) else {
            return entry.clone();
        };
        let block = |i: usize| json!({ "cidr": format!("{network}.{i}.0/24"), "nodeName": format!("{}-{i}", "n".repeat(60)) });
        with(entry.clone(), &json!({ "reserved": (0..16).map(block).collect::<Vec<_>>() }))
    };
    let most: Vec<Value> = full.iter().map(reserving).collect();
    assert_eq!(update(&most), None, "64 entries with 16 reserved blocks each");
    assert_eq!(update(&full), None, "and without");
}

#[test]
fn what_both_ends_of_a_tunnel_share_stays_while_subnets_are_leased() {
    let api = ApiServer::start(ApiServerOptions::default()).unwrap();
    install(&api);
    send(&api, &["create"], &network(&json!({ "cidrs": [entry("a", "10.244.0.0/16", 24)] }))).ok().unwrap();
    let change = |vxlan: Value| {
        patch(&api, &["cnet", "default"], &json!({ "spec": { "backends": { "vxlan": vxlan } } }))
    };
    let leased = |used: u32| {
        let entry = json!({ "name": "a", "cidr": "10.244.0.0/16", "capacity": 256, "used": used, "held": 0, "free": 256 - used });
        let status = json!({ "status": { "cidrs": [entry] } });
        assert_eq!(patch(&api, &["cnet", "default", "--subresource=status"], &status), None);
    };
    assert_eq!(change(json!({ "vni": 7 })), None, "without a status");
    leased(0);
    assert_eq!(change(json!({ "port": 4789 })), None, "without a lease");
    leased(3);
    for shared in [json!({ "vni": 8 }), json!({ "port": 8472 }), json!({ "gbp": true })] {
        let said = change(shared.clone()).unwrap_or_else(|| panic!("{shared} was accepted"));
        assert!(said.contains("spec.backends.vxlan: Invalid value"), "{said}");
        assert!(said.contains("vni, port and gbp can't change while"), "{said}");
    }
    assert_eq!(change(json!({ "txChecksumOffload": false })), None, "what each node has for itself");
    leased(4);
}
