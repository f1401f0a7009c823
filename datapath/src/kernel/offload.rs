//! Transmit checksum offload of a link, by the ethtool ioctl.
//!
//! `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM` (linux/ethtool.h) act on all transmit checksum features that the
//! device has; there is no netlink library that sets features.

#![allow(unsafe_code, reason = "an ioctl that no library wraps")]

use std::{io, os::fd::AsRawFd as _};

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

pub(super) fn tx_checksum(link: &str) -> io::Result<bool> {
    Ok(call(link, ETHTOOL_GTXCSUM, 0)? != 0)
}

pub(super) fn set_tx_checksum(link: &str, on: bool) -> io::Result<()> {
    call(link, ETHTOOL_STXCSUM, u32::from(on)).map(drop)
}

fn call(link: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: ifreq is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if link.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads and writes `request` and the `EthtoolValue` that it points to, both of which
    // live until the call returns; the socket is open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
