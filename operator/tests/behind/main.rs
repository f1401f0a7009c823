//! Pools change their backend and change it back while every agent hears of it when it gets round to it, says so later
//! still, and the operator knows of that later again.
//!
//! In no history does a node send what the other does not receive, or in clear what the other takes encrypted only; and
//! whatever happened, in the end all send by what was asked for last, and nothing is left of what was before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod agent;
#[path = "../store/mod.rs"]
mod store;

use std::collections::{BTreeMap, BTreeSet};

use agent::{Agent, Event, choose};
use proptest::prelude::*;
use serde_json::json;
use store::{Fault, Store, entry};
use tartan_crds::BackendType::{self, Ipip, Vxlan, Wireguard};
use tartan_operator::{
    decide::decide,
    world::{Change, Delta, NodeNet},
};

/// Nodes of the pool, and one of none, which sends by vxlan.
const NODES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The pool is given this backend, and a pace.
    Ask(BackendType, u8),
    /// The operator decides, and so many of its writes are done.
    Decide(u8),
    /// It hears what agents have said.
    Learn,
    /// An agent hears of so many events more.
    Hear(u8, u8),
    /// What an agent found when it last did something comes to the API.
    Say(u8),
    /// All but this agent, if there is one with this number, are up to date, and the operator goes on, so many times.
    Rounds(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(Vxlan), Just(Ipip), Just(Wireguard)];
    prop_oneof![
        3 => (kind, 1u8..4).prop_map(|(kind, pace)| Step::Ask(kind, pace)),
        8 => (0u8..6, 1u8..6).prop_map(|(but, times)| Step::Rounds(but, times)),
        4 => (0u8..4, 1u8..4).prop_map(|(node, events)| Step::Hear(node, events)),
        2 => (0u8..4).prop_map(Step::Say),
        1 => Just(Step::Learn),
        2 => (0u8..8).prop_map(Step::Decide),
    ]
}

struct Cluster {
    store: Store,
    agents: Vec<Agent>,
    events: Vec<Event>,
    /// How much of the store's log is among them.
    read: usize,
    /// What the operator knows of the agents.
    known: BTreeMap<String, NodeNet>,
    asked: BackendType,
    /// All have found each other.
    started: bool,
}

impl Cluster {
    /// All nodes send by vxlan.
    fn start() -> Self {
        let mut store = Store::default().with_network(json!({ "cidrs": [entry("main", "10.0.0.0/20", 24)] }));
        for name in NODES {
            store.add_node_with(name, |node| {
                let pool = if name == "d" { "none" } else { "p" };
                node.labels.insert("in".into(), pool.into());
            });
        }
        let agents = NODES.map(Agent::new).into();
        let mut cluster = Self {
            store,
            agents,
            events: vec![],
            read: 0,
            known: BTreeMap::new(),
            asked: Vxlan,
            started: false,
        };
        cluster.ask(Vxlan, 1);
        cluster.store.settle();
        for name in NODES {
            cluster.store.use_leases_of(name);
        }
        cluster.settle();
        cluster.started = true;
        cluster
    }

    fn ask(&mut self, kind: BackendType, pace: u8) {
        self.asked = kind;
        let status = self.store.pools.get("p").map(|pool| pool.status.clone()).unwrap_or_default();
        self.store.set_pool(
            "p",
            json!({
                "nodeSelector": { "matchLabels": { "in": "p" } }, "backend": { "type": kind },
                "transition": { "maxInFlight": pace },
            }),
        );
        self.store.pools.get_mut("p").unwrap().status = status;
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask(kind, pace) => self.ask(kind, pace),
            Step::Decide(writes) => {
                self.decide(writes.into());
            }
            Step::Learn => self.known = self.store.node_networks.clone(),
            Step::Hear(node, events) => self.hear(node.into(), events.into()),
            Step::Say(node) => self.say(node.into()),
            Step::Rounds(but, times) => {
                for _ in 0..times {
                    self.round(Some(but.into()));
                }
            }
        }
        self.follow();
    }

    /// Whether there was anything to write.
    fn decide(&mut self, writes: usize) -> bool {
        let there = std::mem::replace(&mut self.store.node_networks, self.known.clone());
        let world = self.store.world();
        self.store.node_networks = there;
        let decisions = decide(&world, self.store.now);
        for action in decisions.actions.iter().take(writes) {
            self.store.carry_out(action, Fault::None);
        }
        self.store.write_status(&decisions);
        !decisions.actions.is_empty()
    }

    /// What was written comes into the order of events.
    fn follow(&mut self) {
        for delta in &self.store.log[self.read..] {
            if let Delta::Leases(Change::Seen(lease)) = delta {
                self.events.push(Event::Lease(Box::new(lease.clone())));
            }
        }
        self.read = self.store.log.len();
    }

    fn hear(&mut self, place: usize, events: usize) {
        self.follow();
        let agent = &mut self.agents[place];
        let before = agent.receives.clone();
        agent.hear(&self.events, events);
        if agent.receives != before {
            self.events.push(Event::Ready(agent.name.clone(), agent.receives.clone()));
        }
        self.shake_hands();
    }

    fn shake_hands(&mut self) {
        let encrypting = self.agents.iter().filter(|agent| agent.receives.contains(&Wireguard));
        let names: BTreeSet<String> = encrypting.map(|agent| agent.name.clone()).collect();
        for agent in self.agents.iter_mut().filter(|agent| names.contains(&agent.name)) {
            agent.sessions.extend(names.iter().cloned());
        }
    }

    fn say(&mut self, place: usize) {
        let agent = &self.agents[place];
        if let Some(object) = self.store.node_networks.get_mut(&agent.name) {
            object.report = agent.report();
        }
    }

    /// Everybody but this one hears everything and says so. Whether anything happened.
    fn round(&mut self, but: Option<usize>) -> bool {
        let before = self.events.len();
        for place in (0..NODES.len()).filter(|place| Some(*place) != but) {
            self.hear(place, usize::MAX);
            self.assert_nothing_is_lost();
            self.say(place);
        }
        self.known = self.store.node_networks.clone();
        let wrote = self.decide(usize::MAX);
        self.follow();
        wrote || self.events.len() > before
    }

    fn settle(&mut self) {
        let settles = (0..100).any(|_| !self.round(None));
        assert!(settles, "never: {:?}", decide(&self.store.world(), self.store.now).actions);
    }

    fn assert_nothing_is_lost(&self) {
        for from in self.agents.iter().filter(|_| self.started) {
            for (to, kind) in &from.sends {
                let to = self.agents.iter().find(|agent| agent.name == *to).unwrap();
                let Some(kind) = kind else { panic!("{} sends nothing to {}", from.name, to.name) };
                let (from, name) = (&from.name, &to.name);
                assert!(
                    to.receives.contains(kind),
                    "{from} sends to {name} by {kind}, which it does not receive"
                );
                let is_taken = kind.encrypts() || !to.sealed.contains(from);
                assert!(is_taken, "{from} sends to {name} by {kind}, which takes encrypted packets only");
            }
        }
    }

    fn assert_all_is_as_asked(&self) {
        for lease in self.store.leases.values() {
            let (node, backend) = (lease.node().unwrap(), &lease.spec.as_ref().unwrap().backend);
            let wanted = if node == "d" { Vxlan } else { self.asked };
            let accepts = BTreeSet::from([wanted, Vxlan, self.asked]);
            assert_eq!(backend.kind, wanted, "{node}");
            assert_eq!(backend.accepts.iter().copied().collect::<BTreeSet<_>>(), accepts, "{node}");
            assert_eq!(backend.sealed, wanted.encrypts(), "{node}");
            assert!(backend.ending.is_empty(), "{node}: {:?}", backend.ending);
        }
        for agent in &self.agents {
            let own = |node: &str| if node == "d" { Vxlan } else { self.asked };
            for (to, kind) in &agent.sends {
                assert_eq!(*kind, Some(choose(own(&agent.name), own(to))), "{} to {to}", agent.name);
            }
        }
        assert_eq!(self.store.pools["p"].status.transition, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_whoever_is_behind(steps in prop::collection::vec(step(), 1..24)) {
        let mut cluster = Cluster::start();
        cluster.assert_all_is_as_asked();
        for step in steps {
            cluster.take(step);
            cluster.assert_nothing_is_lost();
        }
        cluster.settle();
        cluster.assert_all_is_as_asked();
    }
}
