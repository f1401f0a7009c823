//! A change that is interrupted at each of its steps: by the death of the operator or an agent, by an API server that
//! is away, by a node that is switched off, by an administrator who takes it back. The old path is not lost, traffic
//! notices nothing, and in the end all is as asked.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tartan_crds::{BackendType, NetworkPool, TransitionPhase};
use tartan_lab::vm;

use super::{
    ring::may_lose,
    scene::{self, Pool, Scene},
    standing::{Standing, let_flow},
    wait_for,
};

pub const POOL: &str = "all";

const PHASES: [TransitionPhase; 3] =
    [TransitionPhase::Preparing, TransitionPhase::Moving, TransitionPhase::Finishing];

/// From, and to, which no node receives before it is asked to, and encrypts.
fn ends() -> (BackendType, BackendType) {
    let from = if vm::is_inside() { BackendType::Ipip } else { BackendType::Vxlan };
    (from, BackendType::Wireguard)
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_that_is_interrupted_at_each_step_loses_nothing_and_ends_as_asked() {
    at_each_step(ends(), CONTROL);
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_to_udp_that_is_interrupted_at_each_step_ends_as_asked() {
    at_each_step((BackendType::HostGw, BackendType::Udp), CONTROL);
}

/// Before anything goes by it nobody notices, and at no step a connection is lost.
#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_change_to_udp_bears_the_death_of_a_forwarder_at_each_step() {
    at_each_step((BackendType::HostGw, BackendType::Udp), FORWARDER);
}

/// What happens in the middle of a change.
#[derive(Clone, Copy)]
pub struct Disturbance {
    what: &'static str,
    happens: fn(&mut Scene),
    /// How long what goes by the backend that is changed to may be silent each time.
    silent: Duration,
}

pub const CONTROL: Disturbance = Disturbance {
    what: "operator and agent killed, API server away",
    happens: lose_control,
    silent: Duration::ZERO,
};
/// Until the next one has its queues.
const FORWARDER: Disturbance = Disturbance {
    what: "a forwarder killed",
    happens: replace_forwarder,
    silent: Duration::from_millis(200),
};

impl Disturbance {
    /// A change that is interrupted twice, and what is done before and after it, may together lose as much as one that is
    /// not, and what two disturbances cost what goes by the backend by then.
    fn check(self, standing: Standing, ends: (BackendType, BackendType), is_used: bool) -> Vec<String> {
        let outcome = standing.finish();
        print!("{outcome}");
        outcome.faults(may_lose(ends) + if is_used { self.silent * 2 } else { Duration::ZERO })
    }
}

/// From, and to.
pub fn at_each_step((from, to): (BackendType, BackendType), disturbance: Disturbance) {
    let mut scene = Scene::start(&[2, 1], &[Pool { name: POOL, nodes: &[1, 2, 3], backend: from }]);
    for node in scene.fabric.nodes() {
        // The kernel's WireGuard turns it off, and it stays so until `cleanup`.
        node.exec(&["sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0"]).unwrap().ok().unwrap();
    }
    let mut faults = vec![];
    for phase in PHASES {
        let standing = Standing::start(&scene, &scene.names());
        faults.extend(interrupt(&mut scene, (from, to), phase, disturbance));
        scene.change(POOL, to, from);
        faults.extend(disturbance.check(standing, (from, to), phase != TransitionPhase::Preparing));
    }
    // The way out; of what encrypts, no node may send in clear before the others take it.
    let standing = Standing::start(&scene, &scene.names());
    scene.change(POOL, from, to);
    faults.extend(interrupt(&mut scene, (to, from), TransitionPhase::Moving, disturbance));
    faults.extend(disturbance.check(standing, (from, to), true));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A change is interrupted there twice: taken back, and brought to its end. What is wrong on the wire afterwards.
fn interrupt(
    scene: &mut Scene,
    (from, to): (BackendType, BackendType),
    phase: TransitionPhase,
    disturbance: Disturbance,
) -> Vec<String> {
    println!("-- {from} to {to}, {} while {phase:?}, and taken back", disturbance.what);
    let before = scene.views();
    let held = hold(scene, to, phase);
    (disturbance.happens)(scene);
    assert_held(scene, to, phase);
    scene.api.merge(&scene::backend(POOL, from));
    release(scene, held);
    scene.wait_until_settled(POOL, to, from);
    scene.wait_until_as(&before);
    let mut faults = scene.wire_faults(from);

    println!("-- the same, and brought to its end");
    let held = hold(scene, to, phase);
    (disturbance.happens)(scene);
    assert_held(scene, to, phase);
    release(scene, held);
    scene.wait_until_settled(POOL, from, to);
    faults.extend(scene.wire_faults(to));
    faults
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_node_that_is_off_is_waited_for_and_the_others_lose_nothing() {
    let (from, to) = ends();
    let mut scene = Scene::start(&[2, 1], &[Pool { name: POOL, nodes: &[1, 2, 3], backend: from }]);
    let mut standing = Standing::start(&scene, &scene.names());
    let mut faults = vec![];
    for phase in PHASES {
        println!("-- {from} to {to}, and node3 is off while {phase:?}");
        let held = hold(&scene, to, phase);
        standing.forget("node3");
        scene.power_off("node3");
        let_flow(Duration::from_secs(1));
        if held != "node3" {
            release(&scene, held);
        }
        // It received the new one before, except in the first of these phases.
        if phase == TransitionPhase::Preparing {
            assert_held(&scene, to, phase);
        }
        scene.power_on("node3");
        scene.wait_until_settled(POOL, from, to);
        scene.wait_until_services_are_known();
        let outcome = standing.finish();
        print!("{outcome}");
        faults.extend(outcome.faults(may_lose((from, to))));
        // The node is whole again.
        standing = Standing::start(&scene, &scene.names());
        faults.extend(scene.wire_faults(to));
        scene.change(POOL, to, from);
    }
    let outcome = standing.finish();
    faults.extend(outcome.faults(may_lose((from, to))));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Asks for `to` and stops the agent of one node, so that the change gets to this step and no further. The answer is
/// that node.
pub fn hold(scene: &Scene, to: BackendType, phase: TransitionPhase) -> &'static str {
    let ask = |paused: bool, in_flight: u32| {
        scene.api.merge(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": POOL },
            "spec": {
                "backend": { "type": to }, "transition": { "paused": paused, "maxInFlight": in_flight },
            },
        }));
    };
    let held = if phase == TransitionPhase::Moving { "node1" } else { "node3" };
    if phase != TransitionPhase::Preparing {
        // All set up reception, and none of them takes nothing in clear where they are to send so: nothing is waited for
        // any more when one of them is deaf.
        ask(true, 1);
        wait_for("all nodes to be prepared", || {
            for name in scene.names() {
                let status = scene.node_network(&name).status.unwrap_or_default();
                anyhow::ensure!(status.receives.contains(&to), "{name}: {status:?}");
                anyhow::ensure!(to.encrypts() || status.sealed_peers == 0, "{name}: {status:?}");
            }
            let object = scene.api.get::<NetworkPool>(POOL).unwrap();
            let now = object.status.and_then(|status| status.transition);
            let is_prepared = now.as_ref().is_some_and(|now| now.to == to && now.waiting_for.is_empty());
            anyhow::ensure!(is_prepared, "{now:?}");
            Ok(())
        });
    }
    scene.signal_agent(held, Signal::SIGSTOP);
    ask(false, if phase == TransitionPhase::Moving { 1 } else { 50 });
    assert_held(scene, to, phase);
    held
}

pub fn release(scene: &Scene, held: &str) {
    scene.signal_agent(held, Signal::SIGCONT);
}

pub fn assert_held(scene: &Scene, to: BackendType, phase: TransitionPhase) {
    wait_for(&format!("the change to stand at {phase:?}"), || {
        let object = scene.api.get::<NetworkPool>(POOL).unwrap();
        let now = object.status.and_then(|status| status.transition);
        let stands = now.as_ref().is_some_and(|now| now.phase == phase && now.to == to);
        anyhow::ensure!(stands, "it is {now:?}");
        Ok(())
    });
}

fn lose_control(scene: &mut Scene) {
    scene.kill_operator();
    let_flow(Duration::from_millis(300));
    scene.start_operator();
    scene.kill_agent("node2");
    let_flow(Duration::from_millis(300));
    scene.start_agent("node2");
    scene.fabric.cut_control().unwrap();
    // An agent that starts while nobody answers.
    scene.kill_agent("node2");
    scene.start_agent("node2");
    let_flow(Duration::from_secs(2));
    scene.fabric.restore_control().unwrap();
    scene.wait_until_ready("node2");
}

fn replace_forwarder(scene: &mut Scene) {
    scene.replace_forwarder("node2");
    let_flow(Duration::from_secs(1));
}
