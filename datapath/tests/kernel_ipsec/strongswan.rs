//! strongSwan: the daemon beside us, and one at the other end that its own program configures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use super::{common::run, until};

const CONFIGURATION: &str = include_str!("../../../charts/tartan/files/strongswan.conf");
pub const KEY: &str = "a key that is long enough for this test, and known to both ends";

/// A daemon in a network namespace (`None`: this one) with its socket in `folder`.
pub struct Daemon {
    pub folder: PathBuf,
    namespace: Option<&'static str>,
    child: Option<Child>,
}

impl Daemon {
    pub fn start(folder: &Path, namespace: Option<&'static str>) -> Self {
        fs::create_dir_all(folder).unwrap();
        let socket = folder.join("charon.vici");
        let text = CONFIGURATION.replace("/run/tartan/ipsec/charon.vici", &socket.display().to_string());
        let swanctl = "swanctl {\n  load = nonce openssl pem x509 pkcs1 pkcs8\n}\n";
        fs::write(folder.join("strongswan.conf"), text + swanctl).unwrap();
        let mut daemon = Self { folder: folder.to_owned(), namespace, child: None };
        daemon.again();
        daemon
    }

    pub fn again(&mut self) {
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
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What it prints. It must succeed.
    pub fn swanctl(&self, words: &str) -> String {
        run(&self.command(words))
    }

    /// The same where it may find nothing to do, or fail.
    pub fn try_swanctl(&self, words: &str) -> String {
        run(&format!("{} || true", self.command(words)))
    }

    fn command(&self, words: &str) -> String {
        let folder = self.folder.display();
        format!(
            "SWANCTL_DIR={folder} STRONGSWAN_CONF={folder}/strongswan.conf \
             swanctl {words} --uri unix://{folder}/charon.vici 2>&1"
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The other end: strongSwan alone, by its own program and with its own policies, as an administrator writes it.
pub fn stranger(folder: &Path) -> Daemon {
    run("mkdir -p /run/netns; mount -t tmpfs netns /run/netns
         ip netns add other
         ip link set far netns other
         ip -n other link set lo up
         ip -n other link set far up
         ip -n other address add 192.0.2.21/24 dev far
         ip -n other address add 10.64.1.9/32 dev lo
         ip -n other route add 10.251.1.0/24 via 192.0.2.11 src 10.64.1.9");
    Daemon::start(&folder.join("other"), Some("other"))
}

/// Makes it one that has our preshared key.
pub fn configure_by_key(daemon: &Daemon, known_as: &str) {
    let own = "auth = psk\n      id = 192.0.2.21";
    let ours = format!("auth = psk\n      id = {known_as}");
    configure(daemon, own, &ours, &format!("secrets {{\n  ike {{\n    secret = \"{KEY}\"\n  }}\n}}\n"));
}

/// Makes it one that has the certificate in `files`, says that it is `name`, and believes the authority there.
pub fn configure_by_certificate(daemon: &Daemon, files: &Path, name: &str) {
    for (from, to) in [("ca.crt", "x509ca"), ("tls.crt", "x509"), ("tls.key", "private")] {
        let directory = daemon.folder.join(to);
        fs::create_dir_all(&directory).unwrap();
        fs::copy(files.join(from), directory.join("one")).unwrap();
    }
    let own = format!("auth = pubkey\n      certs = one\n      id = {name}");
    let ours = "auth = pubkey\n      cacerts = one\n      id = here";
    configure(daemon, &own, ours, "");
}

fn configure(daemon: &Daemon, own: &str, ours: &str, secrets: &str) {
    let text = format!(
        "connections {{
  ours {{
    version = 2
    local_addrs = 192.0.2.21
    remote_addrs = 192.0.2.11
    proposals = aes256-sha256-modp4096
    local {{
      {own}
    }}
    remote {{
      {ours}
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
{secrets}"
    );
    let file = daemon.folder.join("swanctl.conf");
    fs::write(&file, text).unwrap();
    daemon.swanctl(&format!("--load-all --clear --noprompt --file {}", file.display()));
}
