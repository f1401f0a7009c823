//! What a request to set or get means for the engine, gotatun's device.
//!
//! Three things are as the kernel's WireGuard has them, and not as the engine would: a change of a peer leaves its
//! session alone, an allowed address is one peer's, the last that asked for it, and the time of the last handshake is
//! told for as long as the peer is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gotatun::{
    device::{
        Device, Error, Peer,
        configure::{DeviceWrite, PeerMut, PeerStats},
        uapi::command::{GetPeer, GetResponse, Set, SetPeer, SetUnset},
    },
    x25519::{PublicKey, StaticSecret},
};
use ipnetwork::IpNetwork;
use nix::libc::{EIO, ENOKEY};
use tokio::{
    sync::{Mutex, RwLock},
    time::timeout,
};

use crate::{
    socket::Sockets,
    tun::{Reader, Writer},
};

type Transports = (Sockets, Writer, Reader);

/// How long a peer that was just set up is asked for a handshake here; its timers ask again.
const ASKING: Duration = Duration::from_secs(1);

/// A running device.
pub struct Engine {
    /// Locked for writing only to ask whether it has given up, and to end it: `None` then.
    device: RwLock<Option<Device<Transports>>>,
    /// Held while something is set.
    book: Mutex<Book>,
}

/// What the device does not remember, or only tells slowly.
#[derive(Default)]
struct Book {
    peers: HashMap<[u8; 32], Entry>,
    /// Whose an allowed address is.
    owners: HashMap<IpNetwork, [u8; 32]>,
}

#[derive(Default)]
struct Entry {
    allowed: BTreeSet<IpNetwork>,
    /// When the last handshake was.
    handshake: Option<SystemTime>,
}

/// What metrics tell of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub peers: u64,
    /// Peers with a session.
    pub sessions: u64,
    /// Bytes inside of the tunnel.
    pub received: u64,
    pub sent: u64,
}

impl Engine {
    pub fn new(device: Device<Transports>) -> Self {
        Self { device: RwLock::new(Some(device)), book: Mutex::default() }
    }

    /// Whether it met an error after which it does no more.
    pub async fn has_given_up(&self) -> bool {
        match self.device.try_write().as_deref_mut() {
            Ok(Some(device)) => timeout(Duration::ZERO, device.wait()).await.is_ok(),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Ends it. Returns when its UDP port and its end of the TUN device are free for another.
    pub async fn stop(&self) {
        if let Some(device) = self.device.write().await.take() {
            device.stop().await;
        }
    }

    pub async fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        let held = self.device.read().await;
        let Some(device) = held.as_ref() else { return figures };
        let peers = device.peers().await;
        for PeerStats { stats, .. } in &peers {
            figures.peers += 1;
            figures.sessions += u64::from(stats.last_handshake.is_some());
            figures.received += stats.rx_bytes as u64;
            figures.sent += stats.tx_bytes as u64;
        }
        figures
    }

    /// All of it, the private key included, as the interface has it.
    pub async fn get(&self) -> GetResponse {
        let held = self.device.read().await;
        let Some(device) = held.as_ref() else { return GetResponse::default() };
        let (private_key, port, peers) = device
            .read(async |device| {
                let key = device.private_key().map(|key| key.to_bytes().into());
                (key, device.listen_port(), device.peers().await)
            })
            .await;
        let mut book = self.book.lock().await;
        let now = SystemTime::now();
        for PeerStats { peer, stats, .. } in &peers {
            let time = stats.last_handshake.and_then(|since| now.checked_sub(since));
            if let (Some(entry), Some(time)) = (book.peers.get_mut(peer.public_key.as_bytes()), time) {
                entry.handshake = Some(time);
            }
        }
        let handshake = |key: &[u8; 32]| book.peers.get(key)?.handshake;
        let mut answer = GetResponse::default();
        (answer.private_key, answer.listen_port) = (private_key, Some(port));
        answer.peers = peers.iter().map(|known| told(known, handshake)).collect();
        answer
    }

    /// An errno of Linux; 0: it is as it was asked for.
    pub async fn set(self: Arc<Self>, set: Set) -> i32 {
        let mut book = self.book.lock().await;
        let held = self.device.read().await;
        let Some(device) = held.as_ref() else { return EIO };
        let (has_key, port) =
            device.read(async |device| (device.private_key().is_some(), device.listen_port())).await;
        // The engine can do neither without.
        if !(has_key || set.private_key.is_some()) && (set.listen_port.is_some() || !set.peers.is_empty()) {
            return ENOKEY;
        }
        let Set { private_key, listen_port, replace_peers, peers, .. } = set;
        let written = device.write(async |device| {
            if replace_peers {
                device.clear_peers();
                *book = Book::default();
            }
            if let Some(key) = private_key {
                device.set_private_key(StaticSecret::from(key.0)).await;
            }
            if let Some(port) = listen_port {
                device.set_listen_port(port);
            }
            let mut added = vec![];
            for peer in peers {
                added.extend(set_peer(device, &mut book, peer).await);
            }
            added
        });
        match written.await {
            Ok(added) => {
                drop(held);
                for key in added {
                    tokio::spawn(Arc::clone(&self).ask(key));
                }
                0
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot receive on the port that was asked for");
                // As the kernel does: the port of before goes on.
                let _ = device.write(async |device| device.set_listen_port(port)).await;
                errno(&error)
            }
        }
    }

    /// Who has just been started has no session, while a peer may still send by one of before: so ask at once, or it
    /// would be noticed only after some seconds without an answer.
    async fn ask(self: Arc<Self>, key: PublicKey) {
        if let Some(device) = self.device.read().await.as_ref() {
            let _ = timeout(ASKING, device.force_handshake(&key)).await;
        }
    }
}

impl Book {
    fn remove(&mut self, key: &[u8; 32]) {
        for prefix in self.peers.remove(key).unwrap_or_default().allowed {
            self.owners.remove(&prefix);
        }
    }

    /// Notes that these addresses are a peer's, and with `replace` no others: who loses any, and what is left to him.
    fn give(
        &mut self,
        key: [u8; 32],
        allowed: &[IpNetwork],
        replace: bool,
    ) -> BTreeMap<[u8; 32], BTreeSet<IpNetwork>> {
        if replace && let Some(entry) = self.peers.get_mut(&key) {
            for prefix in std::mem::take(&mut entry.allowed) {
                self.owners.remove(&prefix);
            }
        }
        let mut losers = BTreeMap::new();
        for prefix in allowed {
            let owner = self.owners.insert(*prefix, key).filter(|owner| *owner != key);
            if let Some((owner, entry)) = owner.and_then(|owner| Some((owner, self.peers.get_mut(&owner)?))) {
                entry.allowed.remove(prefix);
                losers.insert(owner, entry.allowed.clone());
            }
        }
        self.peers.entry(key).or_default().allowed.extend(allowed);
        losers
    }
}

/// The peer where it is new and has an end point.
async fn set_peer(
    device: &mut DeviceWrite<'_, Transports>,
    book: &mut Book,
    set: SetPeer,
) -> Option<PublicKey> {
    let SetPeer { peer, remove, update_only, replace_allowed_ips, .. } = set;
    let key = PublicKey::from(peer.public_key.0);
    if remove {
        device.remove_peer(&key).await;
        book.remove(key.as_bytes());
        return None;
    }
    let allowed: Vec<IpNetwork> = peer.allowed_ip.iter().filter_map(canonical).collect();
    let preshared = peer.preshared_key.map(|preshared| match preshared {
        SetUnset::Set(key) => Some(key.0),
        SetUnset::Unset => None,
    });
    let keepalive =
        peer.persistent_keepalive_interval.map(|seconds| Some(seconds).filter(|seconds| *seconds > 0));
    let is_known = book.peers.contains_key(key.as_bytes());
    // Its own key would make it send to itself; the kernel leaves such a peer out as well.
    let is_own = device.private_key().is_some_and(|own| PublicKey::from(own) == key);
    if is_own || (update_only && !is_known) {
        return None;
    }
    for (other, kept) in book.give(key.to_bytes(), &allowed, replace_allowed_ips) {
        let change = |other: &mut PeerMut| {
            other.clear_allowed_ips();
            other.add_allowed_ips(kept);
        };
        device.modify_peer(&PublicKey::from(other), change).await;
    }
    if is_known {
        let change = |known: &mut PeerMut| {
            if let Some(preshared) = preshared {
                known.set_preshared_key(preshared);
            }
            if let Some(endpoint) = peer.endpoint {
                known.set_endpoint(Some(endpoint));
            }
            if let Some(keepalive) = keepalive {
                known.set_keepalive(keepalive);
            }
            if replace_allowed_ips {
                known.clear_allowed_ips();
            }
            known.add_allowed_ips(allowed);
        };
        device.modify_peer(&key, change).await;
        return None;
    }
    let mut new = Peer::new(key);
    new.endpoint = peer.endpoint;
    new.preshared_key = preshared.flatten();
    new.keepalive = keepalive.flatten();
    new.allowed_ips = allowed;
    let has_endpoint = new.endpoint.is_some();
    device.add_peer(new);
    has_endpoint.then_some(key)
}

fn told(known: &PeerStats, handshake: impl Fn(&[u8; 32]) -> Option<SystemTime>) -> GetPeer {
    let PeerStats { peer, stats, .. } = known;
    let mut answer = GetPeer::new(peer.public_key.to_bytes());
    answer.peer.preshared_key = peer.preshared_key.map(|key| SetUnset::Set(key.into()));
    answer.peer.endpoint = peer.endpoint;
    answer.peer.persistent_keepalive_interval = Some(peer.keepalive.unwrap_or(0));
    answer.peer.allowed_ip.clone_from(&peer.allowed_ips);
    let time = handshake(peer.public_key.as_bytes()).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    answer.last_handshake_time_sec = Some(time.map_or(0, |time| time.as_secs()));
    answer.last_handshake_time_nsec = Some(time.map_or(0, |time| time.subsec_nanos()));
    (answer.rx_bytes, answer.tx_bytes) = (Some(stats.rx_bytes as u64), Some(stats.tx_bytes as u64));
    answer
}

/// Without host bits, as the kernel keeps it.
fn canonical(prefix: &IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(prefix.network(), prefix.prefix()).ok()
}

fn errno(error: &Error) -> i32 {
    let source = match error {
        Error::IoError(source) | Error::Bind(source, _) => source.raw_os_error(),
        _ => None,
    };
    source.unwrap_or(EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_address_is_one_peers_and_who_loses_it_keeps_the_rest() {
        let prefixes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let (mut book, [one, two]) = (Book::default(), [[1; 32], [2; 32]]);
        assert!(book.give(one, &prefixes(&["10.1.0.0/24", "10.2.0.0/24", "fd00::/64"]), true).is_empty());
        assert!(book.give(one, &prefixes(&["10.1.0.0/24"]), false).is_empty(), "it has it already");
        // A part of it is another address: the longer one wins, as in a routing table.
        assert!(book.give(two, &prefixes(&["10.1.0.128/25"]), true).is_empty());
        let losers = book.give(two, &prefixes(&["10.2.0.0/24"]), false);
        let left = prefixes(&["10.1.0.0/24", "fd00::/64"]).into_iter().collect();
        assert_eq!(losers, [(one, left)].into());
        // It gives it back, and takes it as its only one.
        assert_eq!(book.give(one, &prefixes(&["10.2.0.0/24"]), true).len(), 1);
        book.remove(&one);
        assert!(book.give(two, &prefixes(&["10.2.0.0/24", "fd00::/64"]), false).is_empty());
        assert_eq!(book.owners.len(), 3);
    }
}
