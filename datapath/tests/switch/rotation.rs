//! WireGuard keys are rotated, there and back, while packets flow; `wg` tells what the kernel has.

use std::{process::Command, time::Duration};

use tartan_datapath::{
    model::{Backend, Preshared},
    rotation,
};

use crate::{
    assert_whole,
    network::{Kind, Network, run},
    pause,
    traffic::Traffic,
};

const PRESHARED: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

impl Network {
    /// One node looks at what the others publish, does what an agent would, and publishes.
    fn follow(&mut self, place: usize, generation: u32) {
        let all = self.nodes.iter().flat_map(|node| &node.side.endpoints.wireguard);
        let open = rotation::open(generation, all.map(|end| end.generation));
        let sessions = &self.nodes[place].wireguard.sessions;
        let mut others = self.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        let moved = others
            .all(|(_, other)| rotation::has_moved(generation, &other.side.endpoints.wireguard, sessions));
        let own = open.into_iter().map(|generation| self.nodes[place].wireguard_end(generation)).collect();
        let node = &mut self.nodes[place];
        (node.side.endpoints.wireguard, node.wireguard.leaving) = rotation::publishes(generation, own, moved);
        let sessions = self.tell(place);
        self.nodes[place].wireguard.sessions = sessions;
    }

    fn has_rotated(&self, generation: u32) -> bool {
        self.nodes.iter().all(|node| {
            let published = &node.side.endpoints.wireguard;
            node.wireguard.leaving.is_empty() && published.iter().all(|end| end.generation == generation)
        })
    }

    /// All nodes, one after the other, until nothing of before is left.
    #[track_caller]
    fn rotate(&mut self, generation: u32) {
        for sweep in 0.. {
            assert!(sweep < 60, "the rotation to generation {generation} doesn't end");
            for place in 0..self.nodes.len() {
                self.follow(place, generation);
                pause(Duration::from_millis(100));
            }
            if self.has_rotated(generation) {
                println!("-- generation {generation} after {} rounds of each node", sweep + 1);
                return;
            }
        }
    }

    /// By `wg`: one link with this node's key of the generation, and each peer's, each of which has answered.
    #[track_caller]
    fn assert_generation(&self, generation: u32) {
        for node in &self.nodes {
            let link = format!("tartan-wg{}", generation % 2);
            let wg = |what: &str| said(&format!("ip netns exec {} wg show {what}", node.name));
            assert_eq!(wg("interfaces").trim(), link, "{}", node.name);
            let key = |node: &crate::node::Node| node.wireguard_end(generation).key.to_string();
            assert_eq!(wg(&format!("{link} public-key")).trim(), key(node));
            let mut peers: Vec<String> =
                self.nodes.iter().filter(|other| other.name != node.name).map(key).collect();
            peers.sort();
            let mut seen: Vec<String> = vec![];
            for line in wg(&format!("{link} latest-handshakes")).lines() {
                let (key, time) = line.split_once('\t').unwrap();
                assert_ne!(time, "0", "{}: {key}", node.name);
                seen.push(key.to_owned());
            }
            seen.sort();
            assert_eq!(seen, peers, "{}", node.name);
        }
    }
}

fn said(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it"]
fn keys_are_rotated_there_and_back_and_nothing_is_lost() {
    let kind = Kind { backend: Backend::Wireguard, direct: false };
    let mut network = Network::start(&[("a", 1), ("b", 1), ("c", 2)], kind);
    let traffic = Traffic::start(&network);
    network.assert_generation(0);

    // One node's new port is closed: its pairs stay as they are, the others move.
    run(
        "ip netns exec c nft 'table inet closed { chain input { type filter hook input priority 0; udp dport 51821 drop; }; }'",
    );
    let route = |to: u8| said(&format!("ip -n a route show 10.244.{to}.0/24"));
    for sweep in 0.. {
        assert!(sweep < 20, "{}", route(2));
        let moved = route(2).contains("dev tartan-wg1");
        for place in 0..network.nodes.len() {
            network.follow(place, 1);
            pause(Duration::from_millis(100));
        }
        // Once more, in which the third would follow if it could.
        if moved {
            break;
        }
    }
    assert!(route(3).contains("dev tartan-wg0"), "{}", route(3));
    assert!(!network.has_rotated(1));
    run("ip netns exec c nft delete table inet closed");
    network.rotate(1);
    network.assert_generation(1);

    // Back, with a preshared key that is new.
    for node in &mut network.nodes {
        node.wireguard.preshared = Preshared::Key(PRESHARED.parse().unwrap());
    }
    for place in 0..network.nodes.len() {
        network.tell(place);
    }
    let shared = |link: &str| said(&format!("ip netns exec a wg show {link} preshared-keys"));
    assert_eq!(shared("tartan-wg1").matches("(none)").count(), 2, "a session keeps what it began with");
    network.rotate(2);
    network.assert_generation(2);
    assert_eq!(shared("tartan-wg0").matches(PRESHARED).count(), 2);
    assert_eq!(network.clear_packets(), 0, "packets of pods in clear");
    assert_whole(traffic);
    println!("2 rotations, nothing lost");

    // A node that answers from another address than it published is followed, and a round leaves it so.
    run("ip -n c address delete 198.18.2.30/24 dev eth0
         ip -n c address add 198.18.2.77/24 dev eth0
         ip -n c route replace default via 198.18.2.1
         ip netns exec c-pod ping -c 3 -i 0.3 -W 5 10.244.1.2");
    let endpoints = || said("ip netns exec a wg show tartan-wg0 endpoints");
    assert!(endpoints().contains("198.18.2.77:51820"), "{}", endpoints());
    network.tell(0);
    assert!(endpoints().contains("198.18.2.77:51820"), "{}", endpoints());
    run("ip netns exec a-pod ping -c 1 -W 5 10.244.3.2");
    println!("a peer that moved is followed");
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it"]
fn an_agent_that_dies_after_each_step_of_a_rotation_loses_nothing() {
    let kind = Kind { backend: Backend::Wireguard, direct: false };
    let mut network = Network::start(&[("a", 1), ("b", 1)], kind);
    let traffic = Traffic::start(&network);
    network.nodes[1].torn = true;
    network.rotate(1);
    network.assert_generation(1);
    pause(Duration::from_millis(500));
    assert_whole(traffic);
    println!("a rotation by many processes, nothing lost");
}
