//! The process between real TUN devices and real sockets, driven by the data path as the agent drives it, with `wg` and
//! `ip` as oracles.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../../datapath/tests/common/mod.rs"]
mod common;
mod lab;
mod sizes;

use std::time::{Duration, Instant};

use lab::{Lab, absent, eventually, inner, mode, reaches, run, stream, succeeds};
use tartan_datapath::model::{Preshared, PublicKey, WireguardEndpoint};
use tartan_lab::prerequisites::{Tool, require};

/// Each test has mounts of its own.
fn apart(test: fn()) {
    require(&[Tool::Network, Tool::Wireguard]).unwrap();
    std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Both nodes with one generation of keys and a way between them.
fn started() -> Lab {
    let mut lab = Lab::start();
    for node in [1, 2] {
        lab.serve(node);
    }
    let intents = lab.both(&[0]);
    for (node, intent) in (1..).zip(&intents) {
        lab.settle_soon(node, intent);
    }
    eventually("a way between the nodes", || reaches(1, 2) && reaches(2, 1));
    lab
}

fn key_file(lab: &Lab, node: u8) -> String {
    std::fs::read_to_string(lab.place(node).join("wireguard-0.key")).unwrap().trim().to_owned()
}

#[test]
fn two_nodes_without_wireguard_in_the_kernel_reach_each_other_encrypted() {
    apart(|| {
        let lab = started();
        let capture = "ip netns exec under timeout 20 tcpdump -ni br0 -c 6 -w - ip 2>/dev/null";
        let packets = std::thread::spawn(move || run(&format!("{capture} | tcpdump -nr - 2>/dev/null")));
        eventually("six packets on the wire", || {
            succeeds(&format!("ip netns exec node1 ping -qc3 -i0.05 {}", inner(2))) && packets.is_finished()
        });
        let seen = packets.join().unwrap();
        let encrypted = seen.lines().filter(|line| line.contains("51820") && line.contains("UDP"));
        assert!(encrypted.count() >= 4, "{seen}");
        assert!(!seen.contains("10.244.") && !seen.contains("ICMP"), "{seen}");
        // Room for what comes while the process waits for a processor: on the device and at the socket, of which the
        // kernel says twice the bytes.
        assert!(run("ip -n node1 link show tartan-wg0").contains("qlen 1000"));
        let sockets = run("ip netns exec node1 ss -nlum");
        let (_, after) = sockets.split_once(":51820").unwrap_or_else(|| panic!("{sockets}"));
        assert!(after.lines().nth(1).is_some_and(|line| line.contains(",rb8388608,")), "{sockets}");
        // As another program sees it.
        let [own, other] = [1, 2].map(|node| lab.key(node, 0));
        let dump = lab.wg(1, "tartan-wg0 dump");
        let lines: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines[0][1..3], [own.to_string().as_str(), "51820"], "{dump}");
        assert_eq!(lines.len(), 2, "{dump}");
        assert_eq!(lines[1][0], other.to_string());
        assert_eq!(lines[1][2..4], ["192.0.2.2:51820", "10.244.2.0/24"]);
        assert!(lines[1][4].parse::<u64>().unwrap() > 1_700_000_000, "the time of the handshake: {dump}");
        assert!(lines[1][5].parse::<u64>().unwrap() > 200 && lines[1][6].parse::<u64>().unwrap() > 200);
        assert_eq!(lab.sessions(1), [other]);
        for (from, to) in [(1, 2), (2, 1)] {
            stream(from, to, 20_000_000).unwrap();
        }
    });
}

#[test]
fn only_root_may_ask_the_process_and_no_key_is_in_its_log() {
    apart(|| {
        let mut lab = started();
        assert_eq!(mode(&lab.sockets(1)), 0o700);
        assert_eq!(mode(&lab.sockets(1).join("tartan-wg0.sock")), 0o600);
        // It does tell root, in its interface's words.
        let secret = key_file(&lab, 1);
        assert!(lab.wg(1, "tartan-wg0 private-key").contains(&secret));
        // A request that can't be understood holds a key, too.
        let hex = run(&format!("echo {secret} | base64 -d | od -An -tx1 | tr -d ' \\n'"));
        for line in [
            format!("privat_key={hex}"),
            format!("private_key={hex}0"),
            hex.clone(),
            format!("private_key=a{}b", "é".repeat(31)),
        ] {
            let socket = lab.sockets(1).join("tartan-wg0.sock");
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            std::io::Write::write_all(&mut stream, format!("set=1\n{line}\n\n").as_bytes()).unwrap();
            let mut answer = [0; 64];
            let length = std::io::Read::read(&mut stream, &mut answer).unwrap();
            assert_eq!(std::str::from_utf8(&answer[..length]).unwrap(), "errno=22\n\n");
        }
        lab.kill(1);
        let log = lab.log(1);
        assert!(log.contains("started"), "{log}");
        assert!(
            !log.contains(&secret) && !log.contains(&hex) && !log.contains(&hex[..16]),
            "a key is in the log"
        );
    });
}

#[test]
fn a_process_that_is_killed_is_missed_and_set_up_anew_when_it_is_back() {
    apart(|| {
        let mut lab = started();
        let intents = lab.both(&[0]);
        let index = run(
            "ip netns exec node1 cat /sys/class/net/tartan-wg0/ifindex 2>/dev/null || ip -n node1 -o link show tartan-wg0 | cut -d: -f1",
        );
        lab.kill(1);
        // Device and routes stay, so that nothing is sent in clear; that it is away is told.
        assert!(run("ip -n node1 link show tartan-wg0").contains("NO-CARRIER"));
        assert!(run("ip -n node1 route show 10.244.2.0/24").contains("dev tartan-wg0"));
        assert_eq!(lab.round(1, &intents[0]), absent("tartan-wg0", lab.key(2, 0)));
        assert!(!reaches(1, 2));
        lab.serve(1);
        lab.settle_soon(1, &intents[0]);
        let start = Instant::now();
        // The other end is not told: whoever was started anew asks for a session.
        eventually("packets from the other end", || reaches(2, 1));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_eq!(
            index,
            run(
                "ip netns exec node1 cat /sys/class/net/tartan-wg0/ifindex 2>/dev/null || ip -n node1 -o link show tartan-wg0 | cut -d: -f1"
            )
        );
        assert!(reaches(1, 2));
    });
}

#[test]
fn what_is_as_it_should_be_keeps_its_session_whoever_looks() {
    apart(|| {
        let lab = started();
        let [mut intent, _] = lab.both(&[0]);
        let handshake = |lab: &Lab| lab.wg(1, "tartan-wg0 latest-handshakes");
        let before = handshake(&lab);
        lab.settle(1, &intent);
        // A further peer, another keepalive and one subnet more are no reason for a new session either.
        intent.wireguard.keepalive = 25;
        let stranger = WireguardEndpoint { generation: 0, key: PublicKey([9; 32]), port: 9 };
        intent.peers.push(lab::peer(3, vec![stranger]));
        let more = tartan_datapath::model::Subnet {
            prefix: common::net("10.244.20.0/24"),
            primary: false,
            regular: true,
        };
        intent.peers[0].subnets.push(more);
        lab.settle(1, &intent);
        let peer = lab.key(2, 0);
        assert!(handshake(&lab).contains(before.trim()), "{} {}", handshake(&lab), before);
        assert!(lab.wg(1, "tartan-wg0 persistent-keepalive").contains(&format!("{peer}\t25")));
        let allowed = lab.wg(1, "tartan-wg0 allowed-ips");
        assert!(allowed.contains("10.244.2.0/24 10.244.20.0/24"), "{allowed}");
        // An address goes from one peer to the other: it is one peer's at any time.
        let moved = intent.peers[0].subnets.pop().unwrap();
        intent.peers[1].subnets.push(moved);
        lab.settle(1, &intent);
        let allowed = lab.wg(1, "tartan-wg0 allowed-ips");
        assert_eq!(allowed.matches("10.244.20.0/24").count(), 1, "{allowed}");
        intent.peers.pop();
        lab.settle(1, &intent);
        assert_eq!(lab.wg(1, "tartan-wg0 peers").trim(), peer.to_string());
        assert!(reaches(1, 2) && reaches(2, 1));
    });
}

#[test]
fn two_generations_have_a_device_each_and_packets_move_to_the_new_one() {
    apart(|| {
        let lab = started();
        let mut intents = lab.both(&[0, 1]);
        for (node, intent) in (1..).zip(&intents) {
            lab.settle_soon(node, intent);
        }
        assert_eq!(lab.wg(1, "interfaces").split_whitespace().count(), 2);
        let route = || run("ip -n node1 route show 10.244.2.0/24");
        assert!(route().contains("dev tartan-wg0"), "no handshake of the new generation is known yet");
        let new = [2, 1].map(|node| lab.key(node, 1));
        for (node, new) in (1..).zip(new) {
            eventually("a handshake of the new generation", || lab.sessions(node).contains(&new));
        }
        for (place, new) in new.into_iter().enumerate() {
            intents[place].wireguard.sessions.insert(new);
        }
        for (node, intent) in (1..).zip(&intents) {
            lab.settle(node, intent);
        }
        assert!(route().contains("dev tartan-wg1"), "{}", route());
        assert!(reaches(1, 2) && reaches(2, 1));
        // The old one goes on both, and with it its device, socket and key.
        let last = lab.both(&[1]);
        for (node, intent) in (1..).zip(&last) {
            lab.settle(node, intent);
        }
        assert_eq!(lab.wg(1, "interfaces").trim(), "tartan-wg1");
        eventually("the socket of the old device goes", || !lab.sockets(1).join("tartan-wg0.sock").exists());
        assert!(!run("ip -n node1 link").contains("tartan-wg0"));
        assert!(reaches(1, 2) && reaches(2, 1));
    });
}

#[test]
fn a_preshared_key_joins_only_who_has_it() {
    apart(|| {
        let lab = started();
        let mut intents = lab.both(&[0]);
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        for (node, intent) in (1..).zip(&mut intents) {
            intent.wireguard.preshared = Preshared::Key(key.parse().unwrap());
            // A session of before goes on with the key of before.
            lab.settle(node, intent);
            let link = run(&format!("ip -n node{node} link delete tartan-wg0; echo gone"));
            assert!(link.contains("gone"));
            if node == 1 {
                lab.settle_soon(node, intent);
                assert!(lab.wg(1, "tartan-wg0 preshared-keys").contains(key));
                assert!(!reaches(1, 2), "the other has none yet");
            } else {
                lab.settle_soon(node, intent);
            }
        }
        eventually("a way with the key", || reaches(1, 2) && reaches(2, 1));
        assert!(!lab.log(1).contains(key) && !lab.log(2).contains(key));
    });
}

#[test]
fn a_peer_that_moves_is_followed() {
    apart(|| {
        let lab = started();
        run(
            "ip -n node2 address delete 192.0.2.2/24 dev eth0; ip -n node2 address add 192.0.2.77/24 dev eth0",
        );
        eventually("a packet from the new address", || reaches(2, 1));
        assert!(lab.wg(1, "tartan-wg0 endpoints").contains("192.0.2.77:51820"));
        // While its session lives that is as it should be: nothing is set.
        let [intent, _] = lab.both(&[0]);
        lab.settle(1, &intent);
        assert!(lab.wg(1, "tartan-wg0 endpoints").contains("192.0.2.77:51820"));
        assert!(reaches(1, 2));
    });
}

#[test]
fn a_port_that_another_has_is_told_and_taken_when_it_is_free() {
    apart(|| {
        let mut lab = Lab::start();
        for node in [1, 2] {
            lab.serve(node);
        }
        let intents = lab.both(&[0]);
        lab.settle_soon(2, &intents[1]);
        let thief = lab::socket(1, "0.0.0.0:51820");
        eventually("the process", || {
            lab.round(1, &intents[0])
                .iter()
                .any(|(object, why)| object == "wireguard tartan-wg0" && *why == "in-use")
        });
        // And so again: it isn't forgotten.
        assert!(lab.round(1, &intents[0]).iter().any(|(_, why)| *why == "in-use"));
        drop(thief);
        lab.settle_soon(1, &intents[0]);
        eventually("a way between the nodes", || reaches(1, 2) && reaches(2, 1));
    });
}

#[test]
fn where_it_is_not_allowed_any_more_the_device_goes_and_the_kernel_is_asked() {
    apart(|| {
        let lab = started();
        let [intent, _] = lab.both(&[0]);
        let failed = lab.round_without_user_space(1, &intent);
        let link = failed.first().map(|(object, why)| (object.as_str(), *why));
        assert_eq!(link, Some(("link tartan-wg0", "unsupported")), "{failed:?}");
        assert!(!run("ip -n node1 link").contains("tartan-wg0"));
        eventually("the socket goes", || !lab.sockets(1).join("tartan-wg0.sock").exists());
        lab.settle_soon(1, &intent);
        eventually("a way between the nodes", || reaches(1, 2) && reaches(2, 1));
    });
}

#[test]
fn another_program_at_the_other_end_and_behind_the_socket_is_understood() {
    apart(|| {
        let mut lab = Lab::start();
        let intents = lab.both(&[0]);
        lab.serve(1);
        lab.settle_soon(1, &intents[0]);
        assert_eq!(lab.round(2, &intents[1]), absent("tartan-wg0", lab.key(1, 0)), "the device is there now");
        lab.serve_by_wireguard_go(2);
        lab.settle_soon(2, &intents[1]);
        eventually("a way between the nodes", || reaches(1, 2) && reaches(2, 1));
        assert_eq!((lab.sessions(1), lab.sessions(2)), (vec![lab.key(2, 0)], vec![lab.key(1, 0)]));
        assert!(succeeds(&format!("ip netns exec node1 ping -qc5 -i0.05 -s 1400 {}", inner(2))));
        // Either is started anew, and neither end is told.
        lab.kill(1);
        lab.serve(1);
        lab.settle_soon(1, &intents[0]);
        eventually("a way when ours is back", || reaches(2, 1) && reaches(1, 2));
        // A preshared key, and none again, while sessions live.
        let mut keyed = lab.both(&[0]);
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        for (node, intent) in (1..).zip(&mut keyed) {
            intent.wireguard.preshared = Preshared::Key(key.parse().unwrap());
            intent.wireguard.keepalive = 25;
            lab.settle(node, intent);
        }
        assert!(reaches(1, 2) && reaches(2, 1));
    });
}

/// In a virtual machine: one node's kernel does it, and the other's is not asked.
#[test]
#[ignore = "needs a kernel with WireGuard: tests/kernel_peers.rs runs it on two"]
fn a_peer_whose_kernel_does_it_is_joined_through_restarts_rotation_and_preshared_keys() {
    apart(|| {
        let mut lab = Lab::start();
        // Killed between making a device and marking it, an agent finds it so: from here on it is its own.
        let make = |device: &str| run(&format!("ip -n node1 tuntap add dev {device} mode tun"));
        make("tartan-wg0");
        lab.serve(1);
        let mut intents = lab.both(&[0]);
        intents[1].wireguard.user_space = false;
        lab.settle_soon(1, &intents[0]);
        lab.settle(2, &intents[1]);
        assert!(run("ip -n node1 -d link show tartan-wg0").contains("tun type tun"));
        assert!(run("ip -n node2 -d link show tartan-wg0").contains("wireguard"));
        eventually("a way between the nodes", || reaches(1, 2) && reaches(2, 1));
        assert!(succeeds(&format!("ip netns exec node1 ping -qc5 -i0.2 -s 1400 {}", inner(2))));
        assert_eq!((lab.sessions(1), lab.sessions(2)), (vec![lab.key(2, 0)], vec![lab.key(1, 0)]));
        // The process is killed.
        lab.kill(1);
        assert_eq!(lab.round(1, &intents[0]), absent("tartan-wg0", lab.key(2, 0)));
        lab.serve(1);
        lab.settle_soon(1, &intents[0]);
        eventually("packets from the other end", || reaches(2, 1));
        // Another generation of keys, with a preshared key.
        make("tartan-wg1");
        let mut both = lab.both(&[0, 1]);
        both[1].wireguard.user_space = false;
        for (node, intent) in (1..).zip(&mut both) {
            let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
            intent.wireguard.preshared = Preshared::Key(key.parse().unwrap());
            lab.settle_soon(node, intent);
        }
        for (node, other) in [(1, 2), (2, 1)] {
            let new = lab.key(other, 1);
            eventually("a handshake of the new generation", || lab.sessions(node).contains(&new));
            both[usize::from(node) - 1].wireguard.sessions.insert(new);
        }
        for (node, intent) in (1..).zip(&both) {
            lab.settle(node, intent);
        }
        assert!(run("ip -n node1 route show 10.244.2.0/24").contains("dev tartan-wg1"));
        assert!(run("ip -n node2 route show 10.244.1.0/24").contains("dev tartan-wg1"));
        eventually("a way by the new keys", || reaches(1, 2) && reaches(2, 1));
    });
}
