//! What the process of the user-space WireGuard reads: the devices that the agent made for it. It writes nothing to
//! the kernel's tables; keys and peers it is told by a socket beside each device.

use std::{
    io,
    path::{Path, PathBuf},
};

use rtnetlink::{
    packet_route::{RouteNetlinkMessage, link::LinkMessage},
    sys::protocols::NETLINK_ROUTE,
};

use super::{
    ObserveError, OpenError,
    decode::{self, SeenLink},
    monitor::Monitor,
    socket::Socket,
};
use crate::{mark, model::LinkKind};

/// Where the process answers for a device, as WireGuard's cross-platform interface names it
/// (<https://www.wireguard.com/xplatform/>), below a directory of ours.
pub fn socket(directory: &Path, link: &str) -> PathBuf {
    directory.join(format!("{link}.sock"))
}

/// A device that waits for a process, or has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDevice {
    pub name: &'static str,
    /// Another one is another device, also of the same name.
    pub index: u32,
    /// In bytes.
    pub mtu: u32,
}

/// Open sockets.
#[derive(Debug)]
pub struct DeviceWatch {
    // Opened first, so that no change between reading and listening is missed.
    monitor: Monitor,
    socket: Socket<RouteNetlinkMessage>,
}

impl DeviceWatch {
    /// In the network namespace of the calling thread. Needs a tokio runtime with IO and time.
    pub fn open() -> Result<Self, OpenError> {
        let monitor = Monitor::open_routes().map_err(OpenError::Notifications)?;
        let socket = Socket::open(NETLINK_ROUTE).map_err(OpenError::Request)?;
        Ok(Self { monitor, socket })
    }

    /// Returns when something may have changed. Cancel-safe.
    pub async fn changed(&self) -> io::Result<()> {
        self.monitor.changed().await.map(drop)
    }

    /// The devices of ours, by name.
    pub async fn read(&self) -> Result<Vec<UserDevice>, ObserveError> {
        let dump = self.socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).await;
        let links = dump.map_err(|source| ObserveError::Dump { what: "links", source })?;
        let mut devices: Vec<UserDevice> = links.iter().filter_map(device).collect();
        devices.sort_by_key(|device| device.name);
        Ok(devices)
    }
}

fn device(message: &RouteNetlinkMessage) -> Option<UserDevice> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let link = decode::link(message);
    if !is_device(&link) {
        return None;
    }
    let name = mark::WIREGUARD.into_iter().find(|name| *name == link.name)?;
    Some(UserDevice { name, index: link.index, mtu: link.mtu })
}

/// Whether it is a device of ours that stands in for one of the kernel's.
pub(super) fn is_device(link: &SeenLink) -> bool {
    link.is_ours() && link.element_kind(|_| String::new()) == Some(LinkKind::WireguardTun)
}
