//! A pool that encrypts: what its nodes put on the wire, from the change to it, through everything that can happen to
//! one of them afterwards. Never again a packet that can be read on the way.

use std::time::Duration;

use tartan_crds::BackendType;
use tartan_lab::vm;

use super::{
    beside::{nodes_have, wireguard_is_a_process},
    scene::{Pool, Scene},
    standing::{Standing, let_flow},
    wait_for,
};

const POOL: &str = "all";

/// Backends that encrypt, and how a node loses what they need.
const ENCRYPTING: &[(BackendType, &str)] = &[
    (
        BackendType::Wireguard,
        "for device in tartan-wg0 tartan-wg1; do [ ! -e /sys/class/net/$device ] || ip link delete $device; done",
    ),
    (BackendType::Ipsec, "ip link delete tartan-ipsec; ip xfrm policy flush; ip xfrm state flush"),
];

#[test]
fn no_packet_is_ever_clear_once_a_pool_is_encrypted_whatever_happens_to_its_nodes() {
    let begin = Pool { name: POOL, nodes: &[1, 2, 3], backend: BackendType::Vxlan };
    let mut scene = Scene::start(&[2, 1], &[begin]);
    for (kind, lose) in ENCRYPTING.iter().copied() {
        if !nodes_have(kind) {
            assert!(!vm::is_inside(), "nodes were to have {kind}");
            println!("-- NODES HERE HAVE NO {kind}: the virtual machine tests it");
            continue;
        }
        let mut standing = Standing::start(&scene, &scene.names());
        // The tap sees what is clear: else it would prove nothing below.
        for (name, seen) in scene.on_the_wire() {
            assert!(seen.clear() > 0 && seen.encrypted() == 0, "{name}: {seen}");
        }
        scene.change(POOL, BackendType::Vxlan, kind);
        assert_sealed(&scene, kind, "since it is sealed");

        println!("-- {kind}: a node is isolated, and its agent restarted meanwhile");
        scene.fabric.cut_control().unwrap();
        scene.kill_agent("node1");
        scene.start_agent("node1");
        let_flow(Duration::from_secs(2));
        scene.fabric.restore_control().unwrap();
        scene.wait_until_ready("node1");
        assert_sealed(&scene, kind, "isolated");

        println!("-- {kind}: a node loses its device while its agent is deaf");
        scene.behind_the_agent("node2", &format!("{lose}\nsleep 1"));
        scene.wait_until_settled(POOL, kind, kind);
        let_flow(Duration::from_secs(1));
        assert_sealed(&scene, kind, "without its device");

        if kind == BackendType::Wireguard && wireguard_is_a_process() {
            println!("-- {kind}: the process that does it dies, and another takes its place");
            scene.replace_wireguard("node2");
            let_flow(Duration::from_secs(2));
            assert_sealed(&scene, kind, "whose process died");
            // The next one does its work: what was seen before is not counted.
            scene.fabric.tap(scene.pods).unwrap();
            wait_for("packets of all nodes", || {
                for name in scene.names() {
                    let seen = scene.fabric.tapped(&name)?;
                    anyhow::ensure!(seen.encrypted() > 0, "{name} sent {seen}");
                }
                Ok(())
            });
            assert_sealed(&scene, kind, "whose process was replaced");
        }

        println!("-- {kind}: a node is rebooted");
        standing.forget("node3");
        scene.power_off("node3");
        scene.power_on("node3");
        scene.wait_until_settled(POOL, kind, kind);
        scene.wait_until_services_are_known();
        let again = Standing::start(&scene, &scene.names());
        let_flow(Duration::from_secs(1));
        let outcome = again.finish();
        assert_sealed(&scene, kind, "rebooted");
        let faults = outcome.faults(Duration::ZERO);
        assert!(faults.is_empty(), "{}", faults.join("\n"));

        let outcome = standing.finish();
        print!("{outcome}");
        let lost = outcome.total().connections;
        assert_eq!(lost, 0, "connections: {outcome}");
        scene.change(POOL, kind, BackendType::Vxlan);
        println!("sealed: no clear packet by {kind}");
    }
}

/// Since the last tap: nothing clear, and from every node something encrypted.
pub fn assert_sealed(scene: &Scene, kind: BackendType, what: &str) {
    for name in scene.names() {
        let seen = scene.fabric.tapped(&name).unwrap();
        assert!(seen.clear() == 0 && seen.encrypted() > 0, "{kind}, one node {what}: {name} sent {seen}");
        println!("   {name}: {seen}");
    }
}
