//! Pools change their backend and change it back, come and go, and nodes change their pool, while every agent hears of
//! it when it gets round to it, says so later still, and the operator knows of that later again, and does a part of what
//! it decided.
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

/// The last one is in no pool at first. Nodes in none send by vxlan.
const NODES: [&str; 4] = ["a", "b", "c", "d"];
const POOLS: [&str; 2] = ["p", "q"];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A pool is given this backend, and a pace; it is made, if there is none.
    Ask(usize, BackendType, u8),
    Delete(usize),
    /// A node comes into this pool, if there is one, or into none.
    Move(usize, usize),
    /// The operator decides, and of eight writes at a time these are done.
    Decide(u8),
    /// It hears what agents have said.
    Learn,
    /// An agent hears of so many events more.
    Hear(usize, u8),
    /// What an agent found when it last did something comes to the API.
    Say(usize),
    /// What it receives then comes to its lease, of which its peers hear.
    Publish(usize),
    /// All are up to date, or all but the one that is behind in this history, and the operator goes on, so many times.
    Rounds(bool, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![2 => Just(Wireguard), 1 => Just(Vxlan), 1 => Just(Ipip)];
    let pool = || prop_oneof![3 => Just(0usize), 1 => Just(1usize)];
    prop_oneof![
        5 => (pool(), kind, 1u8..4).prop_map(|(pool, kind, pace)| Step::Ask(pool, kind, pace)),
        1 => pool().prop_map(Step::Delete),
        2 => (0usize..4, 0usize..3).prop_map(|(node, pool)| Step::Move(node, pool)),
        8 => (any::<bool>(), 1u8..6).prop_map(|(all, times)| Step::Rounds(all, times)),
        2 => (0usize..4, 1u8..4).prop_map(|(node, events)| Step::Hear(node, events)),
        1 => (0usize..4).prop_map(Step::Say),
        1 => (0usize..4).prop_map(Step::Publish),
        1 => Just(Step::Learn),
        1 => any::<u8>().prop_map(Step::Decide),
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
    /// By pool.
    asked: BTreeMap<&'static str, BackendType>,
    /// All have found each other.
    started: bool,
    /// Who is behind hears and answers as the others do, and publishes late.
    mute: bool,
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
            asked: BTreeMap::new(),
            started: false,
            mute: false,
        };
        cluster.ask("p", Vxlan, 1);
        cluster.store.settle();
        for name in NODES {
            cluster.store.use_leases_of(name);
        }
        cluster.settle();
        cluster.started = true;
        cluster
    }

    fn ask(&mut self, pool: &'static str, kind: BackendType, pace: u8) {
        self.asked.insert(pool, kind);
        let status = self.store.pools.get(pool).map(|pool| pool.status.clone()).unwrap_or_default();
        self.store.set_pool(
            pool,
            json!({
                "nodeSelector": { "matchLabels": { "in": pool } }, "backend": { "type": kind },
                "transition": { "maxInFlight": pace },
            }),
        );
        self.store.pools.get_mut(pool).unwrap().status = status;
    }

    /// What a node should send by in the end.
    fn wanted(&self, node: &str) -> BackendType {
        let pool = self.store.nodes[node].labels["in"].as_str();
        self.asked.get(pool).copied().unwrap_or(Vxlan)
    }

    fn take(&mut self, step: Step, behind: usize) {
        match step {
            Step::Ask(pool, kind, pace) => self.ask(POOLS[pool], kind, pace),
            Step::Delete(pool) => {
                self.asked.remove(POOLS[pool]);
                self.store.pools.remove(POOLS[pool]);
            }
            Step::Move(node, pool) => {
                let pool = POOLS.get(pool).copied().unwrap_or("none");
                self.store.change_node(NODES[node], |node| {
                    node.labels.insert("in".into(), pool.into());
                });
            }
            Step::Decide(writes) => {
                self.decide(writes);
            }
            Step::Learn => self.known = self.store.node_networks.clone(),
            Step::Hear(node, events) => self.hear(node, events.into()),
            Step::Say(node) => self.say(node),
            Step::Publish(node) => self.publish(node),
            Step::Rounds(all, times) => {
                for _ in 0..times {
                    self.round(Some(behind).filter(|_| !all));
                }
            }
        }
        self.follow();
    }

    /// Whether there was anything to write.
    fn decide(&mut self, writes: u8) -> bool {
        let there = std::mem::replace(&mut self.store.node_networks, self.known.clone());
        let world = self.store.world();
        self.store.node_networks = there;
        let decisions = decide(&world, self.store.now);
        for (place, action) in decisions.actions.iter().enumerate() {
            if writes & (1 << (place % 8)) != 0 {
                self.store.carry_out(action, Fault::None);
            }
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

    /// An agent hears of so many events more, and does after each what it asks for.
    fn hear(&mut self, place: usize, events: usize) {
        self.follow();
        for _ in 0..events {
            if !self.agents[place].hear(&self.events) {
                break;
            }
            self.shake_hands();
            self.assert_nothing_is_lost();
        }
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

    fn publish(&mut self, place: usize) {
        self.follow();
        let Agent { name, receives, .. } = &self.agents[place];
        let own = self.store.leases.values().find(|lease| lease.node() == Some(name)).unwrap();
        if own.endpoints == *receives {
            return;
        }
        let lease = own.meta.name.clone();
        self.store.change_lease(&lease, |lease| lease.endpoints.clone_from(receives));
        self.events.push(Event::Ready(name.clone(), receives.clone()));
    }

    /// Everybody but this one hears everything and says so. Whether anything happened.
    fn round(&mut self, but: Option<usize>) -> bool {
        let before = self.events.len();
        for place in 0..NODES.len() {
            let is_behind = Some(place) == but;
            if is_behind && !self.mute {
                continue;
            }
            self.hear(place, usize::MAX);
            if !is_behind {
                self.publish(place);
            }
            self.say(place);
        }
        self.known = self.store.node_networks.clone();
        let wrote = self.decide(u8::MAX);
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
        let asked: BTreeSet<BackendType> = self.asked.values().copied().chain([Vxlan]).collect();
        for lease in self.store.leases.values() {
            let (node, backend) = (lease.node().unwrap(), &lease.spec.as_ref().unwrap().backend);
            let wanted = self.wanted(node);
            assert_eq!(backend.kind, wanted, "{node}");
            assert_eq!(backend.accepts.iter().copied().collect::<BTreeSet<_>>(), asked, "{node}");
            assert_eq!(backend.sealed, wanted.encrypts(), "{node}");
            assert!(backend.ending.is_empty(), "{node}: {:?}", backend.ending);
        }
        for agent in &self.agents {
            for (to, kind) in &agent.sends {
                let wanted = choose(self.wanted(&agent.name), self.wanted(to));
                assert_eq!(*kind, Some(wanted), "{} to {to}", agent.name);
            }
        }
        for pool in self.store.pools.values() {
            assert_eq!(pool.status.transition, None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_whoever_is_behind(
        behind in 0usize..4,
        mute in any::<bool>(),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut cluster = Cluster::start();
        cluster.assert_all_is_as_asked();
        cluster.mute = mute;
        for step in steps {
            cluster.take(step, behind);
        }
        cluster.settle();
        cluster.assert_all_is_as_asked();
    }
}
