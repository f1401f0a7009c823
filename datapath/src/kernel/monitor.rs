//! Notifications: something that we may care about has changed. What, is for observing to find out.

#![allow(unsafe_code, reason = "AsyncFd wants a promise about the descriptor that it is given")]

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Groups of `RTNLGRP_*` (linux/rtnetlink.h) below 32, as a bit mask: link, neigh, v4 and v6 addresses,
/// routes and settings (forwarding and reverse-path filters, `RTNLGRP_IPV4_NETCONF`).
const ROUTE_GROUPS: u32 =
    group(1) | group(3) | group(5) | group(7) | group(9) | group(11) | group(24) | group(25);
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES_GROUPS: u32 = group(7);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

#[derive(Debug)]
pub(super) struct Monitor {
    route: AsyncFd<std::os::fd::OwnedFd>,
    /// Listening to nftables takes NET_ADMIN; without it, nothing can be repaired anyway.
    nftables: Option<AsyncFd<std::os::fd::OwnedFd>>,
}

impl Monitor {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            route: listen(SockProtocol::NetlinkRoute, ROUTE_GROUPS)?,
            nftables: match listen(SockProtocol::NetlinkNetFilter, NFTABLES_GROUPS) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
                socket => Some(socket?),
            },
        })
    }

    /// Returns when at least one notification came, or some were lost. All that are waiting are taken, so
    /// that a burst wakes the caller once. Cancel-safe: a dropped future has taken none without returning.
    pub(super) async fn changed(&self) -> io::Result<()> {
        match &self.nftables {
            None => drain(&self.route).await,
            Some(nftables) => tokio::select! {
                result = drain(&self.route) => result,
                result = drain(nftables) => result,
            },
        }
    }
}

fn listen(protocol: SockProtocol, groups: u32) -> io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    // SAFETY: an OwnedFd names the same open socket for as long as it lives, and AsyncFd owns it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

async fn drain(socket: &AsyncFd<std::os::fd::OwnedFd>) -> io::Result<()> {
    // The first fields are enough: a longer message is cut off.
    let mut buffer = [0; 64];
    loop {
        let mut ready = socket.readable().await?;
        let mut any = false;
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => any |= matters(buffer.get(..length.min(buffer.len())).unwrap_or_default()),
                // Notifications were lost: as good as one.
                Err(nix::errno::Errno::ENOBUFS) => any = true,
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        if any {
            return Ok(());
        }
    }
}

/// False for what every host says all the time: a neighbour that was resolved or went stale. Ours are
/// permanent.
fn matters(message: &[u8]) -> bool {
    /// `RTM_NEWNEIGH` (linux/rtnetlink.h); `NUD_PERMANENT` (linux/neighbour.h).
    const NEW_NEIGHBOUR: u16 = 28;
    const PERMANENT: u16 = 0x80;
    let field = |at: usize| message.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    // `struct nlmsghdr` has the type at 4 and ends at 16; `struct ndmsg` has the state at 8.
    match (field(4), field(24)) {
        (Some(NEW_NEIGHBOUR), Some(state)) => state & PERMANENT != 0,
        _ => true,
    }
}
