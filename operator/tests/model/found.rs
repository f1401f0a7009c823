//! Histories that the search once ended with, told step by step.

use stateright::Model as _;

use super::{
    agent::Growth,
    anything, cluster, laws,
    state::{Left, Stage},
    steps::{Cluster, Fate, Sees, Step},
};

const ALL: Sees = Sees { nodes: true, leases: true, network: true, reports: true };

/// A cluster to which one thing after the other happens. The operators are 0 and 1.
struct History {
    cluster: Cluster,
    state: super::state::State,
}

impl History {
    fn begin() -> Self {
        let cluster = cluster("Ignore", 1, 0, anything(9));
        let state = cluster.init_states().remove(0);
        Self { cluster, state }
    }

    #[track_caller]
    fn goes_on(&mut self, steps: &[Step]) {
        for step in steps {
            self.cluster.take(&mut self.state, *step);
            for law in laws::all().into_iter().filter(|law| [laws::OVERLAP, laws::KEPT].contains(&law.name)) {
                assert!((law.condition)(&self.cluster, &self.state), "{step:?} broke: {}", law.name);
            }
        }
    }

    /// Lets an operator end what it has begun.
    #[track_caller]
    fn ends_round(&mut self, who: usize) {
        while !self.state.operators[who].flights.is_empty() {
            self.goes_on(&[Step::Write { who, fate: Fate::Fine }]);
        }
    }
}

/// One operator had given the lease to the Node that came back; the other, which had not heard of that Node
/// yet, gave it to the Node that was gone.
#[test]
fn a_view_of_nodes_that_lags_does_not_give_a_lease_back_to_a_node_that_is_gone() {
    let mut history = History::begin();
    history.goes_on(&[Step::Remove(0), Step::Join(0), Step::Decide { who: 0, sees: ALL }]);
    history.ends_round(0);
    history.goes_on(&[Step::Use(0), Step::Decide { who: 1, sees: Sees { nodes: false, ..ALL } }]);
    history.ends_round(1);
    assert_eq!(history.state.leases[0].map(|lease| lease.node_uid), Some(2));
}

/// An operator asked whether the Node was gone, and it was; then it came back and had its lease again; then the
/// operator read the lease and released it.
#[test]
fn a_node_that_comes_back_between_two_reads_keeps_its_lease() {
    let mut history = History::begin();
    history.goes_on(&[
        Step::Remove(0),
        Step::Decide { who: 1, sees: ALL },
        Step::Write { who: 1, fate: Fate::Fine },
        Step::Join(0),
        Step::Decide { who: 0, sees: ALL },
    ]);
    history.ends_round(0);
    history.goes_on(&[Step::Use(0)]);
    history.ends_round(1);
    assert_eq!(history.state.leases[0].and_then(|lease| lease.released), None);
}

/// Of two leases that an operator gave back, the further one alone had come through: the other operator took it for the
/// only one, made it the node's first, and the first one deleted it as a duplicate while a pod had an address of it.
#[test]
fn a_further_block_that_comes_back_before_the_first_one_stays_a_further_one() {
    let left = Left { pods: 9, ..anything(9) };
    let begin = Stage::Narrow;
    let cluster = Cluster { growth: Some(Growth::Over), begin, ..cluster("Ignore", 1, 0, left) };
    let state = cluster.init_states().remove(0);
    let mut history = History { cluster, state };
    history.goes_on(&[Step::Remove(0), Step::Decide { who: 0, sees: ALL }]);
    history.ends_round(0);
    history.goes_on(&[Step::Join(0), Step::Decide { who: 1, sees: ALL }]);
    history.goes_on(&[Step::Write { who: 1, fate: Fate::Delayed }]);
    let released = |history: &History, block: usize| history.state.leases[block].unwrap().released.is_some();
    while released(&history, 1) {
        history.goes_on(&[Step::Write { who: 1, fate: Fate::Fine }]);
    }
    assert!(released(&history, 0));
    history.goes_on(&[Step::Decide { who: 0, sees: ALL }, Step::Decide { who: 1, sees: ALL }]);
    history.ends_round(1);
    history.goes_on(&[Step::Use(0), Step::PodStarts(0, 1)]);
    history.ends_round(0);
    history.goes_on(&[Step::Decide { who: 1, sees: ALL }]);
    history.ends_round(1);
    let first = |block: usize| history.state.leases[block].map(|lease| (lease.primary, lease.released));
    assert_eq!((first(0), first(1)), (Some((true, None)), Some((false, None))));
}
