//! WireGuard links: their key, port and peers. The kernel's own are asked by netlink (linux/wireguard.h), those of a
//! process by its socket; what is wanted of them is the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer as PeerMessage, WireguardPeerAttribute, WireguardPeerFlags,
};

use super::{
    error::errno,
    generic::Generic,
    keys::PrivateKey,
    socket::RequestError,
    uapi::{self, SeenDevice, SeenPeer, UapiError},
};
use crate::model::{
    Action, Elements, Key, Observed, Preshared, PresharedKey, PublicKey, Value, WireguardDevice,
    WireguardPeer,
};

/// Name of the generic netlink family (`WG_GENL_NAME`).
const FAMILY: &str = "wireguard";
/// A session ends this long after its handshake (`REJECT_AFTER_TIME`): until then a peer that answers from another
/// address than it published has moved, and is followed, and one that came with another preshared key needs it still.
const SESSION: Duration = Duration::from_secs(180);

/// A link, and who answers for it.
#[derive(Clone, Debug)]
pub(super) struct WireguardLink {
    pub(super) name: &'static str,
    /// Of the process; `None`: the kernel's own.
    pub(super) socket: Option<PathBuf>,
}

/// Asking or setting failed.
#[derive(Debug, thiserror::Error)]
pub enum WireguardError {
    #[error("netlink request")]
    Kernel(#[from] RequestError),
    #[error(transparent)]
    Process(#[from] UapiError),
}

impl WireguardError {
    /// There is no such link, or peer.
    pub(super) fn is_gone(&self) -> bool {
        let code = match self {
            Self::Kernel(error) => error.errno(),
            // A device without a process has no peers.
            Self::Process(UapiError::Absent { .. }) => return true,
            Self::Process(UapiError::Refused { errno, .. }) => Some(*errno),
            Self::Process(UapiError::Malformed { .. }) => None,
        };
        matches!(code, Some(errno::ENOENT | errno::ESRCH | errno::ENODEV))
    }
}

/// The end points that peers' leases had when they were told to a link. What a peer that has moved is answered at is
/// better than its lease, until that says something new.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<(String, PublicKey), SocketAddr>);

impl Told {
    pub(super) fn tell(&mut self, link: &str, key: PublicKey, endpoint: SocketAddr) {
        self.0.insert((link.to_owned(), key), endpoint);
    }

    /// Whether the lease says something else than when it was told. Of a link that another process was told of, nothing
    /// is known, and it counts as told.
    fn is_news(&mut self, link: &str, key: PublicKey, wanted: SocketAddr, seen: Option<SocketAddr>) -> bool {
        let told = self.0.entry((link.to_owned(), key)).or_insert(wanted);
        if seen == Some(wanted) {
            *told = wanted;
        }
        *told != wanted
    }

    fn forget_others(&mut self, desired: &Elements) {
        self.0.retain(|(link, key), _| {
            desired.contains_key(&Key::WireguardPeer { link: link.clone(), key: *key })
        });
    }
}

/// What a look at the links found beside their settings and peers.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// How many peers go on with another preshared key than wanted.
    pub(super) outdated: usize,
    /// Links of which a process says nothing.
    pub(super) silent: BTreeSet<String>,
}

/// Adds the settings and peers of these links. Nothing where the module isn't loaded, or the process isn't there.
pub(super) fn observe(
    links: &[WireguardLink],
    desired: &Elements,
    observed: &mut Observed,
    told: &mut Told,
) -> Result<Look, WireguardError> {
    let mut found = Look::default();
    told.forget_others(desired);
    for link in links {
        let seen = match look(link) {
            Err(WireguardError::Process(_)) => {
                found.silent.insert(link.name.to_owned());
                continue;
            }
            other => other?,
        };
        if let (Some(key), Some(port)) = (seen.key, seen.port) {
            let device = WireguardDevice { key, port };
            observed.ours.insert(Key::WireguardDevice(link.name.to_owned()), Value::WireguardDevice(device));
        }
        for (peer, seen) in seen.peers {
            let key = Key::WireguardPeer { link: link.name.to_owned(), key: peer };
            let had = seen.preshared();
            let wanted = match desired.get(&key) {
                Some(Value::WireguardPeer(wanted)) => Some(wanted),
                _ => None,
            };
            let is_news =
                wanted.is_some_and(|wanted| told.is_news(link.name, peer, wanted.endpoint, seen.endpoint));
            let value = seen.settled(wanted, is_news);
            found.outdated += usize::from(value.preshared != had && value.preshared != Preshared::Missing);
            observed.ours.insert(key, Value::WireguardPeer(value));
        }
    }
    Ok(found)
}

/// The public key of a link.
pub(super) fn key_of(link: &WireguardLink) -> Option<PublicKey> {
    look(link).ok()?.key
}

/// Whether this kernel has no WireGuard. Asking loads its module, where there is one.
pub(super) fn is_missing() -> Result<bool, RequestError> {
    Ok(Generic::open(FAMILY)?.is_none())
}

/// Keys of the links' peers with which a handshake was ever completed: each has set up the other.
pub(super) fn sessions(links: &[WireguardLink]) -> Result<BTreeSet<PublicKey>, WireguardError> {
    let mut sessions = BTreeSet::new();
    for link in links {
        let seen = match look(link) {
            Err(WireguardError::Kernel(error))
                if matches!(error.errno(), Some(errno::ENODEV | errno::EOPNOTSUPP)) =>
            {
                continue;
            }
            // None is known of before: packets go by the keys of which something is.
            Err(WireguardError::Process(_)) => continue,
            other => other?,
        };
        let peers = seen.peers.into_iter();
        sessions.extend(peers.filter(|(_, peer)| !peer.handshake.is_zero()).map(|(key, _)| key));
    }
    Ok(sessions)
}

fn look(link: &WireguardLink) -> Result<Seen, WireguardError> {
    if let Some(socket) = &link.socket {
        return Ok(uapi::get(socket)?.into());
    }
    let mut seen = Seen::default();
    let Some(generic) = Generic::open(FAMILY)? else { return Ok(seen) };
    let parts = generic.dump(message(WireguardCmd::GetDevice, link.name, vec![]))?;
    parts.into_iter().for_each(|part| seen.take(part));
    Ok(seen)
}

/// Sets key and port of a link.
pub(super) fn set_device(
    link: &WireguardLink,
    device: &WireguardDevice,
    key: &PrivateKey,
) -> Result<(), WireguardError> {
    if let Some(socket) = &link.socket {
        return Ok(uapi::set_device(socket, device, key)?);
    }
    let attributes =
        vec![WireguardAttribute::PrivateKey(key.to_bytes()), WireguardAttribute::ListenPort(device.port)];
    Ok(open()?.set(message(WireguardCmd::SetDevice, link.name, attributes))?)
}

/// Adds, changes or removes a peer. What is as it was isn't sent: an end point, since the kernel may have learned
/// another; a preshared key, since a session may need the one of before; addresses, since between taking and giving
/// them back the kernel drops what comes from them.
pub(super) fn set_peer(
    link: &WireguardLink,
    key: PublicKey,
    (action, peer): (Action, &WireguardPeer),
    before: Option<&WireguardPeer>,
) -> Result<(), WireguardError> {
    if let Some(socket) = &link.socket {
        return Ok(uapi::set_peer(socket, key, (action, peer), before)?);
    }
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
    Ok(open()?.set(message(WireguardCmd::SetDevice, link.name, attributes))?)
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

impl From<SeenDevice> for Seen {
    fn from(SeenDevice { key, port, peers }: SeenDevice) -> Self {
        Self { key, port, peers: peers.into_iter().collect() }
    }
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

    /// As wanted where it is only as it should be: with another end point, where it has moved and is answered there, unless
    /// its lease has news; with another preshared key, while its session lives, which both ends began with that one.
    fn settled(self, wanted: Option<&WireguardPeer>, is_news: bool) -> WireguardPeer {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let alive = now.saturating_sub(self.handshake) < SESSION;
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint = self.endpoint.unwrap_or(unspecified);
        let mut preshared = self.preshared();
        if let Some(wanted) = wanted {
            if alive && !is_news {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn peer(endpoint: SocketAddr) -> WireguardPeer {
        WireguardPeer { endpoint, allowed: BTreeSet::new(), keepalive: 0, preshared: Preshared::None }
    }

    /// What is found of a peer that is answered at `seen` since `age` seconds, while `wanted` is wanted.
    fn found(told: &mut Told, seen: SocketAddr, wanted: SocketAddr, age: u64) -> SocketAddr {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let handshake = now.saturating_sub(Duration::from_secs(age));
        let is_news = told.is_news("tartan-wg0", PublicKey([1; 32]), wanted, Some(seen));
        let seen = SeenPeer { endpoint: Some(seen), handshake, ..SeenPeer::default() };
        seen.settled(Some(&peer(wanted)), is_news).endpoint
    }

    #[test]
    fn a_peer_that_moved_is_left_where_it_is_answered_until_its_lease_says_something_new() {
        let key = PublicKey([1; 32]);
        let mut told = Told::default();
        told.tell("tartan-wg0", key, at(1));
        assert_eq!(found(&mut told, at(9), at(1), 5), at(1), "it moved: as wanted");
        assert_eq!(found(&mut told, at(9), at(1), 500), at(9), "and fell silent");
        assert_eq!(found(&mut told, at(9), at(2), 5), at(9), "its lease has news");
        told.tell("tartan-wg0", key, at(2));
        assert_eq!(found(&mut told, at(9), at(2), 5), at(2), "and it moved again");
        // It was seen at the new address before anybody told of it.
        assert_eq!(found(&mut told, at(3), at(3), 5), at(3));
        assert_eq!(found(&mut told, at(9), at(3), 5), at(3));
        // Another process told the link.
        let mut told = Told::default();
        assert_eq!(found(&mut told, at(9), at(1), 5), at(1));
        told.forget_others(&Elements::new());
        assert!(told.0.is_empty());
    }
}
