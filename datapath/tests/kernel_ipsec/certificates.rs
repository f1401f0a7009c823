//! A pair whose ends prove who they are by certificates, with swanctl at its other end.
//!
//! [`VARIABLE`] names a directory of directories with `ca.crt`, `tls.crt` and `tls.key`: `here` and `renewed` for
//! this node, `other` for the other end and `third` for neither, all of one authority; `false` for the other end's name,
//! of another authority.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    POD, answered, answered_at_once, by_ipsec,
    capture::Capture,
    common::{assert_clean, in_namespace, remote, round, run, settle},
    encrypted, open, pause, reasons_without_daemon,
    strongswan::{Daemon, configure_by_certificate, configure_by_key, stranger},
    until, write_key,
};
use tartan_datapath::{
    kernel::Kernel,
    model::{Deletions, IkeAuthentication, Intent},
};
use tartan_lab::certificates::VARIABLE;

/// The Node's name of the other end.
const OTHER: &str = "remote00001";

fn made(name: &str) -> PathBuf {
    let all = std::env::var(VARIABLE).unwrap_or_else(|_| panic!("{VARIABLE}: tests/vm.rs makes them"));
    Path::new(&all).join(name)
}

/// As something that renews certificates does.
fn install(name: &str, folder: &Path) {
    for file in ["ca.crt", "tls.crt", "tls.key"] {
        let target = folder.join(file);
        let _ = fs::remove_file(&target);
        fs::copy(made(name).join(file), &target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o400)).unwrap();
    }
}

/// What fails in a round, and why.
async fn failures(kernel: &mut Kernel, intent: &Intent) -> Vec<String> {
    let (_, _, outcome) = round(kernel, intent, Deletions::Allowed).await;
    outcome.failures.iter().map(|failure| format!("{}: {}", failure.error.reason(), failure.error)).collect()
}

/// Both ends must prove again who they are.
fn anew(daemon: &Daemon, other: &Daemon) {
    for (daemon, name) in [(other, "ours"), (daemon, "tartan-192-0-2-21")] {
        // What has ended is no trouble.
        daemon.try_swanctl(&format!("--terminate --force --timeout 5 --ike {name}"));
    }
    // Of a daemon that was killed, which nobody asks any more.
    run("ip xfrm state flush; ip -n other xfrm state flush");
}

/// Packets pass when both have begun anew, and the agent has seen it, as it would.
async fn believed(daemon: &Daemon, other: &Daemon, kernel: &mut Kernel, intent: &Intent, what: &str) {
    anew(daemon, other);
    until(what, || answered_at_once(2) == 2);
    assert_clean(&round(kernel, intent, Deletions::Allowed).await);
}

#[test]
#[ignore = "needs a kernel with IPsec and strongSwan: tests/vm.rs runs it on two"]
fn a_node_is_believed_by_its_certificate_and_for_its_own_name_alone() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run(POD);
        let other = stranger(folder);
        configure_by_certificate(&other, &made("other"), OTHER);
        let capture = Capture::start(folder);
        let control = capture.proved();
        let mut daemon = Daemon::start(folder, None);
        let mut kernel = open(folder);
        let mut intent = encrypted(vec![by_ipsec(remote(1), "192.0.2.21")]);
        intent.ipsec.authentication = IkeAuthentication::Certificate;

        // Nothing is there yet: it is told, and nothing leaves.
        let found = failures(&mut kernel, &intent).await;
        assert!(
            found.len() == 1 && found[0].contains("ike-key-unfit") && found[0].contains("ca.crt"),
            "{found:?}"
        );
        assert_eq!(answered_at_once(3), 0);

        install("here", folder);
        settle(&mut kernel, &intent).await;
        until("the first answer", || answered_at_once(2) == 2);
        settle(&mut kernel, &intent).await;
        let associations = other.swanctl("--list-sas");
        assert!(associations.contains("remote 'here' @ 192.0.2.11"), "{associations}");
        assert!(daemon.swanctl("--list-sas").contains(&format!("remote '{OTHER}' @ 192.0.2.21")));

        // Another process finds nothing to do; a daemon that begins anew is told again.
        settle(&mut open(folder), &intent).await;
        daemon.kill();
        reasons_without_daemon(&mut kernel, &intent).await;
        daemon.again();
        settle(&mut kernel, &intent).await;
        believed(&daemon, &other, &mut kernel, &intent, "packets by the new daemon").await;

        // Killed, so that its associations stay, and the next one's ended: nothing tells the daemon to begin again but we.
        daemon.kill();
        reasons_without_daemon(&mut kernel, &intent).await;
        daemon.again();
        settle(&mut kernel, &intent).await;
        until("the new association", || daemon.swanctl("--list-sas").contains("INSTALLED"));
        daemon.try_swanctl("--terminate --force --timeout 5 --ike tartan-192-0-2-21");
        until("no association", || !daemon.swanctl("--list-sas").contains("INSTALLED"));
        // No packet asks for it: those that wait for one would hide that nobody else does.
        let limit = Instant::now() + Duration::from_secs(90);
        while !daemon.swanctl("--list-sas").contains("INSTALLED") {
            assert!(Instant::now() < limit, "a peer without association is not asked again");
            round(&mut kernel, &intent, Deletions::Allowed).await;
            pause(Duration::from_secs(1));
        }
        until("packets by the one that was asked for", || answered_at_once(2) == 2);

        // Renewed: one certificate, the new one, and what stood goes on.
        let serial = |daemon: &Daemon| {
            let text = daemon.swanctl("--list-certs --type x509 --subject here");
            text.lines().filter(|line| line.contains("serial:")).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = serial(&daemon);
        install("renewed", folder);
        settle(&mut kernel, &intent).await;
        assert!(answered(20) >= 19);
        let after = serial(&daemon);
        assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");
        believed(&daemon, &other, &mut kernel, &intent, "packets by the new certificate").await;

        // One that is not for this node is told of; what is loaded goes on.
        install("third", folder);
        let found = failures(&mut kernel, &intent).await;
        assert!(found.len() == 1 && found[0].contains("ike-renewal-unfit"), "{found:?}");
        anew(&daemon, &other);
        until("packets by the one of before", || answered_at_once(2) == 2);
        // So is one whose key is of before, as while both are being written.
        install("here", folder);
        settle(&mut kernel, &intent).await;
        fs::remove_file(folder.join("tls.crt")).unwrap();
        fs::copy(made("renewed").join("tls.crt"), folder.join("tls.crt")).unwrap();
        for _ in 0..2 {
            let found = failures(&mut kernel, &intent).await;
            assert!(found.len() == 1 && found[0].contains("ike-renewal-unfit"), "{found:?}");
        }
        anew(&daemon, &other);
        until("packets by the one of before", || answered_at_once(2) == 2);
        // Nor does a key that the daemon refuses take away what it has.
        install("here", folder);
        fs::set_permissions(folder.join("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.join("tls.key"), "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
            .unwrap();
        let found = failures(&mut kernel, &intent).await;
        assert!(found.len() == 1 && found[0].contains("load-key"), "{found:?}");
        anew(&daemon, &other);
        until("packets by the one of before", || answered_at_once(2) == 2);
        install("here", folder);
        settle(&mut kernel, &intent).await;

        // The other end with a certificate of the same authority for another name, whatever it says that it is; and with
        // one for its name of another authority.
        for (files, name) in [("third", "third"), ("third", OTHER), ("false", OTHER)] {
            configure_by_certificate(&other, &made(files), name);
            anew(&daemon, &other);
            assert_eq!(answered_at_once(60), 0, "{files} as {name} is believed");
        }
        configure_by_certificate(&other, &made("other"), OTHER);
        believed(&daemon, &other, &mut kernel, &intent, "packets by the true certificate").await;

        // From certificates to the preshared key, and back.
        write_key(folder, super::KEY);
        intent.ipsec.authentication = IkeAuthentication::PresharedKey;
        configure_by_key(&other, "192.0.2.11");
        assert_clean(&round(&mut kernel, &intent, Deletions::Allowed).await);
        believed(&daemon, &other, &mut kernel, &intent, "packets by the preshared key").await;
        assert!(serial(&daemon).is_empty(), "the certificate stays");
        intent.ipsec.authentication = IkeAuthentication::Certificate;
        configure_by_certificate(&other, &made("other"), OTHER);
        assert_clean(&round(&mut kernel, &intent, Deletions::Allowed).await);
        believed(&daemon, &other, &mut kernel, &intent, "packets by the certificate").await;
        let keys = daemon.swanctl("--list-conns");
        assert!(keys.contains("public key authentication") && !keys.contains("pre-shared key"), "{keys}");
        assert_eq!(capture.clear(), control, "packets of pods in clear");
    });
}
