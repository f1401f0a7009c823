//! The IKE daemon of a node is killed in the middle of a change to ipsec, and of one from it, and only started again when
//! the nodes have gone on as far as they get. What worked goes on meanwhile, nothing goes in clear that didn't before,
//! and with the daemon the change comes to its end.

use std::time::Duration;

use serde_json::json;
use tartan_crds::{
    BackendType::{self, Ipip, Ipsec, Vxlan, Wireguard},
    TransitionPhase::Moving,
};

use super::{
    interrupted::{CONTROL, POOL, assert_held, at_each_step, hold, release},
    ring::may_lose,
    scene::{self, Pool, Scene},
    sealed::assert_sealed,
    standing::{Standing, let_flow},
    wait_for,
};

/// Whose daemon dies; the agent of the other is held.
const NODE: &str = "node2";

/// Daemons talk, and are not heard: no pair has an association.
const WALL: &str = "nft 'table inet wall { chain c { type filter hook prerouting priority -350; udp dport { 500, 4500 } drop; }; }'";

/// The daemons go on while agents, operator and API server come and go.
#[test]
#[ignore = "needs a kernel with IPsec: machine.rs runs it in one"]
fn a_change_to_ipsec_that_is_interrupted_at_each_step_loses_little_and_ends_as_asked() {
    at_each_step((Ipip, Ipsec), CONTROL);
}

#[test]
#[ignore = "needs a kernel with IPsec: machine.rs runs it in one"]
fn an_ike_daemon_that_is_killed_in_the_middle_of_a_change_costs_no_path_and_nothing_goes_in_clear() {
    let mut scene = Scene::start(&[2], &[Pool { name: POOL, nodes: &[1, 2], backend: Wireguard }]);
    scene.wait_until_settled(POOL, Wireguard, Wireguard);
    let mut faults = vec![];

    println!("-- wireguard to ipsec, and the daemon of {NODE} dies before it has negotiated anything");
    let standing = Standing::start(&scene, &scene.names());
    scene.fabric.tap(scene.pods).unwrap();
    scene.fabric.node(NODE).script(WALL).unwrap();
    let held = hold(&scene, Ipsec, Moving);
    scene.kill_daemon(NODE);
    assert_held(&scene, Ipsec, Moving);
    release(&scene, held);
    scene.fabric.node(NODE).script("nft delete table inet wall").unwrap();
    wait_until_all_are_told(&scene, Ipsec);
    let_flow(Duration::from_secs(2));
    assert_sealed(&scene, Ipsec, "without association");
    faults.extend(scene.wire_faults(Wireguard));
    scene.start_daemon_again(NODE);
    faults.extend(end(&scene, standing, Wireguard, Ipsec));
    scene.change(POOL, Ipsec, Wireguard);

    println!("-- wireguard to ipsec, and the daemon of {NODE} dies when it has negotiated");
    let standing = Standing::start(&scene, &scene.names());
    scene.fabric.tap(scene.pods).unwrap();
    negotiate(&scene);
    let held = hold(&scene, Ipsec, Moving);
    scene.kill_daemon(NODE);
    assert_held(&scene, Ipsec, Moving);
    release(&scene, held);
    wait_until_all_are_told(&scene, Ipsec);
    let_flow(Duration::from_secs(2));
    assert_sealed(&scene, Ipsec, "whose daemon is dead");
    scene.start_daemon_again(NODE);
    faults.extend(end(&scene, standing, Wireguard, Ipsec));

    println!("-- ipsec to vxlan, and the daemon of {NODE} dies");
    let standing = Standing::start(&scene, &scene.names());
    scene.fabric.tap(scene.pods).unwrap();
    let held = hold(&scene, Vxlan, Moving);
    scene.kill_daemon(NODE);
    let_flow(Duration::from_secs(2));
    // One end is told to leave encryption, and the pair has not: the other still asks for it.
    assert_held(&scene, Vxlan, Moving);
    assert_sealed(&scene, Ipsec, "on their way out");
    release(&scene, held);
    wait_until_all_are_told(&scene, Vxlan);
    let_flow(Duration::from_secs(2));
    scene.start_daemon_again(NODE);
    faults.extend(end(&scene, standing, Ipsec, Vxlan));

    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("daemon: no path lost, and nothing in clear");
}

/// Lets all nodes receive ipsec, and none send by it, until they could.
fn negotiate(scene: &Scene) {
    let mut asked = scene::backend(POOL, Ipsec);
    asked["spec"]["transition"] = json!({ "paused": true });
    scene.api.merge(&asked);
    wait_for("associations both ways on each node", || {
        for node in scene.fabric.nodes() {
            let all = node.exec(&["ip", "xfrm", "state"])?.ok()?.stdout;
            anyhow::ensure!(all.matches("aead").count() >= 2, "{}: {all}", node.name());
        }
        Ok(())
    });
}

/// Every lease says so, and every agent that it goes by it.
fn wait_until_all_are_told(scene: &Scene, to: BackendType) {
    wait_for(&format!("all nodes to be told of {to}"), || {
        for lease in scene.leases() {
            let backend = lease.spec.backend;
            anyhow::ensure!(backend.kind == to, "{backend:?}");
        }
        for name in scene.names() {
            let status = scene.node_network(&name).status.unwrap_or_default();
            anyhow::ensure!(status.backend == Some(to), "{name}: {status:?}");
        }
        Ok(())
    });
}

/// Waits for the end of the change, in which nothing may have gone in clear where both encrypt: what was wrong with it.
fn end(scene: &Scene, standing: Standing, from: BackendType, to: BackendType) -> Vec<String> {
    scene.wait_until_settled(POOL, from, to);
    if from.encrypts() && to.encrypts() {
        assert_sealed(scene, to, "whose daemon is back");
    }
    let mut faults = scene.wire_faults(to);
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(may_lose((from, to))));
    faults
}
