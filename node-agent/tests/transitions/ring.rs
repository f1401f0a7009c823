//! One pool goes through all backends and back again.

use std::{collections::BTreeSet, time::Duration};

use tartan_crds::{BackendType, NetworkPool, TransitionPhase};
use tartan_lab::vm;

use super::{
    beside::nodes_have,
    scene::{self, Pool, Scene},
    standing::{Standing, let_flow},
    wait_for,
};

/// In an order in which each neighbours what differs most from it. Between those of the kernel nothing may be lost.
pub const RING: &[BackendType] = &[
    BackendType::Vxlan,
    BackendType::HostGw,
    BackendType::Udp,
    BackendType::Ipip,
    BackendType::Wireguard,
    BackendType::Ipsec,
];

const POOL: &str = "all";

#[test]
fn a_pool_goes_round_all_backends_and_back_and_no_more_is_lost_than_may_be() {
    let (can, cannot) = split(RING);
    let way: Vec<_> = can.iter().chain(&can[..1]).chain(can.iter().rev()).copied().collect();
    go(&way, &cannot);
    println!("ring: no more lost than may be");
}

/// Of these what nodes here have, and what they haven't, which in a machine is nothing.
fn split(kinds: &[BackendType]) -> (Vec<BackendType>, Vec<BackendType>) {
    let (can, cannot): (Vec<_>, Vec<_>) = kinds.iter().partition(|kind| nodes_have(**kind));
    assert!(cannot.is_empty() || !vm::is_inside(), "nodes were to have {cannot:?}");
    (can, cannot)
}

/// What nodes here have of these; of the others it is told that the way goes without.
pub fn passable(kinds: &[BackendType]) -> Vec<BackendType> {
    let (can, cannot) = split(kinds);
    for kind in cannot {
        println!("-- NODES HERE HAVE NO {kind}: the way goes without");
    }
    can
}

fn go(way: &[BackendType], cannot: &[BackendType]) {
    // A machine's processors are emulated: with a third node, they would have nothing left for packets.
    let segments: &[usize] = if vm::is_inside() { &[2] } else { &[2, 1] };
    let begin = Pool { name: POOL, nodes: &[1, 2, 3], backend: way[0] };
    let scene = Scene::start(segments, &[begin]);
    let (mut faults, mut dissected) = (vec![], BTreeSet::new());
    let steps: Vec<_> = way.iter().copied().zip(way.iter().copied().skip(1)).collect();
    // Traffic stands from before the first of several steps that may lose nothing to after the last.
    let loses_nothing = |step: &(BackendType, BackendType)| may_lose(*step).is_zero();
    for steps in steps.chunk_by(|one, other| loses_nothing(one) && loses_nothing(other)) {
        let kinds: Vec<_> = steps.iter().flat_map(|(from, to)| [*from, *to]).collect();
        let standing = Standing::by(&kinds, &scene);
        faults.extend(scene.wire_faults(steps[0].0));
        for (from, to) in steps.iter().copied() {
            let changed = scene.change(POOL, from, to);
            println!("-- {from} to {to}: {:?} in {:.1} s", changed.phases, changed.took.as_secs_f64());
            if changed.phases.is_empty() {
                faults.push(format!("{from} to {to}: the pool's status told nothing of it"));
            }
            faults.extend(scene.wire_faults(to));
            if dissected.insert(to) {
                faults.extend(scene.dissect(to));
            }
        }
        let_flow(Duration::from_millis(500));
        let outcome = standing.finish();
        print!("{outcome}");
        faults.extend(outcome.faults(may_lose(steps[0])));
    }
    let last = *way.last().unwrap();
    let standing = (!cannot.is_empty()).then(|| Standing::by(&[last], &scene));
    for kind in cannot.iter().copied() {
        println!(
            "-- NODES HERE HAVE NO {kind}: the ring goes without, and asking for it must change nothing"
        );
        refuse(&scene, last, kind);
        faults.extend(scene.wire_faults(last));
    }
    faults.extend(standing.map(|standing| standing.finish().faults(Duration::ZERO)).unwrap_or_default());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// How long a flow may be without its packets in a change.
pub fn may_lose((from, to): (BackendType, BackendType)) -> Duration {
    let starts_anew = |kind| matches!(kind, BackendType::Udp | BackendType::Ipsec);
    // Their tunnels are made by processes of their own, one end after the other.
    if starts_anew(from) || starts_anew(to) { Duration::from_millis(200) } else { Duration::ZERO }
}

/// A backend that no node can receive is asked for: nothing moves, every node is named, and all is as before when it
/// is taken back.
fn refuse(scene: &Scene, from: BackendType, kind: BackendType) {
    scene.api.merge(&scene::backend(POOL, kind));
    wait_for(&format!("{kind} to be refused"), || {
        let status = scene.api.get::<NetworkPool>(POOL).unwrap().status.unwrap_or_default();
        let waits = status.transition.filter(|now| now.phase == TransitionPhase::Preparing && now.to == kind);
        anyhow::ensure!(waits.is_some_and(|now| now.waiting_for == scene.names()), "it does not wait");
        for name in scene.names() {
            let status = scene.node_network(&name).status.unwrap_or_default();
            anyhow::ensure!(
                status.unavailable == [kind] && status.backend == Some(from),
                "{name}: {status:?}"
            );
        }
        Ok(())
    });
    let_flow(Duration::from_millis(500));
    scene.api.merge(&scene::backend(POOL, from));
    scene.wait_until_settled(POOL, kind, from);
}
