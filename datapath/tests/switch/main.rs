//! Nodes change their backend while traffic flows between all their pods: not one packet and not one connection may
//! be lost. The backends that are tried are those that the kernel has; `vm.rs` runs this program on kernels that
//! have all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod network;
mod node;
mod rotation;
mod traffic;

use std::{path::Path, process::Command, time::Duration};

use network::{Kind, Network};
use nix::sched::{CloneFlags, unshare};
use tartan_datapath::{mark, model::Backend};
use traffic::Traffic;

/// Whether this kernel makes such a link.
fn kernel_has(kind: &str, options: &str) -> bool {
    let script = format!("ip link add probe type {kind} {options} && ip link delete probe");
    let probe = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("kernel tests need root");
        Command::new("sh").args(["-c", &script]).output().unwrap().status.success()
    };
    std::thread::spawn(probe).join().unwrap()
}

/// The backends that the kernel has, from each to the next, round and, but for `TARTAN_ONE_WAY`, back again. With
/// `TARTAN_ALL_PAIRS`: a way along which each is left for each other exactly once, and that ends where it began.
fn ring() -> Vec<Kind> {
    let plain = |backend| Kind { backend, direct: false };
    let mut kinds = vec![plain(Backend::HostGw), plain(Backend::Vxlan)];
    // Direct routing is tried beside one overlay: ipip, where the kernel has it.
    let mut overlay = Backend::Vxlan;
    if kernel_has("ipip", "local 192.0.2.1") {
        overlay = Backend::Ipip;
        kinds.push(plain(overlay));
    } else {
        println!("this kernel has no ipip: the ring goes without");
    }
    kinds.push(Kind { backend: overlay, direct: true });
    if kernel_has("wireguard", "") {
        kinds.push(plain(Backend::Wireguard));
    } else {
        println!("this kernel has no wireguard: the ring goes without");
    }
    if Path::new("/dev/net/tun").exists() {
        kinds.push(plain(Backend::Udp));
    } else {
        println!("this kernel has no TUN: the ring goes without");
    }
    let mut ring = vec![];
    if std::env::var_os("TARTAN_ALL_PAIRS").is_some() {
        walk(&kinds, &mut ring);
    } else {
        ring.extend(&kinds);
        ring.push(kinds[0]);
        if std::env::var_os("TARTAN_ONE_WAY").is_none() {
            ring.extend(kinds.iter().rev());
        }
    }
    ring
}

/// From the first to each other and back; on its way to the second, through all that the second leads to.
fn walk(kinds: &[Kind], ring: &mut Vec<Kind>) {
    let Some((first, rest)) = kinds.split_first() else { return };
    ring.push(*first);
    for (place, other) in rest.iter().enumerate() {
        if place == 0 {
            walk(rest, ring);
        } else {
            ring.push(*other);
        }
        ring.push(*first);
    }
}

/// For what is true only in time: nodes hear of one change at different moments, and packets are under way.
#[expect(clippy::disallowed_methods, reason = "nothing can be waited for here")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn nothing_is_lost_while_every_node_goes_through_all_backends() {
    let ring = ring();
    // a and b share a link, c is behind a router.
    let mut network = Network::start(&[("a", 1), ("b", 1), ("c", 2)], ring[0]);
    let traffic = Traffic::start(&network);
    let mut from = ring[0];
    for to in ring.iter().skip(1) {
        println!("-- from {from} to {to}");
        network.change(*to);
        assert_eq!(ways(), expected_ways(*to), "by {to}");
        let clear = network.clear_packets();
        assert_eq!(clear == 0, to.backend.encrypts(), "{clear} packets of pods in clear by {to}");
        from = *to;
    }
    pause(Duration::from_millis(500));
    assert_whole(traffic);
    println!("{} changes, nothing lost", ring.len() - 1);
}

/// The devices by which node a's packets go to b, on its link, and to c, behind the router.
fn ways() -> [String; 2] {
    [2, 3].map(|node| {
        let script = format!("ip -n a -j route show 10.244.{node}.0/24");
        let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
        let routes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        routes[0]["dev"].as_str().unwrap_or("none").to_owned()
    })
}

fn expected_ways(kind: Kind) -> [String; 2] {
    let device = match kind.backend {
        Backend::Ipip => mark::IPIP,
        Backend::Wireguard => mark::WIREGUARD[0],
        Backend::Udp => mark::UDP,
        // Also the overlay of nodes that route plainly and are not on one link.
        _ => mark::VXLAN,
    };
    let plain = kind.direct || kind.backend == Backend::HostGw;
    [if plain { "eth0" } else { device }, device].map(str::to_owned)
}

/// Ends the traffic, of which nothing may be lost.
#[track_caller]
fn assert_whole(traffic: Traffic) {
    let mut lost = vec![];
    for (pair, report) in traffic.finish() {
        assert!(report.sent() > 100, "{pair}: {report}");
        if report.lost() + report.connections_lost() > 0 {
            lost.push(format!("{pair}: {report}"));
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

/// The kernel takes the routes by a device with it. What was sealed waits for its device, and takes no other way.
#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it"]
fn a_sealed_node_that_loses_its_device_sends_nothing_in_clear() {
    let plain = |backend| Kind { backend, direct: false };
    let mut network = Network::start(&[("a", 1), ("b", 1), ("c", 2)], plain(Backend::HostGw));
    let traffic = Traffic::start(&network);
    let clear = network.clear_packets();
    assert!(clear > 0, "the probe sees what is in clear");
    network.change(plain(Backend::Wireguard));
    assert_eq!(network.clear_packets(), 0);
    // Nobody repairs anything meanwhile: an agent that is held, or not there.
    for damage in [
        "ip -n a link delete tartan-wg0",
        "ip -n a link delete tartan-wg0; ip -n b link delete tartan-wg0; ip -n c link delete tartan-wg0",
        "ip -n a route flush proto 84",
        "ip -n a route flush proto 84; ip -n a route add 10.244.0.0/16 via 198.18.1.20",
    ] {
        network::run(damage);
        let clear = network.clear_packets();
        assert_eq!(clear, 0, "after `{damage}`: {clear} packets of pods in clear");
        println!("-- nothing in clear after {damage}");
        network::run("ip -n a route delete 10.244.0.0/16 2>/dev/null || true");
        network.tell_all();
    }
    // It was no loss of the traffic itself.
    pause(Duration::from_millis(500));
    for (pair, report) in traffic.finish() {
        assert!(report.sent() > 100, "{pair}: {report}");
    }
    println!("sealed pairs stayed sealed");
}
