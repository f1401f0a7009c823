//! What can happen, one step at a time.

use stateright::{Model, Property};

use super::{
    agent::{self, Growth},
    hands::Progress,
    laws,
    mind::{Mind, fresh},
    server::{Admission, serve},
    state::{
        Act, Block, Flight, Lease, Left, NODES, Node, Operator, Pods, Reply, Request, Set, Stage, State, Time,
    },
};

/// A cluster and what may happen to it.
pub struct Cluster {
    pub mind: Mind,
    pub admission: Admission,
    pub left: Left,
    pub begin: Stage,
    /// How many of the Nodes are there, and have their leases in use, when it begins.
    pub settled: usize,
    /// How many more are there without a lease.
    pub waiting: usize,
    /// Whether pods of the first one come and go, and its agent reports and gives further blocks back.
    pub growth: Option<Growth>,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Some of an operator's watches deliver what they have not delivered yet; it decides, and begins to write.
    Decide {
        who: usize,
        sees: Sees,
    },
    /// The next request of an operator's writes reaches the API server.
    Write {
        who: usize,
        fate: Fate,
    },
    /// A request arrives that nobody waits for any more.
    Arrive(usize),
    /// An operator dies and starts anew. Its last request may still be on its way.
    Crash {
        who: usize,
        wandering: bool,
    },
    /// An operator's clock is set.
    Jump {
        who: usize,
        to: Time,
    },
    /// An hour passes.
    Hour,
    /// A Node is marked for deletion, and a finalizer holds it.
    Mark(usize),
    /// A Node is gone.
    Remove(usize),
    /// A Node joins, or comes back under its name.
    Join(usize),
    /// A node's agent takes its leases into use; a block that is asked back, it leaves out.
    Use(usize),
    /// A node's agent says which of its blocks are full.
    Report(usize),
    PodStarts(usize, Block),
    PodEnds(usize, Block),
    /// A node's agent says of which blocks that are asked back no pod has an address.
    Answer(usize),
    /// A pod came to such a block all the same.
    TakeBack(usize, Block),
    /// The administrator drains the entry, or replaces it by one that is cut otherwise.
    Edit,
    /// The administrator keeps a block for one node.
    Reserve,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sees {
    pub nodes: bool,
    pub leases: bool,
    pub network: bool,
    pub reports: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// The client gives up; the request is lost, or arrives later.
    Delayed,
    /// Carried out, but the answer is lost.
    Unanswered,
    /// Carried out and answered, and carried out once more later.
    Repeated,
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let node = Some(Node { uid: 1, marked: false, pod_cidr: None });
        let mut state = State {
            now: 10,
            nodes: Default::default(),
            leases: Default::default(),
            stage: self.begin,
            uses: [0; NODES],
            pods: Default::default(),
            reports: Default::default(),
            uids: [0; NODES],
            operators: [0, 1].map(|_| Operator {
                view: fresh(Default::default(), Default::default(), Default::default(), self.begin),
                flights: vec![],
                offset: 0,
                crashed: false,
            }),
            wandering: vec![],
            left: self.left,
        };
        for name in 0..self.settled + self.waiting {
            (state.nodes[name], state.uids[name]) = (node, 1);
        }
        for name in 0..self.settled {
            let lease = Lease::new((1, 1), (u8::try_from(name).unwrap(), 1), true, 9);
            state.leases[name] = Some(Lease { in_use: true, ..lease });
            state.uses[name] = 1 << name;
            if self.mind.mirrors() {
                state.nodes[name].as_mut().unwrap().pod_cidr = Some(u8::try_from(name).unwrap());
            }
        }
        if let Some(growth) = self.growth {
            agent::begin(&mut state, growth);
        }
        for operator in &mut state.operators {
            operator.view = fresh(state.nodes, state.leases, state.reports, state.stage);
        }
        vec![state.canonical()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state.left;
        for (who, operator) in state.operators.iter().enumerate() {
            let request = operator.flights.first().map(|flight| self.request(operator, flight, state.now));
            let may_fail = left.faults > 0 && request.is_some_and(Request::writes);
            if request.is_some() {
                steps.push(Step::Write { who, fate: Fate::Fine });
                if may_fail {
                    let fates = [Fate::Delayed, Fate::Unanswered, Fate::Repeated];
                    steps.extend(fates.map(|fate| Step::Write { who, fate }));
                }
            } else {
                // News wait while a round is being written.
                let either = |stale: bool| if stale { &[false, true][..] } else { &[false][..] };
                for nodes in either(operator.view.nodes != state.nodes) {
                    for leases in either(operator.view.leases != state.leases) {
                        for network in either(operator.view.stage != state.stage) {
                            for reports in either(operator.view.reports != state.reports) {
                                let (nodes, leases) = (*nodes, *leases);
                                let sees = Sees { nodes, leases, network: *network, reports: *reports };
                                steps.push(Step::Decide { who, sees });
                            }
                        }
                    }
                }
            }
            if left.crashes > 0 && !operator.crashed {
                steps.push(Step::Crash { who, wandering: false });
                if request.is_some_and(Request::writes) {
                    steps.push(Step::Crash { who, wandering: true });
                }
            }
            if left.jumps > 0 && operator.offset == 0 {
                steps.extend([-2, 2].map(|to| Step::Jump { who, to }));
            }
        }
        steps.extend((0..state.wandering.len()).map(Step::Arrive));
        if left.hours > 0 {
            steps.push(Step::Hour);
        }
        for name in 0..NODES {
            match state.nodes[name] {
                Some(node) => {
                    if left.marks > 0 && !node.marked {
                        steps.push(Step::Mark(name));
                    }
                    if left.removals > 0 {
                        steps.push(Step::Remove(name));
                    }
                    steps.push(Step::Use(name));
                }
                // The lowest name that never was, or one that was.
                None if left.joins > 0 && (state.uids[name] > 0 || name == 0 || state.uids[name - 1] > 0) => {
                    steps.push(Step::Join(name));
                }
                None => {}
            }
        }
        if left.edits > 0 && state.stage.next().is_some() {
            steps.push(Step::Edit);
        }
        if left.reservations > 0 && state.stage == Stage::First {
            steps.push(Step::Reserve);
        }
        if self.growth.is_some() {
            agent::actions(state, steps);
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        self.take(&mut state, step);
        let state = state.canonical();
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        laws::all()
    }
}

impl Cluster {
    pub fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Decide { who, sees } => self.decide(state, who, sees),
            Step::Write { who, fate } => self.write(state, who, fate),
            Step::Arrive(place) => {
                let request = state.wandering.remove(place);
                serve(state, self.admission, request);
            }
            Step::Crash { who, wandering } => {
                state.left.spend(|left| &mut left.crashes);
                if wandering {
                    let operator = &state.operators[who];
                    state.wandering.push(self.request(operator, &operator.flights[0], state.now));
                }
                let view = fresh(state.nodes, state.leases, state.reports, state.stage);
                let offset = state.operators[who].offset;
                state.operators[who] = Operator { view, flights: vec![], offset, crashed: true };
            }
            Step::Jump { who, to } => {
                state.operators[who].offset = to;
                state.left.spend(|left| &mut left.jumps);
            }
            Step::Hour => {
                state.now += 1;
                state.left.spend(|left| &mut left.hours);
            }
            Step::Mark(name) => {
                state.nodes[name].as_mut().unwrap().marked = true;
                state.left.spend(|left| &mut left.marks);
            }
            Step::Remove(name) => {
                state.nodes[name] = None;
                (state.uses[name], state.pods[name]) = (0, Pods::default());
                state.left.spend(|left| &mut left.removals);
            }
            Step::Join(name) => {
                state.uids[name] += 1;
                state.nodes[name] = Some(Node { uid: state.uids[name], marked: false, pod_cidr: None });
                state.left.spend(|left| &mut left.joins);
            }
            Step::Use(name) => {
                agent::take_into_use(state, name);
                if self.growth.is_some() && name == agent::GROWS {
                    agent::offer(state, name);
                }
            }
            Step::Report(name) => agent::report(state, name),
            Step::PodStarts(name, block) => {
                agent::pod_starts(state, name, block);
                state.left.spend(|left| &mut left.pods);
            }
            Step::PodEnds(name, block) => {
                agent::pod_ends(state, name, block);
                state.left.spend(|left| &mut left.pods);
            }
            Step::Answer(name) => agent::answer(state, name),
            Step::TakeBack(name, block) => {
                agent::take_back(state, name, block);
                state.left.spend(|left| &mut left.pods);
            }
            Step::Edit => {
                state.stage = state.stage.next().unwrap();
                state.left.spend(|left| &mut left.edits);
            }
            Step::Reserve => {
                state.stage = Stage::Kept;
                state.left.spend(|left| &mut left.reservations);
            }
        }
    }

    /// As the allocator does a round: decide, look around before creates, note wishes, write.
    fn decide(&self, state: &mut State, who: usize, sees: Sees) {
        let Operator { view, offset, .. } = &state.operators[who];
        let (mut view, now) = (view.clone(), state.now + offset);
        let nodes = if sees.nodes { state.nodes } else { view.nodes };
        let leases = if sees.leases { state.leases } else { view.leases };
        self.mind.see(&mut view, &nodes, &leases);
        if sees.network {
            view.stage = state.stage;
        }
        if sees.reports {
            view.reports = state.reports;
        }
        let mut acts = self.mind.decide(&view, now);
        for act in &mut acts {
            if let Act::Update { lease, returning: Some(number @ 0), .. } = act {
                *number = state.fresh_request(lease.block);
            }
        }
        if acts.iter().any(|act| matches!(act, Act::Create { .. })) && !self.mind.may_create(&mut view, state)
        {
            acts.retain(|act| !matches!(act, Act::Create { .. }));
        }
        for act in &acts {
            if let Act::Create { block, node, primary: true, .. } = act {
                view.wishes[usize::from(*node)] = Some(*block);
            }
        }
        let flights = acts.into_iter().map(|act| Flight { act, heard: vec![] }).collect();
        let operator = &mut state.operators[who];
        (operator.view, operator.flights) = (view, flights);
    }

    /// Writes of a round go out in their order; one that another overtakes is one that is delayed.
    fn write(&self, state: &mut State, who: usize, fate: Fate) {
        let operator = &state.operators[who];
        let request = self.request(operator, &operator.flights[0], state.now);
        let reply = match fate {
            Fate::Fine => serve(state, self.admission, request),
            Fate::Delayed => {
                state.wandering.push(request);
                Reply::Lost
            }
            Fate::Unanswered => {
                serve(state, self.admission, request);
                Reply::Lost
            }
            Fate::Repeated => {
                state.wandering.push(request);
                serve(state, self.admission, request)
            }
        };
        if fate != Fate::Fine {
            state.left.spend(|left| &mut left.faults);
        }
        let operator = &mut state.operators[who];
        let Flight { act, heard } = &mut operator.flights[0];
        heard.push(reply);
        if let Progress::Ends(news) = self.mind.carry_out(*act, heard) {
            operator.flights.remove(0);
            self.mind.learn(&mut operator.view, news);
        }
    }

    /// What a write asks for next.
    fn request(&self, operator: &Operator, flight: &Flight, now: Time) -> Request {
        let Flight { act, heard } = flight;
        match self.mind.carry_out(*act, heard) {
            Progress::Asks(Request::Patch { block, uid, version, set: Set::Released(_) }) => {
                Request::Patch { block, uid, version, set: Set::Released(now + operator.offset) }
            }
            Progress::Asks(request) => request,
            Progress::Ends(_) => panic!("{act:?} ended without a last answer"),
        }
    }

    /// Nothing fails and nothing else happens any more: both operators see all and work until neither has
    /// anything to do. `None` where they never end.
    pub fn calm(&self, state: &State) -> Option<State> {
        let mut state = state.clone();
        state.wandering.clear();
        for _ in 0..24 {
            let before = state.clone();
            for who in [0, 1] {
                while !state.operators[who].flights.is_empty() {
                    self.write(&mut state, who, Fate::Fine);
                }
                self.decide(
                    &mut state,
                    who,
                    Sees { nodes: true, leases: true, network: true, reports: true },
                );
            }
            if state == before {
                return Some(state);
            }
        }
        None
    }
}
