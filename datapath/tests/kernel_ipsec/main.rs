//! IPsec on the real kernel, with strongSwan's own `swanctl`, `ip xfrm` and tcpdump as oracles. The daemon beside us
//! is configured as by the chart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod capture;
mod certificates;
#[path = "../common/mod.rs"]
mod common;
mod pair;
mod strongswan;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use common::{assert_clean, in_namespace, intent, ip, json, remote, round, run, settle};
use strongswan::{Daemon, KEY};
use tartan_datapath::{
    kernel::{Kernel, Options},
    model::{Backend, Deletions, Intent, Peer},
};

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < limit, "{what}: not within a minute");
        pause(Duration::from_millis(50));
    }
}

#[expect(clippy::disallowed_methods, reason = "other programs are waited for")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn write_key(folder: &Path, key: &str) {
    let path = folder.join("psk");
    let _ = fs::remove_file(&path);
    fs::write(&path, key).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
}

fn open(folder: &Path) -> Kernel {
    let options = Options {
        restore_dir: folder.join("restore"),
        wireguard_keys: folder.to_owned(),
        vici: folder.join("charon.vici"),
        ipsec_key: folder.join("psk"),
        ipsec_certificates: folder.to_owned(),
        ..Options::default()
    };
    Kernel::open(options).expect("sockets")
}

fn by_ipsec(mut peer: Peer, address: &str) -> Peer {
    peer.side.backend = Backend::Ipsec;
    peer.side.accepts.insert(Backend::Ipsec);
    peer.side.endpoints.ipsec = true;
    peer.side.public_ips = vec![ip(address)];
    peer
}

/// This node, which encrypts, with peers that do and with which packets went so before.
fn encrypted(peers: Vec<Peer>) -> Intent {
    let mut intent = intent(peers);
    intent.local.side.backend = Backend::Ipsec;
    intent.local.side.accepts.insert(Backend::Ipsec);
    intent.local.side.endpoints.ipsec = true;
    intent.present.associations =
        intent.peers.iter().flat_map(|peer| peer.side.public_ips.iter().copied()).collect();
    intent
}

/// Our policies as `ip` tells them, one a line.
fn policies() -> Vec<String> {
    let text = run("ip xfrm policy list");
    let mut policies: Vec<String> = vec![];
    for line in text.lines() {
        match policies.last_mut() {
            Some(last) if line.starts_with('\t') => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => policies.push(line.trim().to_owned()),
        }
    }
    policies.retain(|policy| policy.contains("if_id 0x54"));
    policies.sort();
    policies
}

fn expected(subnet: &str, local: &str, remote: &str, request: u32) -> Vec<String> {
    let policy = |from: &str, to: &str, direction: &str, outer: [&str; 2]| {
        format!(
            "src {from} dst {to} dir {direction} priority 0 ptype main tmpl src {} dst {} proto esp reqid {request} mode tunnel if_id 0x54",
            outer[0], outer[1]
        )
    };
    let mut all = vec![
        policy("0.0.0.0/0", subnet, "out", [local, remote]),
        policy(subnet, "0.0.0.0/0", "in", [remote, local]),
        policy(subnet, "0.0.0.0/0", "fwd", [remote, local]),
    ];
    all.sort();
    all
}

#[test]
#[ignore = "needs a kernel with IPsec and strongSwan: tests/vm.rs runs it on two"]
fn policies_and_connections_are_made_kept_and_repaired() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write_key(folder, KEY);
        let mut daemon = Daemon::start(folder, None);
        let mut kernel = open(folder);
        let mut intent =
            encrypted(vec![by_ipsec(remote(1), "192.0.2.21"), by_ipsec(remote(2), "192.0.2.22")]);
        settle(&mut kernel, &intent).await;
        let both = || {
            let mut all = expected("10.64.1.0/24", "192.0.2.11", "192.0.2.21", 0xc000_0215);
            all.extend(expected("10.64.2.0/24", "192.0.2.11", "192.0.2.22", 0xc000_0216));
            all.sort();
            all
        };
        assert_eq!(policies(), both());
        let connections = daemon.swanctl("--list-conns");
        assert!(connections.contains("tartan-192-0-2-21: IKEv2"), "{connections}");
        assert!(connections.contains("tartan-192-0-2-22: IKEv2"), "{connections}");
        let route = run("ip route show 10.64.1.0/24");
        assert!(route.contains("dev tartan-ipsec proto 84 scope link src 10.251.1.0 mtu 1435"), "{route}");

        assert!(!run("ip rule").contains("220"), "the daemon's own table of routes");

        // Altered so that packets would leave as they are, removed, and one that nobody asked for.
        run("ip xfrm policy update src 0.0.0.0/0 dst 10.64.1.0/24 dir out if_id 0x54 priority 0");
        run("ip xfrm policy delete src 10.64.2.0/24 dst 0.0.0.0/0 dir fwd if_id 0x54");
        run("ip xfrm policy add src 0.0.0.0/0 dst 10.99.0.0/16 dir out if_id 0x54 priority 0");
        // Another program's stay.
        run("ip xfrm policy add src 0.0.0.0/0 dst 10.98.0.0/16 dir out if_id 0x99 priority 0");
        settle(&mut kernel, &intent).await;
        assert_eq!(policies(), both());
        assert!(run("ip xfrm policy list").contains("10.98.0.0/16"));

        // Another process finds nothing to do.
        let again = round(&mut open(folder), &intent, Deletions::Allowed).await;
        assert_clean(&again);
        assert!(again.1.steps.is_empty(), "{:?}", again.1.steps);

        // The device is taken away: it comes back.
        run("ip link delete tartan-ipsec");
        settle(&mut kernel, &intent).await;
        assert!(json("ip -j -d link show tartan-ipsec")[0]["ifalias"].as_str().unwrap().contains("tartan"));

        // The daemon begins anew: key and connections are told to it again.
        daemon.kill();
        assert_eq!(reasons_without_daemon(&mut kernel, &intent).await, ["ike-daemon-ended"; 3]);
        assert_eq!(policies(), both());
        daemon.again();
        settle(&mut kernel, &intent).await;
        assert!(daemon.swanctl("--list-conns").contains("tartan-192-0-2-22: IKEv2"));

        // Another setting, another key, and a peer less.
        intent.ipsec.udp_encapsulation = true;
        write_key(folder, "another key that is long enough for this test, I should think");
        intent.peers.remove(0);
        settle(&mut kernel, &intent).await;
        let connections = daemon.swanctl("--list-conns");
        assert!(!connections.contains("tartan-192-0-2-21"), "{connections}");
        assert_eq!(policies(), expected("10.64.2.0/24", "192.0.2.11", "192.0.2.22", 0xc000_0216));

        // A key that anybody may read is not taken and told of; what is loaded goes on.
        let loaded = daemon.swanctl("--list-conns");
        fs::set_permissions(folder.join("psk"), fs::Permissions::from_mode(0o644)).unwrap();
        for _ in 0..2 {
            let (_, plan, outcome) = round(&mut kernel, &intent, Deletions::Allowed).await;
            let reasons: Vec<&str> = outcome.failures.iter().map(|failure| failure.error.reason()).collect();
            assert_eq!((plan.steps.len(), reasons), (1, vec!["ike-renewal-unfit"]), "{:?}", plan.steps);
        }
        assert_eq!(daemon.swanctl("--list-conns"), loaded);
        fs::set_permissions(folder.join("psk"), fs::Permissions::from_mode(0o400)).unwrap();
        settle(&mut kernel, &intent).await;

        // No IPsec any more: nothing is left.
        let mut plain = intent.clone();
        plain.local.side.accepts.remove(&Backend::Ipsec);
        plain.local.side.backend = Backend::HostGw;
        settle(&mut kernel, &plain).await;
        assert!(policies().is_empty(), "{:?}", policies());
        assert!(!daemon.swanctl("--list-conns").contains("tartan-"));
        assert!(!run("ip link").contains("tartan-ipsec"));
    });
}

/// Why the round fails that an agent makes as soon as its daemon has ended; from then on it counts anew how long peers
/// have not answered.
async fn reasons_without_daemon(kernel: &mut Kernel, intent: &Intent) -> Vec<&'static str> {
    let (_, _, outcome) = round(kernel, intent, Deletions::Allowed).await;
    outcome.failures.iter().map(|failure| failure.error.reason()).collect()
}

/// A pod's address, where the bridge would have it.
const POD: &str = "ip address add 10.251.1.9/32 dev lo";

/// What is not back by then, in seconds, is lost: on a busy host, an emulated machine's packets wait for long.
const BACK: u32 = 10;

/// Packets that came back, of `count` sent from a pod's address to one at the other end.
fn answered(count: u32) -> u32 {
    answered_within(BACK, count)
}

/// The same where none should: nothing is gained by long waiting.
fn answered_at_once(count: u32) -> u32 {
    answered_within(2, count)
}

fn answered_within(seconds: u32, count: u32) -> u32 {
    let line = format!("ping -q -i 0.05 -W {seconds} -c {count} -I 10.251.1.9 10.64.1.9 || true");
    let text = run(&line);
    let words = text.split(", ").find(|part| part.ends_with(" received")).expect("a summary");
    words.split(' ').next().unwrap().parse().unwrap()
}
