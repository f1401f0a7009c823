//! IPsec on the real kernel, with strongSwan's own `swanctl`, `ip xfrm` and tcpdump as oracles. The daemon beside us
//! is configured as by the chart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use common::{assert_clean, in_namespace, intent, ip, json, remote, round, run, settle};
use tartan_datapath::{
    kernel::{Kernel, Options},
    model::{Action, Backend, Deletions, Intent, Peer},
};

const CONFIGURATION: &str = include_str!("../../charts/tartan/files/strongswan.conf");
const KEY: &str = "a key that is long enough for this test, and known to both ends";

/// A daemon in a network namespace (`None`: this one) with its socket in `folder`.
struct Daemon {
    folder: PathBuf,
    namespace: Option<&'static str>,
    child: Option<Child>,
}

impl Daemon {
    fn start(folder: &Path, namespace: Option<&'static str>) -> Self {
        fs::create_dir_all(folder).unwrap();
        let socket = folder.join("charon.vici");
        let text = CONFIGURATION.replace("/run/tartan/ipsec/charon.vici", &socket.display().to_string());
        let swanctl = "swanctl {\n  load = nonce openssl pem x509\n}\n";
        fs::write(folder.join("strongswan.conf"), text + swanctl).unwrap();
        let mut daemon = Self { folder: folder.to_owned(), namespace, child: None };
        daemon.again();
        daemon
    }

    fn again(&mut self) {
        let socket = self.folder.join("charon.vici");
        let _ = fs::remove_file(&socket);
        let mut command = match self.namespace {
            None => Command::new("charon-systemd"),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "charon-systemd"]);
                command
            }
        };
        command.env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"));
        self.child = Some(command.spawn().expect("charon-systemd"));
        until("the daemon's socket", || socket.exists());
    }

    /// As `kill -9` and as the image's stop signal do.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn swanctl(&self, words: &str) -> String {
        let folder = self.folder.display();
        run(&format!(
            "STRONGSWAN_CONF={folder}/strongswan.conf swanctl {words} --uri unix://{folder}/charon.vici 2>&1"
        ))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

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

/// This node, which encrypts, with peers that do.
fn encrypted(peers: Vec<Peer>) -> Intent {
    let mut intent = intent(peers);
    intent.local.side.backend = Backend::Ipsec;
    intent.local.side.accepts.insert(Backend::Ipsec);
    intent.local.side.endpoints.ipsec = true;
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
        let (_, _, outcome) = round(&mut kernel, &intent, Deletions::Allowed).await;
        let reasons: Vec<&str> = outcome.failures.iter().map(|failure| failure.error.reason()).collect();
        assert_eq!(reasons, ["ike-daemon-ended"; 3]);
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

        // A key that anybody may read is not taken; what is loaded goes on.
        fs::set_permissions(folder.join("psk"), fs::Permissions::from_mode(0o644)).unwrap();
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

/// What left by the underlay: packets that a reader can tell from noise, and encrypted ones.
struct Capture {
    file: PathBuf,
    child: Child,
}

impl Capture {
    fn start(folder: &Path) -> Self {
        let file = folder.join("captured");
        let output = fs::File::create(&file).unwrap();
        let child = Command::new("tcpdump")
            .args(["-Z", "root", "-l", "-n", "-i", "eth0", "-Q", "out", "not", "arp"])
            .stdout(output)
            .stderr(fs::File::create(folder.join("tcpdump")).unwrap())
            .spawn()
            .expect("tcpdump");
        let words = folder.join("tcpdump");
        until("tcpdump", || fs::read_to_string(&words).unwrap_or_default().contains("listening"));
        Self { file, child }
    }

    fn lines(&self, pattern: &str) -> usize {
        let text = fs::read_to_string(&self.file).unwrap();
        text.lines().filter(|line| line.contains(pattern)).count()
    }

    /// Packets of pods that can be read.
    fn clear(&self) -> usize {
        self.lines("10.251.1.") + self.lines("10.64.1.")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Packets that came back, of `count` sent from a pod's address to one at the other end.
fn answered(count: u32) -> u32 {
    let line = format!("ping -q -i 0.05 -W 2 -c {count} -I 10.251.1.9 10.64.1.9 || true");
    let text = run(&line);
    let words = text.split(", ").find(|part| part.ends_with(" received")).expect("a summary");
    words.split(' ').next().unwrap().parse().unwrap()
}

/// The other end: strongSwan alone, by its own program and with its own policies, as an administrator writes it.
fn stranger(folder: &Path) -> Daemon {
    run("ip netns add other
         ip link set far netns other
         ip -n other link set lo up
         ip -n other link set far up
         ip -n other address add 192.0.2.21/24 dev far
         ip -n other address add 10.64.1.9/32 dev lo
         ip -n other route add 10.251.1.0/24 via 192.0.2.11 src 10.64.1.9");
    let folder = folder.join("other");
    let daemon = Daemon::start(&folder, Some("other"));
    let text = format!(
        "connections {{
  ours {{
    version = 2
    local_addrs = 192.0.2.21
    remote_addrs = 192.0.2.11
    proposals = aes256-sha256-modp4096
    local {{
      auth = psk
      id = 192.0.2.21
    }}
    remote {{
      auth = psk
      id = 192.0.2.11
    }}
    children {{
      pods {{
        local_ts = 10.64.1.0/24
        remote_ts = 10.251.1.0/24
        esp_proposals = aes128gcm16-sha256-prfsha256-ecp256
        start_action = trap
      }}
    }}
  }}
}}
secrets {{
  ike {{
    secret = \"{KEY}\"
  }}
}}
"
    );
    fs::write(folder.join("swanctl.conf"), text).unwrap();
    daemon.swanctl(&format!("--load-all --noprompt --file {}/swanctl.conf", folder.display()));
    daemon
}

#[test]
#[ignore = "needs a kernel with IPsec and strongSwan: tests/vm.rs runs it on two"]
fn with_swanctl_at_the_other_end_a_pair_is_encrypted_or_silent() {
    in_namespace(async || {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        run("mkdir -p /run/netns; mount -t tmpfs netns /run/netns");
        // A pod's address, where the bridge would have it.
        run("ip address add 10.251.1.9/32 dev lo");
        let other = stranger(folder);
        let capture = Capture::start(folder);

        // That the capture would see a packet in clear.
        run("ip route add 10.64.1.0/24 via 192.0.2.21");
        answered(2);
        until("the capture to see packets in clear", || capture.clear() > 0);
        run("ip route delete 10.64.1.0/24");
        let control = capture.clear();

        write_key(folder, KEY);
        let mut daemon = Daemon::start(folder, None);
        let mut kernel = open(folder);
        let intent = encrypted(vec![by_ipsec(remote(1), "192.0.2.21")]);
        settle(&mut kernel, &intent).await;
        until("the first answer", || answered(2) == 2);
        until("the capture to see ESP", || capture.lines("ESP(spi=") > 0);
        let associations = other.swanctl("--list-sas");
        assert!(
            associations.contains("10.64.1.0/24") && associations.contains("10.251.1.0/24"),
            "{associations}"
        );
        assert!(associations.contains("ESP:AES_GCM_16-128"), "{associations}");

        // The daemon dies: what it negotiated goes on, and a new one takes over without a gap.
        daemon.kill();
        assert_eq!(answered(40), 40);
        daemon.again();
        settle(&mut kernel, &intent).await;
        // Of 20 a second: what 200 milliseconds hold.
        assert!(answered(60) >= 56, "while the daemon began anew");
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

        // Without associations nothing leaves, and nothing in clear.
        daemon.kill();
        run("ip xfrm state flush");
        assert_eq!(answered(10), 0);
        // Nor where the device or the policies are gone.
        run("ip link delete tartan-ipsec");
        assert_eq!(answered(10), 0);
        daemon.again();
        settle(&mut kernel, &intent).await;
        run("ip xfrm policy flush");
        assert_eq!(answered(10), 0);
        settle(&mut kernel, &intent).await;
        until("packets after all that", || answered(4) == 4);

        // The peer is gone from the leases.
        let mut alone = intent.clone();
        alone.peers.clear();
        settle(&mut kernel, &alone).await;
        assert_eq!(answered(10), 0);
        until("the end of its associations", || !daemon.swanctl("--list-sas").contains("ESTABLISHED"));
        // The next round's look.
        let last = round(&mut kernel, &alone, Deletions::Allowed).await;
        assert!(last.1.steps.iter().all(|step| step.action == Action::Delete), "{:?}", last.1.steps);
        assert_eq!(capture.clear(), control, "packets of pods in clear");
    });
}
