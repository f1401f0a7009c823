//! `directRouting` changes paths at once and is no transition: what its nodes receive is the same before and after.

use serde_json::json;
use tartan_crds::{
    BackendType::{self, Ipip, Vxlan},
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
    come_and_go(Vxlan);
}

#[test]
#[ignore = "needs a kernel with ipip: machine.rs runs it in one"]
fn plain_routes_of_ipip_come_and_go_and_no_packet_is_lost() {
    come_and_go(Ipip);
}

fn come_and_go(overlay: BackendType) {
    let scene = Scene::start(&[2, 1], &[Pool { name: POOL, nodes: &NODES, backend: overlay }]);
    let standing = Standing::by(&[overlay], &scene);
    let mut faults = scene.wire_faults(overlay);
    for direct in [true, false, true] {
        scene.api.merge(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": POOL },
            "spec": { "backend": { "type": overlay, "directRouting": direct } },
        }));
        wait_for(&format!("directRouting {direct}"), || has_paths(&scene, overlay, direct));
        faults.extend(if direct { scene.wire_faults_direct(overlay) } else { scene.wire_faults(overlay) });
        let status = scene.api.get::<NetworkPool>(POOL).unwrap().status.unwrap_or_default();
        assert_eq!(status.transition, None);
    }
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(may_lose((overlay, overlay))));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// By the word of both ends of each pair.
fn has_paths(scene: &Scene, overlay: BackendType, direct: bool) -> anyhow::Result<()> {
    for node in NODES {
        for (other, (path, reason)) in verdicts(scene, node)? {
            let is_near = node != FAR && other != FAR;
            let expected = if direct && is_near { "direct" } else { overlay.as_str() };
            anyhow::ensure!(path == expected, "node{node} to node{other}: {path}, {reason}");
        }
    }
    Ok(())
}
