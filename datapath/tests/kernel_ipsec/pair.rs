//! A pair with swanctl at its other end, by a preshared key.

use super::{
    POD, answered, answered_at_once, by_ipsec,
    capture::Capture,
    common::{in_namespace, ip, remote, round, run, settle},
    encrypted, open, reasons_without_daemon,
    strongswan::{Daemon, KEY, configure_by_key, stranger},
    until, write_key,
};
use tartan_datapath::model::{Action, Deletions};

#[test]
#[ignore = "needs a kernel with IPsec and strongSwan: tests/vm.rs runs it on two"]
fn with_swanctl_at_the_other_end_a_pair_is_encrypted_or_silent() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run(POD);
        let other = stranger(folder);
        configure_by_key(&other, "192.0.2.11");
        let capture = Capture::start(folder);
        let control = capture.proved();

        write_key(folder, KEY);
        let mut daemon = Daemon::start(folder, None);
        let mut kernel = open(folder);
        let mut intent = encrypted(vec![by_ipsec(remote(1), "192.0.2.21")]);
        settle(&mut kernel, &intent).await;
        until("the first answer", || answered_at_once(2) == 2);
        until("the capture to see ESP", || capture.lines("ESP(spi=") > 0);
        let associations = other.swanctl("--list-sas");
        assert!(
            associations.contains("10.64.1.0/24") && associations.contains("10.251.1.0/24"),
            "{associations}"
        );
        assert!(associations.contains("ESP:AES_GCM_16-128"), "{associations}");

        // The daemon dies: what it negotiated goes on, and a new one takes over without a gap.
        daemon.kill();
        assert!(reasons_without_daemon(&mut kernel, &intent).await.contains(&"ike-daemon-ended"));
        assert_eq!(answered(40), 40);
        daemon.again();
        settle(&mut kernel, &intent).await;
        // Of 20 a second: what 400 milliseconds hold, on an emulated processor.
        assert!(answered(60) >= 52, "while the daemon began anew");
        until("the new daemon's associations", || daemon.swanctl("--list-sas").contains("INSTALLED"));
        assert_eq!(answered(20), 20);

        // Rekeying.
        daemon.swanctl("--rekey --ike tartan-192-0-2-21");
        until("one association, the new one", || {
            let associations = daemon.swanctl("--list-sas");
            let ours = associations.matches("tartan-192-0-2-21: #").count();
            ours == 1 && associations.contains("#2, ESTABLISHED") && associations.contains("INSTALLED")
        });
        let child = daemon.swanctl("--list-sas");
        let child = child.split("pods-").nth(1).unwrap().split(':').next().unwrap();
        daemon.swanctl(&format!("--rekey --child pods-{child}"));
        assert!(answered(40) >= 38);

        // Packets that processors bring out of order are no replays.
        let states = run("ip xfrm state");
        assert!(states.contains("replay_window 4096"), "{states}");

        // Without associations nothing leaves, and nothing in clear.
        daemon.kill();
        assert!(reasons_without_daemon(&mut kernel, &intent).await.contains(&"ike-daemon-ended"));
        run("ip xfrm state flush");
        assert_eq!(answered_at_once(10), 0);
        // Nor where the device or the policies are gone.
        run("ip link delete tartan-ipsec");
        assert_eq!(answered_at_once(10), 0);
        daemon.again();
        settle(&mut kernel, &intent).await;
        run("ip xfrm policy flush");
        assert_eq!(answered_at_once(10), 0);
        settle(&mut kernel, &intent).await;
        until("packets after all that", || answered_at_once(4) == 4);

        // ESP in UDP, though no translation of addresses is on the way. The daemons talk on the same port: what is not ESP
        // there begins with four zeroes (RFC 3948 section 2.2), which tcpdump calls `NONESP-encap`.
        let bare = || capture.lines("192.0.2.11 > 192.0.2.21: ESP(spi=");
        let in_udp = || capture.lines("192.0.2.11.4500 > 192.0.2.21.4500: UDP-encap: ESP(spi=");
        assert!(bare() > 0 && in_udp() == 0, "before it is asked for");
        intent.ipsec.udp_encapsulation = true;
        settle(&mut kernel, &intent).await;
        until("the capture to see ESP in UDP", || answered_at_once(2) == 2 && in_udp() > 0);
        let (bare_before, begun) = (bare(), in_udp());
        assert_eq!(answered(20), 20);
        until("the capture to see all of it", || in_udp() >= begun + 20);
        assert_eq!(bare(), bare_before, "ESP that is not in UDP");

        // The peer is gone from the leases.
        let mut alone = intent.clone();
        alone.peers.clear();
        settle(&mut kernel, &alone).await;
        assert_eq!(answered_at_once(10), 0);
        until("the end of its associations", || !daemon.swanctl("--list-sas").contains("ESTABLISHED"));
        // The next round's look.
        let last = round(&mut kernel, &alone, Deletions::Allowed).await;
        assert!(last.1.steps.iter().all(|step| step.action == Action::Delete), "{:?}", last.1.steps);
        assert_eq!(capture.clear(), control, "packets of pods in clear");
    });
}

/// As behind a translation of addresses, where peers know another address than packets are sent from.
#[test]
#[ignore = "needs a kernel with IPsec and strongSwan: tests/vm.rs runs it on two"]
fn a_node_that_publishes_another_address_says_that_it_is_this_one() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run(POD);
        let published = "203.0.113.11";
        let other = stranger(folder);
        configure_by_key(&other, published);
        write_key(folder, KEY);
        let daemon = Daemon::start(folder, None);
        let mut kernel = open(folder);
        let mut intent = encrypted(vec![by_ipsec(remote(1), "192.0.2.21")]);
        // At first it knows of no other, and is refused.
        settle(&mut kernel, &intent).await;
        let connections = daemon.swanctl("--list-conns");
        let child = connections.split("pods-").nth(1).unwrap().split(':').next().unwrap();
        let said = daemon.try_swanctl(&format!("--initiate --child pods-{child} --timeout 60"));
        assert!(said.contains("AUTHENTICATION_FAILED"), "{said}");
        assert_eq!(answered_at_once(4), 0);
        intent.local.side.public_ips = vec![ip(published)];
        settle(&mut kernel, &intent).await;
        until("an answer", || answered_at_once(2) == 2);
        let associations = other.swanctl("--list-sas");
        assert!(associations.contains(published), "{associations}");
    });
}
