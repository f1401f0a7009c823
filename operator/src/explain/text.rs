//! An explanation for people.

use std::fmt::Write as _;

use tartan_crds::wellknown::NO_POOL;

use crate::decide::{EntryAnswer, Explanation, OtherEntry, PoolAnswer, State, listed};

const WIDTH: usize = 10;

pub fn text(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", headline(explanation));
    for waiting in explanation.waiting.iter().chain(&explanation.remark) {
        let _ = writeln!(text, "  {}: {}", waiting.reason, waiting.message);
    }
    let mut line = |word: &str, line: String| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "  {word:<WIDTH$}{line}");
    };
    for (place, said) in pool(explanation).into_iter().chain(broken_pools(explanation)).enumerate() {
        line(if place == 0 { "pool" } else { "" }, said);
    }
    let others = other_entries(&explanation.other_entries);
    for (place, said) in explanation.entries.iter().map(entry_line).chain(others).enumerate() {
        line(if place == 0 { "entries" } else { "" }, said);
    }
    if let Some(mode) = explanation.pod_cidr_mode {
        let said = match explanation.pod_cidrs.join(", ") {
            none if none.is_empty() => "the Node has none".to_owned(),
            cidrs => format!("the Node has {cidrs}"),
        };
        line("podCIDRs", format!("mode {mode:?}; {said}"));
    }
    for lease in &explanation.leases {
        let entry =
            lease.entry.as_ref().map_or("in no entry".to_owned(), |entry| format!("of entry {entry}"));
        let rank = if lease.primary { "primary" } else { "further" };
        line("lease", format!("{} {entry}, {rank}; {}", lease.subnet, lease.why));
    }
    for growth in &explanation.growth {
        line("growth", growth.clone());
    }
    if let Some(backend) = &explanation.backend {
        let direct = if backend.direct_routing { " with directRouting" } else { "" };
        line("backend", format!("{}{direct}: {}", backend.now, backend.why));
        let accepts: Vec<&str> = backend.accepts.iter().map(|kind| kind.as_str()).collect();
        line("accepts", accepts.join(", "));
        for ending in &backend.ending {
            line("ending", ending.clone());
        }
    }
    for next in &explanation.next {
        line("next", next.clone());
    }
    text
}

fn headline(explanation: &Explanation) -> String {
    let Explanation { node, state, exists, .. } = explanation;
    let in_force = explanation.leases.iter().filter(|lease| !lease.released);
    let subnets: Vec<String> = in_force.map(|lease| lease.subnet.to_string()).collect();
    match (state, exists) {
        (State::Leased, _) => format!("node {node} holds {}", subnets.join(", ")),
        (State::Pending, true) => format!("node {node} is about to get what it needs"),
        (State::Pending, false) => format!("a node {node} with these labels would get what it needs"),
        (State::Waiting, true) if !subnets.is_empty() => {
            format!("node {node} holds {} and waits", subnets.join(", "))
        }
        (State::Waiting, true) => format!("node {node} holds no subnet"),
        (State::Waiting, false) => format!("a node {node} with these labels would get no subnet"),
    }
}

fn pool(explanation: &Explanation) -> Option<String> {
    let others: Vec<&PoolAnswer> =
        explanation.pools.iter().filter(|pool| pool.selects && !pool.has_it).collect();
    let priority = |pool: &PoolAnswer| pool.priority.unwrap_or_default();
    match explanation.pools.iter().find(|pool| pool.has_it) {
        Some(pool) if others.is_empty() => Some(format!("{}: the only one that selects the node", pool.name)),
        Some(pool) => {
            let is_tied = others.iter().any(|other| other.priority == pool.priority);
            let others: Vec<String> =
                others.into_iter().map(|other| format!("{} ({})", other.name, priority(other))).collect();
            Some(format!(
                "{}: it selects the node with priority {}, before {}{}",
                pool.name,
                priority(pool),
                others.join(", "),
                if is_tied { "; of equal priorities the first name has the node" } else { "" }
            ))
        }
        None if explanation.pool == NO_POOL => {
            let all = explanation.pools.len();
            Some(match explanation.pools.iter().filter(|pool| pool.in_force).count() {
                0 if all == 0 => "none: there are no NetworkPools".to_owned(),
                0 => "none: no NetworkPool is in force".to_owned(),
                count if count == all => {
                    format!("none: no nodeSelector of the {count} NetworkPools selects the node")
                }
                count => format!(
                    "none: no nodeSelector of the {count} NetworkPools that are in force selects the node"
                ),
            })
        }
        None => None,
    }
}

/// What is wrong with the node's pool, and with those that it might be in if they were in force.
fn broken_pools(explanation: &Explanation) -> impl Iterator<Item = String> {
    let pools = explanation.pools.iter().filter(|pool| pool.has_it || !pool.in_force);
    pools.flat_map(|pool| {
        pool.problems.iter().map(|told| format!("{}: {}: {}", pool.name, told.reason, told.message))
    })
}

fn entry_line(entry: &EntryAnswer) -> String {
    let EntryAnswer { name, cidr, node_mask_size, draining, capacity, free, used, held, reserved, unfit } =
        entry;
    let left = if *draining {
        "draining, no block of it is given out".to_owned()
    } else {
        format!("{free} of {capacity} free")
    };
    let taken = [
        (used, "used"),
        (held, "held"),
        (reserved, "reserved"),
        (unfit, "met by Services, Nodes or leases of another size"),
    ];
    let taken: Vec<String> = taken
        .into_iter()
        .filter(|(count, _)| **count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let taken = if taken.is_empty() { String::new() } else { format!(" ({})", taken.join(", ")) };
    format!("{name}: {cidr} in blocks of /{node_mask_size}, {left}{taken}")
}

fn other_entries(others: &[OtherEntry]) -> Option<String> {
    let said = |other: &OtherEntry| match &other.claimed_by {
        Some(pool) => format!("{} (claimed by pool {pool})", other.name),
        None => format!("{} (for pools that claim none)", other.name),
    };
    let said: Vec<String> = others.iter().map(said).collect();
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    (!said.is_empty()).then(|| format!("not for this node: {}", listed(&said)))
}
