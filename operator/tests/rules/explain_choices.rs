//! Why a block was chosen: foretold, written on the lease, and told of it afterwards.

use serde_json::Value;
use tartan_crds::Family;
use tartan_operator::{decide::explain, world::Choice};

use super::*;

const WRITTEN: &str = ", and then written into the Node's podCIDRs";

/// Node a is about to get a block: what is told of it, before and after.
#[track_caller]
fn check(mut store: Store, next: &str, chosen: Choice, why: &str) {
    let about = |store: &Store| explain(&store.world(), "a", false, store.now).unwrap();
    assert_eq!(about(&store).next, [next]);
    store.settle();
    let leases = about(&store).leases;
    let lease = leases.last().unwrap();
    assert_eq!((lease.chosen, lease.why.as_str()), (Some(chosen), why));
}

fn ignoring(mut spec: Value) -> Store {
    spec["podCIDRMode"] = json!("Ignore");
    Store::default().with_network(spec)
}

#[test]
fn the_lowest_free_block() {
    let mut store = small();
    store.add_node("a");
    let next = "lease 10.0.0.0/24: the lowest free block of entry main";
    let why = format!("leased just now as the lowest free block of its entry{WRITTEN}");
    check(store, next, Choice::LowestFree, &why);
}

#[test]
fn the_block_that_the_nodes_pod_cidrs_name() {
    let mut store = small();
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.3.0/24".into()]);
    let next = "lease 10.0.3.0/24: which the Node's podCIDRs name";
    let why = "leased just now because it was in the Node's podCIDRs, which another IPAM wrote";
    check(store, next, Choice::PodCidr, why);
}

#[test]
fn a_lease_that_was_deleted_is_made_again_as_the_pod_cidrs_that_we_wrote_say() {
    let mut store = small();
    store.add_node("b");
    store.add_node("a");
    store.settle();
    store.remove_lease("10.0.0.0-24");
    let next = "lease 10.0.0.0/24: which it has already, and whose lease was deleted";
    let why =
        format!("leased just now because the node had it already, and its lease had been deleted{WRITTEN}");
    check(store, next, Choice::Restored, &why);
}

#[test]
fn the_block_that_is_reserved_for_the_node() {
    let mut main = entry("main", "10.0.0.0/22", 24);
    main["reserved"] = json!([{ "cidr": "10.0.2.0/24", "nodeName": "a" }]);
    let mut store = Store::default().with_network(network(vec![main]));
    store.add_node("a");
    let next = "lease 10.0.2.0/24: which entry main reserves for it";
    let why = format!("leased just now because it was reserved for the node{WRITTEN}");
    check(store, next, Choice::Reserved, &why);
}

#[test]
fn the_block_that_pods_use_although_its_lease_is_gone() {
    let mut store = ignoring(network(vec![entry("main", "10.0.0.0/24", 28)]));
    for node in ["b", "a"] {
        store.add_node(node);
    }
    store.settle();
    growth::report(&mut store, "b", &[("10.0.0.16/28", 0, None)]);
    growth::report(&mut store, "a", &[("10.0.0.0/28", 5, None)]);
    store.remove_lease("10.0.0.0-28");
    let next = "lease 10.0.0.0/28: which it has already, and whose lease was deleted";
    let why = "leased just now because the node had it already, and its lease had been deleted";
    check(store, next, Choice::Restored, why);
}

#[test]
fn a_further_block() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/24", 28)]));
    store.add_node("a");
    store.settle();
    store.pass(1800);
    growth::report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    let next = "lease 10.0.0.16/28: a further block, of entry main: its addresses run low";
    let why = "leased just now because the node's addresses ran low";
    check(store, next, Choice::Further, why);
}

/// The operator that runs remembers what a node had; `explain` asks the objects alone, and reads it on the lease.
#[test]
fn the_block_that_the_node_had_before() {
    let mut store = ignoring(network(vec![entry("main", "10.0.0.0/22", 24)]));
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    let mut world = store.world();
    store.remove_node("a");
    for lease in ["10.0.0.0-24", "10.0.1.0-24"] {
        store.remove_lease(lease);
    }
    for delta in store.lists() {
        world.apply(delta);
    }
    let foretold = explain(&world, "b", false, store.now).unwrap();
    assert_eq!(foretold.next, ["lease 10.0.1.0/24: which it had before"]);
    let decisions = decide(&world, store.now);
    store.obey(&mut world, &decisions);
    let leases = explain(&store.world(), "b", false, store.now).unwrap().leases;
    let why = "leased just now because the node had it before";
    assert_eq!((leases[0].chosen, leases[0].why.as_str()), (Some(Choice::HadBefore), why));
}

/// Tried once more, it is chosen for the reason of the first time.
#[test]
fn the_block_of_a_create_that_was_refused_or_lost() {
    let mut store = small();
    store.add_node("a");
    store.add_node("b");
    let mut world = store.world();
    let wish = ("10.0.2.0/24".parse().unwrap(), Choice::LowestFree);
    world.wishes.insert(("b".to_owned(), Family::V4), wish);
    let decisions = decide(&world, store.now);
    store.obey(&mut world, &decisions);
    assert_eq!(store.leased(), "a: 10.0.0.0/24\nb: 10.0.2.0/24");
    assert_eq!(store.leases["10.0.2.0-24"].chosen, Some(Choice::LowestFree));
}

#[test]
fn of_a_lease_that_does_not_say_it_no_reason_is_invented() {
    let mut store = small();
    store.add_node("a");
    store.settle();
    store.change_lease("10.0.0.0-24", |lease| lease.chosen = None);
    let why = |store: &Store| explain(&store.world(), "a", false, store.now).unwrap().leases[0].why.clone();
    let unknown =
        "leased just now; why it was chosen is not recorded; it was written into the Node's podCIDRs";
    assert_eq!(why(&store), unknown);
    store.change_node("a", |node| node.mirrored = None);
    let foreign =
        "leased just now; why it was chosen is not recorded; another IPAM wrote it into the Node's podCIDRs";
    assert_eq!(why(&store), foreign);
}

/// What is written on the lease, as a client reads it.
#[test]
fn a_lease_is_read_with_the_word_that_it_carries() {
    let with = |annotations: Value| {
        let object = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
            "metadata": { "name": "10.0.0.0-24", "annotations": annotations },
        });
        tartan_operator::world::Lease::parse(serde_json::from_value(object).unwrap()).unwrap().chosen
    };
    assert_eq!(with(json!({ "tartan.network/chosen": "restored" })), Some(Choice::Restored));
    assert_eq!(with(json!({ "tartan.network/chosen": "by-lot" })), None);
    assert_eq!(with(json!({ "tartan.network/cut-by": "c1/1" })), None);
}
