//! What a real API server makes of the definitions: taken without a warning, and each rule refuses what
//! it should, with a text that names the field.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};
use tartan_crds::{crd_yaml, crds};
use tartan_lab::{ApiServer, ApiServerOptions, eventually};

fn server() -> ApiServer {
    let server = ApiServer::start(ApiServerOptions::default()).expect("an API server");
    for definition in crds() {
        let text = crd_yaml(&definition).unwrap().to_string();
        let output = server.apply(&text).expect("kubectl");
        assert!(output.success(), "{}", output.stderr);
        assert_eq!(output.stderr, "", "kubectl apply of {} warned", definition.spec.names.kind);
    }
    let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
    server.kubectl(&established).unwrap().ok().unwrap();
    for plural in ["clusternetworks", "networkpools", "subnetleases", "nodenetworks"] {
        eventually(plural, std::time::Duration::from_secs(20), || {
            server.kubectl(&["get", plural]).is_ok_and(|output| output.success())
        })
        .unwrap();
    }
    server
}

/// `Ok` with the object as stored, or what the server said.
fn apply(server: &ApiServer, object: &Value) -> Result<(), String> {
    let output = server.apply(&object.to_string()).expect("kubectl");
    if output.success() {
        assert_eq!(output.stderr, "", "a warning on {object}");
        Ok(())
    } else {
        Err(output.stderr)
    }
}

fn network(cidrs: Value) -> Value {
    json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
            "spec": { "cidrs": cidrs } })
}

fn entry(name: &str, cidr: &str, mask: i32) -> Value {
    json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask })
}

fn lease(name: &str, subnet: &str) -> Value {
    json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease", "metadata": { "name": name },
            "spec": { "nodeName": "node1", "nodeUID": "u1", "subnet": subnet, "pool": "default", "primary": true,
                      "backend": { "type": "vxlan", "accepts": ["vxlan"] } } })
}

fn pool(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": name }, "spec": spec })
}

#[track_caller]
fn refused(server: &ApiServer, object: &Value, field: &str, says: &str) {
    let error = apply(server, object).expect_err(&format!("taken: {object}"));
    assert!(
        error.contains(field) && error.contains(says),
        "{object}\nshould name {field:?} and say {says:?}:\n{error}"
    );
}

#[test]
fn bad_objects_are_refused_with_the_field_and_the_remedy() {
    let server = server();

    let one = || json!([entry("a", "10.244.0.0/16", 24)]);
    let mut other_name = network(one());
    other_name["metadata"]["name"] = json!("other");
    refused(&server, &other_name, "metadata.name", "the only ClusterNetwork is named default");
    for (cidrs, field, says) in [
        (json!([]), "spec.cidrs", "should have at least 1 items"),
        (json!([entry("a", "10.244.0.1/16", 24)]), "spec.cidrs[0].cidr", "canonical form"),
        (json!([entry("a", "10.244.0.0", 24)]), "spec.cidrs[0].cidr", "canonical form"),
        (json!([entry("a", "FD00::/48", 64)]), "spec.cidrs[0].cidr", "canonical form"),
        (json!([entry("a", "fd00:0:0::/48", 64)]), "spec.cidrs[0].cidr", "canonical form"),
        (json!([entry("a", "10.244.0.0/16", 12)]), "spec.cidrs[0]", "nodeMaskSize must lie between"),
        (json!([entry("a", "10.244.0.0/16", 31)]), "spec.cidrs[0]", "nodeMaskSize must lie between"),
        (json!([entry("a", "10.0.0.0/8", 30)]), "spec.cidrs[0]", "at most 2^20 blocks"),
        (
            json!([entry("a", "10.0.0.0/8", 24), entry("b", "10.244.0.0/16", 24)]),
            "spec.cidrs",
            "must not overlap",
        ),
        (
            json!([entry("a", "10.0.0.0/16", 24), entry("a", "10.1.0.0/16", 24)]),
            "spec.cidrs",
            "names must be unique",
        ),
        (json!([entry("A_b", "10.0.0.0/16", 24)]), "spec.cidrs[0].name", "should match"),
    ] {
        refused(&server, &network(cidrs), field, says);
    }
    let mut bad = network(one());
    for (field, value, says) in [
        ("mtu", json!(100), "greater than or equal to 576"),
        ("reclaimAfter", json!("soon"), "must be a duration such as 1h"),
        ("fallbackBackend", json!("host-gw"), "must be an overlay"),
        ("podCIDRMode", json!("Perhaps"), "Unsupported value"),
        ("defaultBackend", json!({ "type": "carrier-pigeon" }), "Unsupported value"),
        ("backends", json!({ "vxlan": { "vni": 16_777_216 } }), "less than or equal to 16777215"),
        ("backends", json!({ "vxlan": { "port": 0 } }), "greater than or equal to 1"),
        ("masquerade", json!({ "nonMasqueradeCIDRs": ["10.0.0.1/8"] }), "canonical form"),
    ] {
        bad["spec"][field] = value;
        refused(&server, &bad, field, says);
        bad["spec"].as_object_mut().unwrap().remove(field);
    }

    for (name, subnet, says) in [
        ("10.244.9.0-24", "10.244.8.0/24", "name must be the subnet"),
        ("10.244.8.1-24", "10.244.8.1/24", "canonical form"),
        ("fd00-10-244-3--64", "fd00:10:244:3::/64", "name must be the subnet"),
    ] {
        refused(&server, &lease(name, subnet), "", says);
    }

    let everyone = json!({ "nodeSelector": {}, "backend": { "type": "vxlan" } });
    refused(&server, &pool("default", everyone.clone()), "metadata.name", "choose another name");
    for (uplink, says) in [
        (json!({}), "exactly one of"),
        (json!({ "interface": "eth0", "canReach": "192.0.2.1" }), "exactly one of"),
        (json!({ "canReach": "nowhere" }), "must be an IP address"),
    ] {
        let mut spec = everyone.clone();
        spec["uplink"] = uplink;
        refused(&server, &pool("p", spec), "spec.uplink", says);
    }
}

#[test]
fn entries_are_appended_drained_and_only_then_removed() {
    let server = server();
    let (a, b) = (entry("a", "10.244.0.0/16", 24), entry("b", "10.245.0.0/16", 24));
    apply(&server, &network(json!([a]))).unwrap();
    apply(&server, &network(json!([a, b]))).expect("append");
    apply(&server, &network(json!([b, a]))).expect("a new order of preference");
    refused(&server, &network(json!([a])), "spec.cidrs", "only one with drain: true may be removed");
    refused(
        &server,
        &network(json!([a, entry("b", "10.245.0.0/16", 25)])),
        "spec.cidrs",
        "an entry never changes",
    );
    let mut draining = b.clone();
    draining["drain"] = json!(true);
    apply(&server, &network(json!([a, draining]))).expect("drain");
    apply(&server, &network(json!([a]))).expect("remove a drained entry");
    // The bounds that the rules' cost was checked with.
    let most: Vec<Value> = (0..64).map(|i| entry(&format!("e{i}"), &format!("10.{i}.0.0/16"), 24)).collect();
    let mut all = vec![a];
    all.extend(most.into_iter().take(63));
    apply(&server, &network(json!(all))).expect("64 entries");
}

#[test]
fn a_lease_is_named_selected_and_printed_by_what_it_says() {
    let server = server();
    apply(&server, &lease("10.244.3.0-24", "10.244.3.0/24")).unwrap();
    apply(&server, &lease("fd00-10-244-3---64", "fd00:10:244:3::/64")).unwrap();
    let mut second = lease("10.244.4.0-24", "10.244.4.0/24");
    second["spec"]["nodeName"] = json!("node2");
    apply(&server, &second).unwrap();
    let mut moved = lease("10.244.3.0-24", "10.244.4.0/24");
    moved["spec"]["subnet"] = json!("10.244.4.0/24");
    refused(&server, &moved, "", "never changes");
    let get = |arguments: &[&str]| server.kubectl(arguments).unwrap().ok().unwrap().stdout;
    let mine = get(&["get", "sl", "--field-selector", "spec.nodeName=node2", "-o", "name"]);
    assert_eq!(mine.trim(), "subnetlease.tartan.network/10.244.4.0-24");
    let status = r#"{"status":{"publicIPs":["192.0.2.7"],"endpoints":[{"type":"vxlan","vtepMAC":"02:00:00:00:00:01"}]}}"#;
    get(&["patch", "sl", "10.244.4.0-24", "--subresource=status", "--type=merge", "-p", status]);
    let table = get(&["get", "subnetleases"]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(
        words(lines[0]),
        ["NAME", "NODE", "SUBNET", "POOL", "BACKEND", "PUBLIC-IP", "RELEASED", "AGE"]
    );
    let row = lines.iter().find(|line| line.starts_with("10.244.4.0-24")).unwrap();
    assert_eq!(words(row)[..6], ["10.244.4.0-24", "node2", "10.244.4.0/24", "default", "vxlan", "192.0.2.7"]);
    let hostile = r#"{"status":{"endpoints":[{"type":"vxlan","vtepMAC":"not a mac"}]}}"#;
    let refused = server
        .kubectl(&["patch", "sl", "10.244.4.0-24", "--subresource=status", "--type=merge", "-p", hostile])
        .unwrap();
    assert!(!refused.success() && refused.stderr.contains("vtepMAC"), "{}", refused.stderr);
}
