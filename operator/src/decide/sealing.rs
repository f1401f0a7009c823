//! [`Sealing`]: which nodes' pairs take nothing in clear any more.
//!
//! A pool that encrypts is sealed when every node of the cluster has left clear paths to its nodes, as they report it,
//! having heard that all the pool's encrypt ([`Endings`]); until then what a slow one sends is still taken. Before a
//! pool leaves encryption it is unsealed, and nothing moves until every node reports that it takes clear packets
//! again. Nothing of it is remembered: a lease that is sealed stays so as long as it encrypts and is asked to. A pool
//! whose nodes have never sent is sealed at once.
//!
//! A node that isn't set up for the new backend has no path to lose, and is passed over when the change's deadline has
//! passed. One that does would lose what it still sends in clear: it has as long from when the last node was told to
//! encrypt. Whether its Node is ready says nothing of its packets.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::{BackendType, TransitionPhase};

use super::{
    ending::{Endings, name_of},
    layout::Layout,
    transition::{Member, count, deadline, name, step_deadline},
    unsealing::{ended_seal, entry},
};

/// What a lease says that is to be sealed: with which others.
const CLOSES: &str = "closes:";

/// A lease has room for more: of so many pools at once, of the others later.
const POOLS: usize = 24;

#[derive(Debug, Default)]
pub struct Sealing<'a> {
    /// Nodes with leases that are to be sealed.
    sealed: BTreeSet<&'a str>,
    /// Pools whose nodes in use are not all of them, and whom each waits for.
    open: BTreeMap<Option<usize>, Vec<&'a str>>,
    /// Those of them that wait for nodes to hear of it: the name of those that are to be sealed.
    closing: BTreeMap<Option<usize>, String>,
    /// What leases should name as about to end, by the same.
    told: BTreeMap<Option<usize>, String>,
    /// Those that are to be sealed.
    closers: BTreeSet<&'a str>,
    /// Nodes that report more sealed peers than there should be.
    holding: Vec<&'a str>,
}

impl<'a> Sealing<'a> {
    pub(super) fn plan(
        layout: &Layout<'_>,
        members: &[Member<'a>],
        endings: &Endings<'a>,
        now: Timestamp,
    ) -> Self {
        let mut sealing = Self::default();
        // Nodes that report more clear paths than there should be.
        let lagging = exceeding(members, 0);
        let places: BTreeSet<Option<usize>> = members.iter().map(|member| member.place).collect();
        for place in places {
            let of_pool = || members.iter().filter(move |member| member.place == place);
            let Some(wanted) = of_pool().next().map(|member| member.wanted) else { continue };
            if !wanted.kind.encrypts() {
                continue;
            }
            let passed = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
            let late = passed(deadline(layout, place, wanted.kind, now));
            let step = (&[TransitionPhase::Finishing][..], of_pool().count());
            let all_are_late = passed(step_deadline(layout, place, wanted.kind, step));
            let passed_over = |member: &Member<'_>| all_are_late || (late && !member.is_set_up(wanted.kind));
            let follows = |member: &Member<'_>| reports_no_clear(member) || passed_over(member);
            // Once is enough: what reports say later is of nodes that come, go, or have not reported since.
            let encrypts = of_pool().all(|member| member.now.0.encrypts());
            let mut through = encrypts && of_pool().all(|member| member.sealed);
            if !through {
                let is_one = |member: &&Member<'_>| !member.sealed;
                let closing = name_of(of_pool().filter(is_one), CLOSES, facts);
                let told = format!("clear:{}:{closing}", pool_name(layout, place));
                let unaware = if encrypts { endings.unaware(&told) } else { BTreeSet::new() };
                // One that is sealed has nothing in clear, wherever it heard of that.
                let awaited = |member: &&Member<'_>| {
                    !member.sealed && unaware.contains(name(member)) && !passed_over(member)
                };
                let awaited: Vec<&str> = members.iter().filter(awaited).map(name).collect();
                let has_followed = of_pool().all(follows) && lagging.iter().all(|member| passed_over(member));
                through = encrypts && has_followed && awaited.is_empty();
                // Until the last lease says so: who has not got that far has not heard of another end.
                if encrypts
                    && sealing.closing.len() < POOLS
                    && (!awaited.is_empty() || endings.is_told(&told))
                {
                    sealing.closing.insert(place, closing);
                    sealing.told.insert(place, told);
                    sealing.closers.extend(of_pool().filter(is_one).map(name));
                }
                if !through {
                    let lagging = to_name(members, &lagging, passed_over);
                    sealing.open.insert(place, if encrypts && has_followed { awaited } else { lagging });
                }
            }
            let sealed = of_pool().filter(|member| through || (member.sealed && member.now.0.encrypts()));
            sealing.sealed.extend(sealed.map(name));
        }
        sealing.holding = holding(members, &sealing.sealed);
        sealing
    }

    /// What the lease of a node should say; also of one that has no lease in use yet.
    pub fn is_sealed(&self, place: Option<usize>, node: &str) -> bool {
        self.sealed.contains(node) || !self.open.contains_key(&place)
    }

    pub fn is_open(&self, place: Option<usize>) -> bool {
        self.open.contains_key(&place)
    }

    /// What the lease of a node, which is in this pool and sealed or not, should name as about to end, and what it says
    /// of the node itself.
    pub fn closing(
        &self,
        (place, node): (Option<usize>, &str),
        sealed: bool,
    ) -> impl Iterator<Item = String> {
        let told = self.told.iter().filter(move |(of, _)| !(sealed && **of == place));
        let own = self.closing.get(&place).filter(|_| !sealed && self.closers.contains(node));
        told.map(|(_, told)| told.clone()).chain(own.map(|name| format!("{CLOSES}{name}")))
    }

    /// Whom the sealing of a pool waits for, where its nodes have done what they can.
    pub fn waits_for(&self, place: Option<usize>) -> &[&'a str] {
        self.open.get(&place).map_or(&[], Vec::as_slice)
    }

    /// Who still takes packets of sealed pairs encrypted only, though they are to be taken in clear.
    pub fn held_by(&self) -> &[&'a str] {
        &self.holding
    }
}

/// Another name for one that left encryption meanwhile and came back: who has heard of the one time has not heard of
/// the other.
fn facts(member: &Member<'_>) -> String {
    format!("{} {:?} {:?}", member.uid, entry(member), ended_seal(member))
}

fn pool_name<'l>(layout: &'l Layout<'_>, place: Option<usize>) -> &'l str {
    place.and_then(|place| layout.pools.get(place)).map_or("", |plan| &plan.pool.meta.name)
}

fn reports_no_clear(member: &Member<'_>) -> bool {
    member.sends().is_none_or(BackendType::encrypts)
}

/// Of whom to tell, where they are not passed over: nodes that have not followed their leases, and of the others those
/// that have more clear paths than these explain.
fn to_name<'a>(
    members: &[Member<'a>],
    lagging: &[&Member<'a>],
    passed_over: impl Fn(&Member<'a>) -> bool,
) -> Vec<&'a str> {
    if lagging.is_empty() {
        return vec![];
    }
    let is_late = |member: &&Member<'a>| {
        let follows = member.sealed || reports_no_clear(member);
        member.now.0.encrypts() && !follows && !passed_over(member)
    };
    let mut named: BTreeSet<&str> = members.iter().filter(is_late).map(name).collect();
    let others = exceeding(members, named.len()).into_iter().filter(|member| !passed_over(member));
    named.extend(others.map(name));
    named.into_iter().collect()
}

/// Nodes with more clear paths than they may have, by what their own leases say, and `explained` ones: where one end
/// encrypts, the pair does. What a sealed one says is old: it has left them, or they are closed.
fn exceeding<'m, 'a>(members: &'m [Member<'a>], explained: usize) -> Vec<&'m Member<'a>> {
    let clear = |member: &Member<'_>| !member.now.0.encrypts();
    let all = members.iter().filter(|member| clear(member)).count();
    let behind = |member: &&Member<'_>| {
        let allowed = explained + if clear(member) { all - 1 } else { 0 };
        !member.sealed && member.report.is_some_and(|report| report.clear_peers > count(allowed))
    };
    members.iter().filter(behind).collect()
}

fn holding<'a>(members: &[Member<'a>], sealed: &BTreeSet<&str>) -> Vec<&'a str> {
    let holds = |member: &&Member<'_>| {
        !sealed.contains(name(member))
            && member.report.is_some_and(|report| report.sealed_peers > count(sealed.len()))
    };
    members.iter().filter(holds).map(name).collect()
}
