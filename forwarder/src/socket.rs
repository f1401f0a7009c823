//! The UDP sockets: one per queue, all on one address and port, among which the kernel spreads the peers.

#![allow(unsafe_code, reason = "a socket option that no library wraps")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, getsockopt, sendto, setsockopt,
        socket,
        sockopt::{IpMtu, RcvBufForce, ReusePort, SndBufForce, UdpGroSegment},
    },
};

/// Holds what comes in while a queue's thread is not running: a few milliseconds at full speed.
const BUFFER: usize = 4 << 20;
/// `IP_PMTUDISC_*` (linux/in.h): datagrams are cut, or refused where they don't fit.
const CUT: libc::c_int = 0;
const REFUSE: libc::c_int = 2;

/// Opens a socket that receives as `local`, beside others that do.
pub fn open(local: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // With it a new process can take over while the old one still runs, too.
    setsockopt(&socket, ReusePort, &true)?;
    setsockopt(&socket, UdpGroSegment, &true)?;
    // These take NET_ADMIN. Without it the defaults have to do.
    let _ = setsockopt(&socket, RcvBufForce, &BUFFER);
    let _ = setsockopt(&socket, SndBufForce, &BUFFER);
    // What doesn't fit is said to the packet's sender, who can do something about it.
    set_discovery(&socket, REFUSE)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(local))?;
    Ok(socket)
}

/// What fits into one datagram to `peer`, header and all, as far as the kernel knows.
pub fn path_mtu(local: Ipv4Addr, peer: SocketAddrV4) -> io::Result<u16> {
    let probe = UdpSocket::bind((local, 0))?;
    probe.connect(peer)?;
    Ok(u16::try_from(getsockopt(&probe, IpMtu)?).unwrap_or(u16::MAX))
}

/// Sends one packet, in pieces where it must be.
pub fn send_cut(socket: &OwnedFd, peer: SocketAddrV4, packet: &[u8]) -> io::Result<()> {
    set_discovery(socket, CUT)?;
    let sent = sendto(socket.as_raw_fd(), packet, &SockaddrIn::from(peer), MsgFlags::empty());
    set_discovery(socket, REFUSE)?;
    sent?;
    Ok(())
}

fn set_discovery(socket: &OwnedFd, how: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an integer of the length that it is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const how).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
