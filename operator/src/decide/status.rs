//! Status of ClusterNetwork and NetworkPools: figures and conditions, written only where they differ.

use std::collections::BTreeMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use tartan_crds::{
    BackendType, CidrUsage, ClusterNetworkStatus, NetworkPoolStatus, TransitionStatus,
    conditions::{kind, reason},
};

use super::{
    Problem,
    draft::Draft,
    drain,
    forecast::samples,
    invariants,
    keys::Keys,
    layout::PoolPlan,
    listed, mode, plural, reservations, room,
    usage::{EntryFigures, FamilyFigures, PoolFigures, Usage, signed},
};
use crate::{
    chart_values,
    world::{Network, Pool, World},
};

/// The network's status, if it differs from the present one.
pub fn network(
    draft: &Draft<'_>,
    network: &Network,
    usage: &Usage<'_>,
    keys: Keys,
) -> Option<ClusterNetworkStatus> {
    let users = drain::users(draft);
    let cidrs: Vec<CidrUsage> = usage
        .entries
        .iter()
        .map(|entry| CidrUsage {
            name: entry.entry.clone(),
            cidr: entry.cidr.to_string(),
            capacity: signed(entry.capacity),
            used: signed(entry.used),
            held: signed(entry.held),
            reserved: signed(entry.reserved),
            free: signed(entry.free),
            draining: entry.draining,
            forecast: room::of_entry(entry, &network.status.cidrs),
            samples: samples(&network.status.cidrs, entry, draft.now),
            used_by: users
                .get(entry.entry.as_str())
                .into_iter()
                .flatten()
                .map(|node| (*node).to_owned())
                .collect(),
        })
        .collect();
    let first = room::first_exhausted(draft, usage, network.status.forecast.as_ref());
    let mut accepted = draft.layout.problems.clone();
    accepted.extend(node_address_problem(draft));
    accepted.extend(reservations::out_of_reach(draft));
    let mut conditions = vec![
        claim(kind::ACCEPTED, first_of(accepted), "the network is in force"),
        claim(kind::ALLOCATED, waiting(usage), allocated(usage)),
        claim(kind::HAS_ROOM, room::network_problem(first.as_ref()), room::AMPLE),
        claim(
            kind::CONSISTENT,
            first_of(invariants::problems(draft, usage)),
            "leases, entries and podCIDRs agree",
        ),
        draining(draft),
        progressing(draft, None),
    ];
    let Keys { status: wireguard_keys, problem: rotating, .. } = keys;
    if wireguard_keys.is_some() {
        conditions.push(claim(kind::KEYS_CURRENT, rotating, "all nodes use keys of one generation"));
    }
    conditions.extend(sealed(draft, None, draft.layout.spec.default_backend.kind));
    conditions.extend(chart_condition(draft.world, chart_values::NETWORK));
    let preferred = || usage.entries.first().map(|entry| entry.cidr.family());
    let family = first.as_ref().and_then(|first| first.family).or_else(preferred);
    let sum = |figure: fn(&EntryFigures) -> u64| {
        let entries = usage.entries.iter().filter(|entry| Some(entry.cidr.family()) == family);
        signed(entries.map(figure).sum())
    };
    let status = ClusterNetworkStatus {
        observed_generation: network.generation,
        pod_cidr_mode: Some(draft.mode),
        pod_cidr_mode_since: Some(Time(mode::in_force_since(draft.mode, &network.status, draft.now))),
        family,
        capacity: sum(|entry| entry.capacity),
        used: sum(|entry| entry.used),
        held: sum(|entry| entry.held),
        reserved: sum(|entry| entry.reserved),
        free: sum(|entry| entry.free),
        forecast: first.map(|first| first.forecast),
        conditions: dated(conditions, &network.status.conditions, network.generation, draft.now),
        cidrs,
        transition: transition(draft, None),
        wireguard_keys,
    };
    (status != network.status).then_some(status)
}

/// The status of a network whose spec can't be read: what was known stays.
pub fn unreadable_network(network: &Network, error: &str, now: Timestamp) -> Option<ClusterNetworkStatus> {
    let problem = Problem::new(reason::INVALID_VALUES, format!("the spec can't be read: {error}"));
    let claims = vec![claim(kind::ACCEPTED, Some(problem), "")];
    let status = ClusterNetworkStatus {
        conditions: dated(claims, &network.status.conditions, network.generation, now),
        ..network.status.clone()
    };
    (status != network.status).then_some(status)
}

/// Pool statuses that differ from the present ones, by name.
pub fn pools(draft: &Draft<'_>, usage: &Usage<'_>) -> BTreeMap<String, NetworkPoolStatus> {
    let mut statuses = BTreeMap::new();
    for pool in draft.world.pools.iter() {
        let place = draft.layout.pools.iter().position(|plan| plan.pool.meta.name == pool.meta.name);
        let status = match place.and_then(|place| Some((place, draft.layout.pools.get(place)?))) {
            Some((place, plan)) => pool_status(draft, usage, place, plan),
            None => unreadable_pool(draft, pool),
        };
        if status != pool.status {
            statuses.insert(pool.meta.name.clone(), status);
        }
    }
    statuses
}

fn pool_status(draft: &Draft<'_>, usage: &Usage<'_>, place: usize, plan: &PoolPlan<'_>) -> NetworkPoolStatus {
    let name = plan.pool.meta.name.as_str();
    let figures = usage.pools.iter().find(|figures| figures.pool == name);
    let nodes = figures.map_or(0, |figures| signed(figures.nodes));
    let scarcest = figures.and_then(PoolFigures::scarcest);
    let family = scarcest.map(|figures| figures.family);
    let blocks = |get: fn(&FamilyFigures) -> u64| scarcest.map_or(0, |figures| signed(get(figures)));
    let accepted = match first_of(plan.problems.clone()) {
        Some(problem) => claim(kind::ACCEPTED, Some(problem), ""),
        None if nodes == 0 => Claim {
            kind: kind::ACCEPTED,
            holds: true,
            problem: Problem::new(
                reason::NO_NODES,
                "no node is in the pool: see spec.nodeSelector and priority",
            ),
        },
        None => claim(kind::ACCEPTED, None, "the pool is in force"),
    };
    let tie = usage.ties.get(&place).and_then(|rival| draft.layout.pools.get(*rival)).map(|rival| {
        Problem::new(
            reason::SAME_PRIORITY,
            format!(
                "pool {} selects some of the same nodes with the same priority {}: the first name has them; \
                 give one of the pools a higher priority",
                rival.pool.meta.name, plan.spec.priority
            ),
        )
    });
    let waiting = usage.waiting_in.get(&Some(place)).map(|nodes| {
        let reasons = usage.waiting.iter();
        let reason = reasons
            .filter(|(_, all)| nodes.iter().any(|node| all.contains(node)))
            .map(|(reason, _)| *reason)
            .min_by_key(|reason| urgency(reason));
        let reason = reason.unwrap_or(reason::EXHAUSTED);
        Problem::new(reason, format!("{} without a lease: {}", plural(nodes.len(), "node"), listed(nodes)))
    });
    let before = plan.pool.status.forecast.room;
    let forecast = figures.map(|figures| figures.outlook().forecast(before)).unwrap_or_default();
    let room = figures.and_then(|figures| room::pool_problem(&forecast, figures, &plan.spec.cidrs));
    let mut conditions = vec![
        accepted,
        claim(kind::ALLOCATED, waiting, "every node of the pool has its leases"),
        claim(kind::HAS_ROOM, room, room::AMPLE),
        claim(kind::CONSISTENT, tie, "no other pool of this priority selects its nodes"),
        progressing(draft, Some(place)),
    ];
    conditions.extend(sealed(draft, Some(place), plan.spec.backend.kind));
    conditions.extend(chart_condition(draft.world, &chart_values::pool_key(name)));
    NetworkPoolStatus {
        observed_generation: plan.pool.generation,
        nodes,
        leases: figures.map_or(0, |figures| signed(figures.leases)),
        family,
        capacity: blocks(|figures| figures.capacity),
        used: blocks(|figures| figures.used),
        held: blocks(|figures| figures.held),
        reserved: blocks(|figures| figures.reserved),
        free: blocks(|figures| figures.free),
        forecast,
        transition: transition(draft, Some(place)),
        conditions: dated(conditions, &plan.pool.status.conditions, plan.pool.generation, draft.now),
    }
}

fn transition(draft: &Draft<'_>, place: Option<usize>) -> Option<TransitionStatus> {
    draft.transitions.progress.get(&place).map(|progress| progress.status.clone())
}

fn progressing(draft: &Draft<'_>, place: Option<usize>) -> Claim {
    match draft.transitions.progress.get(&place) {
        Some(progress) => Claim { kind: kind::PROGRESSING, holds: true, problem: progress.problem.clone() },
        None => Claim {
            kind: kind::PROGRESSING,
            holds: false,
            problem: Problem::new(reason::OK, "no node is changing its backend"),
        },
    }
}

fn draining(draft: &Draft<'_>) -> Claim {
    let progress = drain::progress(draft);
    let holds = progress.is_some();
    let none = || Problem::new(reason::OK, "no entry is being drained");
    Claim { kind: kind::DRAINING, holds, problem: progress.unwrap_or_else(none) }
}

/// Whether nodes that are to encrypt take nothing in clear; nothing, where they are not.
fn sealed(draft: &Draft<'_>, place: Option<usize>, backend: BackendType) -> Option<Claim> {
    let problem = draft.transitions.unsealed(place).then(|| {
        Problem::new(
            reason::MOVING,
            format!(
                "not every node has said yet that it sends by {backend}: packets in clear are still taken"
            ),
        )
    });
    let otherwise = "nothing is taken in clear from any pair of these nodes";
    backend.encrypts().then(|| claim(kind::SEALED, problem, otherwise))
}

fn unreadable_pool(draft: &Draft<'_>, pool: &Pool) -> NetworkPoolStatus {
    let error = pool.spec.as_ref().err().cloned().unwrap_or_default();
    let problem = Problem::new(reason::INVALID_VALUES, format!("the spec can't be read: {error}"));
    let claims = vec![claim(kind::ACCEPTED, Some(problem), "")];
    NetworkPoolStatus {
        observed_generation: pool.generation,
        conditions: dated(claims, &pool.status.conditions, pool.generation, draft.now),
        ..NetworkPoolStatus::default()
    }
}

fn node_address_problem(draft: &Draft<'_>) -> Option<Problem> {
    draft.world.nodes.iter().find_map(|node| {
        let (address, entry) = node.addresses.iter().find_map(|address| {
            let entry = draft.layout.entries.iter().find(|entry| entry.cidr.contains(*address))?;
            Some((address, entry))
        })?;
        Some(Problem::new(
            reason::OVERLAPS_NODE_ADDRESS,
            format!(
                "entry {} ({}) contains {address} of node {}: the block around it is not leased; append an entry \
                 that no node's address is in, and drain this one",
                entry.name, entry.cidr, node.meta.name
            ),
        ))
    })
}

fn waiting(usage: &Usage<'_>) -> Option<Problem> {
    let (reason, nodes) = usage.waiting.iter().min_by_key(|(reason, _)| urgency(reason))?;
    Some(Problem::new(reason, format!("{} without a lease: {}", plural(nodes.len(), "node"), listed(nodes))))
}

/// What is said where no node waits.
fn allocated(usage: &Usage<'_>) -> &'static str {
    if usage.is_pending {
        "every node has its leases, or is about to get them"
    } else {
        "every node has its leases"
    }
}

/// Which of several reasons is told first.
fn urgency(reason: &str) -> u8 {
    match reason {
        reason::EXHAUSTED => 0,
        reason::POD_CIDR_TAKEN => 1,
        reason::POD_CIDR_OUTSIDE => 2,
        reason::POD_CIDR_MISMATCH => 3,
        _ => 4,
    }
}

fn chart_condition(world: &World, key: &str) -> Option<Claim> {
    let outcome = world.chart_outcomes.get(key)?;
    Some(claim(kind::CHART_APPLIED, outcome.clone().err(), "the chart's values are in force"))
}

/// A condition without its times.
struct Claim {
    kind: &'static str,
    holds: bool,
    problem: Problem,
}

fn claim(kind: &'static str, problem: Option<Problem>, otherwise: &str) -> Claim {
    let holds = problem.is_none();
    Claim { kind, holds, problem: problem.unwrap_or_else(|| Problem::new(reason::OK, otherwise)) }
}

/// Several problems in one: the first reason, all messages.
fn first_of(problems: Vec<Problem>) -> Option<Problem> {
    let reason = problems.first()?.reason;
    let messages: Vec<String> = problems.into_iter().map(|problem| problem.message).collect();
    Some(Problem::new(reason, messages.join("; ")))
}

/// Conditions with times: a condition whose status is as before keeps its time.
fn dated(
    claims: Vec<Claim>,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    claims
        .into_iter()
        .map(|Claim { kind, holds, problem }| {
            let status = if holds { "True" } else { "False" };
            let old = before.iter().find(|old| old.type_ == kind && old.status == status);
            Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: problem.reason.to_owned(),
                message: problem.message,
                last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
                observed_generation: generation,
            }
        })
        .collect()
}
