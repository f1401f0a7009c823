//! Objects as no admission of this version lets them pass: stored by another version, restored, or under a definition
//! that was loosened. They are read for what they can mean, and stop nobody.

use super::*;

#[test]
fn a_duration_that_no_clock_holds_means_ten_years() {
    let endless = "9999999999999999h";
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["reclaimAfter"] = json!(endless);
    spec["growth"] = json!({ "coolDown": endless, "returnEmptyAfter": endless });
    spec["backends"] = json!({ "wireguard": { "rotateAfter": endless } });
    let mut store = Store::default().with_network(spec);
    store.set_pool(
        "p",
        json!({ "nodeSelector": {}, "backend": { "type": "vxlan" }, "transition": { "deadline": endless } }),
    );
    store.add_node("a");
    store.settle();
    store.remove_node("a");
    let wake = store.settle().wake_at.unwrap();
    assert_eq!((wake - store.now).get_seconds(), 10 * 365 * 24 * 3600);
    check(&mut store, "a: ~10.0.0.0/24");
}

#[test]
fn a_node_whose_lease_nobody_can_read_gets_no_other_and_is_told() {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Ignore");
    let mut store = Store::default().with_network(spec);
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    let before = store.leases["10.0.0.0-24"].spec.clone();
    store.change_lease("10.0.0.0-24", |lease| lease.spec = Err("missing field `subnet`".into()));
    store.add_node("c");
    let decisions = store.settle();
    assert_eq!(store.leased(), "?: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
    assert_eq!(store.leased_condition("a"), "False LeaseUnreadable");
    assert_eq!(store.network_condition("Consistent"), "False LeaseUnreadable");
    assert_eq!(decisions.figures.violations["lease-unreadable"], 1);
    store.change_lease("10.0.0.0-24", |lease| lease.spec = before);
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    assert_eq!(store.network_condition("Consistent"), "True AsExpected");
}

#[test]
fn an_entry_of_addresses_that_no_pod_can_have_is_left_out_and_said() {
    for range in
        ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/8", "fe80::/48", "ff00::/48", "::/96"]
    {
        let mask = if range.contains(':') { 112 } else { 24 };
        let entries = vec![entry("bad", range, mask), entry("good", "10.0.0.0/22", 24)];
        let mut store = Store::default().with_network(network(entries));
        store.add_node("a");
        check(&mut store, "a: 10.0.0.0/24");
        assert_eq!(store.network_condition("Accepted"), "False InvalidCIDR", "{range}");
    }
}
