//! What must hold among all objects, looked at in every round: for the condition `Consistent` and for metrics.
//!
//! The operator breaks none of it. Administrators, other programs and old backups can; then this says what is
//! broken and how it is mended. What the same round puts right is counted, and is no condition.

use std::collections::{BTreeMap, BTreeSet};

use tartan_crds::{Family, PodCidrModeInForce, conditions::reason};

use super::{
    Action, LISTED, Problem,
    contested::{REMEDY, REMEDY_UNREADABLE, describe},
    draft::Draft,
    listed, listed_all, mode, plural, reservations,
    usage::Usage,
    withheld,
};
use crate::world::Lease;

/// Values of the metric's label.
const OVERLAP: &str = "leases-overlap";
const MISNAMED: &str = "lease-misnamed";
const CONTESTED: &str = "lease-contested";
const UNREADABLE: &str = "lease-unreadable";
const EDITED: &str = "lease-edited";
const UNLEASED: &str = "block-without-lease";
const TWO_PRIMARIES: &str = "two-primary-leases";
const OUTSIDE: &str = "lease-outside-entries";
const FOREIGN_POD_CIDRS: &str = "foreign-pod-cidrs";

/// How often each invariant is broken.
pub fn violations(draft: &Draft<'_>, usage: &Usage<'_>) -> BTreeMap<&'static str, u64> {
    let leases = || draft.world.leases.iter();
    [
        (OVERLAP, usage.overlaps.len()),
        (MISNAMED, leases().filter(|lease| lease.traces.name_locks.is_some()).count()),
        (CONTESTED, draft.contested.leases().count()),
        (UNREADABLE, leases().filter(|lease| is_unreadable(lease)).count()),
        (EDITED, edited(draft)),
        (UNLEASED, draft.withheld.len()),
        (TWO_PRIMARIES, draft.leases_by_node().filter(|leases| has_two_primaries(leases)).count()),
        (OUTSIDE, usage.strays.len()),
        (FOREIGN_POD_CIDRS, foreign_pod_cidrs(draft).len()),
    ]
    .into_iter()
    .map(|(invariant, count)| (invariant, count as u64))
    .collect()
}

/// Leases that somebody edited and that this round writes anew, or leaves since it can't be known whose they are. Who
/// wrote again what was there, as by `kubectl apply` of a backup, broke nothing.
fn edited(draft: &Draft<'_>) -> usize {
    let rewritten: BTreeSet<&str> = draft
        .actions()
        .filter_map(|action| match action {
            Action::UpdateLease { lease, .. } => Some(lease.name.as_str()),
            _ => None,
        })
        .collect();
    let leases = draft.world.leases.iter().filter(|lease| lease.traces.edited_by.is_some());
    leases.filter(|lease| rewritten.contains(lease.meta.name.as_str()) || !draft.is_settled(lease)).count()
}

/// What is broken and does not mend itself, the most urgent first.
pub fn problems(draft: &Draft<'_>, usage: &Usage<'_>) -> Vec<Problem> {
    let mut problems = vec![];
    if !usage.overlaps.is_empty() {
        let pairs: Vec<String> =
            usage.overlaps.iter().take(LISTED).map(|(one, other)| format!("{one} and {other}")).collect();
        problems.push(Problem::new(
            reason::LEASES_OVERLAP,
            format!("leases overlap: {}; delete the one whose node does not use it", pairs.join(", ")),
        ));
    }
    let misnamed: Vec<String> = draft
        .world
        .leases
        .iter()
        .filter(|lease| lease.traces.name_locks.is_some())
        .map(|lease| format!("{} says {}", lease.meta.name, lease.subnet))
        .collect();
    if !misnamed.is_empty() {
        let count = plural(misnamed.len(), "lease");
        problems.push(Problem::new(
            reason::LEASE_MISNAMED,
            format!(
                "{count} with another subnet than its name: {}; neither block is given out: delete it where no \
                 node uses it, and apply the CRDs of this version, which refuse such a lease",
                listed_all(&misnamed)
            ),
        ));
    }
    let contested: Vec<String> = draft.contested.leases().map(|lease| describe(draft.world, lease)).collect();
    if !contested.is_empty() {
        problems.push(Problem::new(
            reason::LEASE_EDITED,
            format!("{}; left as it is: {REMEDY}", listed_all(&contested)),
        ));
    }
    let unreadable = draft.world.leases.iter().filter(|lease| is_unreadable(lease));
    let unreadable: Vec<String> = unreadable.map(unread).collect();
    if !unreadable.is_empty() {
        problems.push(Problem::new(
            reason::LEASE_UNREADABLE,
            format!(
                "{}; the block is given to nobody, and its node gets no other: {REMEDY_UNREADABLE}",
                listed_all(&unreadable)
            ),
        ));
    }
    problems.extend(withheld::problem(draft));
    problems.extend(strays(draft, usage));
    problems.extend(reservations::covered_leases(draft));
    let foreign = foreign_pod_cidrs(draft);
    if !foreign.is_empty() {
        problems.push(Problem::new(
            reason::SECOND_IPAM,
            format!(
                "podCIDRMode is Mirror but another IPAM wrote the podCIDRs of {}: {}; turn it off \
                 (kube-controller-manager: --allocate-node-cidrs=false) or set podCIDRMode to Adopt",
                plural(foreign.len(), "node"),
                listed(&foreign)
            ),
        ));
    }
    problems
}

/// Leases that are no block of any entry.
fn strays(draft: &Draft<'_>, usage: &Usage<'_>) -> Vec<Problem> {
    let cut_otherwise =
        |lease: &&Lease| draft.layout.entries.iter().any(|entry| entry.cidr.overlaps(lease.subnet));
    let (changed, outside): (Vec<_>, Vec<_>) = usage.strays.iter().copied().partition(cut_otherwise);
    [
        (reason::ENTRY_CHANGED, changed, "are no blocks of the entry that they lie in, which was changed"),
        (reason::ENTRY_IN_USE, outside, "lie in no entry: put the removed entry back with drain: true"),
    ]
    .into_iter()
    .filter(|(_, strays, _)| !strays.is_empty())
    .map(|(reason, strays, what)| {
        let subnets: Vec<String> = strays.iter().map(|lease| lease.subnet.to_string()).collect();
        let count = plural(strays.len(), "lease");
        Problem::new(reason, format!("{count} {what}: {}", listed_all(&subnets)))
    })
    .collect()
}

fn foreign_pod_cidrs<'a>(draft: &Draft<'a>) -> Vec<&'a str> {
    if draft.mode != PodCidrModeInForce::Mirror {
        return vec![];
    }
    let Some(network) = draft.world.network() else { return vec![] };
    mode::second_ipam(draft.world, mode::in_force_since(draft.mode, &network.status, draft.now))
}

fn is_unreadable(lease: &Lease) -> bool {
    lease.spec.is_err() || lease.traces.bad_status.is_some()
}

fn unread(lease: &Lease) -> String {
    let part = if lease.spec.is_err() { "spec" } else { "status" };
    let error = lease.spec.as_ref().err().or(lease.traces.bad_status.as_ref());
    format!("the {part} of lease {} can't be read ({})", lease.meta.name, error.map_or("", String::as_str))
}

fn has_two_primaries(leases: &[&Lease]) -> bool {
    let is_primary =
        |lease: &&&Lease| lease.spec.as_ref().is_ok_and(|spec| spec.primary && spec.released_at.is_none());
    Family::ALL.into_iter().any(|family| {
        leases.iter().filter(|lease| lease.subnet.family() == family).filter(is_primary).count() > 1
    })
}
