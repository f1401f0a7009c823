//! An API server in memory, as far as decisions meet it: versions, UIDs, preconditions, one lock per name.
//!
//! It carries out [`Action`]s as `execute` does, and keeps a log of changes that a watch would deliver, so
//! that a test can let each operator's view lag, repeat or restart.
#![allow(dead_code, reason = "each test binary uses a part")]

mod attempt;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tartan_crds::{Cidr, Family, SubnetLeaseSpec};
use tartan_operator::{
    decide::{Action, Decisions, LastLook, UpdateReason, decide, is_still_free_to_take, is_still_gone},
    execute::{News, learn},
    world::{Change, Choice, Delta, Lease, Meta, Network, Node, NodeNet, Pool, ServiceRange, Traces, World},
};

pub struct Store {
    pub now: Timestamp,
    pub nodes: BTreeMap<String, Node>,
    pub leases: BTreeMap<String, Lease>,
    pub network: Option<Network>,
    pub pools: BTreeMap<String, Pool>,
    pub node_networks: BTreeMap<String, NodeNet>,
    pub services: Vec<ServiceRange>,
    pub log: Vec<Delta>,
    counter: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            network: None,
            pools: BTreeMap::new(),
            node_networks: BTreeMap::new(),
            services: vec![],
            log: vec![],
            counter: 0,
        }
    }
}

/// The outcome of a write, as far as a test tells outcomes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The request never arrived, and nobody knows.
    LostBefore,
    /// It was carried out, but the answer was lost.
    LostAfter,
    /// A proxy repeated it.
    Twice,
}

impl Store {
    fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn fresh(&mut self, name: &str) -> Meta {
        let number = self.next();
        Meta { name: name.to_owned(), uid: format!("uid-{number}"), version: number.to_string() }
    }

    pub fn with_network(mut self, spec: Value) -> Self {
        self.set_network(spec);
        self
    }

    /// Creates the ClusterNetwork or replaces its spec. Nothing is validated: admission may have been off.
    pub fn set_network(&mut self, spec: Value) {
        let meta = match &self.network {
            Some(network) => Meta { version: self.counter.to_string(), ..network.meta.clone() },
            None => self.fresh("default"),
        };
        self.next();
        let status = self.network.take().map(|network| network.status).unwrap_or_default();
        let object = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork",
            "metadata": { "name": "default", "uid": meta.uid, "resourceVersion": self.counter.to_string(), "generation": self.counter },
            "spec": spec,
        });
        let network = Network { status, ..Network::parse(serde_json::from_value(object).unwrap()) };
        self.log.push(Delta::Networks(Change::Seen(network.clone())));
        self.network = Some(network);
    }

    pub fn set_pool(&mut self, name: &str, spec: Value) {
        let meta = self.fresh(name);
        let object = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool",
            "metadata": { "name": name, "uid": meta.uid, "resourceVersion": meta.version, "generation": 1 },
            "spec": spec,
        });
        let pool = Pool::parse(serde_json::from_value(object).unwrap());
        self.log.push(Delta::Pools(Change::Seen(pool.clone())));
        self.pools.insert(name.to_owned(), pool);
    }

    pub fn add_node(&mut self, name: &str) {
        self.add_node_with(name, |_| {});
    }

    pub fn add_node_with(&mut self, name: &str, with: impl FnOnce(&mut Node)) {
        let mut node = Node { meta: self.fresh(name), created: self.now, ..Node::default() };
        with(&mut node);
        self.log.push(Delta::Nodes(Change::Seen(node.clone())));
        self.nodes.insert(name.to_owned(), node);
    }

    pub fn change_node(&mut self, name: &str, change: impl FnOnce(&mut Node)) {
        let version = self.next().to_string();
        let Some(node) = self.nodes.get_mut(name) else { return };
        change(node);
        node.meta.version = version;
        self.log.push(Delta::Nodes(Change::Seen(node.clone())));
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.log.push(Delta::Nodes(Change::Gone(node)));
        }
        if let Some(gone) = self.node_networks.remove(name) {
            self.log.push(Delta::NodeNetworks(Change::Gone(gone)));
        }
    }

    /// The agent of a node publishes what peers need in the leases that it holds.
    pub fn use_leases_of(&mut self, node: &str) {
        let names: Vec<String> = self
            .leases
            .values()
            .filter(|l| l.node() == Some(node) && l.released_at().is_none())
            .map(|l| l.meta.name.clone())
            .collect();
        for name in names {
            self.change_lease(&name, |lease| lease.in_use = true);
        }
    }

    pub fn change_lease(&mut self, name: &str, change: impl FnOnce(&mut Lease)) {
        let version = self.next().to_string();
        let lease = self.leases.get_mut(name).unwrap();
        let before = lease.spec.clone();
        change(lease);
        lease.meta.version = version;
        if lease.spec != before {
            lease.generation = lease.generation.map(|generation| generation + 1);
        }
        self.log.push(Delta::Leases(Change::Seen(lease.clone())));
    }

    pub fn remove_lease(&mut self, name: &str) {
        if let Some(lease) = self.leases.remove(name) {
            self.log.push(Delta::Leases(Change::Gone(lease)));
        }
    }

    /// Creates a lease by hand.
    pub fn insert_lease(&mut self, spec: SubnetLeaseSpec, labels: BTreeMap<String, String>) -> bool {
        self.create_lease(spec, labels, None)
    }

    fn create_lease(
        &mut self,
        spec: SubnetLeaseSpec,
        labels: BTreeMap<String, String>,
        chosen: Option<Choice>,
    ) -> bool {
        let name = spec.subnet.object_name();
        if self.leases.contains_key(&name) {
            return false;
        }
        let lease = Lease {
            meta: self.fresh(&name),
            generation: Some(1),
            subnet: spec.subnet,
            spec: Ok(spec),
            labels,
            chosen,
            in_use: false,
            endpoints: BTreeSet::new(),
            wireguard_keys: BTreeMap::new(),
            public_ips: vec![],
            emptied: None,
            created: self.now,
            deleting: false,
            traces: Traces::default(),
        };
        self.log.push(Delta::Leases(Change::Seen(lease.clone())));
        self.leases.insert(name, lease);
        true
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// What a list of everything says.
    pub fn lists(&self) -> Vec<Delta> {
        let since = Instant::now();
        vec![
            Delta::Nodes(Change::Listed { objects: self.nodes.values().cloned().collect(), since }),
            Delta::Networks(Change::Listed { objects: self.network.clone().into_iter().collect(), since }),
            Delta::Pools(Change::Listed { objects: self.pools.values().cloned().collect(), since }),
            Delta::Leases(Change::Listed { objects: self.leases.values().cloned().collect(), since }),
            Delta::NodeNetworks(Change::Listed {
                objects: self.node_networks.values().cloned().collect(),
                since,
            }),
            Delta::ServiceRanges(Change::Listed { objects: self.services.clone(), since }),
        ]
    }

    pub fn world(&self) -> World {
        let mut world = World::default();
        self.lists().into_iter().for_each(|delta| {
            world.apply(delta);
        });
        world
    }

    /// Carries out one action as the executor does, with what a client would know afterwards.
    pub fn carry_out(&mut self, action: &Action, fault: Fault) -> Vec<News> {
        if fault == Fault::LostBefore {
            return doubts(action);
        }
        let mut news = self.attempt(action);
        if fault == Fault::Twice {
            news = self.attempt(action);
        }
        if fault == Fault::LostAfter { doubts(action) } else { news }
    }

    fn is_version(&self, decided: &Meta) -> bool {
        self.leases
            .get(&decided.name)
            .is_some_and(|live| live.meta.uid == decided.uid && live.meta.version == decided.version)
    }

    fn lease_news(&self, name: &str) -> News {
        match self.leases.get(name) {
            Some(lease) => News::Lease(Box::new(lease.clone())),
            None => News::NoLease(name.to_owned()),
        }
    }

    fn node_news(&self, name: &str) -> News {
        match self.nodes.get(name) {
            Some(node) => News::Node(Box::new(node.clone())),
            None => News::NoNode(name.to_owned()),
        }
    }

    /// Lets one operator with a perfect view work until it has nothing more to do; the last decisions.
    #[track_caller]
    pub fn settle(&mut self) -> Decisions {
        for _ in 0..40 {
            let mut world = self.world();
            let decisions = decide(&world, self.now);
            self.write_status(&decisions);
            if decisions.actions.is_empty() {
                return decisions;
            }
            self.obey(&mut world, &decisions);
        }
        panic!("never settles: {:?}", decide(&self.world(), self.now).actions);
    }

    pub fn obey(&mut self, world: &mut World, decisions: &Decisions) {
        for action in &decisions.actions {
            for news in self.carry_out(action, Fault::None) {
                learn(world, news, Instant::now());
            }
        }
    }

    pub fn write_status(&mut self, decisions: &Decisions) {
        if let (Some(network), Some(status)) = (&mut self.network, &decisions.network_status) {
            network.status = status.clone();
            self.log.push(Delta::Networks(Change::Seen(network.clone())));
        }
        for (name, status) in &decisions.pool_statuses {
            self.pools.get_mut(name).unwrap().status = status.clone();
        }
    }

    /// `node: subnets`, a held one with `~`, one per line.
    pub fn leased(&self) -> String {
        let mut by_node: BTreeMap<&str, BTreeSet<(Family, Cidr, bool)>> = BTreeMap::new();
        for lease in self.leases.values() {
            let held = lease.released_at().is_some();
            by_node.entry(lease.node().unwrap_or("?")).or_default().insert((
                lease.subnet.family(),
                lease.subnet,
                held,
            ));
        }
        let line = |(node, subnets): (&&str, &BTreeSet<(Family, Cidr, bool)>)| {
            let subnets: Vec<String> = subnets
                .iter()
                .map(|(_, subnet, held)| format!("{}{subnet}", if *held { "~" } else { "" }))
                .collect();
            format!("{node}: {}", subnets.join(" "))
        };
        by_node.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// `status reason` of the operator's condition of a node.
    pub fn leased_condition(&self, node: &str) -> String {
        let condition = self.node_networks.get(node).and_then(|object| object.leased.as_ref());
        condition.map_or_else(String::new, |condition| format!("{} {}", condition.status, condition.reason))
    }

    /// `status reason` of a condition of the network.
    pub fn network_condition(&self, kind: &str) -> String {
        condition(&self.network.as_ref().unwrap().status.conditions, kind)
    }

    /// The message of a condition of the network.
    pub fn network_message(&self, kind: &str) -> String {
        let conditions = &self.network.as_ref().unwrap().status.conditions;
        conditions.iter().find(|condition| condition.type_ == kind).unwrap().message.clone()
    }

    pub fn pool_condition(&self, pool: &str, kind: &str) -> String {
        condition(&self.pools[pool].status.conditions, kind)
    }

    #[track_caller]
    pub fn assert_disjoint(&self) {
        let mut subnets: Vec<Cidr> = self.leases.values().map(|lease| lease.subnet).collect();
        subnets.sort();
        for pair in subnets.windows(2) {
            assert!(!pair[0].overlaps(pair[1]), "{} and {} overlap:\n{}", pair[0], pair[1], self.leased());
        }
    }
}

fn condition(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], kind: &str) -> String {
    let condition = conditions.iter().find(|condition| condition.type_ == kind);
    condition.map_or_else(String::new, |condition| format!("{} {}", condition.status, condition.reason))
}

/// What a client knows after an answer that did not come.
fn doubts(action: &Action) -> Vec<News> {
    match action {
        Action::CreateLease { spec, .. } => vec![News::LeaseInDoubt(spec.subnet.object_name())],
        Action::UpdateLease { lease, .. }
        | Action::ReleaseLease { lease, .. }
        | Action::DeleteLease { lease, .. } => vec![News::LeaseInDoubt(lease.name.clone())],
        _ => vec![],
    }
}

pub fn entry(name: &str, cidr: &str, mask: u8) -> Value {
    json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask })
}

pub fn draining(name: &str, cidr: &str, mask: u8) -> Value {
    json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask, "drain": true })
}

pub fn network(entries: Vec<Value>) -> Value {
    json!({ "cidrs": entries })
}
