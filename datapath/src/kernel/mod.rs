//! The kernel's edge: the only place that talks to it, and the only task's tool that writes to it.
//!
//! Netlink for links, addresses, neighbours, forwarding entries and routes; the `nft` program for our
//! table; `/proc/sys/net` for settings; one ioctl for offloads. All of it acts on the network namespace of
//! the thread that opened it, so use it on a runtime of one thread.

mod apply;
mod decode;
mod encode;
mod error;
mod facts;
mod generic;
mod ike;
mod keys;
mod monitor;
mod nft;
mod observe;
mod offload;
mod quiet;
mod socket;
mod sysctl;
mod tun;
mod uapi;
pub mod udp;
pub mod user_wireguard;
mod ways;
mod wireguard;
mod xfrm;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

pub use apply::{Failure, Outcome};
pub use error::{ApplyError, ObserveError, OpenError, WIREGUARD_PROCESS_ABSENT};
pub use facts::LookUpError;
pub use ike::{IkeError, IkeKeyError, Unanswered};
pub use keys::KeyError;
pub use monitor::Notice;
pub use nft::NftError;
pub use observe::Observation;
pub use socket::RequestError;
pub use uapi::UapiError;
pub use wireguard::WireguardError;

use ike::Ike;
use keys::PrivateKey;
use monitor::Monitor;
use netlink_packet_xfrm::XfrmMessage;
use nft::{Forward, Nft};
use rtnetlink::{packet_route::RouteNetlinkMessage, sys::protocols::NETLINK_ROUTE};
use socket::Socket;
use sysctl::Sysctls;
use wireguard::WireguardLink;

use crate::{
    mark,
    model::{ForwardException, Key, PresharedKey, PublicKey, Value},
};

/// Where the host's things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// `/proc/sys`, or where the host's is mounted for writing.
    pub proc_sys: PathBuf,
    /// Folder for the previous values of settings.
    pub restore_dir: PathBuf,
    pub resolv_conf: PathBuf,
    /// The `nft` program.
    pub nft: PathBuf,
    /// Folder of this node's WireGuard keys, each of which is made when it is first asked for.
    pub wireguard_keys: PathBuf,
    /// File of the network's preshared key.
    pub preshared_key: PathBuf,
    /// Directory of the sockets at which a user-space WireGuard answers; `None`: none is used, whatever the kernel has.
    pub user_wireguard: Option<PathBuf>,
    /// Socket of the IKE daemon.
    pub vici: PathBuf,
    /// File of the preshared key of IPsec.
    pub ipsec_key: PathBuf,
    /// Directory of this node's certificate of IPsec: `ca.crt`, `tls.crt`, `tls.key`.
    pub ipsec_certificates: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            proc_sys: "/proc/sys".into(),
            restore_dir: "/run/tartan/restore".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            nft: "nft".into(),
            wireguard_keys: "/run/tartan".into(),
            preshared_key: "/etc/tartan/wireguard/presharedKey".into(),
            user_wireguard: None,
            vici: "/run/tartan/ipsec/charon.vici".into(),
            ipsec_key: "/etc/tartan/ipsec/presharedKey".into(),
            ipsec_certificates: "/etc/tartan/ipsec".into(),
        }
    }
}

/// Open sockets and what is remembered of the last transaction.
#[derive(Debug)]
pub struct Kernel {
    // Opened first, so that no change between observing and listening is missed.
    monitor: Monitor,
    socket: Socket<RouteNetlinkMessage>,
    /// Opened when IPsec is first asked for: opening it loads the kernel's module.
    xfrm: Option<Socket<XfrmMessage>>,
    ike: Ike,
    nft: Nft,
    sysctls: Sysctls,
    /// Chains of others as the last look at the host saw them, until they are observed.
    forward_seen: BTreeMap<ForwardException, Option<Forward>>,
    /// Those of which the last answer was that they drop.
    forward_drop: BTreeSet<ForwardException>,
    /// Settings as they were last seen, and as they were desired.
    settings: Vec<(Key, Value, Value)>,
    /// Links of which a process said nothing at the last look: what concerns them fails at once.
    silent: BTreeSet<String>,
    /// WireGuard links of ours that are a process's.
    in_user_space: BTreeSet<String>,
    /// Of WireGuard.
    told: wireguard::Told,
    /// By generation.
    keys: BTreeMap<u32, PrivateKey>,
    options: Options,
}

impl Kernel {
    /// Opens the sockets, the one for notifications first. Needs a tokio runtime with IO and time.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let monitor = Monitor::open().map_err(OpenError::Notifications)?;
        let socket = Socket::open(NETLINK_ROUTE).map_err(OpenError::Request)?;
        let nft = Nft::new(options.nft.clone());
        let sysctls = Sysctls::new(&options.proc_sys, &options.restore_dir);
        Ok(Self {
            monitor,
            socket,
            xfrm: None,
            ike: Ike::new(
                options.vici.clone(),
                ike::Files {
                    key: options.ipsec_key.clone(),
                    certificates: options.ipsec_certificates.clone(),
                },
            ),
            nft,
            sysctls,
            forward_seen: BTreeMap::new(),
            forward_drop: BTreeSet::new(),
            settings: Vec::new(),
            silent: BTreeSet::new(),
            in_user_space: BTreeSet::new(),
            told: wireguard::Told::default(),
            keys: BTreeMap::new(),
            options,
        })
    }

    /// Returns when the kernel has said that something of interest changed, or that it lost count.
    /// Cancel-safe.
    pub async fn changed(&mut self) -> std::io::Result<Notice> {
        tokio::select! {
            notice = self.monitor.changed() => notice,
            () = self.ike.ended() => Ok(Notice::Ours),
        }
    }

    /// Puts back the settings that were changed; returns how many. For cleaning up.
    pub fn restore_sysctls(&self) -> std::io::Result<usize> {
        self.sysctls.restore()
    }

    /// This node's WireGuard key of a generation: read from its file, or made, when it is first asked for.
    pub fn wireguard_key(&mut self, generation: u32) -> Result<PublicKey, KeyError> {
        if let Some(key) = self.keys.get(&generation) {
            return Ok(key.public());
        }
        let key = PrivateKey::load_or_create(&keys::file(&self.options.wireguard_keys, generation))?;
        let public = key.public();
        self.keys.insert(generation, key);
        Ok(public)
    }

    /// The key of our WireGuard link as it is, where there is one: it goes on although the file can't be used.
    pub async fn wireguard_key_in_use(&self, generation: u32) -> Option<PublicKey> {
        let name = mark::wireguard(generation);
        let links = self.wireguard_links().await;
        wireguard::key_of(links.iter().find(|link| link.name == name)?)
    }

    /// How this node does WireGuard: as the links that there are, else as a new one would be.
    pub async fn wireguard_in_user_space(&self) -> Result<bool, RequestError> {
        let links = self.wireguard_links().await;
        if self.options.user_wireguard.is_none() {
            return Ok(false);
        }
        if links.is_empty() {
            wireguard::is_missing()
        } else {
            Ok(links.iter().any(|link| link.socket.is_some()))
        }
    }

    /// Removes the keys of all other generations whose links are gone; returns how many.
    pub async fn forget_wireguard_keys(&mut self, kept: &BTreeSet<u32>) -> std::io::Result<usize> {
        let links: Vec<&str> = self.wireguard_links().await.into_iter().map(|link| link.name).collect();
        let in_use = |generation: u32| {
            let sibling = kept.iter().any(|kept| kept % 2 == generation % 2);
            kept.contains(&generation) || (!sibling && links.contains(&mark::wireguard(generation)))
        };
        self.keys.retain(|generation, _| in_use(*generation));
        keys::remove(&self.options.wireguard_keys, in_use)
    }

    /// Keys of our WireGuard links' peers with which a handshake was ever completed.
    pub fn wireguard_sessions(&self) -> Result<BTreeSet<PublicKey>, WireguardError> {
        // Asking for one that isn't there would have the kernel look for its module.
        let there = mark::WIREGUARD.into_iter().filter(|name| nix::net::if_::if_nametoindex(*name).is_ok());
        wireguard::sessions(&there.map(|name| self.wireguard_link(name)).collect::<Vec<_>>())
    }

    /// The preshared key of the network.
    pub fn preshared_key(&self) -> Result<PresharedKey, KeyError> {
        keys::preshared_key(&self.options.preshared_key)
    }

    async fn wireguard_links(&self) -> Vec<WireguardLink> {
        let links = self.links().await.unwrap_or_default();
        let ours = |name: &'static str| {
            let link = links.values().find(|link| link.is_ours() && link.name == name)?;
            Some(WireguardLink { name, socket: self.process_of(link) })
        };
        mark::WIREGUARD.into_iter().filter_map(ours).collect()
    }

    /// As it was when links were last looked at.
    fn wireguard_link(&self, name: &'static str) -> WireguardLink {
        let directory = self.options.user_wireguard.as_ref().filter(|_| self.in_user_space.contains(name));
        WireguardLink { name, socket: directory.map(|directory| user_wireguard::socket(directory, name)) }
    }

    /// Which links are a process's.
    fn learn_user_space(&mut self, links: &BTreeMap<u32, decode::SeenLink>) {
        let ours = links.values().filter(|link| self.process_of(link).is_some());
        self.in_user_space = ours.map(|link| link.name.clone()).collect();
    }

    /// Where a process answers for the link, if it is one of a process.
    fn process_of(&self, link: &decode::SeenLink) -> Option<PathBuf> {
        let directory = self.options.user_wireguard.as_ref().filter(|_| user_wireguard::is_device(link))?;
        Some(user_wireguard::socket(directory, &link.name))
    }

    /// Packets and bytes of our table's named counters.
    pub async fn nft_counters(&self) -> Result<BTreeMap<String, (u64, u64)>, NftError> {
        self.nft.counters().await
    }
}
