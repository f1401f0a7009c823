//! What can fail at the kernel's edge, by operation.

use std::path::PathBuf;

use super::{
    encode::NoLink, ike::IkeError, nft::NftError, socket::RequestError, uapi::UapiError,
    wireguard::WireguardError,
};

/// Opening the sockets failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("open the request socket")]
    Request(#[source] RequestError),
    #[error("open the notification socket")]
    Notifications(#[source] std::io::Error),
}

/// Reading a part of the kernel's state failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("list {what}")]
    Dump {
        what: &'static str,
        #[source]
        source: RequestError,
    },
    #[error("look at WireGuard")]
    Wireguard(#[source] WireguardError),
    #[error("list table inet tartan")]
    Nft(#[source] NftError),
    #[error("list chain {chain}")]
    Forward {
        chain: &'static str,
        #[source]
        source: NftError,
    },
    #[error("read {}", path.display())]
    Sysctl {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read the offloads of {link}")]
    Offload {
        link: String,
        #[source]
        source: std::io::Error,
    },
}

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    NoLink(#[from] NoLink),
    #[error("netlink request")]
    Netlink(#[source] RequestError),
    #[error(transparent)]
    Wireguard(WireguardError),
    #[error(transparent)]
    Ike(IkeError),
    #[error("nft transaction")]
    Nft(#[source] NftError),
    #[error("write {}", path.display())]
    Sysctl {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("set the offloads of {link}")]
    Offload {
        link: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no process answers for {link}")]
    WireguardSilent { link: String },
    #[error("the link's private key can't be had")]
    NoKey,
    #[error("the preshared key can't be had, and without it no peer is added")]
    NoPresharedKey,
    #[error("make the TUN device {link}")]
    Tun {
        link: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the step's value does not belong to its key")]
    Mismatch,
}

/// Errno values of Linux (asm-generic/errno-base.h, errno.h).
pub(super) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const ESRCH: i32 = 3;
    pub(crate) const EACCES: i32 = 13;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const ENODEV: i32 = 19;
    pub(crate) const EROFS: i32 = 30;
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const EADDRINUSE: i32 = 98;
    pub(crate) const EADDRNOTAVAIL: i32 = 99;
}

/// Labels of metrics: a fixed set.
fn by_errno(code: Option<i32>) -> &'static str {
    match code {
        Some(errno::EPERM | errno::EACCES) => "permission-denied",
        Some(errno::EEXIST) => "exists",
        Some(errno::ENOENT | errno::ESRCH | errno::EADDRNOTAVAIL) => "not-found",
        Some(errno::ENODEV) => "no-device",
        Some(errno::EROFS) => "read-only",
        Some(errno::EOPNOTSUPP) => "unsupported",
        Some(errno::EADDRINUSE) => "in-use",
        Some(_) => "refused",
        None => "no-answer",
    }
}

impl WireguardError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kernel(error) => by_errno(error.errno()),
            Self::Process(UapiError::Absent { .. }) => WIREGUARD_PROCESS_ABSENT,
            Self::Process(UapiError::Refused { errno, .. }) => by_errno(Some(*errno)),
            Self::Process(UapiError::Malformed { .. }) => by_errno(None),
        }
    }
}

/// Reason of all that can't be had of a user-space WireGuard because no process answers.
pub const WIREGUARD_PROCESS_ABSENT: &str = "wireguard-process-absent";

impl ApplyError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoLink(_) => "no-device",
            Self::Netlink(error) => by_errno(error.errno()),
            Self::Wireguard(error) => error.reason(),
            Self::Ike(error) => error.reason(),
            Self::Nft(error) => error.reason(),
            Self::Sysctl { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "sysctl-missing",
            Self::Sysctl { source, .. } => match by_errno(source.raw_os_error()) {
                "read-only" | "permission-denied" => "sysctl-read-only",
                other => other,
            },
            Self::Offload { source, .. } | Self::Tun { source, .. } => by_errno(source.raw_os_error()),
            Self::WireguardSilent { .. } => WIREGUARD_PROCESS_ABSENT,
            Self::NoKey | Self::NoPresharedKey => "no-key",
            Self::Mismatch => "mismatch",
        }
    }
}

impl ObserveError {
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Dump { source, .. } => by_errno(source.errno()),
            Self::Wireguard(error) => error.reason(),
            Self::Nft(error) | Self::Forward { source: error, .. } => error.reason(),
            Self::Sysctl { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "sysctl-missing",
            Self::Sysctl { source, .. } | Self::Offload { source, .. } => by_errno(source.raw_os_error()),
        }
    }
}
