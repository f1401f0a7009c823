//! Which of the links that were seen are ours, and which are in the way of ours.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::super::decode::{SeenIpip, SeenLink};
use crate::mark;
use crate::model::{Elements, Key, Link, LinkKind, Observed, Value};

/// Our links, and foreign ones in the way: of the same name, or a VXLAN device with the same VNI and port,
/// of which the kernel allows only one.
///
/// `user_wireguard`: a process may do what the kernel has no WireGuard for.
pub(super) fn add_links(
    links: &BTreeMap<u32, SeenLink>,
    desired: &Elements,
    user_wireguard: bool,
    observed: &mut Observed,
) {
    let name_of = |index| links.get(&index).map_or_else(|| format!("if{index}"), |link| link.name.clone());
    for link in links.values() {
        let key = Key::Link(link.name.clone());
        if link.is_ours() || is_unfinished(link, desired.get(&key), user_wireguard) {
            let kind = match link.element_kind(name_of) {
                Some(LinkKind::WireguardTun) if user_wireguard => Some(LinkKind::Wireguard),
                // Not marked yet.
                None if link.kind == "tun" && mark::WIREGUARD.contains(&link.name.as_str()) => {
                    Some(LinkKind::Wireguard)
                }
                other => other,
            };
            if let Some(kind) = kind {
                let value = Link { kind, mac: link.mac, mtu: link.mtu, up: link.up };
                observed.ours.insert(key, Value::Link(value));
            }
            continue;
        }
        if desired.contains_key(&key) {
            observed.foreign.insert(key, format!("a link of kind {:?} without our mark", link.kind));
        }
        for (wanted, value) in desired {
            // One of the other family has sockets of its own.
            if let (Value::Link(Link { kind: LinkKind::Vxlan { vni, port, local, .. }, .. }), Some(vxlan)) =
                (value, &link.vxlan)
                && (*vni, *port) == (vxlan.vni, vxlan.port)
                && vxlan.local.is_none_or(|theirs| theirs.is_ipv4() == local.is_ipv4())
            {
                let text = format!("the VXLAN device {} already has VNI {vni} and port {port}", link.name);
                observed.foreign.insert(wanted.clone(), text);
            }
            if let (Value::Link(Link { kind: LinkKind::Ipip { local }, .. }), Some(ipip)) = (value, link.ipip)
                && link.kind == "ipip"
                && ipip == (SeenIpip { local: *local, remote: Ipv4Addr::UNSPECIFIED })
            {
                let text = format!("the IP-in-IP device {} already receives for {local}", link.name);
                observed.foreign.insert(wanted.clone(), text);
            }
        }
    }
}

/// A link that we had made and not marked yet when we were killed: our name, our kind, our hardware address
/// (which derives from the Node), no alias, still down.
fn is_unfinished(link: &SeenLink, wanted: Option<&Value>, user_wireguard: bool) -> bool {
    match wanted {
        Some(Value::Link(wanted)) => {
            let kind = match wanted.kind {
                LinkKind::Bridge => "bridge",
                LinkKind::Vxlan { .. } => "vxlan",
                LinkKind::Ipip { .. } => "ipip",
                LinkKind::Wireguard if user_wireguard && link.kind == "tun" => "tun",
                LinkKind::Wireguard => "wireguard",
                LinkKind::WireguardTun => return false,
                LinkKind::Xfrm { .. } => "xfrm",
                LinkKind::Tun { .. } => "tun",
            };
            link.alias.is_empty() && !link.up && link.kind == kind && link.mac == wanted.mac
        }
        _ => false,
    }
}
