//! `directRouting` changes paths at once and is no transition: what its nodes receive is the same before and after.

use serde_json::json;
use tartan_crds::{
    BackendType::{HostGw, Vxlan},
    NetworkPool,
};

use super::{
    mixed::verdicts,
    ring::may_lose,
    scene::{Pool, Scene},
    standing::Standing,
    wait_for,
};

const POOL: &str = "all";

/// One link, and one node behind a router: its pairs keep the tunnel.
const NODES: [usize; 3] = [1, 2, 3];
const FAR: usize = 3;

#[test]
fn plain_routes_of_an_overlay_come_and_go_and_no_packet_is_lost() {
    let scene = Scene::start(&[2, 1], &[Pool { name: POOL, nodes: &NODES, backend: Vxlan }]);
    let standing = Standing::by(&[Vxlan], &scene);
    let mut faults = scene.wire_faults(Vxlan);
    // What the wire shows is what nodes of host-gw put on it, or of vxlan alone.
    for (direct, alike) in [(true, HostGw), (false, Vxlan), (true, HostGw)] {
        scene.api.merge(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": POOL },
            "spec": { "backend": { "type": "vxlan", "directRouting": direct } },
        }));
        wait_for(&format!("directRouting {direct}"), || has_paths(&scene, direct));
        faults.extend(scene.wire_faults(alike));
        let status = scene.api.get::<NetworkPool>(POOL).unwrap().status.unwrap_or_default();
        assert_eq!(status.transition, None);
    }
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(may_lose((Vxlan, Vxlan))));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// By the word of both ends of each pair.
fn has_paths(scene: &Scene, direct: bool) -> anyhow::Result<()> {
    for node in NODES {
        for (other, (path, reason)) in verdicts(scene, node)? {
            let is_near = node != FAR && other != FAR;
            let expected = if direct && is_near { "direct" } else { Vxlan.as_str() };
            anyhow::ensure!(path == expected, "node{node} to node{other}: {path}, {reason}");
        }
    }
    Ok(())
}
