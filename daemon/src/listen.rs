//! Listening for scrapes and probes, which come by the family of the node's address.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt,
    },
};

/// The process that this one replaces may still have the address.
const AGAIN: Duration = Duration::from_millis(500);

/// As [`on`], but an address in use is asked for until it is free. Needs a tokio runtime with IO and time.
pub async fn bind_when_free(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    let mut said = false;
    loop {
        match on(address) {
            Ok(listener) => return Ok(tokio::net::TcpListener::from_std(listener)?),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !said {
                    tracing::warn!(listen = %address, "another process serves metrics here (--listen): waiting for its end");
                }
                said = true;
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot listen on {address} (--listen)"));
            }
        }
    }
}

/// A listener that does not block. `[::]` stands for every address of both families, whatever the host's `bindv6only`
/// says, and on a host without IPv6 for those of IPv4.
pub fn on(address: SocketAddr) -> io::Result<TcpListener> {
    match try_on(address) {
        Err(error) => match instead(address, error) {
            Some(other) => Ok(try_on(other)?),
            None => Err(error.into()),
        },
        Ok(listener) => Ok(listener),
    }
}

fn instead(address: SocketAddr, error: Errno) -> Option<SocketAddr> {
    let without_v6 = matches!(error, Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL);
    (without_v6 && address.is_ipv6() && address.ip().is_unspecified())
        .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

fn try_on(address: SocketAddr) -> nix::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    // A restart must not wait for the connections of before to be forgotten.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn every_address_is_that_of_both_families() {
        let listener = on("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in ["127.0.0.1", "::1"] {
            TcpStream::connect((address, port)).unwrap();
        }
    }

    #[test]
    fn an_address_of_one_family_is_that_alone() {
        let listener = on("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(TcpStream::connect(("::1", port)).is_err());
        let taken = on(SocketAddr::from(([127, 0, 0, 1], port))).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_host_without_ipv6_is_listened_on_by_ipv4() {
        let every: SocketAddr = "[::]:9472".parse().unwrap();
        assert_eq!(instead(every, Errno::EAFNOSUPPORT), Some("0.0.0.0:9472".parse().unwrap()));
        assert_eq!(instead(every, Errno::EADDRINUSE), None);
        assert_eq!(instead("[::1]:9472".parse().unwrap(), Errno::EAFNOSUPPORT), None);
    }
}
