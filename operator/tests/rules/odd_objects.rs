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
