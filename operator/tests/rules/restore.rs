//! Leases that are gone while pods have addresses of their blocks.

use tartan_operator::world::Choice;

use super::*;

/// So many blocks per node.
fn allowing(most: u32, mode: &str) -> serde_json::Value {
    json!({
        "cidrs": [entry("main", "10.0.0.0/24", 28)],
        "growth": { "maxBlocksPerNode": most, "grantBelowFree": 20, "coolDown": "1m", "returnEmptyAfter": "1h" },
        "podCIDRMode": mode,
    })
}

/// Node a with two blocks, which says how many addresses of each pods have.
fn grown(mode: &str) -> Store {
    let mut store = Store::default().with_network(allowing(3, mode));
    store.add_node("a");
    store.settle();
    store.use_leases_of("a");
    store.pass(60);
    report(&mut store, "a", &[("10.0.0.0/28", 12)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    store.use_leases_of("a");
    store.pass(3600);
    report(&mut store, "a", &[("10.0.0.0/28", 9), ("10.0.0.16/28", 3)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    store
}

fn report(store: &mut Store, node: &str, uses: &[(&str, i64)]) {
    let uses: Vec<_> = uses.iter().map(|(subnet, used)| (*subnet, *used, None)).collect();
    growth::report(store, node, &uses);
}

fn is_primary(store: &Store, name: &str) -> bool {
    store.leases[name].spec.as_ref().unwrap().primary
}

#[test]
fn a_lease_that_was_deleted_under_pods_is_their_nodes_again_and_nobody_elses() {
    for mode in ["Ignore", "Mirror"] {
        for gone in [&["10.0.0.0-28"][..], &["10.0.0.16-28"], &["10.0.0.0-28", "10.0.0.16-28"]] {
            let mut store = grown(mode);
            gone.iter().for_each(|name| store.remove_lease(name));
            store.add_node("b");
            check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28\nb: 10.0.0.32/28");
            if gone.len() == 1 {
                let primaries = (is_primary(&store, "10.0.0.0-28"), is_primary(&store, "10.0.0.16-28"));
                assert_eq!(primaries, (true, false), "{mode} {gone:?}");
            }
            assert!(store.settle().actions.is_empty(), "{mode} {gone:?}");
        }
    }
}

/// Nodes are gone through by name, and this one's lease is the next to be decided on.
#[test]
fn where_pod_cidrs_bind_a_node_of_an_earlier_name_does_not_get_the_block_of_a_deleted_lease() {
    for mode in ["Ignore", "Mirror"] {
        let mut store = grown(mode);
        store.remove_lease("10.0.0.0-28");
        store.add_node("0");
        check(&mut store, "0: 10.0.0.32/28\na: 10.0.0.0/28 10.0.0.16/28");
        assert!(is_primary(&store, "10.0.0.0-28"), "{mode}");
    }
}

#[test]
fn only_a_block_that_its_node_had_is_said_to_be_restored() {
    let restored = |store: &Store| -> Vec<(String, bool)> {
        let actions = decide(&store.world(), store.now).actions.into_iter();
        actions
            .filter_map(|action| match action {
                Action::CreateLease { spec, chosen, .. } => {
                    Some((spec.subnet.to_string(), chosen == Choice::Restored))
                }
                _ => None,
            })
            .collect()
    };
    let block = || "10.0.0.0/28".to_owned();
    for (mode, pod_cidrs) in [("Mirror", None), ("Adopt", Some("10.0.0.0/28"))] {
        let mut store = Store::default()
            .with_network(json!({ "cidrs": [entry("main", "10.0.0.0/24", 28)], "podCIDRMode": mode }));
        store.add_node_with("a", |node| node.pod_cidrs.extend(pod_cidrs.map(str::to_owned)));
        assert_eq!(restored(&store), [(block(), false)], "{mode}");
        check(&mut store, "a: 10.0.0.0/28");
        report(&mut store, "a", &[("10.0.0.0/28", 0)]);
        store.remove_lease("10.0.0.0-28");
        assert_eq!(restored(&store), [(block(), true)], "{mode}");
    }
    let mut store = grown("Ignore");
    store.remove_lease("10.0.0.16-28");
    assert_eq!(restored(&store), [("10.0.0.16/28".to_owned(), true)]);
}

#[test]
fn what_no_pod_uses_or_another_machine_said_is_free() {
    let mut store = grown("Ignore");
    report(&mut store, "a", &[("10.0.0.0/28", 9), ("10.0.0.16/28", 0)]);
    store.remove_lease("10.0.0.16-28");
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/28\nb: 10.0.0.16/28");
    report(&mut store, "a", &[("10.0.0.0/28", 9), ("10.0.0.32/28", 5)]);
    store.node_networks.get_mut("a").unwrap().owner = Some("of before".into());
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/28\nb: 10.0.0.16/28\nc: 10.0.0.32/28");
}

#[test]
fn an_agent_that_lies_gets_no_more_than_it_could_have() {
    let mut store = grown("Ignore");
    let lies = ["10.0.0.32/28", "10.0.0.48/28", "10.0.0.64/28", "10.0.1.0/28", "10.0.0.80/29"];
    let all: Vec<_> =
        ["10.0.0.0/28", "10.0.0.16/28"].into_iter().chain(lies).map(|block| (block, 5)).collect();
    report(&mut store, "a", &all);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.0.0.32/28");
}

/// Fewer blocks are allowed than the node has pods in.
#[test]
fn a_block_with_pods_that_its_node_may_not_have_again_goes_to_nobody_and_is_told() {
    let mut store = grown("Ignore");
    store.set_network(allowing(1, "Ignore"));
    store.remove_lease("10.0.0.16-28");
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/28\nb: 10.0.0.32/28");
    assert_eq!(store.network_condition("Consistent"), "False BlockWithoutLease");
    let said = store.network_message("Consistent");
    for part in ["10.0.0.16/28 by the word of a's agent", "growth.maxBlocksPerNode allows it no more"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(store.leased_condition("a"), "True BlockWithoutLease");
    let decisions = store.settle();
    assert_eq!(decisions.figures.violations["block-without-lease"], 1);
    let status = &store.network.as_ref().unwrap().status;
    assert_eq!((status.used, status.free), (3, 13));

    // Allowed again: it is the node's.
    store.set_network(allowing(2, "Ignore"));
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28\nb: 10.0.0.32/28");
    assert_eq!(store.network_condition("Consistent"), "True AsExpected");

    // No pod is left there: it is free.
    store.set_network(allowing(1, "Ignore"));
    store.remove_lease("10.0.0.16-28");
    report(&mut store, "a", &[("10.0.0.0/28", 9), ("10.0.0.16/28", 0)]);
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/28\nb: 10.0.0.32/28\nc: 10.0.0.16/28");
    assert_eq!(store.network_condition("Consistent"), "True AsExpected");
}

#[test]
fn of_an_agents_word_no_more_than_sixteen_blocks_are_withheld() {
    let mut store = grown("Ignore");
    let mut wide = allowing(3, "Ignore");
    wide["cidrs"][0] = entry("main", "10.0.0.0/22", 28);
    store.set_network(wide);
    let all: Vec<String> =
        (0..64).map(|block| format!("10.0.{}.{}/28", block / 16, block % 16 * 16)).collect();
    let all: Vec<_> = all.iter().map(|block| (block.as_str(), 5)).chain([("10.0.2.0/23", 5)]).collect();
    report(&mut store, "a", &all);
    let decisions = store.settle();
    assert_eq!(store.leased(), "a: 10.0.0.0/28 10.0.0.16/28 10.0.0.32/28");
    assert_eq!(
        decisions.figures.violations["block-without-lease"], 62,
        "those that are not kept are told, too"
    );
    assert_eq!(store.network.as_ref().unwrap().status.used, 3 + 16);
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28 10.0.0.32/28\nb: 10.0.1.48/28");
}

#[test]
fn a_block_with_pods_that_is_reserved_for_another_waits_for_them_also_without_a_lease() {
    let mut store = grown("Ignore");
    let mut reserving = allowing(3, "Ignore");
    reserving["cidrs"][0]["reserved"] = json!([{ "cidr": "10.0.0.16/28", "nodeName": "z" }]);
    store.set_network(reserving);
    store.add_node("z");
    store.remove_lease("10.0.0.16-28");
    check(&mut store, "a: 10.0.0.0/28");
    assert_eq!(store.leased_condition("z"), "False ReservedBlockTaken");
    let said = &store.node_networks["z"].leased.as_ref().unwrap().message;
    assert!(said.contains("has pods of node a and no lease"), "{said}");
    report(&mut store, "a", &[("10.0.0.0/28", 9)]);
    check(&mut store, "a: 10.0.0.0/28\nz: 10.0.0.16/28");
}

/// The entry is cut otherwise now, and a part of the block is another node's.
#[test]
fn what_is_left_of_a_block_with_pods_is_kept_though_another_has_a_part_of_it() {
    let mut store = Store::default()
        .with_network(json!({ "cidrs": [entry("main", "10.0.0.0/24", 28)], "podCIDRMode": "Ignore" }));
    ["a", "b"].iter().for_each(|node| store.add_node(node));
    store.settle();
    report(&mut store, "b", &[("10.0.0.0/26", 3)]);
    store.add_node("c");
    check(&mut store, "a: 10.0.0.0/28\nb: 10.0.0.16/28\nc: 10.0.0.64/28");
    assert_eq!(store.network_condition("Consistent"), "False BlockWithoutLease");
    let status = &store.network.as_ref().unwrap().status;
    assert_eq!((status.used, status.free), (5, 11));
}

/// podCIDRs name it, whoever's turn comes first.
#[test]
fn a_block_that_a_node_is_told_is_not_given_to_the_node_that_it_is_reserved_for() {
    for (foreign, b) in [(false, "0"), (false, "z"), (true, "0"), (true, "z")] {
        let mut store = Store::default()
            .with_network(json!({ "cidrs": [entry("main", "10.0.0.0/24", 28)], "podCIDRMode": "Mirror" }));
        store.add_node_with("m", |node| {
            node.pod_cidrs.extend(foreign.then(|| "10.0.0.0/28".to_owned()));
        });
        store.settle();
        report(&mut store, "m", &[("10.0.0.0/28", 3)]);
        let mut reserving = entry("main", "10.0.0.0/24", 28);
        reserving["reserved"] = json!([{ "cidr": "10.0.0.0/28", "nodeName": b }]);
        store.set_network(json!({ "cidrs": [reserving], "podCIDRMode": "Mirror" }));
        store.add_node(b);
        store.settle();
        store.remove_lease("10.0.0.0-28");
        store.settle();
        let holder = store.leases.get("10.0.0.0-28").and_then(|lease| lease.node());
        assert_eq!(holder, (!foreign).then_some("m"), "{foreign} {b}");
        assert_eq!(store.leased_condition(b), "False ReservedBlockTaken", "{foreign} {b}");
    }
}

/// Whether it happened is not known: the block is nobody else's meanwhile.
#[test]
fn a_lease_that_is_restored_and_whose_create_fails_leaves_its_block_to_no_other() {
    let mut store = grown("Ignore");
    store.remove_lease("10.0.0.16-28");
    store.add_node("0");
    let mut world = store.world();
    world.leases.doubt("10.0.0.16-28");
    let created: Vec<String> = decide(&world, store.now)
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::CreateLease { spec, .. } => Some(format!("{} {}", spec.node_name, spec.subnet)),
            _ => None,
        })
        .collect();
    assert_eq!(created, ["0 10.0.0.32/28"]);
}

/// Its pool is another now, whose nodes get no blocks there.
#[test]
fn an_agent_claims_no_block_of_an_entry_that_its_pool_does_not_use() {
    let mut store = grown("Ignore");
    let mut two = allowing(3, "Ignore");
    two["cidrs"] = json!([entry("main", "10.0.0.0/24", 28), entry("racks", "10.8.0.0/24", 28)]);
    store.set_network(two);
    store.set_pool(
        "racks",
        json!({
            "nodeSelector": { "matchLabels": { "pool": "racks" } }, "backend": { "type": "vxlan" },
            "cidrs": ["racks"],
        }),
    );
    report(&mut store, "a", &[("10.0.0.0/28", 9), ("10.0.0.16/28", 3), ("10.8.0.0/28", 1)]);
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28");
    assert_eq!(store.network_condition("Consistent"), "False BlockWithoutLease");
}

#[test]
fn an_entry_is_not_empty_as_long_as_pods_have_addresses_there() {
    let mut store = grown("Ignore");
    let mut drained = allowing(1, "Ignore");
    drained["cidrs"] = json!([draining("main", "10.0.0.0/24", 28), entry("next", "10.8.0.0/24", 28)]);
    store.set_network(drained);
    store.settle();
    ["10.0.0.0-28", "10.0.0.16-28"].iter().for_each(|name| store.remove_lease(name));
    check(&mut store, "a: 10.0.0.0/28");
    store.remove_lease("10.0.0.0-28");
    report(&mut store, "a", &[("10.0.0.16/28", 3)]);
    check(&mut store, "a: 10.0.0.16/28");
    report(&mut store, "a", &[("10.0.0.0/28", 3), ("10.0.0.16/28", 3)]);
    store.settle();
    assert_eq!(store.network_condition("Draining"), "True EntryInUse");
    let usage = &store.network.as_ref().unwrap().status.cidrs[0];
    assert_eq!((usage.used, usage.used_by.clone()), (2, vec!["a".to_owned()]));
}

/// IPv6 is full: that the node waits for it takes no IPv4 address from its pods.
#[test]
fn a_node_that_waits_for_one_family_grows_in_the_other() {
    let mut store = Store::default().with_network(json!({
        "cidrs": [entry("main", "10.0.0.0/24", 28), entry("six", "fd00::/64", 64)],
        "growth": { "maxBlocksPerNode": 3, "grantBelowFree": 20, "coolDown": "1m", "returnEmptyAfter": "1h" },
    }));
    for name in ["a", "b"] {
        store.add_node(name);
        store.settle();
        store.use_leases_of(name);
    }
    store.pass(60);
    assert!(store.leased_condition("b").contains("Exhausted"), "{}", store.leased_condition("b"));
    report(&mut store, "b", &[("10.0.0.16/28", 13)]);
    check(&mut store, "a: 10.0.0.0/28 fd00::/64\nb: 10.0.0.16/28 10.0.0.32/28");
    assert!(store.leased_condition("b").contains("Exhausted"), "{}", store.leased_condition("b"));
}

/// Where podCIDRs bind, what a Node is told is its own, whoever says that pods of another use it.
#[test]
fn a_block_that_a_node_is_told_goes_to_no_other() {
    let mut store = grown("Mirror");
    store.add_node("b");
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28\nb: 10.0.0.32/28");
    report(&mut store, "a", &[("10.0.0.0/28", 9), ("10.0.0.16/28", 3), ("10.0.0.32/28", 5)]);
    store.remove_lease("10.0.0.32-28");
    check(&mut store, "a: 10.0.0.0/28 10.0.0.16/28\nb: 10.0.0.32/28");
}
