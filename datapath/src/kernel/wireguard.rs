//! WireGuard links: their key, port and peers (linux/wireguard.h).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer as PeerMessage, WireguardPeerAttribute, WireguardPeerFlags,
};

use super::{error::errno, generic::Generic, keys::PrivateKey, socket::RequestError};
use crate::model::{
    Action, Elements, Key, Observed, Preshared, PresharedKey, PublicKey, Value, WireguardDevice,
    WireguardPeer,
};

/// Name of the generic netlink family (`WG_GENL_NAME`).
const FAMILY: &str = "wireguard";
/// A session ends this long after its handshake (`REJECT_AFTER_TIME`): until then a peer that answers from another
/// address than it published has moved, and is followed, and one that came with another preshared key needs it still.
const SESSION: Duration = Duration::from_secs(180);

/// Adds the settings and peers of these links; returns how many peers go on with another preshared key than wanted.
/// Nothing where the module isn't loaded.
pub(super) fn observe(
    links: &[&str],
    desired: &Elements,
    observed: &mut Observed,
) -> Result<usize, RequestError> {
    let mut outdated = 0;
    for (link, seen) in links.iter().zip(look(links)?) {
        if let (Some(key), Some(port)) = (seen.key, seen.port) {
            let device = WireguardDevice { key, port };
            observed.ours.insert(Key::WireguardDevice((*link).to_owned()), Value::WireguardDevice(device));
        }
        for (peer, seen) in seen.peers {
            let key = Key::WireguardPeer { link: (*link).to_owned(), key: peer };
            let had = seen.preshared();
            let value = seen.settled(desired.get(&key));
            outdated += usize::from(value.preshared != had && value.preshared != Preshared::Missing);
            observed.ours.insert(key, Value::WireguardPeer(value));
        }
    }
    Ok(outdated)
}

/// The public key of a link.
pub(super) fn key_of(link: &str) -> Option<PublicKey> {
    look(&[link]).ok()?.pop()?.key
}

/// Keys of the links' peers with which a handshake was ever completed: each has set up the other.
pub(super) fn sessions(links: &[&str]) -> Result<BTreeSet<PublicKey>, RequestError> {
    let mut sessions = BTreeSet::new();
    for link in links {
        let seen = match look(&[link]) {
            Err(error) if matches!(error.errno(), Some(errno::ENODEV | errno::EOPNOTSUPP)) => continue,
            other => other?,
        };
        let peers = seen.into_iter().flat_map(|seen| seen.peers);
        sessions.extend(peers.filter(|(_, peer)| !peer.handshake.is_zero()).map(|(key, _)| key));
    }
    Ok(sessions)
}

fn look(links: &[&str]) -> Result<Vec<Seen>, RequestError> {
    if links.is_empty() {
        return Ok(vec![]);
    }
    let Some(generic) = Generic::open(FAMILY)? else { return Ok(vec![]) };
    let look = |link: &&str| {
        let mut seen = Seen::default();
        let parts = generic.dump(message(WireguardCmd::GetDevice, link, vec![]))?;
        parts.into_iter().for_each(|part| seen.take(part));
        Ok(seen)
    };
    links.iter().map(look).collect()
}

/// Sets key and port of a link.
pub(super) fn set_device(link: &str, device: &WireguardDevice, key: &PrivateKey) -> Result<(), RequestError> {
    let attributes =
        vec![WireguardAttribute::PrivateKey(key.to_bytes()), WireguardAttribute::ListenPort(device.port)];
    open()?.set(message(WireguardCmd::SetDevice, link, attributes))
}

/// Adds, changes or removes a peer. What is as it was isn't sent: an end point, since the kernel may have learned
/// another; a preshared key, since a session may need the one of before; addresses, since between taking and giving
/// them back the kernel drops what comes from them.
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
        if before.is_none_or(|before| !before.allowed.is_subset(&peer.allowed)) {
            attributes.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps));
        }
        if before.is_none_or(|before| before.endpoint != peer.endpoint) {
            attributes.push(WireguardPeerAttribute::Endpoint(peer.endpoint));
        }
        if before.is_none_or(|before| before.preshared != peer.preshared) {
            match peer.preshared {
                // All zeros are none (WGPEER_A_PRESHARED_KEY).
                Preshared::None => attributes.push(WireguardPeerAttribute::PresharedKey([0; 32])),
                Preshared::Key(key) => attributes.push(WireguardPeerAttribute::PresharedKey(key.0)),
                Preshared::Missing => {}
            }
        }
        attributes.push(WireguardPeerAttribute::PersistentKeepalive(peer.keepalive));
        if before.is_none_or(|before| before.allowed != peer.allowed) {
            attributes
                .push(WireguardPeerAttribute::AllowedIps(peer.allowed.iter().map(allowed_ip).collect()));
        }
    }
    let attributes = vec![WireguardAttribute::Peers(vec![PeerMessage(attributes)])];
    open()?.set(message(WireguardCmd::SetDevice, link, attributes))
}

fn open() -> Result<Generic, RequestError> {
    let missing = || RequestError::Refused {
        errno: errno::EOPNOTSUPP,
        text: "this kernel has no WireGuard".to_owned(),
    };
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
    preshared: Option<PresharedKey>,
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
                WireguardPeerAttribute::PresharedKey(key) => {
                    peer.preshared = Some(PresharedKey(key)).filter(|key| key.0 != [0; 32]);
                }
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
    fn preshared(&self) -> Preshared {
        self.preshared.map_or(Preshared::None, Preshared::Key)
    }

    /// As wanted where it is only as it should be: with another end point, where it has moved and is answered there;
    /// with another preshared key, while its session lives, which both ends began with that one.
    fn settled(self, wanted: Option<&Value>) -> WireguardPeer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let alive = now.saturating_sub(self.handshake) < SESSION;
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint = self.endpoint.unwrap_or(unspecified);
        let mut preshared = self.preshared();
        if let Some(Value::WireguardPeer(wanted)) = wanted {
            if alive {
                endpoint = wanted.endpoint;
            }
            if alive || wanted.preshared == Preshared::Missing {
                preshared = wanted.preshared;
            }
        }
        WireguardPeer { endpoint, allowed: self.allowed, keepalive: self.keepalive, preshared }
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
