//! The blocks of a node, told: of two families, further ones, held ones, and those that are others'.

use tartan_operator::{
    decide::{Explanation, State, explain},
    explain::text,
};

use super::{
    explain::{labelled, pools, says},
    *,
};

fn about(store: &Store, node: &str) -> Explanation {
    explain(&store.world(), node, false, store.now).unwrap()
}

/// The first line of what is told.
fn headline(store: &Store, node: &str) -> String {
    text(&about(store, node)).lines().next().unwrap().to_owned()
}

#[test]
fn a_node_of_two_families() {
    let entries = vec![entry("six", "fd00::/60", 64), entry("four", "10.0.0.0/23", 24)];
    let mut store = Store::default().with_network(network(entries));
    store.add_node("a");
    store.settle();
    says(
        &store,
        "a",
        "
node a holds 10.0.0.0/24, fd00::/64
  pool      none: there are no NetworkPools
  entries   six: fd00::/60 in blocks of /64, 15 of 16 free (1 used)
            four: 10.0.0.0/23 in blocks of /24, 1 of 2 free (1 used)
  podCIDRs  mode Mirror; the Node has fd00::/64, 10.0.0.0/24
  lease     10.0.0.0/24 of entry four, primary; leased just now as the lowest free block of its entry, and then written into the Node's podCIDRs
  lease     fd00::/64 of entry six, primary; leased just now as the lowest free block of its entry, and then written into the Node's podCIDRs
  backend   vxlan: the network's defaultBackend: the node is in no pool
  accepts   vxlan
",
    );
}

#[test]
fn a_node_that_waits_for_one_of_two_families() {
    let entries = vec![entry("four", "10.0.0.0/24", 24), entry("six", "fd00::/60", 64)];
    let mut store = Store::default().with_network(network(entries));
    for node in ["a", "b"] {
        store.add_node(node);
        store.settle();
    }
    assert_eq!(headline(&store, "b"), "node b holds fd00:0:0:1::/64 and waits");
    assert_eq!(about(&store, "b").waiting.unwrap().reason, "Exhausted");
}

/// Blocks of 13 pod addresses; at most 2, a minute apart.
fn growing() -> Store {
    let mut store = Store::default().with_network(json!({
        "cidrs": [entry("main", "10.0.0.0/24", 28)],
        "growth": { "maxBlocksPerNode": 2, "grantBelowFree": 20, "coolDown": "1m", "returnEmptyAfter": "1h" },
    }));
    store.add_node("a");
    store.settle();
    growth::report(&mut store, "a", &[("10.0.0.0/28", 13, None)]);
    store
}

#[test]
fn a_further_block_that_has_to_wait_and_one_too_many() {
    let mut store = growing();
    let waits = "IPv4 addresses run low: a further block not before 2026-01-01T00:01:00Z, growth.coolDown after the newest";
    assert_eq!(about(&store, "a").growth, [waits]);
    store.settle();
    let said = text(&about(&store, "a"));
    assert!(said.contains(&format!("\n  growth    {waits}\n")), "{said}");
    store.pass(60);
    store.settle();
    assert_eq!(headline(&store, "a"), "node a holds 10.0.0.0/28, 10.0.0.16/28");
    let said = text(&about(&store, "a"));
    let lease = "lease     10.0.0.16/28 of entry main, further; leased just now because the node's addresses ran low\n";
    assert!(said.contains(lease), "{said}");
    assert_eq!(about(&store, "a").growth, [] as [String; 0], "the new block counts before it is reported");
    growth::report(&mut store, "a", &[("10.0.0.0/28", 13, None), ("10.0.0.16/28", 13, None)]);
    store.settle();
    let most = "IPv4 addresses run low: no further block beside the 2 that growth.maxBlocksPerNode allows";
    assert_eq!(about(&store, "a").growth, [most]);
}

#[test]
fn a_block_that_is_asked_back() {
    let mut store = growing();
    store.pass(60);
    store.settle();
    store.pass(2 * 3600);
    growth::report(&mut store, "a", &[("10.0.0.0/28", 2, None), ("10.0.0.16/28", 0, Some(3600))]);
    assert_eq!(about(&store, "a").next, ["write lease 10.0.0.16/28 again: growth"]);
    store.settle();
    let further = about(&store, "a").leases[1].clone();
    assert_eq!(
        (further.primary, further.why.as_str()),
        (false, "leased 2h ago because the node's addresses ran low, asked back just now")
    );
}

#[test]
fn a_block_that_is_held_is_told_but_not_as_one_that_the_node_has() {
    let mut store = Store::default().with_network(network(vec![entry("old", "10.0.0.0/22", 24)]));
    store.add_node("a");
    store.settle();
    store.remove_node("a");
    store.settle();
    store.set_network(network(vec![draining("old", "10.0.0.0/22", 24), entry("new", "10.8.0.0/22", 24)]));
    store.add_node("a");
    store.settle();
    says(
        &store,
        "a",
        "
node a holds 10.8.0.0/24
  pool      none: there are no NetworkPools
  entries   old: 10.0.0.0/22 in blocks of /24, draining, no block of it is given out (1 held)
            new: 10.8.0.0/22 in blocks of /24, 3 of 4 free (1 used)
  podCIDRs  mode Mirror; the Node has 10.8.0.0/24
  lease     10.0.0.0/24 of entry old, primary; held for the node, whose Node went just now
  lease     10.8.0.0/24 of entry new, primary; leased just now as the lowest free block of its entry, and then written into the Node's podCIDRs
  backend   vxlan: the network's defaultBackend: the node is in no pool
  accepts   vxlan
",
    );
}

#[test]
fn a_node_that_waits_and_has_none_but_a_held_block_holds_nothing() {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Adopt");
    let mut store = Store::default().with_network(spec);
    store.add_node_with("a", |node| node.pod_cidrs = vec!["10.0.0.0/24".into()]);
    store.settle();
    store.remove_node("a");
    store.settle();
    store.add_node("a");
    store.settle();
    let said = about(&store, "a");
    assert_eq!((said.state, said.leases.len(), said.leases[0].released), (State::Waiting, 1, true));
    assert_eq!(headline(&store, "a"), "node a holds no subnet");
}

#[test]
fn a_lease_that_was_edited_is_nobodys_until_somebody_says_whose_it_is() {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = json!("Ignore");
    let mut store = Store::default().with_network(spec);
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    store.change_lease("10.0.0.0-24", |lease| {
        lease.spec.as_mut().unwrap().node_name = "b".into();
        lease.traces.edited_by = Some("kubectl-edit".into());
    });
    store.settle();
    let said = text(&about(&store, "a"));
    let why = "node a holds no subnet\n  LeaseEdited: lease 10.0.0.0-24, edited by kubectl-edit: spec.nodeName says b, spec.nodeUID is that of a";
    assert!(said.starts_with(why), "{said}");
    assert_eq!(headline(&store, "b"), "node b holds 10.0.1.0/24");
}

#[test]
fn a_node_that_was_moved_to_a_pool_with_other_entries() {
    let mut store = pools();
    labelled(&mut store, "a", &[]);
    store.settle();
    store.change_node("a", |node| node.labels = [("edge".to_owned(), "yes".to_owned())].into());
    store.settle();
    let said = text(&about(&store, "a"));
    for part in [
        "node a holds 10.0.0.0/24\n  OutsidePool: 10.0.0.0/24 does not belong to the entries of pool edge",
        "\n  pool      edge: the only one that selects the node\n",
        "\n            not for this node: old (for pools that claim none), main (for pools that claim none)\n",
        "\n  lease     10.0.0.0/24 of entry main, primary; leased just now as the lowest free block of its entry",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
