//! WireGuard links: their key, port and peers (linux/wireguard.h), and the file that keeps this node's key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnetwork::IpNetwork;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer as PeerMessage, WireguardPeerAttribute, WireguardPeerFlags,
};
use x25519_dalek::StaticSecret;

use super::{generic::Generic, socket::RequestError};
use crate::model::{Action, Elements, Key, Observed, PublicKey, Value, WireguardDevice, WireguardPeer};

/// Name of the generic netlink family (`WG_GENL_NAME`).
const FAMILY: &str = "wireguard";
/// A session ends this long after its handshake (`REJECT_AFTER_TIME`): until then a peer that answers from another
/// address than it published has moved, and is followed.
const SESSION: Duration = Duration::from_secs(180);

/// The key of this node can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("read or write {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:o}): remove it, and a new key is made, or set its mode to 600", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} holds no WireGuard private key: it must be 32 bytes in base64; remove it, and a new one is made", path.display())]
    Malformed { path: PathBuf },
}

/// This node's private key. Printed by nothing, wiped when dropped.
pub(super) struct PrivateKey(StaticSecret);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

impl PrivateKey {
    /// From the file, in the form of `wg genkey`; a file that isn't there is made.
    pub(super) fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        match File::open(path) {
            Ok(mut file) => {
                let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(KeyError::Open { path: path.to_owned(), mode });
                }
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                let bytes =
                    STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let bytes = bytes.ok_or_else(|| KeyError::Malformed { path: path.to_owned() })?;
                Ok(Self(StaticSecret::from(bytes)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    /// Complete or not at all: a key that was published must be there after a crash.
    fn create(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        // Section 5 of RFC 7748; the kernel does the same.
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let unfinished = path.with_extension("new");
        let _ = fs::remove_file(&unfinished);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        writeln!(file, "{}", STANDARD.encode(bytes))?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(directory)?.sync_all()?;
        Ok(Self(StaticSecret::from(bytes)))
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }
}

/// Adds the settings and peers of these links. Nothing where the module isn't loaded.
pub(super) fn observe(
    links: &[&str],
    desired: &Elements,
    observed: &mut Observed,
) -> Result<(), RequestError> {
    if links.is_empty() {
        return Ok(());
    }
    let Some(generic) = Generic::open(FAMILY)? else { return Ok(()) };
    for link in links {
        let request = message(WireguardCmd::GetDevice, link, vec![]);
        let mut seen = Seen::default();
        generic.dump(request)?.into_iter().for_each(|part| seen.take(part));
        if let (Some(key), Some(port)) = (seen.key, seen.port) {
            let device = WireguardDevice { key, port };
            observed.ours.insert(Key::WireguardDevice((*link).to_owned()), Value::WireguardDevice(device));
        }
        for (peer, seen) in seen.peers {
            let key = Key::WireguardPeer { link: (*link).to_owned(), key: peer };
            let value = seen.settled(desired.get(&key));
            observed.ours.insert(key, Value::WireguardPeer(value));
        }
    }
    Ok(())
}

/// The public key of a link.
pub(super) fn key_of(link: &str) -> Option<PublicKey> {
    let mut seen = Seen::default();
    let parts = Generic::open(FAMILY).ok()??.dump(message(WireguardCmd::GetDevice, link, vec![])).ok()?;
    parts.into_iter().for_each(|part| seen.take(part));
    seen.key
}

/// Sets key and port of a link.
pub(super) fn set_device(link: &str, device: &WireguardDevice, key: &PrivateKey) -> Result<(), RequestError> {
    let attributes =
        vec![WireguardAttribute::PrivateKey(key.0.to_bytes()), WireguardAttribute::ListenPort(device.port)];
    open()?.set(message(WireguardCmd::SetDevice, link, attributes))
}

/// Adds, changes or removes a peer. Where its end point is as it was, the kernel keeps what it has learned.
pub(super) fn set_peer(
    link: &str,
    key: PublicKey,
    (action, peer): (Action, &WireguardPeer),
    before: Option<&WireguardPeer>,
) -> Result<(), RequestError> {
    let mut attributes = vec![WireguardPeerAttribute::PublicKey(key.0)];
    if action == Action::Delete {
        attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe));
    } else {
        attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps));
        if before.is_none_or(|before| before.endpoint != peer.endpoint) {
            attributes.push(WireguardPeerAttribute::Endpoint(peer.endpoint));
        }
        attributes.push(WireguardPeerAttribute::PersistentKeepalive(peer.keepalive));
        attributes.push(WireguardPeerAttribute::AllowedIps(peer.allowed.iter().map(allowed_ip).collect()));
    }
    let attributes = vec![WireguardAttribute::Peers(vec![PeerMessage(attributes)])];
    open()?.set(message(WireguardCmd::SetDevice, link, attributes))
}

fn open() -> Result<Generic, RequestError> {
    let missing = || RequestError::Refused { errno: 95, text: "this kernel has no WireGuard".to_owned() };
    Generic::open(FAMILY)?.ok_or_else(missing)
}

fn message(cmd: WireguardCmd, link: &str, more: Vec<WireguardAttribute>) -> WireguardMessage {
    let mut attributes = vec![WireguardAttribute::IfName(link.to_owned())];
    attributes.extend(more);
    WireguardMessage { cmd, attributes }
}

fn allowed_ip(prefix: &IpNetwork) -> WireguardAllowedIp {
    let family = if prefix.is_ipv4() { WireguardAddressFamily::Ipv4 } else { WireguardAddressFamily::Ipv6 };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(prefix.network()),
        WireguardAllowedIpAttr::Cidr(prefix.prefix()),
    ])
}

/// A link as it was told, in one message or several.
#[derive(Default)]
struct Seen {
    key: Option<PublicKey>,
    port: Option<u16>,
    peers: BTreeMap<PublicKey, SeenPeer>,
}

#[derive(Default)]
struct SeenPeer {
    endpoint: Option<SocketAddr>,
    allowed: BTreeSet<IpNetwork>,
    keepalive: u16,
    /// After the epoch; zero: never.
    handshake: Duration,
}

impl Seen {
    fn take(&mut self, part: WireguardMessage) {
        for attribute in part.attributes {
            match attribute {
                WireguardAttribute::PublicKey(key) => self.key = Some(PublicKey(key)),
                WireguardAttribute::ListenPort(port) => self.port = Some(port),
                // A large list is split, also within a peer: its key stands in each part.
                WireguardAttribute::Peers(peers) => peers.into_iter().for_each(|peer| self.take_peer(peer.0)),
                _ => {}
            }
        }
    }

    fn take_peer(&mut self, attributes: Vec<WireguardPeerAttribute>) {
        let key = attributes.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => Some(PublicKey(*key)),
            _ => None,
        });
        let Some(key) = key else { return };
        let peer = self.peers.entry(key).or_default();
        for attribute in attributes {
            match attribute {
                WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(endpoint),
                WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive = seconds,
                WireguardPeerAttribute::LastHandshake(time) => {
                    peer.handshake = Duration::from_secs(u64::try_from(time.seconds).unwrap_or(0));
                }
                WireguardPeerAttribute::AllowedIps(list) => {
                    peer.allowed.extend(list.into_iter().filter_map(|allowed| prefix(&allowed.0)));
                }
                _ => {}
            }
        }
    }
}

impl SeenPeer {
    /// With the wanted end point instead of its own, where it has moved and is answered there.
    fn settled(self, wanted: Option<&Value>) -> WireguardPeer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let alive = now.saturating_sub(self.handshake) < SESSION;
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint = self.endpoint.unwrap_or(unspecified);
        if let (true, Some(Value::WireguardPeer(wanted))) = (alive, wanted) {
            endpoint = wanted.endpoint;
        }
        WireguardPeer { endpoint, allowed: self.allowed, keepalive: self.keepalive }
    }
}

fn prefix(attributes: &[WireguardAllowedIpAttr]) -> Option<IpNetwork> {
    let (mut address, mut length) = (None, None);
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(ip) => address = Some(*ip),
            WireguardAllowedIpAttr::Cidr(bits) => length = Some(*bits),
            _ => {}
        }
    }
    IpNetwork::new(address?, length?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/wireguard.key");
        let made = PrivateKey::load_or_create(&path).unwrap().public();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PrivateKey::load_or_create(&path).unwrap().public(), made);
        assert!(
            !format!("{:?}", PrivateKey::load_or_create(&path).unwrap())
                .contains(fs::read_to_string(&path).unwrap().trim())
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = PrivateKey::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense\n").unwrap();
        assert!(matches!(PrivateKey::load_or_create(&path), Err(KeyError::Malformed { .. })));
    }
}
