//! NetworkPools.

use super::*;

#[test]
fn a_pool_that_makes_no_sense_is_refused_with_the_reason() {
    let api = api();
    let exactly_one =
        "set exactly one of defaultRoute, interface, interfaceRegex, address, canReach, internalIP";
    let table = [
        ("no selector", json!({ "nodeSelector": null }), "spec.nodeSelector: Required value"),
        ("no backend", json!({ "backend": null }), "spec.backend: Required value"),
        (
            "unknown backend",
            json!({ "backend": { "type": "bgp" } }),
            "supported values: \"vxlan\", \"ipip\", \"wireguard\", \"ipsec\", \"udp\", \"host-gw\", \"alloc\", \"extension\"",
        ),
        (
            "plain routes beside encryption",
            json!({ "backend": { "type": "wireguard", "directRouting": true } }),
            "wireguard and ipsec have no directRouting",
        ),
        ("an entry claimed twice", json!({ "cidrs": ["a", "a"] }), "entry names must be unique"),
        ("an uplink without a rule", json!({ "uplink": {} }), exactly_one),
        (
            "an uplink with two rules",
            json!({ "uplink": { "interface": "eth0", "internalIP": true } }),
            exactly_one,
        ),
        (
            "an interface name of 16 bytes",
            json!({ "uplink": { "interface": "enp0s31f6abcdefg" } }),
            "spec.uplink.interface",
        ),
        (
            "can-reach a name",
            json!({ "uplink": { "canReach": "example.org" } }),
            "must be an IP address in canonical form",
        ),
        (
            "an uplink in no prefix",
            json!({ "uplink": { "address": "10.0.0.300" } }),
            "must be an IP address or a CIDR",
        ),
        (
            "no regular expression",
            json!({ "uplink": { "interfaceRegex": "^ens(" } }),
            "spec.uplink.interfaceRegex",
        ),
        ("MTU 10", json!({ "mtu": 10 }), "spec.mtu"),
        ("priority past the range", json!({ "priority": 1_000_001 }), "spec.priority"),
    ];
    for (what, change, expected) in &table {
        check_refused(&api, what, &pool(change), expected);
    }
    let mut named = pool(&json!({}));
    named["metadata"]["name"] = "default".into();
    check_refused(&api, "a pool named default", &named, "default stands for nodes in no pool");
    named["metadata"]["name"] = "a".repeat(64).into();
    check_refused(&api, "a pool with a name of 64", &named, "choose one of at most 63 characters");
    named["metadata"]["name"] = "a".repeat(63).into();
    assert_eq!(refusal(&api, &named), None);
    for uplink in [
        json!({ "defaultRoute": true }),
        json!({ "interface": "eth0" }),
        json!({ "interfaceRegex": "^ens[0-9]+$" }),
        json!({ "address": "192.0.2.7" }),
        json!({ "address": "192.0.2.0/24" }),
        json!({ "canReach": "192.0.2.1" }),
        json!({ "internalIP": true }),
    ] {
        assert_eq!(refusal(&api, &pool(&json!({ "uplink": uplink }))), None, "{uplink}");
    }
}
