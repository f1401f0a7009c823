//! A node's address changes, as a lease of DHCP may bring it, while a pool sends by each backend: the other end follows,
//! connections go on, and what encrypts puts nothing in clear on the wire meanwhile.

use std::{net::Ipv4Addr, time::Instant};

use serde_json::json;
use tartan_crds::BackendType;

use super::{
    ring::{RING, passable},
    scene::{Pool, Scene},
    sealed::assert_sealed,
    standing::{Class, Standing, let_flow},
    wait_for,
};

const POOL: &str = "all";

/// Whose address changes. The operator runs on the other.
const MOVED: &str = "node2";

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_node_whose_address_changes_is_reached_at_the_new_one_by_every_backend() {
    let can = passable(RING);
    let scene = Scene::with_the_usual_mtu(&[2], &[Pool { name: POOL, nodes: &[1, 2], backend: can[0] }]);
    let first = scene.fabric.node(MOVED).address();
    let [a, b, c, _] = first.octets();
    // Each backend has a change of its own: there and back again.
    let addresses = [first, Ipv4Addr::new(a, b, c, 77)];
    let mut faults = vec![];
    for (number, kind) in can.iter().copied().enumerate() {
        if number > 0 {
            scene.change(POOL, can[number - 1], kind);
        }
        let (old, new) = (addresses[number % 2], addresses[(number + 1) % 2]);
        let standing = Standing::of(&[Class::PodToPod], &scene, &scene.names());
        faults.extend(scene.wire_faults(kind));
        scene.fabric.tap(scene.pods).unwrap();
        let begin = Instant::now();
        scene.give_address(old, new);
        scene.tell(&format!("{kind}: {MOVED} has {new} instead of {old}"));
        wait_for(&format!("{new} to be published"), || {
            let leases = scene.leases();
            let lease = leases.iter().find(|lease| lease.spec.node_name == MOVED);
            let status = lease.and_then(|lease| lease.status.clone()).unwrap_or_default();
            anyhow::ensure!(status.public_ips.first() == Some(&new.into()), "{status:?}");
            Ok(())
        });
        scene.tell("published");
        wait_for("pods to be reached at it", || {
            anyhow::ensure!(scene.reaches(1, 2) && scene.reaches(2, 1), "no answer");
            Ok(())
        });
        scene.tell("reached");
        // By what was open to the API server before, nothing would have come for a quarter of a minute.
        let anew = scene.said_by_agent(MOVED).matches("connecting to the API server anew").count();
        assert_eq!(anew, number + 1, "times that the agent connected anew");
        if matches!(kind, BackendType::Wireguard | BackendType::Ipsec) {
            assert_sealed(&scene, kind, "with another address");
        }
        scene.wait_until_settled(POOL, kind, kind);
        faults.extend(scene.wire_faults(kind));
        // TCP says again what was not answered at intervals that double: once in as long as that took.
        let_flow(begin.elapsed());
        let outcome = standing.finish();
        print!("{outcome}");
        let lost = outcome.total().connections;
        if lost > 0 {
            faults.push(format!("{kind}: {lost} connections lost"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("moved: followed by {can:?}");
}

impl Scene {
    /// Another address on the same link, and the kubelet's word of it. What was open by the old one hangs.
    fn give_address(&self, old: Ipv4Addr, new: Ipv4Addr) {
        let [a, b, c, _] = new.octets();
        let script = format!(
            "sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1
             ip address add {new}/24 dev eth0
             ip address del {old}/24 dev eth0
             ip route replace default via {a}.{b}.{c}.1"
        );
        self.fabric.node(MOVED).script(&script).unwrap();
        self.api.merge_status(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": MOVED },
            "status": { "addresses": [{ "type": "InternalIP", "address": new }] },
        }));
    }
}
