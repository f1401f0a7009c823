//! What an object of the data path is to this node: its own or a peer's, and of which backend.

use tartan_crds::conditions::reason;
use tartan_datapath::{
    mark,
    model::{Backend, Key},
};

use super::{CREDENTIALS_OLD, DAEMON_AWAY, DAEMON_ENDED, Failed};

/// The backend whose device the object is or hangs on.
pub(super) fn backend_of(key: &Key) -> Option<Backend> {
    match link_of(key)? {
        mark::VXLAN | mark::VXLAN6 => Some(Backend::Vxlan),
        mark::IPIP => Some(Backend::Ipip),
        mark::IPSEC => Some(Backend::Ipsec),
        link if mark::WIREGUARD.contains(&link) => Some(Backend::Wireguard),
        mark::UDP => Some(Backend::Udp),
        _ => None,
    }
}

/// What usually is behind a failure of a device.
pub(super) fn advice(failed: &Failed) -> String {
    match (&failed.key, failed.reason) {
        (Key::WireguardDevice(_), "in-use") => {
            " (another program has its UDP port: stop that, or set another backends.wireguard.port in the ClusterNetwork and change backends.wireguard.rotate)".to_owned()
        }
        (Key::Link(link), "in-use") if [mark::VXLAN, mark::VXLAN6].contains(&link.as_str()) => {
            " (another program, such as another pod network, has its UDP port: stop that, or set another backends.vxlan.port in the ClusterNetwork while no subnet is leased)".to_owned()
        }
        (Key::Link(link), "unsupported") => match kernel_part(link) {
            Some((what, modules)) => format!(
                " (this node's kernel has no {what}: install its {modules}, or {})",
                if mark::WIREGUARD.contains(&link.as_str()) {
                    "have it done in user space: wireguard.userspace of the chart"
                } else {
                    "choose another backend"
                }
            ),
            None => String::new(),
        },
        (Key::Link(link), "not-found" | "permission-denied") if mark::WIREGUARD.contains(&link.as_str()) => {
            " (a device for WireGuard in user space takes /dev/net/tun and the capability NET_ADMIN)".to_owned()
        }
        _ => String::new(),
    }
}

/// What a tunnel's device takes of the kernel, and the names of the modules that have it.
fn kernel_part(link: &str) -> Option<(&'static str, &'static str)> {
    Some(match link {
        mark::VXLAN | mark::VXLAN6 => ("VXLAN", "module vxlan"),
        mark::IPIP => ("IP in IP", "module ipip"),
        mark::IPSEC => ("IPsec", "modules xfrm_interface, esp4 and esp6"),
        link if mark::WIREGUARD.contains(&link) => ("WireGuard", "module wireguard"),
        _ => return None,
    })
}

/// The link that an object of this node's own is or hangs on.
pub(super) fn link_of(key: &Key) -> Option<&str> {
    Some(match key {
        Key::Link(link) | Key::Offload(link) | Key::WireguardDevice(link) | Key::Address { link, .. } => {
            link.as_str()
        }
        Key::Sysctl(path) => path.split('/').nth(2)?,
        Key::IkeCredentials => mark::IPSEC,
        Key::NftTable
        | Key::ForwardException(_)
        | Key::Port(_)
        | Key::WireguardPeer { .. }
        | Key::XfrmPolicy { .. }
        | Key::IkeConnection(_)
        | Key::IkeAssociation(_)
        | Key::Neighbour { .. }
        | Key::Fdb { .. }
        | Key::UdpPeer(_)
        | Key::Route { .. } => return None,
    })
}

/// An object that this node has for itself, not for one peer.
pub(super) fn is_own(key: &Key) -> bool {
    match key {
        Key::Link(_)
        | Key::Offload(_)
        | Key::Address { .. }
        | Key::Sysctl(_)
        | Key::WireguardDevice(_)
        | Key::IkeCredentials
        | Key::NftTable
        | Key::ForwardException(_) => true,
        // One pod's, at most.
        Key::Port(_) => false,
        Key::WireguardPeer { .. }
        | Key::XfrmPolicy { .. }
        | Key::IkeConnection(_)
        | Key::IkeAssociation(_)
        | Key::Neighbour { .. }
        | Key::Fdb { .. }
        | Key::UdpPeer(_)
        | Key::Route { .. } => false,
    }
}

/// The data path's reason as a condition's.
pub(super) fn api_reason(label: &str) -> &'static str {
    match label {
        "permission-denied" => reason::PERMISSION_DENIED,
        "nft-missing" => reason::NFT_MISSING,
        "sysctl-read-only" => reason::SYSCTL_READ_ONLY,
        DAEMON_ENDED | "ike-key-unfit" => reason::BACKEND_UNAVAILABLE,
        away if DAEMON_AWAY.contains(&away) || CREDENTIALS_OLD.contains(&away) => reason::BACKEND_UNAVAILABLE,
        _ => reason::APPLY_FAILED,
    }
}
