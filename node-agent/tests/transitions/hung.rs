//! An agent hangs in a change to what encrypts, for longer than the others wait, while its node's kernel goes on in clear
//! as it was told. That node can't be kept from it; the others take nothing of it, and send it nothing in clear.

use serde_json::json;
use tartan_crds::{
    BackendType::{Vxlan, Wireguard},
    TransitionPhase::{Finishing, Preparing},
};

use super::{
    interrupted::{POOL, hold, release},
    off::DEADLINE,
    ring::may_lose,
    scene::{Pool, Scene},
    standing::Standing,
    wait_for,
};

/// Whom [`hold`] holds in these phases.
const HUNG: usize = 3;
const OTHERS: [usize; 2] = [1, 2];

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn what_a_node_whose_agent_hangs_past_the_deadline_still_sends_in_clear_is_taken_by_nobody() {
    let scene = Scene::start(&[2, 1], &[Pool { name: POOL, nodes: &[1, 2, 3], backend: Vxlan }]);
    let others = OTHERS.map(|number| format!("node{number}"));
    let mut faults = vec![];
    // Before its node receives the new one, and when it does and was told to send by it.
    for phase in [Preparing, Finishing] {
        println!(
            "-- {Vxlan} to {Wireguard} with a deadline, and the agent of node{HUNG} hangs while {phase:?}"
        );
        let standing = Standing::start(&scene, &others);
        for to in OTHERS {
            assert!(scene.come_in(HUNG, to) > 0, "what is counted below");
        }
        scene.api.merge(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": POOL },
            "spec": { "transition": { "deadline": format!("{}s", DEADLINE.as_secs()) } },
        }));
        let held = hold(&scene, Wireguard, phase);
        assert_eq!(held, format!("node{HUNG}"));
        scene.wait_until_nothing_is_taken_in_clear(&others);

        scene.fabric.tap(scene.pods).unwrap();
        for to in OTHERS {
            let came = scene.come_in(HUNG, to);
            assert_eq!(came, 0, "{phase:?}: packets in clear from node{HUNG} to a pod of node{to}");
            assert!(!scene.reaches(to, HUNG), "{phase:?}: node{to} has a path to node{HUNG}");
        }
        let seen = scene.fabric.tapped(held).unwrap();
        assert!(seen.vxlan > 0, "{phase:?}: {held} sent {seen}, so nothing was there to be taken");
        for node in &others {
            let seen = scene.fabric.tapped(node).unwrap();
            assert!(seen.clear() == 0 && seen.encrypted() > 0, "{phase:?}: {node} sent {seen}");
        }

        release(&scene, held);
        scene.wait_until_settled(POOL, Vxlan, Wireguard);
        let outcome = standing.finish();
        print!("{outcome}");
        faults.extend(outcome.faults(may_lose((Vxlan, Wireguard))));
        let whole = Standing::start(&scene, &scene.names());
        faults.extend(scene.wire_faults(Wireguard));
        faults.extend(whole.finish().faults(may_lose((Wireguard, Wireguard))));
        scene.change(POOL, Wireguard, Vxlan);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("hung: nothing in clear was taken");
}

impl Scene {
    /// These nodes say so of all others.
    fn wait_until_nothing_is_taken_in_clear(&self, nodes: &[String]) {
        let all = i64::try_from(self.names().len()).unwrap() - 1;
        wait_for("nothing to be taken in clear", || {
            for node in nodes {
                let status = self.node_network(node).status.unwrap_or_default();
                anyhow::ensure!(status.sealed_peers == all, "{node}: {status:?}");
            }
            Ok(())
        });
    }

    /// Echo requests that reach a node's pod while another's pings it.
    fn come_in(&self, from: usize, to: usize) -> u64 {
        let requests = || -> u64 {
            let script = "awk '/^Icmp:/ { if (!at) { for (i = 1; i <= NF; i++) if ($i == \"InEchos\") at = i } \
                          else print $at }' /proc/net/snmp";
            let counted = self.end(&format!("node{to}")).pod.script(script).unwrap();
            counted.ok().unwrap().stdout.trim().parse().unwrap()
        };
        let before = requests();
        self.reaches(from, to);
        requests() - before
    }
}
