//! SubnetLeases and what a node says in their status.

use super::*;

fn lease(subnet: &str, node: &str) -> Value {
    let name = subnet.replace([':', '/'], "-");
    let spec = json!({
        "nodeName": node, "nodeUID": "u", "subnet": subnet, "pool": "default", "primary": true,
        "backend": { "type": "vxlan", "accepts": ["vxlan"] },
    });
    object("SubnetLease", &name, spec)
}

#[test]
fn a_lease_is_bound_to_its_block_by_its_name() {
    let api = api();
    let mut wrong = lease("10.244.8.0/24", "node1");
    wrong["metadata"]["name"] = "10.244.9.0-24".into();
    check_refused(
        &api,
        "another block's name",
        &wrong,
        "name must be the subnet with ':' and '/' written as '-'",
    );
    let change = |change: &Value| with(lease("10.244.8.0/24", "node1"), &json!({ "spec": change }));
    let table = [
        ("no node", json!({ "nodeName": "" }), "must name a Node"),
        ("no node at all", json!({ "nodeName": null }), "spec.nodeName: Required value"),
        ("no subnet", json!({ "subnet": null }), "spec.subnet: Required value"),
        (
            "unknown backend",
            json!({ "backend": { "type": "gre" } }),
            "supported values: \"vxlan\", \"ipip\", \"wireguard\", \"ipsec\", \"udp\", \"host-gw\", \"alloc\", \"extension\"",
        ),
        ("MTU 70000", json!({ "mtu": 70_000 }), "spec.mtu"),
    ];
    for (what, patch, expected) in &table {
        check_refused(&api, what, &change(patch), expected);
    }

    let v6 = lease("fd00:10:244:3::/64", "node1");
    assert_eq!(v6["metadata"]["name"], "fd00-10-244-3---64");
    assert_eq!(refusal(&api, &v6), None);

    send(&api, &["create"], &lease("10.244.8.0/24", "node1")).ok().unwrap();
    let taken = send(&api, &["create"], &lease("10.244.8.0/24", "node2"));
    assert!(taken.stderr.contains("AlreadyExists"), "{}", taken.stderr);
    let target = ["sl", "10.244.8.0-24"];
    for subnet in [json!("10.244.9.0/24"), Value::Null] {
        let said =
            patch(&api, &target, &json!({ "spec": { "subnet": subnet } })).expect("the subnet was changed");
        assert!(said.contains("spec.subnet"), "{said}");
    }
    let said =
        patch(&api, &target, &json!({ "spec": { "nodeName": "node2" } })).expect("the node was changed");
    assert!(said.contains("spec.nodeName") && said.contains("a lease's node never changes"), "{said}");
    assert_eq!(patch(&api, &target, &json!({ "spec": { "releasedAt": "2026-01-01T00:00:00Z" } })), None);

    // Writes of the status reach the status and nothing else, and are checked.
    let status = |status: &Value, spec: &Value| {
        let body = json!({ "status": status, "spec": spec, "metadata": { "labels": { "x": "y" } } });
        patch(&api, &["sl", "10.244.8.0-24", "--subresource=status"], &body)
    };
    let good = json!({
        "publicIPs": ["192.0.2.1", "2001:db8::1"], "uplinkPrefixes": ["192.0.2.0/24"], "mtu": 1450, "pairingVersion": 1,
        "endpoints": [{ "type": "vxlan", "vtepMAC": "02:00:5e:00:53:01" }, { "type": "host-gw" }],
    });
    assert_eq!(status(&good, &json!({ "nodeName": "node9" })), None);
    let stored = get(&api, &target);
    assert_eq!((&stored["spec"]["nodeName"], stored["metadata"].get("labels")), (&json!("node1"), None));
    assert_eq!(stored["status"], good);
    assert!(serde_json::from_value::<SubnetLease>(stored).is_ok());
    for (change, expected) in [
        (json!({ "publicIPs": ["2001:DB8::1"] }), "must be an IP address in canonical form"),
        (json!({ "publicIPs": ["node1"] }), "must be an IP address in canonical form"),
        (json!({ "publicIPs": ["192.0.2.1", "192.0.2.2", "192.0.2.3"] }), "must have at most 2 items"),
        (json!({ "endpoints": [{ "type": "vxlan", "vtepMAC": "02:00:5E:00:53:01" }] }), "vtepMAC"),
        (json!({ "uplinkPrefixes": ["192.0.2.1/24"] }), "must be a CIDR in canonical form"),
    ] {
        let said = status(&change, &json!({})).unwrap_or_else(|| panic!("{change} was accepted"));
        assert!(said.contains(expected), "{change}: {said}");
    }
}

#[test]
fn the_leases_of_a_node_are_found_by_its_name() {
    let api = api();
    for (subnet, node) in
        [("10.250.1.0/24", "node-x"), ("10.250.2.0/24", "node-y"), ("10.250.3.0/24", "node-x")]
    {
        send(&api, &["create"], &lease(subnet, node)).ok().unwrap();
    }
    let names = |selector: &str| {
        let said = api.kubectl(&["get", "sl", "-o", "name", "--field-selector", selector]).unwrap();
        said.ok()
            .unwrap()
            .stdout
            .lines()
            .map(|line| line.rsplit_once('/').unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("spec.nodeName=node-x"), ["10.250.1.0-24", "10.250.3.0-24"]);
    let other = api.kubectl(&["get", "sl", "--field-selector", "spec.pool=default"]).unwrap();
    assert!(other.stderr.contains("field label not supported"), "{}", other.stderr);
}
