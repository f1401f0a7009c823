//! Operators whose watches lag, and whose writes get lost or repeated.

use std::time::Instant;

use tartan_crds::{Cidr, SubnetLeaseSpec};
use tartan_operator::{
    decide::{Action, decide},
    execute::learn,
    world::{Choice, Delta, World},
};

use super::{
    growth,
    plan::Plan,
    store::{Fault, Store},
};

/// An operator: its view, and how far each of its watches has come in the log.
pub struct Operator {
    world: World,
    seen: [usize; 6],
    leases_listed_for: Option<(String, Option<i64>)>,
}

impl Operator {
    pub fn start(store: &Store) -> Self {
        Self { world: store.world(), seen: [store.log.len(); 6], leases_listed_for: None }
    }

    pub fn deliver(&mut self, store: &Store, kind: usize, count: usize) {
        let mut left = count;
        while left > 0 && self.seen[kind] < store.log.len() {
            let delta = &store.log[self.seen[kind]];
            self.seen[kind] += 1;
            if kind_of(delta) == kind {
                self.world.apply(delta.clone());
                left -= 1;
            }
        }
    }

    pub fn relist(&mut self, store: &Store, kind: usize) {
        self.world.apply(store.lists().remove(kind));
        self.seen[kind] = store.log.len();
    }

    /// What the operator would write now: as in the allocator, creates wait for the current ClusterNetwork
    /// and for a list of leases that is younger than it.
    pub fn decide(&mut self, store: &mut Store, plan: &Plan) -> Vec<Action> {
        let decisions = decide(&self.world, store.now);
        let known = self.world.network().map(|network| (network.meta.uid.clone(), network.generation));
        let live = store.network.as_ref().map(|network| (network.meta.uid.clone(), network.generation));
        let current = known == live;
        if current && let (Some(network), Some(status)) = (&mut store.network, decisions.network_status) {
            network.status = status;
        }
        let mut actions = decisions.actions;
        let creates = actions.iter().any(|action| matches!(action, Action::CreateLease { .. }));
        if creates && (!current || self.leases_listed_for != live) {
            self.relist(store, 1);
            self.relist(store, 3);
            self.leases_listed_for = live;
            actions.retain(|action| !matches!(action, Action::CreateLease { .. }));
        }
        for action in &actions {
            let Action::CreateLease { spec, chosen, .. } = action else { continue };
            let (node, subnet) = (&spec.node_name, spec.subnet);
            // What a Node was told can't be told otherwise: it has it again, though a range was kept back since.
            let told = self.world.nodes.get(node).is_some_and(|node| {
                node.mirrored.is_some() && node.pod_cidrs.iter().any(|told| told.parse() == Ok(subnet))
            });
            assert!(
                !plan.is_kept_from(node, subnet) || (told && *chosen == Choice::Restored),
                "{subnet} is kept back and given to {node}"
            );
            self.assert_nobody_elses(plan, spec, *chosen);
            if spec.primary {
                let of = (spec.node_name.clone(), spec.subnet.family());
                self.world.wishes.insert(of, (spec.subnet, *chosen));
            }
        }
        actions
    }

    /// What we choose is in nobody else's podCIDRs, where these bind, and no other agent tells of pods there.
    fn assert_nobody_elses(&self, plan: &Plan, spec: &SubnetLeaseSpec, chosen: Choice) {
        // The status says so only after the first round.
        let bind = plan.mode != "Ignore";
        for other in self.world.nodes.iter().filter(|other| other.meta.name != spec.node_name) {
            let told = other.pod_cidrs.iter().any(|told| told.parse::<Cidr>().unwrap().overlaps(spec.subnet));
            let is_told = bind && told && chosen != Choice::PodCidr && chosen != Choice::Restored;
            assert!(!is_told, "{} of {} is given to {}", spec.subnet, other.meta.name, spec.node_name);
            let report = self.world.node_networks.get(&other.meta.name);
            let report = report.filter(|object| object.owner.as_deref() == Some(&other.meta.uid));
            let mut uses = report.iter().flat_map(|object| &object.report.address_use.0);
            let has_pods = uses.any(|of| of.used > 0 && of.subnet.overlaps(spec.subnet));
            assert!(
                !has_pods || chosen == Choice::PodCidr,
                "{} with pods of {} is given to {}",
                spec.subnet,
                other.meta.name,
                spec.node_name
            );
        }
    }

    pub fn write(&mut self, store: &mut Store, action: &Action, fault: u8) {
        let fault = match fault {
            0 => Fault::LostBefore,
            1 => Fault::LostAfter,
            2 => Fault::Twice,
            _ => Fault::None,
        };
        let before = growth::at_stake(store, action);
        for news in store.carry_out(action, fault) {
            learn(&mut self.world, news, Instant::now());
        }
        growth::assert_met(store, before);
    }
}

fn kind_of(delta: &Delta) -> usize {
    match delta {
        Delta::Nodes(_) => 0,
        Delta::Networks(_) => 1,
        Delta::Pools(_) => 2,
        Delta::Leases(_) => 3,
        Delta::NodeNetworks(_) => 4,
        Delta::ServiceRanges(_) | Delta::Charts(_) | Delta::WentBack => 5,
    }
}
