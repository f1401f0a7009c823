//! Notifications: something that we may care about has changed. What, is for observing to find out.

#![allow(unsafe_code, reason = "AsyncFd wants a promise about the descriptor that it is given")]

use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};

use nix::sys::socket::{MsgFlags, recv};
use rtnetlink::sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::decode::{SeenLink, our_bridge};
use crate::mark;

/// Groups of `RTNLGRP_*` (linux/rtnetlink.h) below 32, as a bit mask: link, neigh, v4 and v6 addresses,
/// routes and settings (forwarding and reverse-path filters, `RTNLGRP_IPV4_NETCONF`).
const ROUTE_GROUPS: u32 =
    group(1) | group(3) | group(5) | group(7) | group(9) | group(11) | group(24) | group(25);
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const NFTABLES_GROUPS: u32 = group(7);

/// `XFRMNLGRP_POLICY` (linux/xfrm.h).
const XFRM_GROUPS: u32 = group(4);

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// Something that may concern us, such as another's link or route.
    Other,
    /// An object of ours, or unknown since notifications were lost.
    Ours,
}

/// Links of ours by index.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    bridge: Option<u32>,
    vxlan: [Option<u32>; 2],
    ipip: Option<u32>,
    wireguard: [Option<u32>; 2],
    ipsec: Option<u32>,
    udp: Option<u32>,
    /// The VXLAN devices learn, and tell of what they learned.
    learning: bool,
}

#[derive(Debug)]
pub(super) struct Monitor {
    own: Own,
    route: AsyncFd<Socket>,
    /// Listening to nftables takes NET_ADMIN; without it, nothing can be repaired anyway.
    nftables: Option<AsyncFd<Socket>>,
    /// Opened when there is an IPsec device: a kernel without XFRM has no such socket.
    xfrm: Option<AsyncFd<Socket>>,
}

impl Monitor {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            own: Own::default(),
            route: listen(NETLINK_ROUTE, ROUTE_GROUPS)?,
            nftables: match listen(NETLINK_NETFILTER, NFTABLES_GROUPS) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
                socket => Some(socket?),
            },
            xfrm: None,
        })
    }

    /// As `open`, for links and routes only.
    pub(super) fn open_routes() -> io::Result<Self> {
        let route = listen(NETLINK_ROUTE, group(1) | group(7))?;
        Ok(Self { own: Own::default(), route, nftables: None, xfrm: None })
    }

    /// Learns which links are ours.
    pub(super) fn know(&mut self, links: &BTreeMap<u32, SeenLink>) {
        let named = |name| links.values().find(|link| link.is_ours() && link.name == name);
        let vxlan = [mark::VXLAN, mark::VXLAN6].map(named);
        let learns = |link: &&SeenLink| link.vxlan.as_ref().is_some_and(|vxlan| vxlan.learning);
        self.own = Own {
            bridge: our_bridge(links),
            vxlan: vxlan.map(|link| link.map(|link| link.index)),
            ipip: named(mark::IPIP).map(|link| link.index),
            wireguard: mark::WIREGUARD.map(|name| named(name).map(|link| link.index)),
            ipsec: named(mark::IPSEC).map(|link| link.index),
            udp: named(mark::UDP).map(|link| link.index),
            learning: vxlan.iter().flatten().any(learns),
        };
        match self.own.ipsec {
            None => self.xfrm = None,
            // Without it, a look each minute repairs policies.
            Some(_) if self.xfrm.is_none() => {
                self.xfrm = listen(NETLINK_XFRM, XFRM_GROUPS).ok();
            }
            Some(_) => {}
        }
    }

    /// Returns when at least one notification came, or some were lost. All that are waiting are taken, so
    /// that a burst wakes the caller once. Cancel-safe: a dropped future has taken none without returning.
    pub(super) async fn changed(&self) -> io::Result<Notice> {
        let drain_if = async |socket: &Option<AsyncFd<_>>, judge: fn(&[u8]) -> Option<Notice>| match socket {
            Some(socket) => drain(socket, judge).await,
            None => std::future::pending().await,
        };
        tokio::select! {
            result = drain(&self.route, |message| self.own.judge_route(message)) => result,
            result = drain_if(&self.nftables, judge_nftables) => result,
            // Whose policy it is stands too far behind in the message.
            result = drain_if(&self.xfrm, |_| Some(Notice::Other)) => result,
        }
    }
}

fn listen(protocol: isize, groups: u32) -> io::Result<AsyncFd<Socket>> {
    let mut socket = Socket::new(protocol)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, groups))?;
    // SAFETY: a Socket names the same open socket for as long as it lives, and AsyncFd owns it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(registered?)
}

async fn drain(socket: &AsyncFd<Socket>, judge: impl Fn(&[u8]) -> Option<Notice>) -> io::Result<Notice> {
    // The first fields are enough: a longer message is cut off.
    let mut buffer = [0; 64];
    loop {
        let mut ready = socket.readable().await?;
        let mut notice = None;
        loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let message = buffer.get(..length.min(buffer.len())).unwrap_or_default();
                    notice = notice.max(judge(message));
                }
                Err(nix::errno::Errno::ENOBUFS) => notice = Some(Notice::Ours),
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        if let Some(notice) = notice {
            return Ok(notice);
        }
    }
}

/// Where the body of a message begins: `struct nlmsghdr` (linux/netlink.h) is before it, with the type at 4.
const BODY: usize = 16;

fn message_type(message: &[u8]) -> Option<u16> {
    message.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)
}

impl Own {
    /// Message types of linux/rtnetlink.h. `None` for what every host says all the time and is none of ours:
    /// neighbours that were resolved or went stale.
    fn judge_route(self, message: &[u8]) -> Option<Notice> {
        let word = |at: usize| -> Option<u32> {
            message.get(BODY + at..BODY + at + 4)?.try_into().ok().map(u32::from_ne_bytes)
        };
        let is_ours = |index: Option<u32>| {
            let own = [self.bridge, self.ipip, self.ipsec, self.udp];
            let all = own.iter().chain(&self.vxlan).chain(&self.wireguard);
            index.is_some() && all.into_iter().any(|own| *own == index)
        };
        let ours = |yes: bool| Some(if yes { Notice::Ours } else { Notice::Other });
        match message_type(message)? {
            // RTM_NEWLINK to RTM_SETLINK (`struct ifinfomsg`), RTM_NEWADDR to RTM_GETADDR (`struct ifaddrmsg`).
            16..=22 => ours(is_ours(word(4))),
            // RTM_NEWROUTE, RTM_DELROUTE: `rtm_protocol` of `struct rtmsg`.
            24 | 25 => ours(message.get(BODY + 5) == Some(&mark::ROUTE_PROTOCOL)),
            // RTM_NEWNEIGH, RTM_DELNEIGH: `ndm_ifindex` of `struct ndmsg`. Entries on our VXLAN devices are all ours.
            28 | 29 => self
                .vxlan
                .iter()
                .flatten()
                .any(|index| Some(*index) == word(4))
                .then_some(if self.learning { Notice::Other } else { Notice::Ours }),
            _ => Some(Notice::Other),
        }
    }
}

/// Of our table, and of those where our exceptions stand. `None` for what other programs do in theirs.
fn judge_nftables(message: &[u8]) -> Option<Notice> {
    /// `NFT_MSG_NEWGEN` (linux/netfilter/nf_tables.h): a transaction ended.
    const NEW_GENERATION: u16 = 15;
    if message_type(message)? & 0xff == NEW_GENERATION {
        return None;
    }
    // Each object names its table in its first attribute, after `struct nfgenmsg` and `struct nlattr`.
    let name = message.get(BODY + 8..)?.split(|byte| *byte == 0).next()?;
    match name {
        _ if name == mark::NFT_TABLE.as_bytes() => Some(Notice::Ours),
        b"filter" => Some(Notice::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this type with these bytes as its body.
    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(BODY, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn ours_is_told_from_others_and_from_noise() {
        let own = Own {
            bridge: Some(7),
            vxlan: [Some(8), Some(9)],
            ipip: Some(6),
            wireguard: [Some(4), None],
            ipsec: None,
            udp: Some(5),
            learning: false,
        };
        let index = |index: u32| [[0; 4], index.to_ne_bytes()].concat();
        let route = |protocol: u8| vec![2, 24, 0, 0, 254, protocol, 0, 1];
        for (kind, body, expected) in [
            (17, index(7), Some(Notice::Ours)),
            (17, index(10), Some(Notice::Other)),
            (17, index(9), Some(Notice::Ours)),
            (17, index(6), Some(Notice::Ours)),
            (17, index(4), Some(Notice::Ours)),
            (16, index(5), Some(Notice::Ours)),
            (20, index(8), Some(Notice::Ours)),
            (25, route(84), Some(Notice::Ours)),
            (25, route(4), Some(Notice::Other)),
            (28, index(8), Some(Notice::Ours)),
            (28, index(9), Some(Notice::Ours)),
            (28, index(7), None),
            (29, index(2), None),
            (80, vec![], Some(Notice::Other)),
        ] {
            assert_eq!(own.judge_route(&message(kind, &body)), expected, "type {kind}, {body:?}");
        }
        let learning = Own { learning: true, ..own };
        assert_eq!(learning.judge_route(&message(28, &index(8))), Some(Notice::Other));
        assert_eq!(Own::default().judge_route(&message(17, &index(0))), Some(Notice::Other));
    }

    #[test]
    fn tables_of_other_programs_are_their_own_business() {
        let table = |name: &str| [&[1, 0, 0, 0, 11, 0, 1, 0], name.as_bytes(), &[0, 0]].concat();
        let kind = |number: u16| (10 << 8) | number;
        assert_eq!(judge_nftables(&message(kind(2), &table("tartan"))), Some(Notice::Ours));
        assert_eq!(judge_nftables(&message(kind(6), &table("filter"))), Some(Notice::Other));
        assert_eq!(judge_nftables(&message(kind(6), &table("kube-proxy"))), None);
        assert_eq!(judge_nftables(&message(kind(15), &table("tartan"))), None);
    }
}
