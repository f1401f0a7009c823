//! Counting: how full entries and pools are, and which leases fit no entry. For status and metrics.

use std::collections::BTreeMap;

use tartan_crds::{Cidr, Family, wellknown::NO_POOL};

use super::{
    blocks::Taken,
    draft::{Draft, Verdict, reserved},
    forecast::{Growth, Outlook, growth},
    withheld,
};
use crate::world::{Lease, World};

/// Figures for metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    pub nodes: usize,
    pub leases: usize,
    pub node_networks: usize,
    pub entries: Vec<EntryFigures>,
    pub pools: Vec<PoolFigures>,
    /// Nodes that wait for a lease, by reason.
    pub waiting: BTreeMap<&'static str, u64>,
    /// How often each invariant is broken.
    pub violations: BTreeMap<&'static str, u64>,
    /// Leases in force that are not their nodes' first of the family.
    pub further: u64,
    /// Those of them that are asked back.
    pub returning: u64,
}

/// How full an entry is, in blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryFigures {
    pub entry: String,
    pub cidr: Cidr,
    pub capacity: u64,
    /// Leased to Nodes that exist, or withheld.
    pub used: u64,
    pub held: u64,
    /// Kept back and not leased.
    pub reserved: u64,
    pub free: u64,
    /// What nodes could get: the free ones, and those that are held while no Node of the name exists.
    pub left: u64,
    pub draining: bool,
    pub outlook: Outlook,
}

/// A pool's nodes and leases, and the blocks in its reach.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolFigures {
    pub pool: String,
    pub nodes: u64,
    pub leases: u64,
    /// Every entry in reach is being drained, or there is none.
    pub barren: bool,
    /// One for each family that an entry in reach has.
    pub families: Vec<FamilyFigures>,
}

/// How full the entries of one family in a pool's reach are, in blocks; they may be others' too.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyFigures {
    pub family: Family,
    pub capacity: u64,
    pub used: u64,
    pub held: u64,
    /// Kept back and not leased.
    pub reserved: u64,
    pub free: u64,
    /// Those of `capacity` whose entries are not drained.
    pub allocatable: u64,
    /// What nodes could get, as of an entry.
    pub left: u64,
    pub outlook: Outlook,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Usage<'a> {
    pub entries: Vec<EntryFigures>,
    pub pools: Vec<PoolFigures>,
    pub waiting: BTreeMap<&'static str, Vec<&'a str>>,
    /// Leases of some node are about to be written.
    pub is_pending: bool,
    /// Nodes that wait, by pool (place in the layout).
    pub waiting_in: BTreeMap<Option<usize>, Vec<&'a str>>,
    /// Leases that are a block of no entry.
    pub strays: Vec<&'a Lease>,
    /// Pairs of leases that overlap.
    pub overlaps: Vec<(Cidr, Cidr)>,
    /// Pools of one priority that select one node, by place.
    pub ties: BTreeMap<usize, usize>,
}

impl PoolFigures {
    /// The family that will be the first without a block; where that is foreseen of none, the one with the
    /// least share of its blocks left. A node needs a block of each.
    pub fn scarcest(&self) -> Option<&FamilyFigures> {
        self.families.iter().min_by_key(|family| family.outlook.rank())
    }

    /// That of its scarcest family.
    pub fn outlook(&self) -> Outlook {
        match self.scarcest() {
            Some(family) => family.outlook,
            None => Outlook::exhausted(),
        }
    }
}

impl Figures {
    pub fn of_world(world: &World) -> Self {
        let specs = world.leases.iter().filter_map(|lease| lease.spec.as_ref().ok());
        let further = specs.filter(|spec| !spec.primary && spec.released_at.is_none());
        let (further, returning) =
            further.fold((0, 0), |(all, asked), spec| (all + 1, asked + u64::from(spec.returning.is_some())));
        Self {
            further,
            returning,
            nodes: world.nodes.len(),
            leases: world.leases.len(),
            node_networks: world.node_networks.len(),
            ..Self::default()
        }
    }

    pub(super) fn add_usage(&mut self, usage: &Usage<'_>) {
        self.entries.clone_from(&usage.entries);
        self.pools.clone_from(&usage.pools);
        self.waiting = usage.waiting.iter().map(|(reason, nodes)| (*reason, nodes.len() as u64)).collect();
    }
}

pub fn count<'a>(draft: &Draft<'a>) -> Usage<'a> {
    let mut usage = Usage { entries: entries_without_use(draft), ..Usage::default() };
    let mut by_pool: BTreeMap<&str, u64> = BTreeMap::new();
    for lease in draft.world.leases.iter() {
        match draft.layout.entry_of(lease.subnet).and_then(|(place, _)| usage.entries.get_mut(place)) {
            Some(figures) if lease.released_at().is_some() => figures.held += 1,
            Some(figures) => figures.used += 1,
            None => usage.strays.push(lease),
        }
        if let Ok(spec) = &lease.spec
            && spec.released_at.is_none()
        {
            *by_pool.entry(spec.pool.as_str()).or_default() += 1;
        }
    }
    for lease in draft.held() {
        let entry = draft.layout.entry_of(lease.subnet);
        if let Some(figures) = entry.and_then(|(place, _)| usage.entries.get_mut(place)) {
            figures.left += u64::from(!figures.draining);
        }
    }
    let before = draft.world.network().map_or(&[][..], |network| &network.status.cidrs);
    let growth = growth(draft, before, &usage.entries);
    for (entry, growth) in usage.entries.iter_mut().zip(&growth) {
        entry.outlook = Outlook::of_entry(entry, *growth);
    }
    usage.overlaps = overlaps(draft.world);
    let mut nodes_in: BTreeMap<Option<usize>, u64> = BTreeMap::new();
    for node in draft.world.nodes.iter() {
        let Some((place, verdict)) = draft.verdicts.get(node.meta.name.as_str()) else { continue };
        *nodes_in.entry(*place).or_default() += 1;
        usage.is_pending |= matches!(verdict, Verdict::Pending);
        if let Verdict::Waiting(problem) = verdict {
            usage.waiting.entry(problem.reason).or_default().push(&node.meta.name);
            usage.waiting_in.entry(*place).or_default().push(&node.meta.name);
        }
        if let Some(place) = place {
            for rival in draft.layout.rivals(node, *place) {
                usage.ties.insert(*place, rival);
                usage.ties.insert(rival, *place);
            }
        }
    }
    usage.pools = pools(draft, (&usage.entries, &growth), &nodes_in, &by_pool);
    usage
}

fn entries_without_use(draft: &Draft<'_>) -> Vec<EntryFigures> {
    let leases = || draft.world.leases.iter();
    let leased: Taken = leases().map(|lease| lease.subnet).collect();
    let mut occupied = leased.clone();
    withheld::kept(draft).for_each(|cidr| occupied.insert(cidr));
    let mut blocked = occupied.clone();
    leases().filter_map(|lease| lease.traces.name_locks).for_each(|cidr| blocked.insert(cidr));
    reserved(draft.world).chain(draft.world.vanished.blocks()).for_each(|cidr| blocked.insert(cidr));
    let mut kept = blocked.clone();
    draft.layout.kept_back().for_each(|cidr| kept.insert(cidr));
    draft
        .layout
        .entries
        .iter()
        .map(|entry| {
            let capacity = entry.cidr.block_count(entry.block_len);
            let met = kept.blocks_met(entry.cidr, entry.block_len);
            let free = if entry.drain { 0 } else { capacity.saturating_sub(met) };
            EntryFigures {
                entry: entry.name.to_owned(),
                cidr: entry.cidr,
                capacity,
                used: occupied
                    .blocks_met(entry.cidr, entry.block_len)
                    .saturating_sub(leased.blocks_met(entry.cidr, entry.block_len)),
                held: 0,
                reserved: met.saturating_sub(blocked.blocks_met(entry.cidr, entry.block_len)),
                free,
                left: free,
                draining: entry.drain,
                outlook: Outlook::default(),
            }
        })
        .collect()
}

fn pools(
    draft: &Draft<'_>,
    (entries, growth): (&[EntryFigures], &[Growth]),
    nodes_in: &BTreeMap<Option<usize>, u64>,
    by_pool: &BTreeMap<&str, u64>,
) -> Vec<PoolFigures> {
    let places = (0..draft.layout.pools.len()).map(Some).chain([None]);
    places
        .map(|place| {
            let plan = place.and_then(|place| draft.layout.pools.get(place));
            let pool = plan.map_or(NO_POOL, |plan| plan.pool.meta.name.as_str());
            let reach = plan.map_or(draft.layout.unclaimed(), |plan| &plan.reach);
            let reachable: Vec<(&EntryFigures, Growth)> =
                reach.iter().filter_map(|place| Some((entries.get(*place)?, *growth.get(*place)?))).collect();
            let barren = reachable.iter().all(|(entry, _)| entry.draining);
            let figures = |family| {
                let mut figures = family_figures(family, &reachable)?;
                if barren {
                    figures.outlook = Outlook::exhausted();
                }
                Some(figures)
            };
            PoolFigures {
                barren,
                pool: pool.to_owned(),
                nodes: nodes_in.get(&place).copied().unwrap_or_default(),
                leases: by_pool.get(pool).copied().unwrap_or_default(),
                families: Family::ALL.into_iter().filter_map(figures).collect(),
            }
        })
        .collect()
}

fn family_figures(family: Family, reachable: &[(&EntryFigures, Growth)]) -> Option<FamilyFigures> {
    let entries = || reachable.iter().copied().filter(|(entry, _)| entry.cidr.family() == family);
    let sum = |figure: fn(&EntryFigures) -> u64| entries().map(|(entry, _)| figure(entry)).sum();
    entries().next()?;
    Some(FamilyFigures {
        family,
        capacity: sum(|entry| entry.capacity),
        used: sum(|entry| entry.used),
        held: sum(|entry| entry.held),
        reserved: sum(|entry| entry.reserved),
        free: sum(|entry| entry.free),
        allocatable: sum(|entry| if entry.draining { 0 } else { entry.capacity }),
        left: sum(|entry| entry.left),
        outlook: Outlook::of_entries(entries()),
    })
}

/// Prefixes are nested or disjoint, so in the order of their first address it is enough to remember the one
/// that reaches furthest.
fn overlaps(world: &World) -> Vec<(Cidr, Cidr)> {
    let mut found = vec![];
    for family in Family::ALL {
        let mut subnets: Vec<Cidr> = world
            .leases
            .iter()
            .map(|lease| lease.subnet)
            .filter(|subnet| subnet.family() == family)
            .collect();
        subnets.sort_unstable();
        let mut furthest: Option<Cidr> = None;
        for subnet in subnets {
            match furthest {
                Some(before) if before.overlaps(subnet) => found.push((before, subnet)),
                _ => furthest = Some(subnet),
            }
        }
    }
    found
}

/// A count as the API has it.
pub fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
