//! How long blocks last, as status tells it.

use serde_json::{Value, json};
use tartan_crds::{Family, Forecast, Room};

use super::{
    small,
    store::{Store, draining, entry, network},
};

const HOUR: i64 = 3600;

fn add(store: &mut Store, nodes: std::ops::Range<usize>) {
    for node in nodes {
        store.add_node(&format!("n{node:04}"));
    }
    store.settle();
}

fn entry_forecast(store: &Store, entry: &str) -> (Room, i64, Option<String>) {
    let status = &store.network.as_ref().unwrap().status;
    let usage = status.cidrs.iter().find(|usage| usage.name == entry).unwrap();
    let Forecast { room, blocks_per_day, exhausted_in } = usage.forecast.clone();
    (room, blocks_per_day, exhausted_in)
}

#[test]
fn growth_over_a_day_foretells_when_an_entry_is_exhausted() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/16", 24)]));
    add(&mut store, 0..130);
    store.pass(24 * HOUR);
    add(&mut store, 130..160);
    store.pass(2 * HOUR);
    store.settle();
    assert_eq!(entry_forecast(&store, "main"), (Room::Low, 30, Some("3d".into())));
    assert_eq!(store.network_condition("HasRoom"), "False NearlyExhausted");
    for _ in 0..3 {
        store.pass(13 * HOUR);
        store.settle();
    }
    assert_eq!(entry_forecast(&store, "main"), (Room::Ample, 0, None), "no more nodes came");
    assert_eq!(store.network_condition("HasRoom"), "True AsExpected");
}

#[test]
fn nodes_that_are_replaced_are_no_growth() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/16", 24)]));
    add(&mut store, 0..150);
    store.pass(25 * HOUR);
    store.settle();
    for round in 0..10 {
        for node in 0..15 {
            store.remove_node(&format!("n{:04}", round * 15 + node));
        }
        store.settle();
        store.pass(60);
        add(&mut store, 150 + round * 15..165 + round * 15);
        store.pass(2 * HOUR);
        store.settle();
        assert_eq!(entry_forecast(&store, "main").0, Room::Ample, "round {round}");
        assert_eq!(store.network_condition("HasRoom"), "True AsExpected");
    }
}

#[test]
fn nodes_that_come_back_hours_later_are_no_growth() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/16", 24)]));
    add(&mut store, 0..150);
    store.pass(25 * HOUR);
    store.settle();
    for node in 0..30 {
        store.remove_node(&format!("n{node:04}"));
    }
    store.settle();
    store.pass(3 * HOUR);
    add(&mut store, 150..180);
    assert_eq!(entry_forecast(&store, "main"), (Room::Ample, 0, None));
}

#[test]
fn a_cluster_that_is_set_up_is_no_growth() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/16", 24)]));
    add(&mut store, 0..90);
    store.pass(1800);
    add(&mut store, 90..200);
    assert_eq!(store.network_condition("HasRoom"), "True AsExpected");
    store.pass(20 * HOUR);
    store.settle();
    assert_eq!(entry_forecast(&store, "main"), (Room::Ample, 0, None));
}

#[test]
fn a_burst_that_will_exhaust_an_entry_within_a_day_is_seen_within_the_hour() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/16", 24)]));
    add(&mut store, 0..100);
    store.pass(30 * HOUR);
    store.settle();
    add(&mut store, 100..180);
    assert_eq!(entry_forecast(&store, "main"), (Room::Low, 2000, Some("50m".into())));
    assert_eq!(store.network_condition("HasRoom"), "False NearlyExhausted");
    add(&mut store, 180..260);
    assert_eq!(entry_forecast(&store, "main").2.as_deref(), Some("now"));
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    let mut spec = network(vec![entry("main", "10.0.0.0/16", 24), entry("more", "10.4.0.0/14", 24)]);
    spec["reclaimAfter"] = json!("1h");
    store.set_network(spec);
    store.pass(2 * HOUR);
    store.settle();
    assert_eq!(entry_forecast(&store, "main").0, Room::Exhausted, "the entry is full");
    assert_eq!(store.network_condition("HasRoom"), "True AsExpected", "but nodes get blocks of the next");
}

/// However short released leases are held; where they are not, only the day tells.
#[test]
fn three_nodes_that_join_foretell_nothing_and_a_burst_does() {
    for reclaim_after in ["0s", "1m", "1h"] {
        let mut spec = network(vec![entry("main", "10.0.0.0/16", 24)]);
        spec["reclaimAfter"] = json!(reclaim_after);
        let mut store = Store::default().with_network(spec);
        add(&mut store, 0..150);
        store.pass(30 * HOUR);
        store.settle();
        add(&mut store, 150..153);
        assert_eq!(entry_forecast(&store, "main").0, Room::Ample, "{reclaim_after}");
        add(&mut store, 153..200);
        store.pass(30);
        store.settle();
        let of_an_hour = (Room::Low, 1000, Some("60m".into()));
        let of_a_day = (Room::Low, 40, Some("33h".into()));
        let expected = if reclaim_after == "0s" { of_a_day } else { of_an_hour };
        assert_eq!(entry_forecast(&store, "main"), expected, "{reclaim_after}");
    }
}

#[test]
fn the_pool_that_is_exhausted_first_is_the_networks_forecast() {
    let entries = vec![entry("tiny", "10.1.0.0/30", 32), entry("main", "10.0.0.0/16", 24)];
    let mut store = Store::default().with_network(network(entries));
    let mut spec = network(vec![entry("tiny", "10.1.0.0/26", 28), entry("main", "10.0.0.0/16", 24)]);
    spec["reclaimAfter"] = json!("2h");
    store.set_network(spec);
    store.set_pool(
        "edge",
        json!({ "nodeSelector": { "matchLabels": { "edge": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["tiny"] }),
    );
    store.add_node("plain");
    for node in ["e1", "e2", "e3", "e4"] {
        store.add_node_with(node, |node| drop(node.labels.insert("edge".into(), String::new())));
    }
    store.settle();
    let pool = store.pools["edge"].status.clone();
    assert_eq!((pool.capacity, pool.used, pool.held, pool.free, pool.leases), (4, 4, 0, 0, 4));
    assert_eq!(pool.forecast.room, Room::Exhausted);
    assert_eq!(store.pool_condition("edge", "HasRoom"), "False Exhausted");
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    let status = &store.network.as_ref().unwrap().status;
    let message = store.network_message("HasRoom");
    assert!(message.contains("no IPv4 block is left for pool edge"), "{message}");
    assert_eq!(status.forecast.as_ref().unwrap().exhausted_in.as_deref(), Some("now"));
    assert_eq!(entry_forecast(&store, "main").0, Room::Ample);
}

#[test]
fn one_exhausted_family_is_exhaustion() {
    let entries = vec![entry("six", "fd00::/48", 64), entry("four", "10.0.0.0/24", 26)];
    let mut store = Store::default().with_network(network(entries));
    add(&mut store, 0..4);
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    assert_eq!(entry_forecast(&store, "six").0, Room::Ample);
    let status = &store.network.as_ref().unwrap().status;
    assert_eq!((status.family, status.capacity, status.free), (Some(Family::V4), 4, 0), "65,532 are no help");
}

/// Capacity, used, held, reserved and free, of the network and of a pool of all nodes, where one node has its leases.
#[track_caller]
fn check(entries: Vec<Value>, family: Family, figures: [i64; 5]) {
    let mut store = Store::default().with_network(network(entries));
    store.set_pool("all", json!({ "nodeSelector": {}, "backend": { "type": "vxlan" } }));
    add(&mut store, 0..1);
    let of = &store.network.as_ref().unwrap().status;
    let found = [of.capacity, of.used, of.held, of.reserved, of.free];
    assert_eq!((of.family, found), (Some(family), figures), "of the network");
    let of = &store.pools["all"].status;
    let found = [of.capacity, of.used, of.held, of.reserved, of.free];
    assert_eq!((of.family, found), (Some(family), figures), "of the pool");
}

#[test]
fn figures_are_those_of_the_family_with_the_least_share_left() {
    let four = || entry("four", "10.0.0.0/26", 28);
    let six = |cidr| entry("six", cidr, 64);
    check(vec![four()], Family::V4, [4, 1, 0, 0, 3]);
    check(vec![six("fd00::/48"), four()], Family::V4, [4, 1, 0, 0, 3]);
    check(vec![four(), six("fd00::/63")], Family::V6, [2, 1, 0, 0, 1]);
    check(vec![four(), entry("more", "10.1.0.0/25", 28), six("fd00::/61")], Family::V6, [8, 1, 0, 0, 7]);
    // What gives out no more blocks is not what new nodes wait for.
    check(vec![four(), draining("old", "fd00::/63", 64)], Family::V4, [4, 1, 0, 0, 3]);
    let mut kept = four();
    kept["reserved"] = json!([{ "cidr": "10.0.0.32/27" }]);
    check(vec![six("fd00::/62"), kept], Family::V4, [4, 1, 0, 2, 1]);
}

#[test]
fn figures_are_those_of_the_family_that_is_exhausted_first_whatever_its_share() {
    let mut six = entry("six", "fd00::/48", 64);
    let most = ["fd00:0:0:8000::/49", "fd00:0:0:4000::/50", "fd00:0:0:2000::/51", "fd00:0:0:1000::/52"];
    six["reserved"] = most.map(|cidr| json!({ "cidr": cidr })).into();
    let mut store = Store::default().with_network(network(vec![six, entry("four", "10.0.0.0/16", 24)]));
    add(&mut store, 0..130);
    store.pass(24 * HOUR);
    add(&mut store, 130..160);
    store.pass(2 * HOUR);
    store.settle();
    let status = &store.network.as_ref().unwrap().status;
    assert_eq!(
        (status.cidrs[0].reserved, status.cidrs[0].free),
        (61_440, 3_936),
        "6 % are left for 19 weeks"
    );
    assert_eq!((status.family, status.capacity, status.free), (Some(Family::V4), 256, 96));
    assert_eq!(status.forecast.as_ref().unwrap().exhausted_in.as_deref(), Some("3d"));
}

#[test]
fn a_network_that_no_node_gets_blocks_of_says_so_and_shows_its_preferred_family() {
    let entries = vec![entry("six", "fd00::/62", 64), entry("four", "10.0.0.0/24", 26)];
    let mut store = Store::default().with_network(network(entries));
    let claims = json!({ "nodeSelector": { "matchLabels": { "edge": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["four", "six"] });
    store.set_pool("edge", claims);
    add(&mut store, 0..1);
    let status = &store.network.as_ref().unwrap().status;
    assert_eq!((status.family, status.free), (Some(Family::V6), 4));
    assert_eq!(status.forecast.as_ref().map(|forecast| forecast.room), Some(Room::Exhausted));
}

#[test]
fn where_every_entry_is_drained_or_missing_no_room_is_left() {
    let mut store = small();
    add(&mut store, 0..2);
    store.set_pool(
        "edge",
        json!({ "nodeSelector": { "matchLabels": { "edge": "" } }, "backend": { "type": "vxlan" }, "cidrs": ["missing"] }),
    );
    store.set_network(network(vec![draining("main", "10.0.0.0/22", 24)]));
    store.settle();
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    assert_eq!(store.pool_condition("edge", "HasRoom"), "False Exhausted");
    let said = store.network_message("HasRoom");
    assert!(said.contains("every entry that nodes in no pool could get a block of is drained"), "{said}");
}

#[test]
fn a_draining_entry_has_no_forecast() {
    let mut store = small();
    add(&mut store, 0..4);
    assert_eq!(store.network_condition("HasRoom"), "False Exhausted");
    store.set_network(network(vec![draining("main", "10.0.0.0/22", 24), entry("new", "10.1.0.0/16", 24)]));
    store.settle();
    assert_eq!(entry_forecast(&store, "main"), (Room::Ample, 0, None));
    assert_eq!(store.network_condition("HasRoom"), "True AsExpected");
}

/// Every status is delivered to every agent: time alone must not rewrite it each minute.
#[test]
fn the_passing_of_time_seldom_rewrites_a_status() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/16", 24)]));
    add(&mut store, 0..150);
    store.pass(30 * HOUR);
    store.settle();
    add(&mut store, 150..180);
    let mut writes = 0;
    for _ in 0..24 * 6 {
        store.pass(600);
        writes += usize::from(store.settle().network_status.is_some());
    }
    assert!((1..40).contains(&writes), "{writes} writes in a day in which nothing happened");
}
