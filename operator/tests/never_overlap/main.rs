//! Properties over random histories: nodes come and go, entries are appended, drained and removed, another
//! IPAM interferes, writes get lost or repeated, operators lag, restart, and two of them work at once.
//!
//! In no history do two leases overlap; in every history, when things have calmed down, each node has exactly
//! what it should have.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod growth;
mod large;
mod operators;
mod plan;
mod room;
#[path = "../store/mod.rs"]
mod store;

use std::collections::BTreeMap;

use operators::Operator;
use plan::Plan;
use proptest::prelude::*;
use serde_json::json;
use store::{Store, entry};
use tartan_operator::decide::Action;

#[derive(Clone, Debug)]
enum Step {
    AddNode(u16),
    RemoveNode(u16),
    /// From this one on, so many.
    AddNodes(u16, u8),
    RemoveNodes(u16, u8),
    /// The node's agent begins to use its leases.
    Use(u8),
    /// It reports its blocks: full or not.
    Report(u8, bool),
    /// An agent answers a request for a block.
    Answer(u8),
    /// Another IPAM writes podCIDRs, if the Node has none: this block of the first entry.
    ForeignPodCidr(u8, u8),
    /// Somebody deletes a lease by hand that no agent uses.
    DeleteLease(u8),
    Pool(bool),
    Append,
    Drain,
    RemoveDrained,
    /// A block of the first range is kept back, or no more.
    Reserve(u8, Option<u16>),
    /// The first entry is drained, removed and appended again, cut into blocks of another size.
    Recut,
    Pass(u16),
    /// An operator's watches deliver some of what they have not delivered yet.
    Deliver {
        who: bool,
        kind: u8,
        count: u8,
    },
    /// A watch lists anew.
    Relist {
        who: bool,
        kind: u8,
    },
    /// An operator goes through a round, of which the first writes are carried out.
    Round {
        who: bool,
        writes: u8,
        faults: Vec<u8>,
    },
    /// Both decide, then their writes are carried out in turns.
    Race {
        faults: Vec<u8>,
    },
    /// A crash: the operator starts anew with fresh lists.
    Restart {
        who: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let faults = || prop::collection::vec(0u8..12, 0..8);
    prop_oneof![
        6 => (0u16..7).prop_map(Step::AddNode),
        3 => (0u16..7).prop_map(Step::RemoveNode),
        2 => (0u8..7).prop_map(Step::Use),
        3 => (0u8..7, any::<bool>()).prop_map(|(node, full)| Step::Report(node, full)),
        2 => (0u8..8).prop_map(Step::Answer),
        1 => (0u8..7, 0u8..6).prop_map(|(node, block)| Step::ForeignPodCidr(node, block)),
        1 => (0u8..16).prop_map(Step::DeleteLease),
        1 => any::<bool>().prop_map(Step::Pool),
        1 => Just(Step::Append),
        1 => Just(Step::Drain),
        1 => Just(Step::RemoveDrained),
        1 => (0u8..4, prop::option::of(0u16..7)).prop_map(|(block, node)| Step::Reserve(block, node)),
        2 => Just(Step::Recut),
        3 => (0u16..5000).prop_map(Step::Pass),
        8 => (any::<bool>(), 0u8..6, 1u8..6).prop_map(|(who, kind, count)| Step::Deliver { who, kind, count }),
        2 => (any::<bool>(), 0u8..6).prop_map(|(who, kind)| Step::Relist { who, kind }),
        10 => (any::<bool>(), 0u8..10, faults()).prop_map(|(who, writes, faults)| Step::Round { who, writes, faults }),
        5 => faults().prop_map(|faults| Step::Race { faults }),
        1 => any::<bool>().prop_map(|who| Step::Restart { who }),
    ]
}

fn run(mode: &'static str, steps: Vec<Step>) {
    let plan = Plan::new(vec![entry("first", "10.0.0.0/22", 24)], mode);
    let store = Store::default().with_network(plan.spec());
    run_from(store, plan, steps);
}

fn run_from(mut store: Store, mut plan: Plan, steps: Vec<Step>) {
    let mut operators = [Operator::start(&store), Operator::start(&store)];
    for step in steps {
        take(step, &mut store, &mut operators, &mut plan);
        store.assert_disjoint();
    }
    // Calm: both see everything, nothing fails, nothing changes. Time passes, so that doubts end.
    for _ in 0..30 {
        for operator in &mut operators {
            (0..6).for_each(|kind| operator.relist(&store, kind));
            let actions = operator.decide(&mut store, &plan);
            actions.iter().for_each(|action| {
                room::assert_of_its_pool(&store, &plan, action);
                operator.write(&mut store, action, 9);
            });
            store.assert_disjoint();
        }
    }
    let left: Vec<Action> =
        operators.iter_mut().flat_map(|operator| operator.decide(&mut store, &plan)).collect();
    assert!(left.is_empty(), "not calm: {left:?}\n{}", store.leased());
    assert_calm(&store);
    room::assert_nobody_waits_in_vain(&store, &plan);
}

fn add_node(store: &mut Store, number: u16) {
    let name = format!("n{number}");
    if !store.nodes.contains_key(&name) {
        store.add_node_with(&name, |node| {
            node.labels.insert("odd".into(), (number % 2).to_string());
        });
    }
}

fn take(step: Step, store: &mut Store, operators: &mut [Operator; 2], plan: &mut Plan) {
    let name = |number: u16| format!("n{number}");
    match step {
        Step::AddNode(number) => add_node(store, number),
        Step::RemoveNode(number) => store.remove_node(&name(number)),
        Step::AddNodes(first, count) => (first..first + u16::from(count)).for_each(|n| add_node(store, n)),
        Step::RemoveNodes(first, count) => {
            (first..first + u16::from(count)).for_each(|number| store.remove_node(&name(number)));
        }
        Step::Use(number) => store.use_leases_of(&name(number.into())),
        Step::Report(number, full) => growth::report(store, &name(number.into()), full),
        Step::Answer(number) => growth::answer(store, number),
        Step::ForeignPodCidr(number, block) => store.change_node(&name(number.into()), |node| {
            if node.pod_cidrs.is_empty() {
                node.pod_cidrs = vec![format!("10.0.{block}.0/24")];
            }
        }),
        Step::DeleteLease(number) => {
            let unused =
                store.leases.values().filter(|lease| !lease.in_use).map(|lease| lease.meta.name.clone());
            if let Some(lease) = unused.collect::<Vec<_>>().get(usize::from(number)) {
                store.remove_lease(lease);
            }
        }
        Step::Pool(claims) => store.set_pool(
            "odd",
            json!({
                "nodeSelector": { "matchLabels": { "odd": "1" } },
                "backend": { "type": "host-gw" },
                "cidrs": if claims { vec!["e0"] } else { vec![] },
            }),
        ),
        // An administrator is slower than a round of writes: entries never change within one.
        Step::Append => {
            plan.append();
            store.set_network(plan.spec());
        }
        Step::Drain => {
            plan.drain();
            store.set_network(plan.spec());
        }
        Step::RemoveDrained => {
            plan.remove_drained();
            store.set_network(plan.spec());
        }
        Step::Reserve(block, node) => {
            plan.reserve(block, node);
            store.set_network(plan.spec());
        }
        Step::Recut => {
            for spec in plan.recut() {
                store.set_network(spec);
            }
        }
        Step::Pass(seconds) => store.pass(i64::from(seconds)),
        Step::Deliver { who, kind, count } => {
            operators[usize::from(who)].deliver(store, usize::from(kind), usize::from(count));
        }
        Step::Relist { who, kind } => operators[usize::from(who)].relist(store, usize::from(kind)),
        Step::Round { who, writes, faults } => {
            let operator = &mut operators[usize::from(who)];
            let actions = operator.decide(store, plan);
            let faults = faults.into_iter().chain(std::iter::repeat(9));
            for (action, fault) in actions.iter().take(writes.into()).zip(faults) {
                operator.write(store, action, fault);
                store.assert_disjoint();
            }
        }
        Step::Race { faults } => {
            let decided = [0, 1].map(|who| operators[who].decide(store, plan));
            let mut faults = faults.into_iter().chain(std::iter::repeat(9));
            for turn in 0..decided[0].len().max(decided[1].len()) {
                for who in [0, 1] {
                    if let Some(action) = decided[who].get(turn) {
                        operators[who].write(store, action, faults.next().unwrap());
                        store.assert_disjoint();
                    }
                }
            }
        }
        Step::Restart { who } => operators[usize::from(who)] = Operator::start(store),
    }
}

/// What must hold when nothing happens any more.
fn assert_calm(store: &Store) {
    let mut primaries: BTreeMap<(String, bool), u32> = BTreeMap::new();
    for lease in store.leases.values() {
        let spec = lease.spec.as_ref().unwrap();
        match store.nodes.get(&spec.node_name) {
            None => assert!(spec.released_at.is_some(), "{} of a gone node is not released", lease.subnet),
            Some(node) if spec.released_at.is_none() => {
                assert_eq!(spec.node_uid, node.meta.uid, "{} is of another {}", lease.subnet, node.meta.name);
                if spec.primary {
                    *primaries
                        .entry((spec.node_name.clone(), lease.subnet.network().is_ipv4()))
                        .or_default() += 1;
                }
            }
            Some(_) => {}
        }
    }
    for ((node, _), count) in &primaries {
        assert_eq!(*count, 1, "{node} has {count} primary leases of a family:\n{}", store.leased());
    }
    for node in store.nodes.values() {
        let condition = store.leased_condition(&node.meta.name);
        assert!(!condition.is_empty(), "nothing is said about {}", node.meta.name);
        let holds = primaries.keys().any(|(name, _)| *name == node.meta.name);
        if condition.starts_with("True") {
            assert!(holds, "{} is said to hold a lease:\n{}", node.meta.name, store.leased());
        }
        let ours = node.mirrored.is_some() && !node.has_foreign_pod_cidrs();
        if ours {
            for cidr in &node.pod_cidrs {
                let name = cidr.parse::<tartan_crds::Cidr>().unwrap().object_name();
                let holder = store.leases.get(&name).and_then(|lease| lease.node().map(str::to_owned));
                let taken = holder.as_deref() != Some(node.meta.name.as_str());
                assert!(!taken || condition.starts_with("False"), "{} lost {cidr} silently", node.meta.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn leases_never_overlap_when_the_mode_is_auto(steps in prop::collection::vec(step(), 1..60)) {
        run("Auto", steps);
    }

    #[test]
    fn leases_never_overlap_when_we_own_pod_cidrs(steps in prop::collection::vec(step(), 1..60)) {
        run("Mirror", steps);
    }

    #[test]
    fn leases_never_overlap_when_nodes_are_not_told(steps in prop::collection::vec(step(), 1..60)) {
        run("Ignore", steps);
    }

    #[test]
    fn with_room_for_all_a_node_that_comes_back_in_time_gets_its_subnet(
        moves in prop::collection::vec((0u8..6, 0i64..1800), 1..40)
    ) {
        let mut store = Store::default().with_network(json!({ "cidrs": [entry("main", "10.0.0.0/20", 24)] }));
        let mut homes: BTreeMap<u8, String> = BTreeMap::new();
        let mut left: BTreeMap<u8, k8s_openapi::jiff::Timestamp> = BTreeMap::new();
        for (number, seconds) in moves {
            let name = format!("n{number}");
            if store.nodes.contains_key(&name) {
                store.remove_node(&name);
                left.insert(number, store.now);
            } else {
                store.add_node(&name);
                let away = left.remove(&number).map(|since| (store.now - since).get_seconds());
                if away.is_some_and(|away| away >= 3600) {
                    homes.remove(&number);
                }
            }
            store.settle();
            let of_node = |lease: &&tartan_operator::world::Lease| lease.node() == Some(&name);
            if store.nodes.contains_key(&name) {
                let lease = store.leases.values().find(of_node);
                prop_assert!(lease.is_some_and(|lease| lease.released_at().is_none()), "{} has none", name);
            }
            if let Some(lease) = store.leases.values().find(of_node) {
                let subnet = lease.subnet.to_string();
                prop_assert_eq!(homes.entry(number).or_insert_with(|| subnet.clone()), &subnet);
            }
            store.pass(seconds);
            store.settle();
            store.assert_disjoint();
        }
    }

    #[test]
    fn under_exhaustion_the_oldest_release_goes_first(order in Just(vec![0u8, 1, 2, 3]).prop_shuffle()) {
        let mut store = Store::default().with_network(json!({ "cidrs": [entry("main", "10.0.0.0/22", 24)] }));
        (0..4).for_each(|number| store.add_node(&format!("n{number}")));
        store.settle();
        for number in &order {
            store.pass(60);
            store.remove_node(&format!("n{number}"));
            store.settle();
        }
        for (place, number) in order.iter().enumerate() {
            let name = format!("new{place}");
            store.add_node(&name);
            store.settle();
            let lease = store.leases.values().find(|lease| lease.node() == Some(&name)).unwrap();
            prop_assert_eq!(lease.subnet.to_string(), format!("10.0.{number}.0/24"));
        }
    }
}
