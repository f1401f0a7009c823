//! Plans against a small simulated kernel: whatever fails or is interrupted, rounds converge, and what
//! isn't concerned is never touched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{intent, neighbour, remote};
use proptest::{collection, prelude::*};
use tartan_datapath::{
    desired::desired,
    model::{
        Action, Backend, Deletions, Elements, Intent, Key, Observed, PublicKey, RouteKind, Side, Step, Value,
        WireguardEndpoint,
    },
    plan::{plan, plan_cleanup},
};

/// Objects by identity; those that hang on a link go with it.
#[derive(Clone, Debug, Default)]
struct Simulated(Elements);

impl Simulated {
    fn observed(&self) -> Observed {
        Observed { ours: self.0.clone(), ..Observed::default() }
    }

    /// False where the real kernel would refuse.
    fn apply(&mut self, step: &Step) -> bool {
        if step.action == Action::Delete {
            let was_there = self.0.remove(&step.key).is_some();
            if let Key::Link(name) = &step.key {
                self.0.retain(|key, value| under(key, value).as_deref() != Some(name));
            }
            return was_there;
        }
        let link_is_there = under(&step.key, &step.value)
            .is_none_or(|link| !link.starts_with("tartan") || self.0.contains_key(&Key::Link(link)));
        let exists = self.0.contains_key(&step.key);
        let allowed = match step.action {
            Action::Create => !exists || matches!(step.key, Key::Sysctl(_)),
            Action::Replace | Action::Delete => exists,
        };
        if link_is_there && allowed {
            self.0.insert(step.key.clone(), step.value.clone());
        }
        link_is_there && allowed
    }
}

fn under(key: &Key, value: &Value) -> Option<String> {
    match (key, value) {
        (
            Key::Address { link, .. }
            | Key::Neighbour { link, .. }
            | Key::Fdb { link, .. }
            | Key::WireguardPeer { link, .. }
            | Key::WireguardDevice(link)
            | Key::Offload(link),
            _,
        ) => Some(link.clone()),
        (Key::Route { .. }, Value::Route(route)) => match &route.kind {
            RouteKind::Via { link, .. } | RouteKind::Device { link } => Some(link.clone()),
            RouteKind::Unreachable => None,
        },
        (Key::Sysctl(path), _) => {
            path.split('/').nth(2).filter(|_| path.contains("/conf/")).map(str::to_owned)
        }
        _ => None,
    }
}

/// Rounds until nothing is planned; `fails` says which steps fail on the way.
fn converge(kernel: &mut Simulated, wanted: &Elements, mut fails: impl FnMut() -> bool) -> usize {
    for round in 0..50 {
        let plan = plan(wanted, &kernel.observed(), Deletions::Allowed);
        if plan.steps.is_empty() {
            return round;
        }
        for step in &plan.steps {
            if !fails() {
                kernel.apply(step);
            }
        }
        if round > 5 {
            // Failures are not for ever.
            for step in &super_plan(wanted, kernel) {
                kernel.apply(step);
            }
        }
    }
    panic!("50 rounds and still {:?}", plan(wanted, &kernel.observed(), Deletions::Allowed).steps);
}

fn super_plan(wanted: &Elements, kernel: &Simulated) -> Vec<Step> {
    plan(wanted, &kernel.observed(), Deletions::Allowed).steps
}

/// A cluster as an administrator may have it: some remote peers, some neighbours, some of them changed.
fn any_intent() -> impl Strategy<Value = Intent> {
    (
        collection::btree_set(1u32..12, 0..8),
        collection::btree_set(12u8..20, 0..6),
        1u32..3,
        collection::vec((any::<u8>(), 0u8..3), 0..4),
    )
        .prop_map(|(remotes, neighbours, vni, changes)| {
            let mut intent = intent(
                remotes.into_iter().map(remote).chain(neighbours.into_iter().map(neighbour)).collect(),
            );
            intent.vxlan.vni = vni;
            let count = intent.peers.len();
            encrypting(&mut intent.local.side, 255);
            for (index, change) in changes {
                let Some(peer) = intent.peers.get_mut(usize::from(index) % count.max(1)) else { continue };
                match change {
                    0 => peer.side.backend = Backend::Vxlan,
                    1 => peer.side.accepts.clear(),
                    _ => {
                        encrypting(&mut peer.side, index);
                        (peer.side.backend, peer.side.sealed) = (Backend::Wireguard, true);
                    }
                }
            }
            intent
        })
}

fn encrypting(side: &mut Side, number: u8) {
    side.accepts.insert(Backend::Wireguard);
    side.endpoints.wireguard =
        vec![WireguardEndpoint { key: PublicKey([number; 32]), port: 51820, generation: 0 }];
}

proptest! {
    #[test]
    fn a_plan_that_ran_leaves_nothing_to_plan(before in any_intent(), after in any_intent()) {
        let mut kernel = Simulated::default();
        for intent in [&before, &after] {
            let wanted = desired(intent).elements;
            for step in &plan(&wanted, &kernel.observed(), Deletions::Allowed).steps {
                prop_assert!(kernel.apply(step), "the kernel would refuse: {step}");
            }
            prop_assert_eq!(&kernel.0, &with_settings(&wanted, &kernel.0));
            prop_assert!(plan(&wanted, &kernel.observed(), Deletions::Allowed).steps.is_empty());
        }
    }

    #[test]
    fn whatever_prefix_ran_and_whatever_failed_the_next_rounds_converge(
        before in any_intent(), after in any_intent(), cut in any::<prop::sample::Index>(), failures in collection::vec(any::<bool>(), 1..40),
    ) {
        let mut kernel = Simulated::default();
        converge(&mut kernel, &desired(&before).elements, || false);
        let wanted = desired(&after).elements;
        let steps = plan(&wanted, &kernel.observed(), Deletions::Allowed).steps;
        for step in steps.iter().take(cut.index(steps.len() + 1)) {
            kernel.apply(step);
        }
        let mut failing = failures.into_iter().cycle().take(400);
        converge(&mut kernel, &wanted, || failing.next().unwrap_or(false));
        prop_assert_eq!(&kernel.0, &with_settings(&wanted, &kernel.0));
    }

    #[test]
    fn a_peer_that_is_not_concerned_keeps_its_route_at_every_step(before in any_intent(), after in any_intent()) {
        let (old, new) = (desired(&before).elements, desired(&after).elements);
        let mut kernel = Simulated::default();
        converge(&mut kernel, &old, || false);
        let rebuilt = before.vxlan.vni != after.vxlan.vni;
        let unchanged: Vec<&Key> = new.iter()
            .filter(|(key, value)| matches!(key, Key::Route { .. }) && old.get(key) == Some(value))
            .filter(|(key, value)| !(rebuilt && under(key, value).as_deref() == Some("tartan-vxlan")))
            .map(|(key, _)| key).collect();
        // One whose path changes keeps some route all the time: it is replaced in place.
        let moved: Vec<&Key> = new.keys().filter(|key| matches!(key, Key::Route { .. }) && old.contains_key(key)).collect();
        for step in &plan(&new, &kernel.observed(), Deletions::Allowed).steps {
            kernel.apply(step);
            for key in &unchanged {
                prop_assert_eq!(kernel.0.get(key), new.get(key), "after {}", step);
            }
            if !rebuilt {
                for key in &moved {
                    prop_assert!(kernel.0.contains_key(key), "no {} after {}", key, step);
                }
            }
        }
    }

    #[test]
    fn a_plain_route_is_known_to_the_guard_at_every_step(before in any_intent(), after in any_intent(), frozen in any::<bool>()) {
        let mut kernel = Simulated::default();
        converge(&mut kernel, &desired(&before).elements, || false);
        let deletions = if frozen { Deletions::Frozen } else { Deletions::Allowed };
        for step in &plan(&desired(&after).elements, &kernel.observed(), deletions).steps {
            kernel.apply(step);
            let Some(Value::NftTable(table)) = kernel.0.get(&Key::NftTable) else { continue };
            for (key, value) in &kernel.0 {
                if let (Key::Route { destination, .. }, Some("eth0")) = (key, under(key, value).as_deref()) {
                    prop_assert!(table.elements["direct4"].contains(&destination.to_string()), "{} after {}", key, step);
                }
            }
        }
    }

    #[test]
    fn what_is_sealed_has_no_clear_route_at_any_step(before in any_intent(), after in any_intent(), frozen in any::<bool>()) {
        let mut kernel = Simulated::default();
        converge(&mut kernel, &desired(&before).elements, || false);
        let deletions = if frozen { Deletions::Frozen } else { Deletions::Allowed };
        let wanted = desired(&after).elements;
        for step in &plan(&wanted, &kernel.observed(), deletions).steps {
            kernel.apply(step);
            let Some(Value::NftTable(table)) = kernel.0.get(&Key::NftTable) else { continue };
            for (key, value) in &kernel.0 {
                let Key::Route { destination, .. } = key else { continue };
                let clear = under(key, value).is_some_and(|link| link != "tartan-wg0");
                let sealed = table.elements["sealednets4"].contains(&destination.to_string());
                prop_assert!(!(clear && sealed), "{} after {}", key, step);
            }
        }
        let Some(Value::NftTable(table)) = kernel.0.get(&Key::NftTable) else { return Ok(()) };
        let Some(Value::NftTable(wanted)) = wanted.get(&Key::NftTable) else { return Ok(()) };
        for set in ["sealed4", "sealednets4"] {
            prop_assert_eq!(&table.elements[set], &wanted.elements[set], "also while deletions are frozen");
        }
    }

    #[test]
    fn frozen_deletions_remove_nothing(before in any_intent(), mut after in any_intent()) {
        after.vxlan.vni = before.vxlan.vni;
        let mut kernel = Simulated::default();
        converge(&mut kernel, &desired(&before).elements, || false);
        let plan = plan(&desired(&after).elements, &kernel.observed(), Deletions::Frozen);
        prop_assert!(plan.steps.iter().all(|step| step.action != Action::Delete));
        for step in &plan.steps {
            prop_assert!(kernel.apply(step));
        }
        for key in desired(&before).elements.keys() {
            prop_assert!(kernel.0.contains_key(key), "{} is gone", key);
        }
    }

    #[test]
    fn what_is_foreign_gets_no_step(intent in any_intent(), taken in any::<prop::sample::Index>()) {
        let wanted = desired(&intent).elements;
        let key = wanted.keys().nth(taken.index(wanted.len())).unwrap().clone();
        let observed = Observed { foreign: [(key.clone(), "another's".to_owned())].into(), ..Observed::default() };
        let plan = plan(&wanted, &observed, Deletions::Allowed);
        prop_assert!(plan.steps.iter().all(|step| step.key != key));
        prop_assert_eq!(plan.conflicts.len(), 1);
        if let Key::Link(name) = &key {
            for step in &plan.steps {
                prop_assert!(under(&step.key, &step.value).as_deref() != Some(name), "{} hangs on a foreign link", step);
            }
        }
    }

    #[test]
    fn the_order_of_peers_makes_no_difference(mut intent in any_intent()) {
        let forward = desired(&intent).elements;
        intent.peers.reverse();
        prop_assert_eq!(desired(&intent).elements, forward);
    }

    #[test]
    fn cleaning_up_leaves_only_settings(intent in any_intent()) {
        let mut kernel = Simulated::default();
        converge(&mut kernel, &desired(&intent).elements, || false);
        for step in &plan_cleanup(&kernel.observed()).steps {
            kernel.apply(step);
        }
        let left: Vec<&Key> = kernel.0.keys().filter(|key| !matches!(key, Key::Sysctl(_))).collect();
        prop_assert!(left.is_empty(), "{left:?}");
    }
}

/// What is wanted, with settings that nobody wants any more: these stay until cleaning up.
fn with_settings(wanted: &Elements, there: &Elements) -> Elements {
    let mut all = wanted.clone();
    all.extend(
        there
            .iter()
            .filter(|(key, _)| matches!(key, Key::Sysctl(_)))
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    all
}
