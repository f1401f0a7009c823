//! [`Draft`]: the decisions of one round while they are being made.
//!
//! It knows which blocks are taken, also by what this round creates, and refuses to touch a lease whose
//! state is in doubt or that was decided on already.

mod leases;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::{Cidr, Family, PodCidrModeInForce, conditions::reason};

use super::{
    Action, Problem,
    blocks::{Search, Taken},
    contested::Contested,
    growth::GrowthPlan,
    held,
    layout::{Layout, Membership},
    node_addresses::NodeAddresses,
    node_keys::NodeKeys,
    takeover::Holders,
    transition::Transitions,
    withheld::Withheld,
};
use crate::world::{Choice, Lease, Node, World};

/// What came out for a node.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It holds what it needs; a remark where there is something to know.
    Leased { subnets: Vec<Cidr>, remark: Option<Problem> },
    /// Leases are about to be written: the next round knows.
    Pending,
    /// It waits for something.
    Waiting(Problem),
}

pub struct Draft<'a> {
    pub world: &'a World,
    pub layout: &'a Layout<'a>,
    pub mode: PodCidrModeInForce,
    pub now: Timestamp,
    pub verdicts: BTreeMap<&'a str, (Option<usize>, Verdict)>,
    pub wake_at: Option<Timestamp>,
    pub transitions: Transitions<'a>,
    node_addresses: NodeAddresses<'a>,
    node_keys: NodeKeys<'a>,
    pub contested: Contested<'a>,
    pub growth: GrowthPlan<'a>,
    pub holders: Holders<'a>,
    by_node: BTreeMap<&'a str, Vec<&'a Lease>>,
    /// What others may get before its time, the longest held first.
    held: Vec<&'a Lease>,
    /// What a finalizer alone keeps from others, the longest held first.
    held_up: Vec<&'a Lease>,
    doubtful: BTreeSet<&'a str>,
    /// Leases that were decided on, by name.
    settled: BTreeSet<&'a str>,
    leased: Taken,
    /// As `leased`, and what no block may meet.
    unfit: Taken,
    /// As `unfit`, and what is kept back.
    blocked: Taken,
    searches: BTreeMap<usize, Search>,
    /// What Nodes' podCIDRs name.
    pub pod_cidrs: Taken,
    /// Entries that the other IPAM gives out as well: those in which any Node's podCIDR lies.
    pub pod_cidr_entries: BTreeSet<usize>,
    /// How many blocks of a family go back to a node whose lease of them is gone.
    pub restored: BTreeMap<(&'a str, Family), usize>,
    pub withheld: Vec<Withheld<'a>>,
    /// For whom a lease is taken from its holder before its time, by its name.
    pub taken_for: BTreeMap<&'a str, &'a str>,
    actions: Vec<Action>,
}

impl<'a> Draft<'a> {
    pub fn new(world: &'a World, layout: &'a Layout<'a>, mode: PodCidrModeInForce, now: Timestamp) -> Self {
        let mut by_node: BTreeMap<&'a str, Vec<&'a Lease>> = BTreeMap::new();
        let contested = Contested::find(world);
        for lease in world.leases.iter() {
            let Some(node) = lease.node().filter(|_| !contested.contains(lease)) else { continue };
            by_node.entry(node).or_default().push(lease);
        }
        let held = held::find(world, layout, &by_node);
        let held_up = held::find_held_up(layout, &by_node);
        let names = world.leases.iter().filter_map(|lease| lease.traces.name_locks);
        let leased: Taken = world.leases.iter().map(|lease| lease.subnet).chain(names).collect();
        let mut unfit = leased.clone();
        reserved(world).for_each(|cidr| unfit.insert(cidr));
        let mut blocked = unfit.clone();
        layout.kept_back().chain(world.vanished.blocks()).for_each(|cidr| blocked.insert(cidr));
        let pod_cidrs: Vec<Cidr> = world.nodes.iter().flat_map(Node::readable_pod_cidrs).collect();
        if mode != PodCidrModeInForce::Ignore {
            // Whose lease is gone gets it anew, and not after somebody else.
            pod_cidrs.iter().for_each(|cidr| blocked.insert(*cidr));
        }
        let entry_of = |cidr: &Cidr| layout.entries.iter().position(|entry| entry.cidr.overlaps(*cidr));
        let transitions = Transitions::plan(world, layout, &contested, now);
        let growth = GrowthPlan::of(world, layout, now);
        Self {
            world,
            layout,
            mode,
            now,
            verdicts: BTreeMap::new(),
            wake_at: earlier(
                earlier(transitions.wake_at, growth.wake_at),
                world.vanished.until(layout.spec.reclaim_after.into()),
            ),
            transitions,
            node_addresses: NodeAddresses::of(world),
            node_keys: NodeKeys::of(world),
            contested,
            growth,
            holders: Holders::of(world),
            by_node,
            held,
            held_up,
            doubtful: world.leases.doubtful().collect(),
            settled: BTreeSet::new(),
            leased,
            unfit,
            blocked,
            searches: BTreeMap::new(),
            pod_cidr_entries: pod_cidrs.iter().filter_map(entry_of).collect(),
            pod_cidrs: pod_cidrs.into_iter().collect(),
            restored: BTreeMap::new(),
            withheld: vec![],
            taken_for: BTreeMap::new(),
            actions: vec![],
        }
    }

    pub fn reread_doubtful(&mut self) {
        let names: Vec<String> = self.doubtful.iter().map(|name| (*name).to_owned()).collect();
        self.actions.extend(names.into_iter().map(|name| Action::RereadLease { name }));
    }

    /// Leases that name this node, in the order of their blocks.
    pub fn leases_of(&self, node: &str) -> Vec<&'a Lease> {
        self.by_node.get(node).cloned().unwrap_or_default()
    }

    /// The leases of each node that any lease names.
    pub fn leases_by_node(&self) -> impl Iterator<Item = &[&'a Lease]> {
        self.by_node.values().map(Vec::as_slice)
    }

    pub fn is_settled(&self, lease: &Lease) -> bool {
        self.settled.contains(lease.meta.name.as_str())
    }

    pub fn is_in_doubt(&self, block: Cidr) -> bool {
        self.doubtful.contains(block.object_name().as_str())
    }

    /// Whether the lease's state is known well enough to change it.
    pub fn may_touch(&self, lease: &Lease) -> bool {
        !lease.deleting
            && lease.traces.name_locks.is_none()
            && !self.contested.contains(lease)
            && !self.doubtful.contains(lease.meta.name.as_str())
            && !self.is_settled(lease)
    }

    /// Why a lease that is to go does not.
    pub fn held_up(&self, lease: &Lease) -> Option<Problem> {
        lease.deleting.then(|| {
            Problem::new(
                reason::LEASE_HELD_UP,
                format!(
                    "lease {} is being deleted, and a finalizer holds it: see to the program whose it is, or take it out of metadata.finalizers",
                    lease.meta.name
                ),
            )
        })
    }

    /// A block of this family for a node of this pool, and why that one: the wished one, else the lowest free one. It
    /// counts as taken from now on.
    pub fn free_block(
        &mut self,
        membership: Membership<'_>,
        family: Family,
        wish: Option<(Cidr, Choice)>,
    ) -> Option<(Cidr, Choice)> {
        let layout = self.layout;
        let wished = wish
            .filter(|(wish, _)| self.is_in_reach(*wish, membership, family) && !self.blocked.overlaps(*wish));
        let found = wished.or_else(|| {
            let block = layout
                .reachable(membership)
                .filter(|(_, entry)| !entry.drain && entry.cidr.family() == family)
                .find_map(|(place, _)| self.search(place))?;
            Some((block, Choice::LowestFree))
        })?;
        self.take(found.0);
        Some(found)
    }

    pub fn is_leased(&self, block: Cidr) -> bool {
        self.leased.overlaps(block)
    }

    /// Whether one lease has all of a block.
    pub fn is_leased_whole(&self, block: Cidr) -> bool {
        self.leased.covers(block)
    }

    /// Whether podCIDRs that bind say whose a block is.
    pub fn is_told(&self, block: Cidr) -> bool {
        self.mode != PodCidrModeInForce::Ignore && self.pod_cidrs.overlaps(block)
    }

    /// From now on nobody gets any of it.
    pub fn take(&mut self, block: Cidr) {
        self.leased.insert(block);
        self.unfit.insert(block);
        self.blocked.insert(block);
    }

    /// Takes the block that is kept for one node, if nothing else has it.
    pub fn take_kept(&mut self, node: &str, block: Cidr) -> bool {
        let free = !self.unfit.overlaps(block) && !self.is_told(block) && !self.is_anothers(node, block);
        if free {
            self.take(block);
        }
        free
    }

    /// Whether the block that is kept for one node is free, or held and given up.
    pub fn may_get_kept(&self, node: &str, block: Cidr) -> bool {
        let holder = self.world.leases.get(&block.object_name());
        let given_up = |lease: &Lease| held::given_up_at(self.world, lease).is_some_and(|at| at <= self.now);
        let is_given_up = |lease: &Lease| given_up(lease) && self.may_touch(lease);
        !self.is_told(block)
            && !self.is_anothers(node, block)
            && (!self.unfit.overlaps(block) || holder.is_some_and(is_given_up))
    }

    /// Whether another node had it before the store went back.
    fn is_anothers(&self, node: &str, block: Cidr) -> bool {
        self.world.vanished.keeper(block).is_some_and(|keeper| keeper != node)
    }

    /// What others may get before its time.
    pub fn held(&self) -> impl Iterator<Item = &'a Lease> {
        self.held.iter().copied()
    }

    /// Whether [`Self::free_block`] would find one.
    pub fn has_free_block(&mut self, membership: Membership<'_>, family: Family) -> bool {
        let layout = self.layout;
        let mut entries = layout.reachable(membership);
        entries.any(|(place, entry)| {
            !entry.drain && entry.cidr.family() == family && self.search(place).is_some()
        })
    }

    /// The lowest block of an entry that is neither leased nor kept back. It counts as taken from now on.
    pub fn free_block_in(&mut self, place: usize) -> Option<Cidr> {
        let block = self.search(place)?;
        self.take(block);
        Some(block)
    }

    fn search(&mut self, place: usize) -> Option<Cidr> {
        let entry = self.layout.entries.get(place)?;
        let search = self.searches.entry(place);
        search.or_insert_with(|| Search::new(entry.cidr, entry.block_len)).lowest_free(&self.blocked)
    }

    /// The lease that is held longest for a node that is gone, among those whose block this node could get.
    pub fn longest_held(&self, membership: Membership<'_>, family: Family) -> Option<&'a Lease> {
        let of_node = |lease: &&Lease| self.is_in_reach(lease.subnet, membership, family);
        self.held.iter().copied().find(|lease| of_node(lease) && self.may_touch(lease))
    }

    /// How many blocks are held for nodes that are gone and could be such a node's.
    pub fn held_in_reach(&self, membership: Membership<'_>, family: Family) -> usize {
        let leases = self.held.iter();
        leases.filter(|lease| self.is_in_reach(lease.subnet, membership, family)).count()
    }

    /// A lease whose block such a node could get, if a finalizer didn't hold it.
    pub fn longest_held_up(&self, membership: Membership<'_>, family: Family) -> Option<&'a Lease> {
        self.held_up.iter().copied().find(|lease| self.is_in_reach(lease.subnet, membership, family))
    }

    /// Whether new blocks of such a node come from where this one lies.
    fn is_in_reach(&self, block: Cidr, membership: Membership<'_>, family: Family) -> bool {
        self.layout.entry_of(block).is_some_and(|(place, entry)| {
            !entry.drain && membership.reach.contains(&place) && entry.cidr.family() == family
        })
    }

    pub fn add(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Asks to be woken at `at`, or earlier.
    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter()
    }

    pub fn into_actions(mut self) -> Vec<Action> {
        self.actions.sort_by_key(phase);
        self.actions
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// Addresses that no block may contain: those of services and of the nodes themselves.
pub fn reserved(world: &World) -> impl Iterator<Item = Cidr> {
    let services = world.service_ranges.iter().flat_map(|range| range.cidrs.iter().copied());
    let addresses = world.nodes.iter().flat_map(|node| node.addresses.iter());
    services.chain(addresses.filter_map(|address| Cidr::containing(*address, Family::of(*address).bits())))
}

/// Leases are what nodes wait for; reports can wait.
fn phase(action: &Action) -> u8 {
    match action {
        Action::RereadLease { .. } => 0,
        Action::UpdateLease { .. } | Action::DeleteLease { .. } | Action::ReleaseLease { .. } => 1,
        Action::CreateLease { .. } => 2,
        Action::MirrorPodCidrs { .. } => 3,
        Action::ApplyNodeNetwork { .. } | Action::DeleteNodeNetwork { .. } => 4,
        Action::ReportLeased { .. } => 5,
    }
}
