//! The same histories among hundreds of nodes, which come and go by the dozen: more than the range has blocks for.

use proptest::prelude::*;

use super::{Step, add_node, entry, plan::Plan, run_from, step, store::Store};

/// Of 256 blocks.
const SETTLED: u16 = 220;
const NAMES: u16 = 320;
/// Each takes a second where others take a millisecond.
const CASES: u32 = 8;

fn large_step() -> impl Strategy<Value = Step> {
    let faults = || prop::collection::vec(0u8..12, 0..40);
    prop_oneof![
        4 => (0..NAMES, 1u8..60).prop_map(|(first, count)| Step::AddNodes(first, count)),
        4 => (0..NAMES, 1u8..60).prop_map(|(first, count)| Step::RemoveNodes(first, count)),
        4 => (any::<bool>(), 0u8..6, 1u8..120).prop_map(|(who, kind, count)| Step::Deliver { who, kind, count }),
        6 => (any::<bool>(), any::<u8>(), faults()).prop_map(|(who, writes, faults)| Step::Round { who, writes, faults }),
        4 => faults().prop_map(|faults| Step::Race { faults }),
        // Everything else, which is about the first seven of them or about all.
        12 => step(),
    ]
}

fn run(mode: &'static str, steps: Vec<Step>) {
    let plan = Plan::new(vec![entry("first", "10.0.0.0/16", 24)], mode);
    let mut store = Store::default().with_network(plan.spec());
    (0..SETTLED).for_each(|number| add_node(&mut store, number));
    store.settle();
    run_from(store, plan, steps);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn leases_of_hundreds_of_nodes_never_overlap_when_we_own_pod_cidrs(
        steps in prop::collection::vec(large_step(), 1..40)
    ) {
        run("Mirror", steps);
    }

    #[test]
    fn leases_of_hundreds_of_nodes_never_overlap_when_nodes_are_not_told(
        steps in prop::collection::vec(large_step(), 1..40)
    ) {
        run("Ignore", steps);
    }
}
