//! An agent hears late of what was asked for and taken back meanwhile: when it goes on it may do the older of what it finds
//! for a moment, and what it sends then is received.

use std::time::Duration;

use tartan_crds::{
    BackendType::{Vxlan, Wireguard},
    ObservedLease,
    TransitionPhase::Moving,
};

use super::{
    interrupted::{POOL, hold, release},
    ring::may_lose,
    scene::{self, Pool, Scene},
    standing::{Standing, let_flow},
    wait_for,
};

/// Those who have heard.
const OTHERS: [&str; 2] = ["node2", "node3"];

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn what_was_taken_back_is_received_until_a_node_that_was_held_has_heard_so() {
    let scene = Scene::start(&[2, 1], &[Pool { name: POOL, nodes: &[1, 2, 3], backend: Vxlan }]);
    let standing = Standing::start(&scene, &scene.names());
    let held = hold(&scene, Wireguard, Moving);
    assert!(!OTHERS.contains(&held));
    scene.api.merge(&scene::backend(POOL, Vxlan));
    wait_for("the others to have heard", || {
        for lease in scene.leases() {
            anyhow::ensure!(lease.spec.backend.kind == Vxlan, "{:?}: {:?}", lease.metadata.name, lease.spec);
            anyhow::ensure!(lease.spec.backend.ending == ["receive:wireguard"], "{:?}", lease.spec);
        }
        OTHERS.iter().try_for_each(|node| scene.goes_by_its_lease(node))
    });
    // Nothing is awaited but that one.
    let_flow(Duration::from_secs(2));
    for lease in scene.leases() {
        assert!(lease.spec.backend.accepts.contains(&Wireguard), "{:?}", lease.spec);
        let published = lease.status.unwrap().endpoints;
        assert!(
            published.iter().any(|end| end.kind == Wireguard),
            "{:?}: {published:?}",
            lease.metadata.name
        );
    }
    release(&scene, held);
    scene.wait_until_settled(POOL, Wireguard, Vxlan);
    for lease in scene.leases() {
        assert!(lease.spec.backend.ending.is_empty(), "{:?}", lease.spec);
    }
    let mut faults = scene.wire_faults(Vxlan);
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(may_lose((Vxlan, Wireguard))));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

impl Scene {
    /// As its agent says, and what it sends by is nothing that ends.
    fn goes_by_its_lease(&self, node: &str) -> anyhow::Result<()> {
        let status = self.node_network(node).status.unwrap_or_default();
        let own = self.leases().into_iter().find(|lease| lease.spec.node_name == node).unwrap();
        let (uid, generation) = (own.metadata.uid.unwrap(), own.metadata.generation.unwrap());
        let expected = Some(ObservedLease { uid, generation });
        anyhow::ensure!(status.observed_lease == expected, "{node}: {:?}", status.observed_lease);
        anyhow::ensure!(status.paths.iter().all(|path| path.backend == Vxlan), "{node}: {:?}", status.paths);
        Ok(())
    }
}
