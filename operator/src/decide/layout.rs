//! [`Layout`]: which CIDR entries can be used, which pool each node is in, and which entries that gives it.
//!
//! What is wrong with an entry or a pool is noted beside it and takes nothing from the others.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Selector, SelectorExt as _};
use tartan_crds::{
    BackendSelection, Cidr, CidrEntry, ClusterNetworkSpec, Family, Growth, NetworkPoolSpec, Reservation,
    TransitionPolicy, TransitionStatus, conditions::reason, wellknown::NO_POOL,
};

use super::{Problem, selector::parse_selector};
use crate::world::{Network, Node, Pool, World};

/// A CIDR entry that blocks can be taken from.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub name: &'a str,
    pub cidr: Cidr,
    pub block_len: u8,
    pub drain: bool,
    /// What of it is kept back.
    pub reserved: &'a [Reservation],
}

/// A pool that can be read.
#[derive(Debug)]
pub struct PoolPlan<'a> {
    pub pool: &'a Pool,
    pub spec: &'a NetworkPoolSpec,
    /// `None`: unusable, so that no node is in the pool.
    selector: Option<Selector>,
    /// Places in [`Layout::entries`], the preferred first.
    pub reach: Vec<usize>,
    pub problems: Vec<Problem>,
}

/// Entries and pools, resolved.
#[derive(Debug)]
pub struct Layout<'a> {
    pub spec: &'a ClusterNetworkSpec,
    pub entries: Vec<Entry<'a>>,
    pub problems: Vec<Problem>,
    /// Highest priority first, then by name: the first that selects a node has it.
    pub pools: Vec<PoolPlan<'a>>,
    unclaimed: Vec<usize>,
    /// How far nodes in no pool had come on their way to another backend.
    before: Option<&'a TransitionStatus>,
}

/// What the pool of a node gives it.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'l> {
    pub pool: &'l str,
    /// Place in [`Layout::pools`]; `None` for nodes in no pool.
    pub place: Option<usize>,
    pub reach: &'l [usize],
}

impl<'a> Layout<'a> {
    pub fn resolve(world: &'a World, network: &'a Network, spec: &'a ClusterNetworkSpec) -> Self {
        let (entries, problems) = usable_entries(world, network, spec);
        let mut pools: Vec<PoolPlan<'a>> = world.pools.iter().filter_map(read_pool).collect();
        pools.sort_by_key(|plan| (std::cmp::Reverse(plan.spec.priority), plan.pool.meta.name.as_str()));
        let unclaimed = hand_out_claims(spec, &entries, &mut pools);
        let before = network.status.transition.as_ref();
        Self { spec, entries, problems, pools, unclaimed, before }
    }

    pub fn membership(&self, node: &Node) -> Membership<'_> {
        let found = self.pools.iter().position(|plan| plan.selects(node));
        match found.and_then(|place| Some((place, self.pools.get(place)?))) {
            Some((place, plan)) => {
                Membership { pool: &plan.pool.meta.name, place: Some(place), reach: &plan.reach }
            }
            None => Membership { pool: NO_POOL, place: None, reach: &self.unclaimed },
        }
    }

    /// Other pools that select the node too, with the priority of the one at `place`.
    pub fn rivals(&self, node: &Node, place: usize) -> impl Iterator<Item = usize> {
        let priority = self.pools.get(place).map(|plan| plan.spec.priority);
        self.pools
            .iter()
            .enumerate()
            .skip(place + 1)
            .take_while(move |(_, plan)| Some(plan.spec.priority) == priority)
            .filter_map(|(rival, plan)| plan.selects(node).then_some(rival))
    }

    pub fn reachable<'s>(&'s self, membership: Membership<'s>) -> impl Iterator<Item = (usize, Entry<'a>)> {
        membership.reach.iter().filter_map(|place| Some((*place, *self.entries.get(*place)?)))
    }

    /// Families of which the node gets a block, in the order of the entries.
    pub fn wanted_families(&self, membership: Membership<'_>) -> Vec<Family> {
        let mut families = vec![];
        for (_, entry) in self.reachable(membership).filter(|(_, entry)| !entry.drain) {
            if !families.contains(&entry.cidr.family()) {
                families.push(entry.cidr.family());
            }
        }
        families
    }

    /// The entry of which `block` is exactly one block.
    pub fn entry_of(&self, block: Cidr) -> Option<(usize, &Entry<'a>)> {
        self.entries
            .iter()
            .enumerate()
            .find(|(_, entry)| entry.cidr.block_index(entry.block_len, block).is_some())
    }

    /// The pool that claims an entry, and so has it for its own nodes.
    pub fn owner(&self, place: usize) -> Option<&PoolPlan<'a>> {
        self.pools.iter().find(|plan| !plan.spec.cidrs.is_empty() && plan.reach.contains(&place))
    }

    /// Entries that no pool claims.
    pub fn unclaimed(&self) -> &[usize] {
        &self.unclaimed
    }

    /// What the pool of a node says; `None` for nodes in no pool.
    pub fn pool_spec(&self, membership: Membership<'_>) -> Option<&'a NetworkPoolSpec> {
        membership.place.and_then(|place| self.pools.get(place)).map(|plan| plan.spec)
    }

    /// What a node is asked to send by.
    pub fn selection(&self, membership: Membership<'_>) -> BackendSelection {
        self.pool_spec(membership).map_or(self.spec.default_backend, |pool| pool.backend)
    }

    /// What nodes are asked to send by: the network's default, and each pool's.
    pub fn selections(&self) -> impl Iterator<Item = BackendSelection> {
        let pools = self.pools.iter().filter(|plan| plan.is_in_force()).map(|plan| plan.spec.backend);
        std::iter::once(self.spec.default_backend).chain(pools)
    }

    /// How the nodes of a pool change their backend, and how far they had come.
    pub fn transition(&self, place: Option<usize>) -> (TransitionPolicy, Option<&TransitionStatus>) {
        match place.and_then(|place| self.pools.get(place)) {
            Some(plan) => (plan.spec.transition, plan.pool.status.transition.as_ref()),
            None => (self.spec.transition, self.before),
        }
    }

    /// When the nodes of a pool get further blocks.
    pub fn growth(&self, membership: Membership<'_>) -> Growth {
        self.pool_spec(membership).and_then(|pool| pool.growth).unwrap_or(self.spec.growth)
    }

    pub fn mtu(&self, membership: Membership<'_>) -> Option<i32> {
        self.pool_spec(membership).and_then(|pool| pool.mtu).or(self.spec.mtu)
    }
}

impl PoolPlan<'_> {
    /// Whether nodes can be in the pool.
    pub fn is_in_force(&self) -> bool {
        self.selector.is_some()
    }

    pub fn selects(&self, node: &Node) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(&node.labels))
    }
}

fn usable_entries<'a>(
    world: &World,
    network: &'a Network,
    spec: &'a ClusterNetworkSpec,
) -> (Vec<Entry<'a>>, Vec<Problem>) {
    let mut problems: Vec<Problem> = network
        .bad_entries
        .iter()
        .map(|(name, error)| Problem::new(reason::INVALID_CIDR, format!("entry {name} is not used: {error}")))
        .collect();
    let mut entries: Vec<Entry<'a>> = vec![];
    for entry in &spec.cidrs {
        let block_len = entry.block_len();
        let longest = if entry.cidr.family() == Family::V4 { 30 } else { 126 };
        let refusal = if block_len < entry.cidr.prefix_len() || block_len > longest {
            Some((
                reason::INVALID_CIDR,
                format!(
                    "nodeMaskSize {} is not between {} and {longest}",
                    entry.node_mask_size,
                    entry.cidr.prefix_len()
                ),
            ))
        } else if let Some(range) = entry.cidr.meets_no_pods() {
            Some((
                reason::INVALID_CIDR,
                format!("{} meets {range}, of which no pod can have an address", entry.cidr),
            ))
        } else if entries.iter().any(|earlier| earlier.name == entry.name) {
            Some((reason::INVALID_CIDR, "another entry before it has this name".to_owned()))
        } else {
            let overlapped = entries.iter().find(|earlier| earlier.cidr.overlaps(entry.cidr));
            overlapped.map(|earlier| {
                (reason::OVERLAPPING_CIDRS, format!("{} overlaps entry {}", entry.cidr, earlier.name))
            })
        };
        if let Some((reason, message)) = refusal {
            problems.push(Problem::new(reason, format!("entry {} is not used: {message}", entry.name)));
            continue;
        }
        for service in world.service_ranges.iter().flat_map(|range| &range.cidrs) {
            if service.overlaps(entry.cidr) {
                problems.push(Problem::new(
                    reason::OVERLAPS_SERVICE_CIDR,
                    format!(
                        "entry {} ({}) overlaps the service range {service}: no block of it that meets the \
                         service range is leased; append another entry and drain this one",
                        entry.name, entry.cidr
                    ),
                ));
            }
        }
        problems.extend(entry.reserved.iter().filter_map(|kept| misplaced(entry, kept)));
        let CidrEntry { name, cidr, drain, reserved, .. } = entry;
        entries.push(Entry { name, cidr: *cidr, block_len, drain: *drain, reserved });
    }
    (entries, problems)
}

/// What admission refuses too, where it was there to do so.
fn misplaced(entry: &CidrEntry, kept: &Reservation) -> Option<Problem> {
    let what = if !entry.cidr.covers(kept.cidr) {
        format!("does not lie inside of {}: no address of it is kept back", entry.cidr)
    } else if kept.node_name.is_some() && kept.cidr.prefix_len() != entry.block_len() {
        format!("names a node but is no block of /{}: no node gets it", entry.block_len())
    } else {
        return None;
    };
    let field = format!("ClusterNetwork.spec.cidrs: entry {}: reserved range {}", entry.name, kept.cidr);
    Some(Problem::new(reason::INVALID_RESERVATION, format!("{field} {what}; correct its cidr")))
}

fn read_pool(pool: &Pool) -> Option<PoolPlan<'_>> {
    let spec = pool.spec.as_ref().ok()?;
    let (selector, problems) = match parse_selector(&spec.node_selector) {
        Ok(selector) => (Some(selector), vec![]),
        Err(error) => (
            None,
            vec![Problem::new(
                reason::INVALID_SELECTOR,
                format!("no node is in this pool: spec.nodeSelector: {error}"),
            )],
        ),
    };
    Some(PoolPlan { pool, spec, selector, reach: vec![], problems })
}

/// Gives each claimed entry to the first pool that claims it; what nobody claims is for all other nodes.
fn hand_out_claims(
    spec: &ClusterNetworkSpec,
    entries: &[Entry<'_>],
    pools: &mut [PoolPlan<'_>],
) -> Vec<usize> {
    let mut owners: BTreeMap<usize, &str> = BTreeMap::new();
    for plan in pools.iter_mut() {
        let mut seen = BTreeSet::new();
        for name in plan.spec.cidrs.iter().filter(|name| seen.insert(name.as_str())) {
            let Some(place) = entries.iter().position(|entry| entry.name == name) else {
                let known = spec.cidrs.iter().any(|entry| entry.name == *name);
                let what = if known { "is not usable" } else { "does not exist in the ClusterNetwork" };
                plan.problems.push(Problem::new(
                    reason::UNKNOWN_ENTRY,
                    format!(
                        "spec.cidrs: entry {name} {what}: append it to ClusterNetwork.spec.cidrs, or take it out \
                         of the pool"
                    ),
                ));
                continue;
            };
            match owners.get(&place) {
                Some(owner) => plan.problems.push(Problem::new(
                    reason::ENTRY_CLAIMED_TWICE,
                    format!(
                        "spec.cidrs: entry {name} is pool {owner}'s, which has the higher priority or the first \
                         name: take it out of one of the two pools"
                    ),
                )),
                None => {
                    owners.insert(place, plan.pool.meta.name.as_str());
                    plan.reach.push(place);
                }
            }
        }
    }
    let unclaimed: Vec<usize> = (0..entries.len()).filter(|place| !owners.contains_key(place)).collect();
    for plan in pools.iter_mut().filter(|plan| plan.spec.cidrs.is_empty()) {
        plan.reach.clone_from(&unclaimed);
    }
    unclaimed
}
