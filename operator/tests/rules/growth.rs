//! Further blocks: when a node gets one, from where, and how one goes back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tartan_crds::AddressUse;

use super::*;

/// Blocks of 13 pod addresses; a further one from the first pod address too few, at most 3, a minute apart.
fn growing(entries: Vec<serde_json::Value>) -> Store {
    Store::default().with_network(spec(entries))
}

pub fn spec(entries: Vec<serde_json::Value>) -> serde_json::Value {
    json!({
        "cidrs": entries,
        "growth": { "maxBlocksPerNode": 3, "grantBelowFree": 20, "coolDown": "1m", "returnEmptyAfter": "1h" },
    })
}

fn one_node() -> Store {
    let mut store = growing(vec![entry("main", "10.0.0.0/24", 28)]);
    store.add_node("a");
    store.settle();
    store.pass(60);
    store
}

/// What a node's agent says of its blocks: subnet, used, and for how many seconds it has been empty.
pub fn report(store: &mut Store, node: &str, uses: &[(&str, i64, Option<i64>)]) {
    let now = store.now;
    let figures = uses.iter().map(|(subnet, used, empty)| AddressUse {
        subnet: subnet.parse().unwrap(),
        capacity: 13,
        used: *used,
        empty_since: empty.map(|seconds| Time(now - k8s_openapi::jiff::SignedDuration::from_secs(seconds))),
    });
    let said = &mut store.node_networks.get_mut(node).unwrap().report;
    said.address_use = tartan_operator::world::UsedAddresses(figures.collect());
    said.knows_leases = true;
}

pub fn asked_back(store: &Store) -> Vec<&str> {
    let asked = |lease: &&tartan_operator::world::Lease| lease.spec.as_ref().unwrap().returning.is_some();
    store.leases.values().filter(asked).map(|lease| lease.meta.name.as_str()).collect()
}

/// The agent meets the request for a block.
pub fn meet(store: &mut Store, name: &str) {
    store.change_lease(name, |lease| lease.emptied = lease.spec.as_ref().unwrap().returning.clone());
}

fn primaries(store: &Store) -> Vec<&str> {
    let primary = |lease: &&tartan_operator::world::Lease| lease.spec.as_ref().unwrap().primary;
    store.leases.values().filter(primary).map(|lease| lease.meta.name.as_str()).collect()
}

#[test]
fn a_node_gets_a_further_block_when_its_addresses_run_low() {
    let mut store = one_node();
    report(&mut store, "a", &[("10.0.0.0/28", 10, None)]);
    check(&mut store, "a: 10.0.0.0/28");
    report(&mut store, "a", &[("10.0.0.0/28", 11, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert_eq!(primaries(&store), ["10.0.0.0-28"]);
    assert_eq!(store.nodes["a"].pod_cidrs, ["10.0.0.0/28"], "podCIDRs can't grow");
    let said = &store.node_networks["a"].leased.as_ref().unwrap().message;
    assert!(said.starts_with("holds 10.0.0.0/28 of entry main, 10.0.0.16/28 of entry main"), "{said}");
}

#[test]
fn a_block_that_was_just_granted_counts_before_the_next_and_the_next_waits() {
    let mut store = one_node();
    report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    store.pass(600);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    // Both are full at once.
    store.pass(-570);
    report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 13, None)]);
    let wake = store.settle().wake_at.expect("the cool-down ends");
    assert_eq!((wake - store.now).get_seconds(), 30);
    assert_eq!(store.leased(), "a: 10.0.0.0/28 10.0.0.16/28");
    store.pass(30);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.0.0.32/28");
    store.pass(60);
    let full = ["10.0.0.0/28", "10.0.0.16/28", "10.0.0.32/28"].map(|subnet| (subnet, 13, None));
    report(&mut store, "a", &full);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.0.0.32/28");
    assert_eq!(store.leased_condition("a"), "True AddressesLow");
    let said = &store.node_networks["a"].leased.as_ref().unwrap().message;
    assert!(said.contains("it has the 3 that growth.maxBlocksPerNode allows"), "{said}");
}

#[test]
fn what_was_reported_of_another_node_of_this_name_counts_for_nothing() {
    let mut store = one_node();
    report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    store.node_networks.get_mut("a").unwrap().owner = Some("of before".into());
    check(&mut store, "a: 10.0.0.0/28");
    let object = &store.node_networks["a"];
    assert_eq!(object.owner.as_ref(), Some(&store.nodes["a"].meta.uid));
    assert!(object.report.address_use.0.is_empty(), "{object:?}");
}

#[test]
fn a_node_whose_pool_is_full_is_told_what_to_append() {
    let mut store = growing(vec![entry("tiny", "10.0.0.0/28", 28)]);
    store.add_node("a");
    store.settle();
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    check(&mut store, "a: 10.0.0.0/28");
    assert_eq!(store.leased_condition("a"), "True AddressesLow");
    let said = store.node_networks["a"].leased.as_ref().unwrap().message.clone();
    assert!(said.contains("append an entry to ClusterNetwork.spec.cidrs"), "{said}");
    assert!(store.settle().actions.is_empty(), "it is told once");
}

#[test]
fn a_pool_has_a_policy_of_its_own_and_its_own_entries_only() {
    let mut store = growing(vec![entry("main", "10.0.0.0/24", 28), entry("edge", "10.9.0.0/24", 28)]);
    store.set_pool(
        "edge",
        json!({ "nodeSelector": {}, "backend": { "type": "vxlan" }, "cidrs": ["edge"],
        "growth": { "maxBlocksPerNode": 1 } }),
    );
    store.add_node("a");
    store.settle();
    store.pass(60);
    report(&mut store, "a", &[("10.9.0.0/28", 13, None)]);
    check(&mut store, "a: 10.9.0.0/28");
    store.set_pool("edge", json!({ "nodeSelector": {}, "backend": { "type": "vxlan" }, "cidrs": ["edge"] }));
    check(&mut store, "a: 10.9.0.0/28 10.9.0.16/28");
}

#[test]
fn where_another_ipam_gives_out_podcidrs_further_blocks_come_from_entries_that_it_does_not_know() {
    let mut store = growing(vec![entry("theirs", "10.0.0.0/24", 28)]);
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.0.16/28".into()]);
    store.settle();
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.16/28", 13, None)]);
    check(&mut store, "a: 10.0.0.16/28");
    assert_eq!(store.leased_condition("a"), "True AddressesLow");
    let mut spec = json!({ "cidrs": [entry("theirs", "10.0.0.0/24", 28), entry("ours", "10.7.0.0/24", 28)] });
    spec["growth"] = json!({ "maxBlocksPerNode": 2 });
    store.set_network(spec);
    check(&mut store, "a: 10.0.0.16/28 10.7.0.0/28");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
}

/// A node with two blocks of the entry main, 10.0.0.0/24.
pub fn two_blocks() -> Store {
    let mut store = one_node();
    report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    store
}

#[test]
fn an_empty_block_is_asked_back_met_by_the_agent_and_released() {
    let mut store = two_blocks();
    report(&mut store, "a", &[("10.0.0.0/28", 5, None), ("10.0.0.16/28", 0, Some(3599))]);
    let wake = store.settle().wake_at.expect("it becomes due");
    assert_eq!((wake - store.now).get_seconds(), 1);
    assert!(asked_back(&store).is_empty());
    store.pass(1);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert_eq!(asked_back(&store), ["10.0.0.16-28"]);
    store.pass(100_000);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    meet(&mut store, "10.0.0.16-28");
    check(&mut store, "a: 10.0.0.0/28");
    assert!(store.settle().actions.is_empty());
}

#[test]
fn a_block_stays_while_a_pod_has_an_address_of_it_or_the_others_have_no_room() {
    let mut store = two_blocks();
    report(&mut store, "a", &[("10.0.0.0/28", 0, Some(9000)), ("10.0.0.16/28", 1, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert!(asked_back(&store).is_empty(), "the first block is never asked back");
    report(&mut store, "a", &[("10.0.0.0/28", 9, None), ("10.0.0.16/28", 0, Some(9000))]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert!(asked_back(&store).is_empty(), "less than twice the threshold would be left");
}

#[test]
fn an_answer_to_an_earlier_request_or_one_that_is_taken_back_releases_nothing() {
    let mut store = two_blocks();
    let empty = [("10.0.0.0/28", 2, None), ("10.0.0.16/28", 0, Some(9000))];
    report(&mut store, "a", &empty);
    store.settle();
    store.change_lease("10.0.0.16-28", |lease| {
        lease.emptied = Some(Time("2025-01-01T00:00:00Z".parse().unwrap()));
    });
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");

    // Decided on the answer, carried out after it was taken back.
    meet(&mut store, "10.0.0.16-28");
    let mut world = store.world();
    let decisions = decide(&world, store.now);
    assert!(decisions.actions.iter().any(|action| matches!(action, Action::DeleteLease { .. })));
    store.change_lease("10.0.0.16-28", |lease| lease.emptied = None);
    store.obey(&mut world, &decisions);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
}

#[test]
fn a_block_that_is_needed_after_all_is_not_asked_back_any_more() {
    let mut store = two_blocks();
    report(&mut store, "a", &[("10.0.0.0/28", 2, None), ("10.0.0.16/28", 0, Some(9000))]);
    store.settle();
    let first = store.leases["10.0.0.16-28"].spec.as_ref().unwrap().returning.clone();
    // Pods came while the agent had answered.
    meet(&mut store, "10.0.0.16-28");
    report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 0, Some(9000))]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert!(asked_back(&store).is_empty());
    // The old answer is none to a new request.
    store.pass(5);
    report(&mut store, "a", &[("10.0.0.0/28", 2, None), ("10.0.0.16/28", 0, Some(9000))]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert_eq!(asked_back(&store), ["10.0.0.16-28"]);
    assert_ne!(store.leases["10.0.0.16-28"].spec.as_ref().unwrap().returning, first);
}

#[test]
fn a_further_block_in_a_draining_entry_is_asked_back_at_once_and_replaced_when_needed() {
    let mut store = growing(vec![entry("old", "10.0.0.0/24", 28)]);
    store.add_node("a");
    store.settle();
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 4, None)]);
    let mut spec = json!({ "cidrs": [draining("old", "10.0.0.0/24", 28), entry("new", "10.5.0.0/24", 28)] });
    spec["growth"] = json!({ "maxBlocksPerNode": 2 });
    store.set_network(spec);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.5.0.0/28");
    assert_eq!(asked_back(&store), ["10.0.0.16-28"]);
    assert_eq!(
        store.network_message("Draining"),
        "entry old: 1 lease in use by a: drain each of these nodes, delete its Node and let it join again; \
         entry old: 1 further block of a: asked back, and gone when no pod has an address there"
    );
    report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 0, Some(0))]);
    meet(&mut store, "10.0.0.16-28");
    check(&mut store, "a: 10.0.0.0/28 10.5.0.0/28");
}

#[test]
fn after_a_move_to_another_pool_a_further_block_is_asked_back_and_the_next_comes_from_there() {
    let mut store = growing(vec![entry("main", "10.0.0.0/24", 28), entry("own", "10.9.0.0/24", 27)]);
    store.set_pool(
        "p",
        json!({ "nodeSelector": { "matchLabels": { "p": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["own"] }),
    );
    store.add_node("a");
    store.settle();
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 4, None)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert!(asked_back(&store).is_empty());
    store.change_node("a", |node| drop(node.labels.insert("p".into(), String::new())));
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.9.0.0/27");
    assert_eq!(asked_back(&store), ["10.0.0.16-28"], "not the first one, which stays");
    assert_eq!(store.leased_condition("a"), "True OutsidePool");
    store.pass(100_000);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.9.0.0/27");
    // The answer is there before the report that agrees with it.
    meet(&mut store, "10.0.0.16-28");
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.9.0.0/27");
    report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 0, Some(0))]);
    check(&mut store, "a: 10.0.0.0/28 10.9.0.0/27");
    assert_eq!(primaries(&store), ["10.0.0.0-28"]);
}

#[test]
fn further_blocks_are_held_with_the_first_and_come_back_with_it() {
    let mut store = two_blocks();
    store.remove_node("a");
    check(&mut store, "a: ~10.0.0.0/28 ~10.0.0.16/28");
    store.pass(600);
    store.add_node("a");
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert_eq!(primaries(&store), ["10.0.0.0-28"]);
}

#[test]
fn a_request_that_somebody_wrote_into_a_first_lease_is_taken_out() {
    let mut store = one_node();
    let now = Time(store.now);
    store.change_lease("10.0.0.0-28", |lease| {
        lease.spec.as_mut().unwrap().returning = Some(now.clone());
        lease.emptied = Some(now);
    });
    check(&mut store, "a: 10.0.0.0/28");
    assert!(asked_back(&store).is_empty());
}

/// They are there for nodes that come back, and for nodes that are new.
#[test]
fn blocks_that_are_held_for_others_are_no_further_blocks_and_that_is_said() {
    let mut store = growing(vec![entry("main", "10.0.0.0/27", 28)]);
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("b");
    store.settle();
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 12, None)]);
    check(&mut store, "a: 10.0.0.0/28\nb: ~10.0.0.16/28");
    let told = store.node_networks["a"].leased.clone().unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", "AddressesLow"));
    assert!(
        told.message.contains("but 1 block held for nodes that come back or are new"),
        "{}",
        told.message
    );
    // Which has it before the other, though that is the first by name and waits for one.
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/28\nc: 10.0.0.16/28");
}
