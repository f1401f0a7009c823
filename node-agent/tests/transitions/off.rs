//! A node is off from before a change begins: no agent, no link, no pod that answers. The change waits for it and names
//! it, goes on without it past the administrator's deadline, or is taken back. The others notice nothing, and the node
//! that comes back, and has seen nothing of it, is found by whatever all send by then.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tartan_crds::{
    BackendType, LeaseBackend, NetworkPool, TransitionPhase, TransitionStatus,
    conditions::{kind, reason},
};
use tartan_lab::vm;

use super::{
    mixed::verdicts,
    ring::may_lose,
    scene::{Pool, Scene},
    standing::{Standing, let_flow},
    wait_for,
};

const POOL: &str = "all";
const OFF: &str = "node3";
const NODES: [usize; 3] = [1, 2, 3];

/// From, and to, which no node receives before it is asked to: each begins where the one before ends, and the last
/// encrypts.
fn changes() -> &'static [(BackendType, BackendType)] {
    if vm::is_inside() {
        &[(BackendType::Ipip, BackendType::Wireguard)]
    } else {
        &[
            (BackendType::Vxlan, BackendType::Udp),
            (BackendType::Udp, BackendType::HostGw),
            (BackendType::HostGw, BackendType::Wireguard),
        ]
    }
}

/// The one that encrypts.
fn encrypting() -> (BackendType, BackendType) {
    *changes().last().unwrap()
}

/// Path and reason of a pair of which one end was passed over: nothing in clear stands in for what encrypts.
fn passed_over(to: BackendType) -> (&'static str, &'static str) {
    if to.encrypts() { ("none", "no-endpoint") } else { ("vxlan", "interim") }
}

/// How long the administrator lets the others wait: longer than nodes that are on need to prepare, which would else have
/// no path to each other while they do.
pub const DEADLINE: Duration = Duration::from_secs(10);

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_waits_for_a_node_that_is_off_and_names_it_and_the_others_lose_nothing() {
    let (from, to) = encrypting();
    let mut scene = start(from);
    let standing = Standing::start(&scene, &others());
    turn_off(&mut scene);
    println!("-- {from} to {to}, and {OFF} is off");
    scene.api.merge(&ask(to, None));
    wait_until_it_waits(&scene, to);
    let (why, message) = progressing(&scene);
    assert_eq!(why, reason::WAITING_FOR_RECEPTION, "{message}");
    for part in [OFF, "spec.transition.deadline"] {
        assert!(message.contains(part), "{message}");
    }
    // Nobody grows impatient: nothing has moved, and nothing does.
    let_flow(Duration::from_secs(2));
    let mut faults = scene.wire_faults_of(&others(), from);
    wait_until_it_waits(&scene, to);
    assert!(lease_backends(&scene).values().all(|backend| backend.kind == from));
    for name in others() {
        let status = scene.node_network(&name).status.unwrap_or_default();
        assert!(status.backend == Some(from) && status.receives.contains(&to), "{name}: {status:?}");
    }

    // It goes on by itself.
    faults.extend(come_back(&mut scene, standing, from, to));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn past_the_deadline_the_others_go_on_without_a_node_that_is_off_and_it_is_found_by_the_new_backend() {
    let mut scene = start(changes()[0].0);
    let mut faults = vec![];
    for (from, to) in changes().iter().copied() {
        println!("-- {from} to {to} with a deadline, and {OFF} is off");
        let standing = Standing::start(&scene, &others());
        turn_off(&mut scene);
        scene.api.phases(POOL);
        let asked = Instant::now();
        scene.api.merge(&ask(to, Some(DEADLINE)));
        wait_until_passed_over(&scene, to);
        // Times in the API are of whole seconds.
        let waited = asked.elapsed();
        assert!(waited + Duration::from_secs(1) >= DEADLINE, "the others waited for {waited:?} only");
        let phases = scene.api.phases(POOL);
        let ends = (phases.first(), phases.last());
        assert_eq!(ends, (Some(&TransitionPhase::Preparing), Some(&TransitionPhase::Finishing)));
        // The others have the new path, and to the node that is off none, or one that stands in.
        for (node, other) in [(1, 2), (2, 1)] {
            wait_for_path(&scene, node, other, by(to));
            wait_for_path(&scene, node, 3, passed_over(to));
        }
        let_flow(Duration::from_secs(1));

        faults.extend(come_back(&mut scene, standing, from, to));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_that_is_taken_back_while_a_node_is_off_leaves_all_as_it_was() {
    let (from, to) = encrypting();
    let mut scene = start(from);
    let before = lease_backends(&scene);
    let mut faults = vec![];
    // While it waits for the node, and when it has gone on without it.
    for deadline in [None, Some(DEADLINE)] {
        println!("-- {from} to {to}, deadline {deadline:?}, taken back while {OFF} is off");
        let standing = Standing::start(&scene, &others());
        turn_off(&mut scene);
        scene.api.merge(&ask(to, deadline));
        match deadline {
            None => wait_until_it_waits(&scene, to),
            Some(_) => wait_until_passed_over(&scene, to),
        }
        // Once all encrypt it may hold them for sealed: past the deadline the way out does not wait for it either.
        scene.api.merge(&ask(from, deadline));
        wait_for("all to be told to send as before", || {
            let object: NetworkPool = scene.api.get(POOL).unwrap();
            let now = object.status.unwrap_or_default().transition;
            anyhow::ensure!(now.is_none(), "{now:?}");
            let kinds: Vec<BackendType> =
                scene.leases().iter().map(|lease| lease.spec.backend.kind).collect();
            anyhow::ensure!(kinds.iter().all(|kind| *kind == from), "{kinds:?}");
            Ok(())
        });
        faults.extend(scene.wire_faults_of(&others(), from));

        // What that one might still send by is received until it is back and has heard that it shall not.
        faults.extend(come_back(&mut scene, standing, to, from));
        wait_for("the leases to say what they did", || {
            let now = lease_backends(&scene);
            anyhow::ensure!(now == before, "{now:?}, and before {before:?}");
            Ok(())
        });
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn start(from: BackendType) -> Scene {
    let scene = Scene::start(&[3], &[Pool { name: POOL, nodes: &NODES, backend: from }]);
    for name in scene.names() {
        kubelet_says(&scene, &name, "True");
    }
    scene
}

fn others() -> Vec<String> {
    NODES.map(|number| format!("node{number}")).into_iter().filter(|name| name != OFF).collect()
}

/// As it would be in a cluster: the pace of the others hangs on it.
fn kubelet_says(scene: &Scene, node: &str, ready: &str) {
    scene.api.apply_status(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": node },
        "status": { "conditions": [{ "type": "Ready", "status": ready }] },
    }));
}

fn turn_off(scene: &mut Scene) {
    scene.power_off(OFF);
    kubelet_says(scene, OFF, "Unknown");
}

fn turn_on(scene: &mut Scene) {
    scene.power_on(OFF);
    kubelet_says(scene, OFF, "True");
}

/// An edit of the pool: without `deadline`, for ever.
fn ask(to: BackendType, deadline: Option<Duration>) -> Value {
    let deadline = deadline.map(|deadline| format!("{}s", deadline.as_secs()));
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": POOL },
        "spec": { "backend": { "type": to }, "transition": { "maxInFlight": 1, "deadline": deadline } },
    })
}

fn transition(scene: &Scene) -> Option<TransitionStatus> {
    scene.api.get::<NetworkPool>(POOL).unwrap().status.unwrap_or_default().transition
}

/// Reason and message.
fn progressing(scene: &Scene) -> (String, String) {
    let status = scene.api.get::<NetworkPool>(POOL).unwrap().status.unwrap_or_default();
    let found = status.conditions.into_iter().find(|condition| condition.type_ == kind::PROGRESSING);
    found.map(|found| (found.reason, found.message)).unwrap_or_default()
}

/// For that node and no other.
fn wait_until_it_waits(scene: &Scene, to: BackendType) {
    wait_for(&format!("the change to wait for {OFF}"), || {
        let now = transition(scene);
        let waits = now.as_ref().is_some_and(|now| {
            let TransitionStatus { nodes, receiving, moved, .. } = *now;
            (now.to, now.phase) == (to, TransitionPhase::Preparing)
                && (nodes, receiving, moved) == (3, 2, 0)
                && now.waiting_for == [OFF]
        });
        anyhow::ensure!(waits, "{now:?}");
        Ok(())
    });
}

/// The others are through, and the node is named.
fn wait_until_passed_over(scene: &Scene, to: BackendType) {
    wait_for(&format!("{OFF} to be passed over"), || {
        let (now, (_, message)) = (transition(scene), progressing(scene));
        let left = now.as_ref().is_some_and(|now| {
            (now.to, now.phase) == (to, TransitionPhase::Finishing)
                && now.moved == 3
                && now.waiting_for == [OFF]
        });
        let told = message.ends_with(&format!("past the deadline and not waited for: {OFF}"));
        anyhow::ensure!(left && told, "{now:?}: {message}");
        for name in others() {
            let status = scene.node_network(&name).status.unwrap_or_default();
            anyhow::ensure!(status.backend == Some(to), "{name}: {status:?}");
        }
        Ok(())
    });
}

fn lease_backends(scene: &Scene) -> BTreeMap<String, LeaseBackend> {
    let leases = scene.leases().into_iter();
    leases.map(|lease| (lease.spec.node_name, lease.spec.backend)).collect()
}

/// Path and reason where both ends send by it, on one link.
fn by(kind: BackendType) -> (&'static str, &'static str) {
    (if kind == BackendType::HostGw { "direct" } else { kind.as_str() }, "same-backend")
}

/// By the word of the agent of node `from`.
fn wait_for_path(scene: &Scene, from: usize, to: usize, expected: (&str, &str)) {
    wait_for(&format!("node{from}'s path to node{to} to be {expected:?}"), || {
        let verdicts = verdicts(scene, from)?;
        let found = verdicts.iter().find(|(node, _)| *node == to).map(|(_, verdict)| verdict);
        let is_it = found.is_some_and(|(path, reason)| (path.as_str(), reason.as_str()) == expected);
        anyhow::ensure!(is_it, "it is {found:?}");
        Ok(())
    });
}

/// All nodes are on, and every pair goes by `kind`: what the API says of one that was off is old at first.
fn wait_until_whole(scene: &Scene, away: BackendType, kind: BackendType) {
    for from in NODES {
        for to in NODES.into_iter().filter(|to| *to != from) {
            wait_for_path(scene, from, to, by(kind));
        }
    }
    scene.wait_until_settled(POOL, away, kind);
    scene.wait_until_services_are_known();
}

/// The node is on again, after a change that left all with `to`: what the others lost, and what is wrong with the whole.
fn come_back(scene: &mut Scene, standing: Standing, from: BackendType, to: BackendType) -> Vec<String> {
    turn_on(scene);
    wait_until_whole(scene, from, to);
    let outcome = standing.finish();
    print!("{outcome}");
    let mut faults = outcome.faults(may_lose((from, to)));
    faults.extend(faults_of_all(scene, to));
    faults
}

/// Every flow between all nodes is answered, and what is on the wire is `kind`'s.
fn faults_of_all(scene: &Scene, kind: BackendType) -> Vec<String> {
    let standing = Standing::start(scene, &scene.names());
    let mut faults = scene.wire_faults(kind);
    faults.extend(standing.finish().faults(may_lose((kind, kind))));
    faults
}
