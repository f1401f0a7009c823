//! WireGuard's cross-platform interface (<https://www.wireguard.com/xplatform/>): how a WireGuard in user space is
//! asked and told, in lines of text on a socket. Here, the side that asks. Requests are answered in microseconds, so
//! they block.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnetwork::IpNetwork;
use zeroize::Zeroizing;

use super::keys::PrivateKey;
use crate::model::{Action, Preshared, PresharedKey, PublicKey, WireguardDevice, WireguardPeer};

/// A process that takes longer hangs, and must not take the agent with it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why nothing was learned or set. No line of a conversation is ever in it: some hold keys.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    #[error(
        "no process answers for the user-space WireGuard device at {}: see the log of pod tartan-wireguard on this node (wireguard.userspace of the chart)",
        path.display()
    )]
    Absent {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the process of the user-space WireGuard device at {} refused (errno {errno})", path.display())]
    Refused { path: PathBuf, errno: i32 },
    #[error("the process of the user-space WireGuard device at {} gives a {field} that can't be read", path.display())]
    Malformed { path: PathBuf, field: &'static str },
}

/// A device as it was told.
#[derive(Default)]
pub(super) struct SeenDevice {
    pub(super) key: Option<PublicKey>,
    pub(super) port: Option<u16>,
    pub(super) peers: Vec<(PublicKey, SeenPeer)>,
}

#[derive(Default)]
pub(super) struct SeenPeer {
    pub(super) endpoint: Option<SocketAddr>,
    /// Inner addresses that may come from it and go to it.
    pub(super) allowed: BTreeSet<IpNetwork>,
    pub(super) keepalive: u16,
    pub(super) preshared: Option<PresharedKey>,
    /// After the epoch; zero: never.
    pub(super) handshake: Duration,
}

/// Key, port and peers of a device.
pub(super) fn get(path: &Path) -> Result<SeenDevice, UapiError> {
    let mut seen = SeenDevice::default();
    let malformed = |field| UapiError::Malformed { path: path.to_owned(), field };
    for line in ask(path, "get=1\n\n")? {
        let Some((name, value)) = line.split_once('=') else { continue };
        match (name, seen.peers.last_mut().map(|(_, peer)| peer)) {
            ("private_key", _) => {
                let bytes = Zeroizing::new(bytes(value).ok_or_else(|| malformed("private_key"))?);
                // One that was never set is told as none, or as zeros.
                seen.key = (*bytes != [0; 32]).then(|| PrivateKey::of(*bytes).public());
            }
            ("listen_port", _) => {
                seen.port =
                    Some(value.parse().map_err(|_| malformed("listen_port"))?).filter(|port| *port != 0);
            }
            ("public_key", _) => {
                let key = bytes(value).map(PublicKey).ok_or_else(|| malformed("public_key"))?;
                seen.peers.push((key, SeenPeer::default()));
            }
            ("preshared_key", Some(peer)) => {
                let key = bytes(value).ok_or_else(|| malformed("preshared_key"))?;
                peer.preshared = Some(PresharedKey(key)).filter(|key| key.0 != [0; 32]);
            }
            ("endpoint", Some(peer)) => {
                peer.endpoint = Some(value.parse().map_err(|_| malformed("endpoint"))?);
            }
            ("persistent_keepalive_interval", Some(peer)) => {
                peer.keepalive = value.parse().map_err(|_| malformed("persistent_keepalive_interval"))?;
            }
            ("allowed_ip", Some(peer)) => {
                peer.allowed.insert(value.parse().map_err(|_| malformed("allowed_ip"))?);
            }
            ("last_handshake_time_sec", Some(peer)) => {
                let seconds = value.parse().map_err(|_| malformed("last_handshake_time_sec"))?;
                peer.handshake = Duration::from_secs(seconds);
            }
            _ => {}
        }
    }
    Ok(seen)
}

/// Sets key and port of a device.
pub(super) fn set_device(path: &Path, device: &WireguardDevice, key: &PrivateKey) -> Result<(), UapiError> {
    let secret = Zeroizing::new(key.to_bytes());
    let request = Zeroizing::new(format!(
        "set=1\nprivate_key={}\nlisten_port={}\n\n",
        Zeroizing::new(hex(&secret)).as_str(),
        device.port
    ));
    ask(path, &request).map(drop)
}

/// Adds, changes or removes a peer. What is as it was isn't sent; see [`super::wireguard::set_peer`].
pub(super) fn set_peer(
    path: &Path,
    key: PublicKey,
    (action, peer): (Action, &WireguardPeer),
    before: Option<&WireguardPeer>,
) -> Result<(), UapiError> {
    ask(path, &Zeroizing::new(peer_request(key, (action, peer), before))).map(drop)
}

fn peer_request(
    key: PublicKey,
    (action, peer): (Action, &WireguardPeer),
    before: Option<&WireguardPeer>,
) -> String {
    let mut text = format!("set=1\npublic_key={}\n", hex(&key.0));
    // Writing to a String can't fail.
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name}={value}");
    };
    if action == Action::Delete {
        line("remove", &true);
    } else {
        if before.is_none_or(|before| before.endpoint != peer.endpoint) {
            line("endpoint", &peer.endpoint);
        }
        if before.is_none_or(|before| before.preshared != peer.preshared) {
            match peer.preshared {
                // All zeros are none.
                Preshared::None => line("preshared_key", &hex(&[0; 32])),
                Preshared::Key(key) => line("preshared_key", &hex(&key.0)),
                Preshared::Missing => {}
            }
        }
        line("persistent_keepalive_interval", &peer.keepalive);
        if before.is_none_or(|before| !before.allowed.is_subset(&peer.allowed)) {
            line("replace_allowed_ips", &true);
        }
        if before.is_none_or(|before| before.allowed != peer.allowed) {
            for prefix in &peer.allowed {
                line("allowed_ip", prefix);
            }
        }
    }
    text.push('\n');
    text
}

/// The lines of the answer, up to the empty one that ends it.
fn ask(path: &Path, request: &str) -> Result<Vec<Zeroizing<String>>, UapiError> {
    let absent = |source| UapiError::Absent { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).map_err(absent)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(absent)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(absent)?;
    (&stream).write_all(request.as_bytes()).map_err(absent)?;
    let (mut reader, mut lines) = (BufReader::new(&stream), vec![]);
    loop {
        let mut line = Zeroizing::new(String::new());
        if reader.read_line(&mut line).map_err(absent)? == 0 {
            return Err(absent(io::ErrorKind::UnexpectedEof.into()));
        }
        let length = line.trim_end().len();
        line.truncate(length);
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let told = lines.iter().rev().find_map(|line| line.strip_prefix("errno="));
    match told.and_then(|errno| errno.parse::<i32>().ok()) {
        Some(0) => Ok(lines),
        // Some implementations tell it as a negative number.
        Some(errno) => Err(UapiError::Refused { path: path.to_owned(), errno: errno.saturating_abs() }),
        None => Err(UapiError::Malformed { path: path.to_owned(), field: "errno" }),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(64);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(allowed: &[&str]) -> WireguardPeer {
        WireguardPeer {
            endpoint: "192.0.2.1:51820".parse().unwrap(),
            allowed: allowed.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            keepalive: 25,
            preshared: Preshared::None,
        }
    }

    /// The request without the lines that name it and its peer.
    fn lines(wanted: (Action, &WireguardPeer), before: Option<&WireguardPeer>) -> Vec<String> {
        let text = peer_request(PublicKey([1; 32]), wanted, before);
        assert!(
            text.starts_with(&format!("set=1\npublic_key={}\n", "01".repeat(32))) && text.ends_with("\n\n")
        );
        text.trim_end().lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn what_is_as_it_was_is_not_sent() {
        let (zeros, one) = (format!("preshared_key={}", "00".repeat(32)), peer(&["10.1.0.0/24"]));
        let keepalive = "persistent_keepalive_interval=25".to_owned();
        let all = [
            "endpoint=192.0.2.1:51820",
            &zeros,
            &keepalive,
            "replace_allowed_ips=true",
            "allowed_ip=10.1.0.0/24",
        ];
        assert_eq!(lines((Action::Create, &one), None), all);
        assert_eq!(lines((Action::Replace, &one), Some(&one)), std::slice::from_ref(&keepalive));
        let two = peer(&["10.1.0.0/24", "fd00::/64"]);
        let added = [keepalive.as_str(), "allowed_ip=10.1.0.0/24", "allowed_ip=fd00::/64"];
        assert_eq!(
            lines((Action::Replace, &two), Some(&one)),
            added,
            "what stays is not taken away in between"
        );
        let taken = [keepalive.as_str(), "replace_allowed_ips=true", "allowed_ip=10.1.0.0/24"];
        assert_eq!(lines((Action::Replace, &one), Some(&two)), taken);
        let missing = WireguardPeer { preshared: Preshared::Missing, ..one.clone() };
        assert_eq!(lines((Action::Replace, &missing), Some(&one)), [keepalive]);
        assert_eq!(lines((Action::Delete, &one), Some(&one)), ["remove=true"]);
    }

    /// A process that gives this answer.
    fn answered(answer: &'static str, ask: impl FnOnce(&Path)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut line).unwrap() > 1 {
                line.clear();
            }
            (&stream).write_all(answer.as_bytes()).unwrap();
        });
        ask(&path);
        server.join().unwrap();
    }

    #[test]
    fn a_device_is_read_with_its_peers_and_a_key_is_never_in_an_error() {
        // The pair as another program computes it, by RFC 7748 section 5.
        const OWN: &str = "e8702d63886dbdecb7dedd33dc16919b5fa522b57ee90d9dbc59bd3eb67bf36d";
        const ANSWER: &str = concat!(
            "private_key=77076d0a7318a57d3c16c17251b26645df4cad0a7e1de92fcdf2b5b4b7c6d6e0\n",
            "listen_port=12912\n",
            "public_key=0101010101010101010101010101010101010101010101010101010101010101\n",
            "preshared_key=0303030303030303030303030303030303030303030303030303030303030303\n",
            "endpoint=[2001:db8::5]:51820\nallowed_ip=10.0.0.0/24\nallowed_ip=fd00::/64\n",
            "persistent_keepalive_interval=111\n",
            "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=7\n",
            "public_key=0202020202020202020202020202020202020202020202020202020202020202\n",
            "allowed_ip=10.0.1.0/24\nprotocol_version=1\nerrno=0\n\n",
        );
        answered(ANSWER, |path| {
            let seen = get(path).unwrap();
            assert_eq!(seen.port, Some(12912));
            assert_eq!(seen.key.map(|key| hex(&key.0)).as_deref(), Some(OWN));
            let [(_, first), (_, second)] = seen.peers.as_slice() else { panic!("two peers") };
            assert_eq!(first.endpoint, Some("[2001:db8::5]:51820".parse().unwrap()));
            assert_eq!(first.allowed.len(), 2);
            assert_eq!((first.keepalive, first.handshake), (111, Duration::from_secs(1_700_000_000)));
            assert!(first.preshared.is_some() && second.preshared.is_none());
            assert_eq!((second.endpoint, second.handshake), (None, Duration::ZERO));
        });
        answered("private_key=77076d0a\nerrno=0\n\n", |path| {
            let error = get(path).err().unwrap();
            assert!(matches!(error, UapiError::Malformed { field: "private_key", .. }));
            assert!(!format!("{error} {error:?}").contains("7707"));
        });
        for answer in ["errno=98\n\n", "errno=-98\n\n"] {
            answered(answer, |path| assert!(matches!(get(path), Err(UapiError::Refused { errno: 98, .. }))));
        }
        answered("", |path| assert!(matches!(get(path), Err(UapiError::Absent { .. }))));
    }
}
