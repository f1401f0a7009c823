//! WireGuard on the real kernel, with `wg` as oracle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::{assert_clean, in_namespace, intent, ip, net, remote, round, run, settle};
use tartan_datapath::{
    kernel::{Kernel, Options},
    model::{Backend, Deletions, Intent, Preshared, PublicKey, Side, Subnet, WireguardEndpoint},
};

fn open(folder: &tempfile::TempDir) -> Kernel {
    let (restore_dir, wireguard_keys) = (folder.path().join("restore"), folder.path().to_owned());
    Kernel::open(Options { restore_dir, wireguard_keys, ..Options::default() }).expect("sockets")
}

fn encrypting(side: &mut Side, key: PublicKey, port: u16) {
    side.backend = Backend::Wireguard;
    side.accepts.insert(Backend::Wireguard);
    side.endpoints.wireguard = vec![WireguardEndpoint { generation: 0, key, port }];
}

/// This node, which encrypts, with peers that do and have answered: peer N has the key of N times 32.
fn encrypted(own: PublicKey, peers: &[u8]) -> Intent {
    let peers = peers.iter().map(|number| {
        let mut peer = remote(u32::from(*number));
        encrypting(&mut peer.side, PublicKey([*number; 32]), 51820 + u16::from(*number));
        peer
    });
    let mut intent = intent(peers.collect());
    encrypting(&mut intent.local.side, own, 51820);
    intent.wireguard.sessions =
        intent.peers.iter().map(|peer| peer.side.endpoints.wireguard[0].key).collect();
    intent
}

/// Peers as `wg` tells them, without what changes by itself: key, end point, allowed addresses, keepalive.
fn peers() -> Vec<String> {
    let mut peers: Vec<String> = run("wg show tartan-wg0 dump")
        .lines()
        .skip(1)
        .map(|line| {
            let field: Vec<&str> = line.split('\t').collect();
            format!("{} {} {} {}", field[0], field[2], field[3], field[7])
        })
        .collect();
    peers.sort();
    peers
}

fn peer(number: u8, allowed: &str) -> String {
    let key = PublicKey([number; 32]);
    format!("{key} 198.51.0.{number}:{} {allowed} off", 51820 + u16::from(number))
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it on two"]
fn a_device_and_its_peers_are_made_kept_and_repaired() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        let own = kernel.wireguard_key(0).unwrap();
        let mut intent = encrypted(own, &[1, 2]);
        let redirects = || run("sysctl -n net.ipv4.conf.all.send_redirects").trim().to_owned();
        assert_eq!(redirects(), "1");
        settle(&mut kernel, &intent).await;
        assert_eq!(redirects(), "0");
        assert_eq!(run("wg show tartan-wg0 public-key").trim(), own.to_string());
        assert_eq!(run("wg show tartan-wg0 listen-port").trim(), "51820");
        assert_eq!(run("wg show tartan-wg0 private-key | wg pubkey").trim(), own.to_string());
        let mut expected = vec![peer(1, "10.64.1.0/24"), peer(2, "10.64.2.0/24")];
        expected.sort();
        assert_eq!(peers(), expected);
        let route = run("ip route show 10.64.1.0/24");
        assert!(route.contains("dev tartan-wg0 proto 84 scope link src 10.251.1.0 mtu 1440"), "{route}");

        // Altered, removed, and one that nobody asked for.
        let key = |number: u8| PublicKey([number; 32]);
        run(&format!("wg set tartan-wg0 peer {} allowed-ips 10.64.99.0/24", key(1)));
        run(&format!("wg set tartan-wg0 peer {} remove", key(2)));
        run(&format!("wg set tartan-wg0 peer {} allowed-ips 10.64.77.0/24", key(9)));
        run("wg set tartan-wg0 listen-port 4000");
        settle(&mut kernel, &intent).await;
        assert_eq!(peers(), expected);
        assert_eq!(run("wg show tartan-wg0 listen-port").trim(), "51820");

        // Another process finds nothing to do, with the same key.
        let mut next = open(&folder);
        assert_eq!(next.wireguard_key(0).unwrap(), own);
        let again = round(&mut next, &intent, Deletions::Allowed).await;
        assert_clean(&again);
        assert!(again.1.steps.is_empty(), "{:?}", again.1.steps);

        // The device is taken away: all of it comes back.
        run("ip link delete tartan-wg0");
        settle(&mut kernel, &intent).await;
        assert_eq!(peers(), expected);

        // A peer goes, another is set up anew with another key and address.
        intent.peers.remove(0);
        encrypting(&mut intent.peers[0].side, key(7), 4242);
        intent.wireguard.sessions.insert(key(7));
        intent.peers[0].side.public_ips = vec![ip("198.51.0.7")];
        settle(&mut kernel, &intent).await;
        assert_eq!(peers(), [format!("{} 198.51.0.7:4242 10.64.2.0/24 off", key(7))]);

        // What the kernel turned off when the device came up is put back at the end.
        kernel.restore_sysctls().unwrap();
        assert_eq!(redirects(), "1");
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it on two"]
fn a_key_file_that_others_may_read_stops_nothing_that_works() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let own = {
            let mut kernel = open(&folder);
            let own = kernel.wireguard_key(0).unwrap();
            settle(&mut kernel, &encrypted(own, &[1])).await;
            own
        };
        let file = folder.path().join("wireguard-0.key");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut kernel = open(&folder);
        assert!(kernel.wireguard_key(0).unwrap_err().to_string().contains("may be read by others"));
        assert_eq!(kernel.wireguard_key_in_use(0).await, Some(own));
        let again = round(&mut kernel, &encrypted(own, &[1]), Deletions::Allowed).await;
        assert_clean(&again);
        assert!(again.1.steps.is_empty(), "{:?}", again.1.steps);
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it on two"]
fn what_stands_in_the_way_is_reported_and_left_alone() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        let own = kernel.wireguard_key(0).unwrap();
        let intent = encrypted(own, &[1]);
        run("ip link add tartan-wg0 type wireguard && ip link set tartan-wg0 up");
        let (_, plan, outcome) = round(&mut kernel, &intent, Deletions::Allowed).await;
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        assert!(
            plan.conflicts.iter().any(|conflict| conflict.to_string().contains("tartan-wg0")),
            "{plan:?}"
        );
        assert_eq!(run("wg show tartan-wg0 peers").trim(), "");
        run("ip link delete tartan-wg0");

        // Another program has the port.
        run("ip link add other type wireguard && wg set other listen-port 51820 && ip link set other up");
        let (_, _, outcome) = round(&mut kernel, &intent, Deletions::Allowed).await;
        let failed: Vec<String> =
            outcome.failures.iter().map(|failure| failure.step.key.to_string()).collect();
        assert_eq!(failed, ["wireguard tartan-wg0"]);
        run("ip link delete other");
        settle(&mut kernel, &intent).await;
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it on two"]
fn a_preshared_key_is_set_beside_the_rest_and_a_missing_one_takes_nothing_away() {
    in_namespace(async || {
        const SHARED: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        let own = kernel.wireguard_key(0).unwrap();
        let mut intent = encrypted(own, &[1]);
        intent.wireguard.preshared = Preshared::Key(SHARED.parse().unwrap());
        intent.wireguard.keepalive = 25;
        settle(&mut kernel, &intent).await;
        let shared = || run("wg show tartan-wg0 preshared-keys");
        assert_eq!(shared().matches(SHARED).count(), 1, "{}", shared());
        assert_eq!(run("wg show tartan-wg0 persistent-keepalive").matches("25").count(), 1);
        // Another end point, and one more subnet.
        intent.peers[0].side.public_ips = vec![ip("198.51.0.99")];
        encrypting(&mut intent.peers[0].side, PublicKey([1; 32]), 9);
        intent.peers[0].subnets.push(Subnet { prefix: net("10.64.200.0/24"), primary: false, regular: true });
        settle(&mut kernel, &intent).await;
        let allowed = run("wg show tartan-wg0 allowed-ips");
        assert!(allowed.contains("10.64.1.0/24") && allowed.contains("10.64.200.0/24"), "{allowed}");

        // The Secret is gone: the peer stays as it is, and another isn't added without.
        intent.wireguard.preshared = Preshared::Missing;
        intent.peers.extend(encrypted(own, &[2]).peers);
        let (_, _, outcome) = round(&mut kernel, &intent, Deletions::Allowed).await;
        let failed: Vec<_> = outcome
            .failures
            .iter()
            .map(|failure| (failure.step.key.to_string(), failure.error.reason()))
            .collect();
        assert_eq!(failed, [(format!("wireguard peer {} dev tartan-wg0", PublicKey([2; 32])), "no-key")]);
        assert_eq!(shared().matches(SHARED).count(), 1, "{}", shared());
        assert_eq!(shared().lines().count(), 1, "{}", shared());

        // None is asked for any more, and no session needs it.
        intent.wireguard.preshared = Preshared::None;
        settle(&mut kernel, &intent).await;
        assert_eq!(shared().matches("(none)").count(), 2, "{}", shared());
    });
}

#[test]
#[ignore = "needs a kernel with WireGuard: tests/vm.rs runs it on two"]
fn two_generations_have_a_link_each_and_what_is_left_goes_with_its_key() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = open(&folder);
        let mut intent = encrypted(kernel.wireguard_key(0).unwrap(), &[1]);
        let new = WireguardEndpoint { generation: 1, key: kernel.wireguard_key(1).unwrap(), port: 51821 };
        let theirs = WireguardEndpoint { generation: 1, key: PublicKey([101; 32]), port: 51999 };
        intent.local.side.endpoints.wireguard.push(new);
        intent.peers[0].side.endpoints.wireguard.push(theirs);
        settle(&mut kernel, &intent).await;
        let wg = |what: &str| run(&format!("wg show {what}"));
        assert_eq!(wg("interfaces").split_whitespace().count(), 2);
        assert_eq!(wg("tartan-wg1 endpoints").trim(), format!("{}\t198.51.0.1:51999", theirs.key));
        assert_eq!(wg("tartan-wg1 persistent-keepalive").trim(), format!("{}\t5", theirs.key), "it asks");
        assert!(wg("tartan-wg0 persistent-keepalive").trim().ends_with("off"));
        let device = |name: &str| run("ip route show 10.64.1.0/24").contains(&format!("dev {name} "));
        assert!(device("tartan-wg0"), "no handshake yet");
        assert!(kernel.wireguard_sessions().unwrap().is_empty());

        intent.wireguard.sessions.insert(theirs.key);
        settle(&mut kernel, &intent).await;
        assert!(device("tartan-wg1"));
        assert!(wg("tartan-wg1 persistent-keepalive").trim().ends_with("off"));

        // Left, and not closed yet; then nobody publishes the old ones.
        let old = intent.local.side.endpoints.wireguard.remove(0);
        intent.wireguard.leaving = vec![old];
        settle(&mut kernel, &intent).await;
        assert_eq!(wg("tartan-wg0 peers").lines().count(), 1);
        assert_eq!(kernel.forget_wireguard_keys(&[0, 1].into()).await.unwrap(), 0);
        intent.wireguard.leaving.clear();
        intent.peers[0].side.endpoints.wireguard.remove(0);
        settle(&mut kernel, &intent).await;
        assert_eq!(wg("interfaces").trim(), "tartan-wg1");
        assert_eq!(kernel.forget_wireguard_keys(&[1].into()).await.unwrap(), 1);
        assert!(!folder.path().join("wireguard-0.key").exists());
        assert!(folder.path().join("wireguard-1.key").exists());
    });
}
