//! All nodes' WireGuard keys are rotated by an edit of the network, there and back, under standing traffic.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tartan_crds::{BackendType::Wireguard, ClusterNetwork, conditions::kind};

use super::{
    interrupted::POOL,
    scene::{Pool, Scene},
    sealed::assert_sealed,
    standing::Standing,
    wait_for,
};

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn keys_are_rotated_by_an_edit_and_no_packet_is_lost() {
    let scene = Scene::start(&[2], &[Pool { name: POOL, nodes: &[1, 2], backend: Wireguard }]);
    scene.wait_until_settled(POOL, Wireguard, Wireguard);
    let standing = Standing::start(&scene, &scene.names());
    scene.fabric.tap(scene.pods).unwrap();
    let mut keys = scene.keys(0);
    // There are two devices and two ports, so the second time everything is where it was.
    for (generation, text) in [(1, "today"), (2, "and again")] {
        println!("-- to generation {generation}");
        scene.api.merge(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
            "spec": { "backends": { "wireguard": { "rotate": text } } },
        }));
        scene.wait_until_rotated(generation, text);
        let new = scene.keys(generation);
        for (node, key) in &new {
            assert!(!keys.values().any(|before| before == key), "{node} has a key of before");
            scene.wait_until_old_keys_are_gone(node, generation);
        }
        keys = new;
        scene.tell(&format!("generation {generation} is all there is"));
    }
    assert_sealed(&scene, Wireguard, "whose keys were rotated");
    let mut faults = scene.wire_faults(Wireguard);
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(Duration::ZERO));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("rotation: 2 rotations, nothing lost");
}

impl Scene {
    /// The operator has raised the generation, and no lease has an end point of before.
    pub fn wait_until_rotated(&self, generation: i32, text: &str) {
        wait_for(&format!("generation {generation} of the keys"), || {
            let network: ClusterNetwork = self.api.get("default").unwrap();
            let status = network.status.unwrap_or_default();
            let keys = status.wireguard_keys.as_ref();
            let through = keys.is_some_and(|keys| {
                (keys.generation, keys.rotate.as_str(), keys.behind) == (generation, text, 0)
            });
            anyhow::ensure!(through, "{keys:?}");
            let current = status.conditions.iter().find(|condition| condition.type_ == kind::KEYS_CURRENT);
            anyhow::ensure!(current.is_some_and(|current| current.status == "True"), "{current:?}");
            // That count is the operator's, and as old as its last look.
            let names = self.names();
            let leases = self.leases().into_iter();
            for lease in leases.filter(|lease| names.contains(&lease.spec.node_name)) {
                let ends = lease.status.unwrap_or_default().endpoints;
                let generations: Vec<i32> = ends
                    .iter()
                    .filter(|end| end.kind == Wireguard)
                    .map(|end| end.generation.unwrap_or(0))
                    .collect();
                anyhow::ensure!(generations == [generation], "{}: {generations:?}", lease.spec.node_name);
            }
            Ok(())
        });
    }

    /// What each node publishes, which is of this generation alone.
    fn keys(&self, generation: i32) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        for lease in self.leases() {
            let ends = lease.status.unwrap_or_default().endpoints.into_iter();
            for end in ends.filter(|end| end.kind == Wireguard) {
                assert_eq!(end.generation.unwrap_or(0), generation, "{end:?}");
                let before = keys.insert(lease.spec.node_name.clone(), end.public_key.unwrap());
                assert_eq!(before, None, "two end points of {}", lease.spec.node_name);
            }
        }
        assert_eq!(keys.len(), self.names().len(), "{keys:?}");
        keys
    }

    /// Its device of before, and the file.
    fn wait_until_old_keys_are_gone(&self, node: &str, generation: i32) {
        wait_for(&format!("{node} to have nothing of generation {}", generation - 1), || {
            let place = self.fabric.node(node);
            let links = place.exec(&["ip", "-o", "link"])?.ok()?.stdout;
            let link = |generation: i32| format!("tartan-wg{}:", generation % 2);
            anyhow::ensure!(links.contains(&link(generation)), "{links}");
            anyhow::ensure!(!links.contains(&link(generation - 1)), "{links}");
            let files = place.exec(&["ls", "/run/tartan"])?.ok()?.stdout;
            let keys: Vec<&str> = files.lines().filter(|file| file.ends_with(".key")).collect();
            anyhow::ensure!(keys == [format!("wireguard-{generation}.key")], "{files}");
            Ok(())
        });
    }
}
