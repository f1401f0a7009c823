//! Every change from one backend to another, measured one by one: how long it takes and what each class of traffic
//! loses. [`super::machine::page`] makes docs/switch-matrix.md of it.

use std::{collections::BTreeMap, time::Duration};

use tartan_crds::BackendType;

use super::{
    beside::nodes_have,
    ring::may_lose,
    scene::{Pool, Scene},
    standing::{CLASSES, Standing, Sum, let_flow},
};

const POOL: &str = "all";

/// On one segment.
pub const NODES: [usize; 2] = [1, 2];

pub const MEASURED: &[BackendType] = &[
    BackendType::Vxlan,
    BackendType::HostGw,
    BackendType::Ipip,
    BackendType::Wireguard,
    BackendType::Udp,
    BackendType::Ipsec,
];

/// What a row begins with on the console.
pub const MARK: &str = "switch-matrix ";
/// And what a fault does.
pub const FAULT: &str = "switch-fault: ";
/// And the last line.
pub const VERDICT: &str = "switch-verdict: ";

#[test]
#[ignore = "minutes: cargo xtask test --full runs it"]
fn every_change_is_measured() {
    let Measured { rows, faults } = measure();
    faults.iter().for_each(|fault| println!("{FAULT}{}", fault.replace('\n', "; ")));
    println!("{VERDICT}{} changes, {} faults", rows.len(), faults.len());
}

/// Rows of the page, and what was lost that may not be.
pub struct Measured {
    pub rows: Vec<String>,
    pub faults: Vec<String>,
}

/// Between all backends that nodes here have.
pub fn measure() -> Measured {
    let kinds: Vec<BackendType> = MEASURED.iter().copied().filter(|kind| nodes_have(*kind)).collect();
    let way = way(&kinds);
    let scene = Scene::start(&[NODES.len()], &[Pool { name: POOL, nodes: &NODES, backend: way[0] }]);
    let mut measured = Measured { rows: vec![], faults: vec![] };
    for (from, to) in way.iter().zip(way.iter().skip(1)) {
        let standing = Standing::whole(&scene);
        let_flow(Duration::from_millis(500));
        let changed = scene.change(POOL, *from, *to);
        let_flow(Duration::from_millis(500));
        let outcome = standing.finish();
        let sums = outcome.sums();
        let lost: Vec<String> = CLASSES.map(|class| sums[&class].packets.to_string()).into();
        let Sum { sent, segments, connections, delay, .. } = outcome.total();
        let row = format!(
            "| {from} | {to} | {:.1} | {sent} | {} | {segments} | {connections} | {delay} |",
            changed.took.as_secs_f64(),
            lost.join(" | ")
        );
        println!("{MARK}{row}");
        measured.rows.push(row);
        let own = outcome.faults(may_lose((*from, *to)));
        measured.faults.extend(own.into_iter().map(|fault| format!("{from} to {to}: {fault}")));
    }
    measured
}

/// Along which each backend is left for each other exactly once, and which ends where it began.
fn way(kinds: &[BackendType]) -> Vec<BackendType> {
    let mut way = vec![];
    walk(kinds, &mut way);
    way
}

/// From the first to each other and back; on its way to the second, through all that the second leads to.
fn walk(kinds: &[BackendType], way: &mut Vec<BackendType>) {
    let Some((first, rest)) = kinds.split_first() else { return };
    way.push(*first);
    for (place, other) in rest.iter().enumerate() {
        if place == 0 {
            walk(rest, way);
        } else {
            way.push(*other);
        }
        way.push(*first);
    }
}

#[test]
fn the_way_has_every_ordered_pair_once() {
    let way = way(MEASURED);
    let mut steps: BTreeMap<(BackendType, BackendType), usize> = BTreeMap::new();
    for pair in way.windows(2) {
        *steps.entry((pair[0], pair[1])).or_default() += 1;
    }
    assert_eq!(steps.len(), MEASURED.len() * (MEASURED.len() - 1));
    assert!(steps.values().all(|times| *times == 1), "{steps:?}");
}
