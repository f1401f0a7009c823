//! An explanation for people.

use std::fmt::Write as _;

use tartan_crds::wellknown::NO_POOL;

use crate::decide::{EntryAnswer, Explanation, PoolAnswer, State};

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
    if let Some(pool) = pool(explanation) {
        line("pool", pool);
    }
    for (place, entry) in explanation.entries.iter().enumerate() {
        line(if place == 0 { "entries" } else { "" }, entry_line(entry));
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
    if let Some(backend) = &explanation.backend {
        let direct = if backend.direct_routing { " with directRouting" } else { "" };
        line("backend", format!("{}{direct}: {}", backend.now, backend.why));
        let accepts: Vec<&str> = backend.accepts.iter().map(|kind| kind.as_str()).collect();
        line("accepts", accepts.join(", "));
    }
    for next in &explanation.next {
        line("next", next.clone());
    }
    text
}

fn headline(explanation: &Explanation) -> String {
    let Explanation { node, state, exists, .. } = explanation;
    let subnets: Vec<String> = explanation.leases.iter().map(|lease| lease.subnet.to_string()).collect();
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
    let others: Vec<String> = explanation
        .pools
        .iter()
        .filter(|pool| pool.selects && !pool.has_it)
        .map(|pool: &PoolAnswer| format!("{} ({})", pool.name, pool.priority))
        .collect();
    let has_it = explanation.pools.iter().find(|pool| pool.has_it);
    match has_it {
        Some(pool) if others.is_empty() => Some(format!("{}: the only one that selects the node", pool.name)),
        Some(pool) => Some(format!(
            "{}: it selects the node with priority {}, before {}",
            pool.name,
            pool.priority,
            others.join(", ")
        )),
        None if explanation.pool == NO_POOL => Some(match explanation.pools.len() {
            0 => "none: there are no NetworkPools".to_owned(),
            count => format!("none: no nodeSelector of the {count} NetworkPools selects the node"),
        }),
        None => None,
    }
}

fn entry_line(entry: &EntryAnswer) -> String {
    let EntryAnswer { name, cidr, node_mask_size, draining, capacity, free } = entry;
    let left = if *draining {
        "draining, no block of it is given out".to_owned()
    } else {
        format!("{free} of {capacity} free")
    };
    format!("{name}: {cidr} in blocks of /{node_mask_size}, {left}")
}
