//! [`Transitions`]: how nodes get from one backend to another while packets flow.
//!
//! Nothing of it is remembered. Where a transition stands is what leases and agents say:
//!
//! 1. *Preparing*: every lease accepts what any node is asked to send by. Agents set up reception and report it.
//! 2. *Moving*: when all that matter receive the new type, leases of the pool get it, some at a time. Senders
//!    follow lease by lease, and both ends come to the same path.
//! 3. *Finishing*: an overlay that no lease has and no agent reports sending by leaves `accepts` when every agent
//!    has heard so ([`Endings`]), and only then does its reception end.
//!
//! A pool that encrypts is sealed when it is through, and unsealed before it leaves encryption ([`Sealing`],
//! [`Unsealing`]).
//!
//! Going back is the same with other words: while anything sends by the old type, everything receives it.

mod problem;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use tartan_crds::{
    BackendSelection, BackendType, LeaseBackend, SubnetLeaseSpec, TransitionPhase, TransitionPolicy,
    TransitionStatus, ending_reception,
};

use problem::{Late, problem};

use super::{
    Problem,
    contested::Contested,
    ending::{Endings, Overlays},
    layout::{Layout, Membership},
    sealing::Sealing,
    unsealing::{Unsealing, ended_seal, unsealed_at},
};
use crate::world::{Lease, Node, Report, World};

/// Names in a status.
const NAMED: usize = 16;

/// What every lease's backend should say.
#[derive(Debug, Default)]
pub struct Transitions<'a> {
    /// By node: what it should send by, where that is not yet what its pool says.
    behind: BTreeMap<&'a str, (BackendType, bool)>,
    overlays: Overlays,
    endings: Endings<'a>,
    sealing: Sealing<'a>,
    unsealing: Unsealing<'a>,
    /// By pool, `None` for the nodes in no pool: those that are not through.
    pub progress: BTreeMap<Option<usize>, Progress>,
    /// When a deadline passes.
    pub wake_at: Option<Timestamp>,
}

/// How far a pool has come.
#[derive(Debug)]
pub struct Progress {
    pub status: TransitionStatus,
    /// What it waits for.
    pub problem: Problem,
}

/// A node whose lease is in use.
pub(super) struct Member<'a> {
    pub(super) node: &'a Node,
    pub(super) place: Option<usize>,
    pub(super) wanted: BackendSelection,
    pub(super) now: (BackendType, bool),
    pub(super) sealed: bool,
    pub(super) ending: &'a [String],
    /// Of the lease that says so.
    pub(super) uid: &'a str,
    pub(super) generation: i64,
    /// By what peers can send to it, as each of its primary leases says: peers go by the one of a family of theirs.
    pub(super) endpoints: Vec<&'a BTreeSet<BackendType>>,
    /// What its agent says, where it has said anything.
    pub(super) report: Option<&'a Report>,
}

impl Member<'_> {
    /// Whether it is set up for packets by this, and peers know. It is told in two objects: peers go by its lease, and
    /// who has read a lease that makes it send so has read what stood in all leases when that was written.
    pub(super) fn receives(&self, kind: BackendType) -> bool {
        let is_known = !kind.has_paths() || self.endpoints.iter().all(|kinds| kinds.contains(&kind));
        is_known && self.is_set_up(kind)
    }

    /// Whether its agent reports that it is set up for packets by this.
    pub(super) fn is_set_up(&self, kind: BackendType) -> bool {
        self.report.is_some_and(|report| report.receives.contains(&kind))
    }

    /// Nobody sends to a node of which its paths are another's business.
    fn has_paths(&self) -> bool {
        self.now.0.has_paths() || self.wanted.kind.has_paths()
    }

    /// What it sends by, as programmed.
    pub(super) fn sends(&self) -> Option<BackendType> {
        self.report.and_then(|report| report.backend)
    }
}

impl<'a> Transitions<'a> {
    pub fn plan(world: &'a World, layout: &Layout<'_>, contested: &Contested<'_>, now: Timestamp) -> Self {
        let members = members(world, layout);
        let endings = Endings::new(world, contested);
        let sealing = Sealing::plan(layout, &members, &endings, now);
        let unsealing = Unsealing::plan(&members, &endings, now);
        let overlays = Overlays::new(world, layout, &endings);
        let mut transitions = Self { overlays, endings, sealing, unsealing, ..Self::default() };
        let places: BTreeSet<Option<usize>> = members.iter().map(|member| member.place).collect();
        for place in places {
            transitions.plan_pool(layout, (place, &members), now);
        }
        transitions
    }

    /// What a lease of the node should say.
    pub fn backend(&self, layout: &Layout<'_>, membership: Membership<'_>, node: &str) -> LeaseBackend {
        let wanted = layout.selection(membership);
        let (kind, direct_routing) =
            self.behind.get(node).copied().unwrap_or((wanted.kind, is_direct(wanted)));
        if !kind.has_paths() && wanted.kind == kind {
            // Nobody sends to it.
            return LeaseBackend { kind, accepts: vec![kind], ..LeaseBackend::default() };
        }
        let mut accepts = vec![kind, layout.spec.fallback_backend, wanted.kind];
        if direct_routing || is_direct(wanted) {
            accepts.push(BackendType::HostGw);
        }
        let leaving: BTreeSet<BackendType> = self.leaving(node).collect();
        accepts.extend(&self.overlays.everywhere | &leaving);
        let mut seen = BTreeSet::new();
        accepts.retain(|kind| seen.insert(*kind));
        let encrypts = kind.encrypts() && wanted.kind.encrypts();
        let sealed = encrypts && self.sealing.is_sealed(membership.place, node);
        let mut ending: BTreeSet<String> = leaving.into_iter().map(ending_reception).collect();
        ending.extend(self.sealing.closing((membership.place, node), sealed));
        ending.extend(self.unsealing.told());
        if !sealed {
            ending.extend(self.unsealing.own(node, kind));
        }
        let ending = ending.into_iter().collect();
        LeaseBackend { kind, accepts, direct_routing, sealed, ending }
    }

    /// What the node receives still, though no node is asked to send by it any more.
    fn leaving(&self, node: &str) -> impl Iterator<Item = BackendType> {
        self.overlays.leaving.iter().copied().filter(move |kind| self.endings.accepts(node, *kind))
    }

    /// The same in words, with the nodes that it waits for.
    pub fn remarks(&self, node: &str) -> Vec<String> {
        let remark = |kind: BackendType| {
            let awaited: Vec<&str> = self.endings.awaited(kind).into_iter().collect();
            if awaited.is_empty() {
                return format!("{kind}: received until no node reports that it sends by it");
            }
            let names = super::listed(&awaited);
            format!("{kind}: received until these nodes have heard that no node sends by it: {names}")
        };
        self.leaving(node).map(remark).collect()
    }

    /// Whether nodes of a pool that is to encrypt still take packets in clear.
    pub fn unsealed(&self, place: Option<usize>) -> bool {
        self.sealing.is_open(place)
    }

    fn plan_pool(
        &mut self,
        layout: &Layout<'_>,
        (place, all): (Option<usize>, &[Member<'a>]),
        now: Timestamp,
    ) {
        let members: Vec<&Member<'a>> = all.iter().filter(|member| member.place == place).collect();
        let Some(wanted) = members.first().map(|member| member.wanted) else { return };
        let (policy, before) = layout.transition(place);
        let (mut behind, moved): (Vec<&Member<'a>>, Vec<&Member<'a>>) =
            members.iter().partition(|member| member.now.0 != wanted.kind);
        let told = moved.len();
        let mut following: Vec<&Member<'a>> = moved;
        following.retain(|member| member.sends().is_some_and(|sent| sent != wanted.kind));
        let is_open = self.sealing.is_open(place);
        let unsealed: Vec<&str> = self.sealing.waits_for(place).to_vec();
        // Until every lease says so: what was decided is not decided anew while it is written.
        let seals = wanted.kind.encrypts() && members.iter().any(|member| !member.sealed);
        if behind.is_empty() && following.is_empty() && !is_open && !seals {
            return;
        }
        let before = before.filter(|before| before.to == wanted.kind);
        let since = before.map_or(now, |before| before.since.0);
        let leaves = !wanted.kind.encrypts() && behind.iter().any(|member| member.now.0.encrypts());
        let mut held: Vec<&str> = if leaves { self.sealing.held_by().to_vec() } else { vec![] };
        if leaves {
            // Their leases are about to say otherwise.
            held.extend(behind.iter().filter(|member| member.sealed).map(|member| name(member)));
            if behind.iter().any(|member| ended_seal(member).is_some()) {
                held.extend(self.unsealing.awaited());
            }
        }
        held.sort_unstable();
        held.dedup();
        // Who has heard of the end of a time before must not be taken for one who has heard of this one's.
        let ending = ending_reception(wanted.kind);
        let naming = if behind.is_empty() { vec![] } else { self.endings.naming(&ending) };
        // Nodes of other pools must receive an overlay too, as far as they can: their pairs with these use it.
        let cannot = |member: &Member<'_>| {
            member.report.is_some_and(|report| report.unavailable.contains(&wanted.kind))
        };
        let is_awaited = |member: &&Member<'_>| {
            !member.receives(wanted.kind)
                && (member.place == place
                    || (wanted.kind.is_overlay() && member.has_paths() && !cannot(member)))
        };
        let mut waiting: Vec<&str> = all.iter().filter(is_awaited).map(name).collect();
        let mut isolated = vec![];
        let mut in_flight = following.len();
        if let Some(at) = deadline(layout, place, wanted.kind, now) {
            if at <= now {
                isolated.append(&mut waiting);
                // Nobody can tell when one that is gone, or doesn't receive, will follow: it is no part of the pace.
                let is_lost = |member: &&&Member<'_>| !(member.node.ready && member.receives(wanted.kind));
                in_flight -= following.iter().filter(is_lost).count();
                isolated.extend(following.iter().filter(is_lost).map(|member| name(member)));
            } else if is_open || !waiting.is_empty() {
                self.wake(at);
            }
        }
        // Who leaves may have been unsealed long after the change began.
        let unsealed_at = behind.iter().filter_map(|member| unsealed_at(member)).max();
        if let Some(at) = after(unsealed_at.map_or(since, |at| at.max(since)), policy) {
            if at <= now {
                // What leases say is never passed over, only who is slow to follow.
                isolated.extend(held.extract_if(.., |name| {
                    !behind.iter().any(|member| member.sealed && member.node.meta.name == *name)
                }));
            } else if !held.is_empty() {
                self.wake(at);
            }
        }
        let step = [TransitionPhase::Moving, TransitionPhase::Finishing];
        if let Some(at) = step_deadline(layout, place, wanted.kind, (&step, told)) {
            if at <= now {
                in_flight = 0;
            } else if is_open || !following.is_empty() {
                self.wake(at);
            }
        }
        let mut room = usize::try_from(policy.max_in_flight).unwrap_or(1).saturating_sub(in_flight);
        let may_move = waiting.is_empty() && held.is_empty() && naming.is_empty();
        if policy.paused || !may_move {
            room = 0;
        }
        let moving = behind.len().min(room);
        behind.drain(..moving);
        for member in &behind {
            self.behind.insert(&member.node.meta.name, member.now);
        }
        let phase = match () {
            () if behind.is_empty() => TransitionPhase::Finishing,
            () if policy.paused => TransitionPhase::Paused,
            () if !may_move => TransitionPhase::Preparing,
            () => TransitionPhase::Moving,
        };
        let moved = count(members.len() - behind.len());
        let is_step = |before: &&TransitionStatus| before.phase == phase && before.moved >= moved;
        let mut named = BTreeSet::new();
        let status = TransitionStatus {
            to: wanted.kind,
            since: Time(since),
            phase,
            step_since: before
                .filter(is_step)
                .and_then(|before| before.step_since.clone())
                .or(Some(Time(now))),
            nodes: count(members.len()),
            receiving: count(members.iter().filter(|member| member.receives(wanted.kind)).count()),
            moved,
            waiting_for: waiting
                .iter()
                .chain(&held)
                .chain(&naming)
                .copied()
                .chain(following.iter().map(|member| name(member)))
                .chain(unsealed.iter().copied())
                .filter(|name| named.insert(*name))
                .take(NAMED)
                .map(str::to_owned)
                .collect(),
        };
        isolated.sort_unstable();
        isolated.dedup();
        let late = Late { waiting, held, naming, unsealed, isolated };
        let problem = problem(&status, &late);
        self.progress.insert(place, Progress { status, problem });
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// When nodes that keep a change from going on are passed over.
pub(super) fn deadline(
    layout: &Layout<'_>,
    place: Option<usize>,
    to: BackendType,
    now: Timestamp,
) -> Option<Timestamp> {
    let (policy, before) = layout.transition(place);
    let since = before.filter(|before| before.to == to).map_or(now, |before| before.since.0);
    after(since, policy)
}

/// When nodes are passed over that keep a step of it from its end, if it is in one of these phases and says of as many
/// nodes as `told` that they were told to send by the new backend: the time that the steps before took is no fault of
/// theirs. `None`: not yet, or never.
pub(super) fn step_deadline(
    layout: &Layout<'_>,
    place: Option<usize>,
    to: BackendType,
    (phases, told): (&[TransitionPhase], usize),
) -> Option<Timestamp> {
    let (policy, before) = layout.transition(place);
    let is_it = |before: &&TransitionStatus| {
        before.to == to && phases.contains(&before.phase) && before.moved >= count(told)
    };
    after(before.filter(is_it)?.step_since.as_ref()?.0, policy)
}

fn after(since: Timestamp, policy: TransitionPolicy) -> Option<Timestamp> {
    let deadline = SignedDuration::try_from(std::time::Duration::from(policy.deadline?)).ok()?;
    since.checked_add(deadline).ok()
}

/// Every node with a lease in use, in the order of names.
fn members<'a>(world: &'a World, layout: &Layout<'_>) -> Vec<Member<'a>> {
    let mut held: BTreeMap<&str, Vec<(&Lease, &SubnetLeaseSpec)>> = BTreeMap::new();
    for lease in world.leases.iter().filter(|lease| lease.in_use && lease.released_at().is_none()) {
        if let Ok(spec) = &lease.spec {
            held.entry(&spec.node_name).or_default().push((lease, spec));
        }
    }
    world
        .nodes
        .iter()
        .filter_map(|node| {
            // The primary leases, of each family one, say how the node sends. Of a Node of that name that is gone, its
            // agent says nothing.
            let leases = held.remove(node.meta.name.as_str())?;
            let leases = prefer(leases, |(_, spec)| spec.primary);
            let leases = prefer(leases, |(_, spec)| spec.node_uid == node.meta.uid);
            let (lease, spec) = *leases.first()?;
            let readable = leases.iter().filter(|(lease, _)| lease.traces.bad_status.is_none());
            let membership = layout.membership(node);
            Some(Member {
                node,
                place: membership.place,
                wanted: layout.selection(membership),
                now: (spec.backend.kind, spec.backend.direct_routing),
                sealed: spec.backend.sealed,
                ending: &spec.backend.ending,
                uid: &lease.meta.uid,
                generation: lease.generation.unwrap_or_default(),
                endpoints: readable.map(|(lease, _)| &lease.endpoints).collect(),
                report: world.node_networks.get(&node.meta.name).map(|object| &object.report),
            })
        })
        .collect()
}

/// Those of which it is so, if there are any; else all.
fn prefer<T>(mut all: Vec<T>, is_so: impl Fn(&T) -> bool) -> Vec<T> {
    if all.iter().any(&is_so) {
        all.retain(is_so);
    }
    all
}

pub(super) fn name<'a>(member: &Member<'a>) -> &'a str {
    &member.node.meta.name
}

fn is_direct(selection: BackendSelection) -> bool {
    selection.direct_routing && selection.kind.is_overlay() && !selection.kind.encrypts()
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
