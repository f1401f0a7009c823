//! An agent as far as it matters here: what it has heard, what it does by that at once, and what it last said.

use std::collections::{BTreeMap, BTreeSet};

use tartan_crds::{BackendType, ObservedLease, ending_reception};
use tartan_operator::world::{Lease, Report};

/// Something that watches bring, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Event {
    Lease(Box<Lease>),
    /// What a node publishes that it is ready to receive.
    Ready(String, BTreeSet<BackendType>),
}

#[derive(Default)]
pub struct Agent {
    pub name: String,
    /// How many events it has heard.
    heard: usize,
    leases: BTreeMap<String, Lease>,
    ready: BTreeMap<String, BTreeSet<BackendType>>,
    /// What it receives now.
    pub receives: BTreeSet<BackendType>,
    /// By what it sends to each other node.
    pub sends: BTreeMap<String, Option<BackendType>>,
    /// Of whom it takes nothing in clear.
    pub sealed: BTreeSet<String>,
    /// Who has answered since it receives what encrypts: between kernels, which need no agent for that.
    pub sessions: BTreeSet<String>,
    /// What it is about to say.
    report: Report,
}

impl Agent {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Hears of the next event, if there is one, and does what it asks for.
    pub fn hear(&mut self, events: &[Event]) -> bool {
        let Some(event) = events.get(self.heard) else { return false };
        match event {
            Event::Lease(lease) => {
                self.leases.insert(lease.node().unwrap().to_owned(), (**lease).clone());
            }
            Event::Ready(node, kinds) => {
                self.ready.insert(node.clone(), kinds.clone());
            }
        }
        self.heard += 1;
        self.act();
        true
    }

    fn act(&mut self) {
        let Some(own) = self.leases.get(&self.name) else { return };
        let lease = own.clone();
        let own = own.spec.as_ref().unwrap().backend.clone();
        self.receives = own.accepts.iter().copied().chain([own.kind]).collect();
        if !self.receives.contains(&BackendType::Wireguard) {
            self.sessions.clear();
        }
        for (node, theirs) in self.leases.clone().iter().filter(|(node, _)| **node != self.name) {
            let theirs = theirs.spec.as_ref().unwrap().backend.clone();
            let is_sealed = [&own, &theirs].iter().any(|side| side.sealed && side.kind.encrypts());
            if is_sealed {
                self.sealed.insert(node.clone());
            } else {
                self.sealed.remove(node);
            }
            let ready = self.ready.get(node).cloned().unwrap_or_default();
            let goes = |kind: BackendType| {
                own.accepts.contains(&kind) && theirs.accepts.contains(&kind) && ready.contains(&kind)
            };
            let before = self.sends.get(node).copied().flatten();
            let wanted = choose(own.kind, theirs.kind);
            let may = |kind: &BackendType| goes(*kind) && (kind.encrypts() || !is_sealed);
            let others = || [BackendType::Vxlan, BackendType::Ipip].into_iter().find(may);
            let now = if !wanted.encrypts() {
                if goes(wanted) { Some(wanted) } else { others() }
            } else if !goes(wanted) {
                None
            } else if before == Some(wanted) || self.sessions.contains(node) {
                Some(wanted)
            } else {
                // Until it has answered.
                before.filter(may).or_else(others)
            };
            self.sends.insert(node.clone(), now);
        }
        self.note(&lease);
    }

    fn note(&mut self, own: &Lease) {
        let backend = &own.spec.as_ref().unwrap().backend;
        let kinds = || self.sends.values().flatten().copied();
        let clear = kinds().filter(|kind| !kind.encrypts()).count();
        let seen = ObservedLease { uid: own.meta.uid.clone(), generation: own.generation.unwrap() };
        self.report = Report {
            backend: Some(backend.kind),
            // Who is told that it ends is not one to begin with.
            receives: self
                .receives
                .iter()
                .copied()
                .filter(|kind| !backend.ending.contains(&ending_reception(*kind)))
                .collect(),
            sends: kinds().collect(),
            clear_peers: i64::try_from(clear).unwrap(),
            sealed_peers: i64::try_from(self.sealed.len()).unwrap(),
            observed_lease: Some(seen),
            ..Report::default()
        };
    }

    /// What comes to the API when it gets round to it.
    pub fn report(&self) -> Report {
        self.report.clone()
    }
}

/// Where one encrypts the pair does, and of two overlays the first joins it.
pub fn choose(ours: BackendType, theirs: BackendType) -> BackendType {
    let kinds = [ours, theirs];
    let encrypting = kinds.into_iter().find(|kind| kind.encrypts());
    encrypting.unwrap_or(if kinds.contains(&BackendType::Vxlan) { BackendType::Vxlan } else { ours })
}
