//! Whose an address is, when two Nodes name it.

use std::net::IpAddr;

use super::*;

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

/// Nodes a and b with 192.0.2.1 and 192.0.2.2, whose kubelets are alive.
fn two_nodes() -> Store {
    let mut store = small();
    for (name, last) in [("a", 1), ("b", 2)] {
        store.add_node_with(name, |node| {
            node.addresses = vec![address(last)];
            node.ready = true;
        });
    }
    store.settle();
    store
}

fn of(store: &Store, node: &str) -> Vec<IpAddr> {
    let lease = store.leases.values().find(|lease| lease.node() == Some(node)).unwrap();
    lease.spec.as_ref().unwrap().node_addresses.clone()
}

#[test]
fn a_lease_names_the_addresses_of_its_node_and_follows_them() {
    let mut store = two_nodes();
    assert_eq!((of(&store, "a"), of(&store, "b")), (vec![address(1)], vec![address(2)]));
    store.change_node("a", |node| {
        node.addresses = vec!["127.0.0.1".parse().unwrap(), address(11)];
        node.public_ips = Some("203.0.113.1, 2001:db8::1".into());
    });
    store.settle();
    let all: Vec<IpAddr> = ["192.0.2.11", "203.0.113.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
    assert_eq!(of(&store, "a"), all);
    store.change_node("a", |node| (node.addresses, node.public_ips) = (vec![], None));
    store.settle();
    assert_eq!(of(&store, "a"), [] as [IpAddr; 0]);
}

#[test]
fn nobody_takes_the_address_of_a_node_that_works() {
    let mut store = two_nodes();
    store.change_node("b", |node| node.addresses.push(address(1)));
    store.add_node_with("c", |node| {
        node.ready = true;
        node.public_ips = Some("192.0.2.1".into());
    });
    store.settle();
    assert_eq!((of(&store, "a"), of(&store, "b")), (vec![address(1)], vec![address(2)]));
    assert_eq!(of(&store, "c"), [] as [IpAddr; 0]);
    // An older node gets it no more than a newer one.
    store.change_node("a", |node| node.addresses = vec![address(2), address(1)]);
    store.settle();
    assert_eq!((of(&store, "a"), of(&store, "b")), (vec![address(1)], vec![address(2)]));
}

#[test]
fn a_machine_under_a_new_name_gets_its_address_when_the_old_node_is_silent_or_gone() {
    let mut store = two_nodes();
    let again = |node: &mut tartan_operator::world::Node| {
        node.addresses = vec![address(1)];
        node.ready = true;
    };
    store.change_node("a", |node| node.ready = false);
    store.settle();
    assert_eq!(of(&store, "a"), [address(1)], "a node that is silent and alone keeps its own");
    store.add_node_with("a-again", again);
    store.settle();
    assert_eq!((of(&store, "a"), of(&store, "a-again")), (vec![], vec![address(1)]));
    store.remove_node("a-again");
    store.settle();
    assert_eq!(of(&store, "a"), [address(1)], "a lease that is released names nothing");
}

/// Agents believe the lease that names the address, and only then the newer one: so does what is told.
#[test]
fn who_publishes_the_address_of_another_node_is_told_and_not_the_other_however_old() {
    let mut store = two_nodes();
    store.pass(60);
    store.add_node_with("c", |node| node.ready = true);
    store.settle();
    let publish = |store: &mut Store, node: &str, last: u8| {
        let name = store.leases.values().find(|lease| lease.node() == Some(node)).unwrap().meta.name.clone();
        store.change_lease(&name, |lease| lease.public_ips = vec![address(last)]);
    };
    publish(&mut store, "a", 1);
    publish(&mut store, "b", 2);
    publish(&mut store, "c", 1);
    store.settle();
    assert_eq!(store.leased_condition("a"), "True AsExpected");
    assert_eq!(store.leased_condition("b"), "True AsExpected");
    assert_eq!(store.leased_condition("c"), "True AddressTakenOver");
    let said = &store.node_networks["c"].leased.as_ref().unwrap().message;
    assert!(said.contains("192.0.2.1, which is that of node a"), "{said}");
}
