//! A store that was put back to an older state: leases and Nodes that are younger than it.

use tartan_operator::world::World;

use super::*;

/// What an operator that runs on makes of what is there now.
fn round(store: &mut Store, world: &mut World) {
    for delta in store.lists() {
        world.apply(delta);
    }
    world.tell_time(store.now);
    let decisions = decide(world, store.now);
    store.write_status(&decisions);
    store.obey(world, &decisions);
}

/// Two nodes are younger than the backup. What their agents know is not in the API before they have registered again,
/// and others are faster.
#[test]
fn what_nodes_had_that_a_restored_store_knows_nothing_of_is_kept_for_them() {
    for mode in ["Mirror", "Ignore"] {
        let mut spec = network(vec![entry("main", "10.0.0.0/21", 24)]);
        spec["podCIDRMode"] = json!(mode);
        let mut store = Store::default().with_network(spec);
        store.add_node("a");
        store.settle();
        let backup = store.leases.clone();
        for node in ["b", "c", "d"] {
            store.add_node(node);
        }
        store.settle();
        let mut world = store.world();

        store.leases = backup;
        for node in ["b", "c", "d"] {
            store.remove_node(node);
        }
        world.apply(Delta::WentBack);
        round(&mut store, &mut world);
        for node in ["d", "e", "c"] {
            store.add_node(node);
            for _ in 0..4 {
                round(&mut store, &mut world);
            }
        }
        store.assert_disjoint();
        let leased = "a: 10.0.0.0/24\nc: 10.0.2.0/24\nd: 10.0.3.0/24\ne: 10.0.4.0/24";
        assert_eq!(store.leased(), leased, "{mode}");
        assert_eq!(store.leased_condition("d"), "True AsExpected");
        // b never comes back. What it had is held like the block of any Node that is gone.
        let free = |store: &Store| store.network.as_ref().unwrap().status.free;
        assert_eq!(free(&store), 3);
        store.pass(3601);
        round(&mut store, &mut world);
        assert_eq!(free(&store), 4);
        store.add_node("f");
        round(&mut store, &mut world);
        assert_eq!(store.leased(), format!("{leased}\nf: 10.0.1.0/24"), "{mode}");
    }
}

/// The backup says that its Node had gone, long ago. It has come back since.
#[test]
fn a_lease_that_was_released_in_the_backup_is_not_given_up_before_its_node_could_come_back() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/22", 24)]));
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.remove_node("b");
    store.settle();
    let backup = store.leases.clone();
    store.add_node("b");
    store.settle();
    store.pass(2 * 3600);
    let mut world = store.world();

    store.leases = backup;
    store.remove_node("b");
    world.apply(Delta::WentBack);
    for node in ["c", "d", "e"] {
        store.add_node(node);
        for _ in 0..3 {
            round(&mut store, &mut world);
        }
    }
    let without = "a: 10.0.0.0/24\nb: ~10.0.1.0/24\nc: 10.0.2.0/24\nd: 10.0.3.0/24";
    assert_eq!(store.leased(), without, "e waits");
    let said = store.node_networks["e"].leased.as_ref().unwrap().message.clone();
    assert!(said.contains("1 block kept, for spec.reclaimAfter"), "{said}");
    store.add_node("b");
    for _ in 0..3 {
        round(&mut store, &mut world);
    }
    assert_eq!(store.leased(), without.replace('~', ""));
}

/// The administrator applies the newest ClusterNetwork again, which keeps the block for another node.
#[test]
fn a_reservation_does_not_take_what_a_restored_store_knows_nothing_of() {
    let mut store = Store::default().with_network(network(vec![entry("main", "10.0.0.0/22", 24)]));
    store.add_node("a");
    store.settle();
    let mut world = store.world();
    store.leases.clear();
    store.remove_node("a");
    let mut main = entry("main", "10.0.0.0/22", 24);
    main["reserved"] = json!([{ "cidr": "10.0.0.0/24", "nodeName": "z" }]);
    store.set_network(network(vec![main]));
    world.apply(Delta::WentBack);
    store.add_node("z");
    for _ in 0..3 {
        round(&mut store, &mut world);
    }
    assert_eq!(store.leased(), "");
    let told = store.node_networks["z"].leased.clone().unwrap();
    assert_eq!(told.reason, "ReservedBlockTaken");
    assert!(told.message.contains("was of node a before"), "{}", told.message);
    store.pass(3601);
    for _ in 0..3 {
        round(&mut store, &mut world);
    }
    assert_eq!(store.leased(), "z: 10.0.0.0/24");
}
