//! [`GrowthPlan`]: further blocks for nodes whose addresses run low, and their return.
//!
//! Nothing of it is remembered. How full a node's blocks are, and since when one is empty, is what its agent reports;
//! when it last got one is in the leases' creation times; that one is asked back, and that the agent has met the
//! request, is in the lease. The return takes four steps, each of which may be the last for a while:
//!
//! 1. the operator writes `spec.returning`: the lease is in force as before;
//! 2. the agent takes the range out of the CNI configuration, waits for every pod start that may have read the old
//!    one, and looks into the CNI's store under its lock; while a pod has an address there, nothing more happens;
//! 3. it answers with the time of the request in `status.emptied`, and takes the answer back if an address turns up;
//! 4. the operator deletes that version of the lease, and no other, once the agent's report says the same.
//!
//! A request that is withdrawn (the node needs the block after all) makes an answer to it void.

use std::collections::BTreeMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use tartan_crds::{AddressUse, Duration, Family, Growth, PodCidrModeInForce, conditions::reason};

use super::{
    DeleteReason, Problem,
    draft::{Draft, Verdict},
    layout::{Layout, Membership},
    plural, restore,
};
use crate::world::{Choice, Lease, Node, World};

/// Which leases are asked back, and which nodes need a block.
#[derive(Debug, Default)]
pub struct GrowthPlan<'a> {
    /// Since when a further lease is asked back, by name.
    pub returning: BTreeMap<&'a str, Time>,
    /// Leases that were asked back and whose agent has met the request, by node.
    emptied: BTreeMap<&'a str, Vec<&'a Lease>>,
    needs: BTreeMap<&'a str, Vec<(Family, Need)>>,
    /// When time alone changes the answer.
    pub wake_at: Option<Timestamp>,
}

/// What a node that runs low is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Block,
    /// When `coolDown` has passed since its newest block.
    NotBefore(Timestamp),
    /// It has as many as it may have.
    AtMost(i32),
}

/// The leases in force that a node holds of one family.
struct Holding<'a, 'w> {
    node: &'a Node,
    membership: Membership<'w>,
    family: Family,
    leases: Vec<&'a Lease>,
    report: &'a [AddressUse],
    policy: Growth,
}

impl<'a> GrowthPlan<'a> {
    pub fn of(world: &'a World, layout: &Layout<'_>, now: Timestamp) -> Self {
        let mut holdings: BTreeMap<(&'a str, Family), Vec<&'a Lease>> = BTreeMap::new();
        for lease in world.leases.iter().filter(|lease| lease.released_at().is_none()) {
            let Ok(spec) = &lease.spec else { continue };
            let node = spec.node_name.as_str();
            if world.nodes.get(node).is_none_or(|node| node.meta.uid != spec.node_uid) {
                // Of a machine that is gone, or somebody edited it.
                continue;
            }
            holdings.entry((node, lease.subnet.family())).or_default().push(lease);
        }
        let mut plan = Self::default();
        for ((name, family), leases) in holdings {
            let Some(node) = world.nodes.get(name) else { continue };
            if !leases.iter().any(|lease| is_primary(lease)) {
                continue;
            }
            let membership = layout.membership(node);
            let report = restore::report(world, node);
            let policy = layout.growth(membership);
            plan.settle(layout, &Holding { node, membership, family, leases, report, policy }, now);
        }
        plan
    }

    fn settle(&mut self, layout: &Layout<'_>, holding: &Holding<'a, '_>, now: Timestamp) {
        let Holding { node, membership, policy, report, .. } = holding;
        let further = || holding.leases.iter().copied().filter(|lease| !is_primary(lease));
        // New pods belong elsewhere: not to wait until it is empty is what gets it empty. No pod loses its address.
        let must_go = |lease: &Lease| {
            layout.is_kept_from(&node.meta.name, lease.subnet)
                || layout
                    .entry_of(lease.subnet)
                    .is_some_and(|(place, entry)| entry.drain || !membership.reach.contains(&place))
        };
        for lease in further() {
            let asked = lease.spec.as_ref().ok().and_then(|spec| spec.returning.clone());
            if let Some(since) = asked.or_else(|| must_go(lease).then_some(Time(now))) {
                self.returning.insert(&lease.meta.name, since);
            }
        }
        let active: Vec<&Lease> = self.active(holding);
        let share = i64::from(policy.grant_below_free);
        if let Some(figures) = figures(&active, report) {
            if figures.is_low(share) {
                let withdrawn = further()
                    .find(|lease| self.returning.contains_key(lease.meta.name.as_str()) && !must_go(lease));
                match withdrawn {
                    Some(lease) => drop(self.returning.remove(lease.meta.name.as_str())),
                    None => self.need(holding, active.len(), now),
                }
            } else if further()
                .all(|lease| must_go(lease) || !self.returning.contains_key(lease.meta.name.as_str()))
            {
                self.ask_back(holding, &active, now);
            }
        }
        let met = further().filter(|lease| {
            // A report that is older than the answer would have the block leased again.
            let reported_in_use = of(lease, report).is_some_and(|figures| figures.used > 0);
            let asked = lease.spec.as_ref().ok().and_then(|spec| spec.returning.as_ref());
            !reported_in_use
                && asked.is_some()
                && asked == lease.emptied.as_ref()
                && asked == self.returning.get(lease.meta.name.as_str())
        });
        let met: Vec<&'a Lease> = met.collect();
        self.emptied.entry(&node.meta.name).or_default().extend(met);
    }

    /// What a node is to get, by family, since its addresses run low.
    pub fn needs_of(&self, node: &str) -> &[(Family, Need)] {
        self.needs.get(node).map_or(&[], Vec::as_slice)
    }

    /// Leases whose addresses new pods may get.
    fn active(&self, holding: &Holding<'a, '_>) -> Vec<&'a Lease> {
        let stays = |lease: &&Lease| !self.returning.contains_key(lease.meta.name.as_str());
        holding.leases.iter().copied().filter(stays).collect()
    }

    fn need(&mut self, holding: &Holding<'a, '_>, blocks: usize, now: Timestamp) {
        let Holding { node, family, leases, policy, .. } = holding;
        let most = policy.max_blocks_per_node;
        let need = if usize::try_from(most).is_ok_and(|most| blocks >= most) {
            Need::AtMost(most)
        } else {
            let newest = leases.iter().map(|lease| lease.created).max().unwrap_or(now);
            let due = after(newest, policy.cool_down);
            if due > now {
                self.wake(due);
                Need::NotBefore(due)
            } else {
                Need::Block
            }
        };
        self.needs.entry(&node.meta.name).or_default().push((*family, need));
    }

    /// Asks back the newest further block that has been empty for long enough, if the others have room without it.
    fn ask_back(&mut self, holding: &Holding<'a, '_>, active: &[&'a Lease], now: Timestamp) {
        let Holding { policy, report, .. } = holding;
        let share = i64::from(policy.grant_below_free);
        let mut candidates: Vec<&'a Lease> =
            active.iter().copied().filter(|lease| !is_primary(lease)).collect();
        candidates.sort_by_key(|lease| std::cmp::Reverse((lease.created, lease.subnet)));
        for lease in candidates {
            let since =
                of(lease, report).filter(|figures| figures.used == 0).and_then(|f| f.empty_since.as_ref());
            let Some(since) = since else { continue };
            let others: Vec<&Lease> =
                active.iter().copied().filter(|other| other.meta.name != lease.meta.name).collect();
            if figures(&others, report).is_none_or(|figures| figures.is_low(share.saturating_mul(2))) {
                continue;
            }
            let due = after(since.0, policy.return_empty_after);
            if due <= now {
                self.returning.insert(&lease.meta.name, Time(now));
                return;
            }
            self.wake(due);
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Gives up the leases that the node's agent has emptied. Before anything else is decided about the node.
pub fn take_back(draft: &mut Draft<'_>, node: &Node) {
    let met = draft.growth.emptied.get(node.meta.name.as_str()).cloned().unwrap_or_default();
    for lease in met {
        draft.delete(lease, DeleteReason::Emptied);
    }
}

/// Gives a node the further blocks that it needs of the families of which it has its first, and completes what is said
/// of it, where it holds all that it must have.
pub fn extend<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    verdict: Verdict,
) -> Verdict {
    let needs = draft.growth.needs_of(&node.meta.name).to_vec();
    let (mut subnets, mut remark) = match verdict {
        Verdict::Leased { subnets, remark } => (subnets, remark),
        Verdict::Pending => return verdict,
        // It waits for another family, and says so.
        Verdict::Waiting(_) => {
            for (family, _) in needs.into_iter().filter(|(_, need)| *need == Need::Block) {
                let _ = grant(draft, node, membership, family);
            }
            return verdict;
        }
    };
    for (family, need) in needs {
        let problem = match need {
            Need::AtMost(most) => Some(format!("it has the {most} that growth.maxBlocksPerNode allows")),
            Need::NotBefore(_) => None,
            Need::Block => grant(draft, node, membership, family).err(),
        };
        if let (Some(why), None) = (problem, &remark) {
            let share = draft.layout.growth(membership).grant_below_free;
            remark = Some(Problem::new(
                reason::ADDRESSES_LOW,
                format!(
                    "less than {share} % of the node's {family} addresses are free, and it gets no further block: {why}"
                ),
            ));
        }
    }
    let further = draft.leases_of(&node.meta.name).into_iter().filter(|lease| {
        !is_primary(lease) && lease.released_at().is_none() && !subnets.contains(&lease.subnet)
    });
    let further: Vec<_> = further.map(|lease| lease.subnet).collect();
    subnets.extend(further);
    Verdict::Leased { subnets, remark }
}

/// Further blocks of a node that is back are its own again: pods that outlived its Node have addresses there, and
/// where none has, they are asked back like any other.
pub fn revive_further<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    primary: &Lease,
) {
    for lease in draft.leases_of(&node.meta.name) {
        let further = lease.meta.name != primary.meta.name
            && lease.subnet.family() == primary.subnet.family()
            && lease.spec.as_ref().is_ok_and(|spec| !spec.primary);
        if further && comes_back(draft, membership, lease) {
            draft.keep(node, membership, lease, false);
        }
    }
}

/// Whether a lease that is held is a further block which the node still may have.
pub fn comes_back(draft: &Draft<'_>, membership: Membership<'_>, lease: &Lease) -> bool {
    let further = lease.spec.as_ref().is_ok_and(|spec| !spec.primary && spec.released_at.is_some());
    let entry = draft.layout.entry_of(lease.subnet);
    further
        && entry.is_some_and(|(place, entry)| !entry.drain && membership.reach.contains(&place))
        && draft.layout.reservation(lease.subnet).is_none()
}

fn grant<'a>(
    draft: &mut Draft<'a>,
    node: &'a Node,
    membership: Membership<'_>,
    family: Family,
) -> Result<(), String> {
    let adopts = draft.mode == PodCidrModeInForce::Adopt;
    let layout = draft.layout;
    let places: Vec<usize> = layout
        .reachable(membership)
        .filter(|(place, entry)| {
            !entry.drain
                && entry.cidr.family() == family
                && !(adopts && draft.pod_cidr_entries.contains(place))
        })
        .map(|(place, _)| place)
        .collect();
    match places.into_iter().find_map(|place| draft.free_block_in(place)) {
        Some(block) => {
            draft.create(node, membership, (block, Choice::Further), false);
            Ok(())
        }
        None if adopts => Err(
            "podCIDRMode is Adopt, and another IPAM gives out the entries that hold podCIDRs: append an entry that \
             it knows nothing of to ClusterNetwork.spec.cidrs"
                .to_owned(),
        ),
        None => {
            let held = draft.held_in_reach(membership, family);
            let but = if held == 0 {
                String::new()
            } else {
                format!(", but {} held for nodes that come back or are new", plural(held, "block"))
            };
            Err(format!(
                "no free {family} block is left for pool {}{but}: append an entry to ClusterNetwork.spec.cidrs",
                membership.pool
            ))
        }
    }
}

/// Addresses of several blocks together.
struct Figures {
    capacity: i64,
    used: i64,
}

impl Figures {
    /// Whether less than `share` percent is free; also where there is none at all.
    fn is_low(&self, share: i64) -> bool {
        let free = i128::from(self.capacity.saturating_sub(self.used));
        free <= 0 || free * 100 < i128::from(self.capacity) * i128::from(share)
    }
}

/// `None` where one of the blocks is not reported: a block that was just granted must count before the next.
fn figures(leases: &[&Lease], report: &[AddressUse]) -> Option<Figures> {
    leases.iter().try_fold(Figures { capacity: 0, used: 0 }, |sum, lease| {
        let figures = of(lease, report)?;
        Some(Figures {
            capacity: sum.capacity.saturating_add(figures.capacity),
            used: sum.used.saturating_add(figures.used),
        })
    })
}

fn of<'r>(lease: &Lease, report: &'r [AddressUse]) -> Option<&'r AddressUse> {
    report.iter().find(|figures| figures.subnet == lease.subnet)
}

fn is_primary(lease: &Lease) -> bool {
    lease.spec.as_ref().is_ok_and(|spec| spec.primary)
}

fn after(time: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(std::time::Duration::from(wait)).unwrap_or(SignedDuration::MAX);
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}
