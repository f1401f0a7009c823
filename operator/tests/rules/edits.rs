//! Leases that somebody else edited: said, and never made worse.

use tartan_operator::world::Lease;

use super::{
    check,
    store::{Store, entry, network},
};

/// Nodes a and b with their leases in use, podCIDRs untouched, so that the leases alone tell.
fn two_nodes() -> Store {
    let mut spec = network(vec![entry("main", "10.0.0.0/22", 24)]);
    spec["podCIDRMode"] = "Ignore".into();
    let mut store = Store::default().with_network(spec);
    for node in ["a", "b"] {
        store.add_node(node);
    }
    store.settle();
    for node in ["a", "b"] {
        store.use_leases_of(node);
    }
    store.settle();
    store
}

const OF_A: &str = "10.0.0.0-24";

fn edit(store: &mut Store, change: impl FnOnce(&mut tartan_crds::SubnetLeaseSpec)) {
    store.change_lease(OF_A, |lease| {
        change(lease.spec.as_mut().unwrap());
        lease.traces.edited_by = Some("kubectl-edit".into());
    });
}

fn spec_of_a(store: &Store) -> (String, String) {
    let spec = store.leases[OF_A].spec.as_ref().unwrap();
    (spec.node_name.clone(), spec.node_uid.clone())
}

fn message(store: &Store) -> String {
    store.network_message("Consistent")
}

#[test]
fn a_lease_that_was_given_to_another_node_by_hand_is_left_alone_and_its_node_gets_no_other() {
    let mut store = two_nodes();
    let uid = store.nodes["a"].meta.uid.clone();
    edit(&mut store, |spec| spec.node_name = "b".into());
    let decisions = store.settle();
    assert_eq!(decisions.figures.violations["lease-contested"], 1);
    assert_eq!(store.leased(), "b: 10.0.0.0/24 10.0.1.0/24");
    assert_eq!(spec_of_a(&store), ("b".into(), uid.clone()), "nobody wrote to it");
    assert_eq!(store.leased_condition("a"), "False LeaseEdited");
    assert_eq!(store.leased_condition("b"), "True AsExpected");
    assert_eq!(store.network_condition("Consistent"), "False LeaseEdited");
    let said = message(&store);
    for part in ["lease 10.0.0.0-24", "edited by kubectl-edit", "spec.nodeName says b", "that of a"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    store.add_node("c");
    store.pass(100_000);
    store.settle();
    assert_eq!(store.leased(), "b: 10.0.0.0/24 10.0.1.0/24\nc: 10.0.2.0/24", "its block is nobody else's");
    store.change_lease(OF_A, |lease| {
        lease.spec.as_mut().unwrap().node_name = "a".into();
        lease.traces.edited_by = None;
    });
    check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24\nc: 10.0.2.0/24");
    assert_eq!(store.network_condition("Consistent"), "True AsExpected");
    assert_eq!(store.leased_condition("a"), "True AsExpected");
}

#[test]
fn a_lease_of_one_family_whose_holder_is_in_doubt_holds_up_no_lease_of_the_other() {
    for mode in ["Ignore", "Mirror"] {
        let mut spec = network(vec![entry("main", "10.0.0.0/22", 24), entry("six", "fd00::/60", 64)]);
        spec["podCIDRMode"] = mode.into();
        let mut store = Store::default().with_network(spec);
        for node in ["a", "b"] {
            store.add_node(node);
        }
        store.settle();
        edit(&mut store, |spec| spec.node_name = "b".into());
        store.remove_lease("fd00---64");
        let leased = "a: fd00::/64\nb: 10.0.0.0/24 10.0.1.0/24 fd00:0:0:1::/64";
        store.settle();
        assert_eq!(store.leased(), leased, "{mode}");
        assert_eq!(store.leased_condition("a"), "False LeaseEdited", "{mode}");
        store.pass(100_000);
        store.settle();
        assert_eq!(store.leased(), leased, "{mode}");
    }
}

#[test]
fn a_lease_that_was_given_away_with_its_uid_is_known_by_its_label() {
    let mut store = two_nodes();
    let uid = store.nodes["b"].meta.uid.clone();
    edit(&mut store, |spec| {
        spec.node_name = "b".into();
        spec.node_uid = uid;
    });
    store.settle();
    assert_eq!(store.leased(), "b: 10.0.0.0/24 10.0.1.0/24");
    assert_eq!(store.leased_condition("a"), "False LeaseEdited");
    assert_eq!(store.network_condition("Consistent"), "False LeaseEdited");
}

#[test]
fn a_lease_that_names_a_node_which_is_not_there_is_not_released_while_its_own_lives() {
    let mut store = two_nodes();
    edit(&mut store, |spec| spec.node_name = "ghost".into());
    store.pass(100_000);
    store.settle();
    assert_eq!(store.leased(), "b: 10.0.1.0/24\nghost: 10.0.0.0/24");
    assert_eq!(store.leased_condition("a"), "False LeaseEdited");
}

#[test]
fn a_wrong_uid_is_put_right_where_only_one_node_can_be_meant() {
    let mut store = two_nodes();
    let right = spec_of_a(&store);
    let of_b = store.nodes["b"].meta.uid.clone();
    for wrong in ["nonsense".to_owned(), of_b] {
        edit(&mut store, |spec| spec.node_uid = wrong);
        check(&mut store, "a: 10.0.0.0/24\nb: 10.0.1.0/24");
        assert_eq!(spec_of_a(&store), right);
        assert_eq!(store.network_condition("Consistent"), "True AsExpected");
    }
}

#[test]
fn what_is_edited_in_a_lease_without_another_holder_says_again_what_was_decided() {
    let mut store = two_nodes();
    let before = store.leases[OF_A].spec.clone();
    edit(&mut store, |spec| {
        spec.pool = "other".into();
        spec.primary = false;
        spec.mtu = Some(9000);
    });
    store.change_lease(OF_A, |lease| drop(lease.labels.insert("tartan.network/node".into(), "x".into())));
    store.settle();
    assert_eq!(store.leases[OF_A].spec, before);
    assert_eq!(store.leases[OF_A].labels["tartan.network/node"], "a");
}

/// As by `kubectl apply --server-side` of a backup: the same by another hand.
#[test]
fn who_writes_again_what_was_decided_has_broken_nothing() {
    let mut store = two_nodes();
    store.change_lease(OF_A, |lease| lease.traces.edited_by = Some("kubectl".into()));
    let found = store.settle().figures.violations;
    assert_eq!(found["lease-edited"], 0);
    edit(&mut store, |spec| spec.mtu = Some(9000));
    let found = tartan_operator::decide::decide(&store.world(), store.now).figures.violations;
    assert_eq!(found["lease-edited"], 1);
    // Nor is one that is held.
    store.remove_node("a");
    store.settle();
    store.change_lease(OF_A, |lease| lease.traces.edited_by = Some("kubectl".into()));
    assert_eq!(store.settle().figures.violations["lease-edited"], 0);
}

#[test]
fn of_two_primary_leases_the_older_stays_and_the_used_one_is_kept_beside_it() {
    let mut store = two_nodes();
    store.pass(60);
    let mut second = store.leases[OF_A].spec.clone().unwrap();
    second.subnet = "10.0.3.0/24".parse().unwrap();
    assert!(store.insert_lease(second, store.leases[OF_A].labels.clone()));
    store.change_lease("10.0.3.0-24", |lease| lease.in_use = true);
    let found = tartan_operator::decide::decide(&store.world(), store.now).figures.violations;
    assert_eq!(found["two-primary-leases"], 1);
    let decisions = store.settle();
    assert_eq!(decisions.figures.violations["two-primary-leases"], 0);
    let is_primary = |lease: &Lease| lease.spec.as_ref().unwrap().primary;
    assert!(is_primary(&store.leases[OF_A]) && !is_primary(&store.leases["10.0.3.0-24"]));
}

#[test]
fn a_lease_with_another_subnet_than_its_name_locks_both_blocks_and_is_not_touched() {
    let mut store = two_nodes();
    let mut odd = store.leases[OF_A].clone();
    odd.meta.name = "10.0.2.0-24".into();
    odd.meta.uid = "odd".into();
    odd.subnet = "10.0.3.0/24".parse().unwrap();
    odd.spec.as_mut().unwrap().subnet = odd.subnet;
    odd.spec.as_mut().unwrap().node_name = "gone".into();
    odd.spec.as_mut().unwrap().node_uid = "gone".into();
    odd.labels.clear();
    odd.traces.name_locks = Some("10.0.2.0/24".parse().unwrap());
    store.leases.insert("10.0.2.0-24".into(), odd);
    store.add_node("c");
    store.pass(100_000);
    let decisions = store.settle();
    assert_eq!(decisions.figures.violations["lease-misnamed"], 1);
    assert_eq!(store.leased_condition("c"), "False Exhausted");
    assert_eq!(store.network_condition("Consistent"), "False LeaseMisnamed");
    assert!(store.leases.contains_key("10.0.2.0-24"));
}

#[test]
fn every_invariant_is_counted_also_where_it_holds() {
    let mut store = two_nodes();
    let violations = store.settle().figures.violations;
    let names: Vec<&str> = violations.keys().copied().collect();
    assert_eq!(
        names,
        [
            "block-without-lease",
            "foreign-pod-cidrs",
            "lease-contested",
            "lease-edited",
            "lease-misnamed",
            "lease-outside-entries",
            "lease-unreadable",
            "leases-overlap",
            "two-primary-leases",
        ]
    );
    assert!(violations.values().all(|count| *count == 0), "{violations:?}");
}

/// As an old backup or an administrator makes it.
#[test]
fn leases_that_overlap_are_named_and_both_nodes_keep_theirs() {
    let mut store = two_nodes();
    let leased = store.leased();
    let mut spec = store.leases.values().next().unwrap().spec.clone().unwrap();
    let first = spec.subnet;
    spec.subnet = format!("{}/25", first.network().network()).parse().unwrap();
    spec.primary = false;
    let overlapping = spec.subnet;
    assert!(store.insert_lease(spec, Default::default()));
    let violations = store.settle().figures.violations;
    assert_eq!(violations["leases-overlap"], 1, "{violations:?}");
    assert_eq!(store.network_condition("Consistent"), "False LeasesOverlap");
    let said = store.network_message("Consistent");
    assert!(said.contains(&first.to_string()) && said.contains(&overlapping.to_string()), "{said}");
    assert!(said.contains("delete the one whose node does not use it"), "{said}");
    for block in leased.split_whitespace().filter(|word| word.contains('/')) {
        assert!(store.leased().contains(block), "{block} is gone: {}", store.leased());
    }
}
