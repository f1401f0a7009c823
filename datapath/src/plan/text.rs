//! Steps in words, for `diff` and logs. The forms are those of iproute2.

use std::fmt;

use crate::model::{
    Action, Conflict, ForwardException, IkeCredentials, IkeSettings, Key, LinkKind, Preshared, RouteKind,
    Step, Value,
};

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }
}

impl Key {
    /// The kind of object: label of metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Link(_) => "link",
            Self::Port(_) => "port",
            Self::Offload(_) => "offload",
            Self::Address { .. } => "address",
            Self::Sysctl(_) => "sysctl",
            Self::NftTable => "nft-table",
            Self::ForwardException(_) => "forward-exception",
            Self::WireguardDevice(_) => "wireguard-device",
            Self::WireguardPeer { .. } => "wireguard-peer",
            Self::XfrmPolicy { .. } => "xfrm-policy",
            Self::IkeCredentials => "ike-credentials",
            Self::IkeConnection(_) => "ike-connection",
            Self::IkeAssociation(_) => "ike-association",
            Self::Neighbour { .. } => "neighbour",
            Self::Fdb { .. } => "fdb",
            Self::UdpPeer(_) => "udp-peer",
            Self::Route { .. } => "route",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) => write!(f, "link {name}"),
            Self::Port(link) => write!(f, "port {link}"),
            Self::Offload(link) => write!(f, "offload of {link}"),
            Self::Address { link, address } => write!(f, "address {address} dev {link}"),
            Self::Sysctl(path) => write!(f, "sysctl net.{}", path.replace('/', ".")),
            Self::NftTable => f.write_str("table inet tartan"),
            Self::ForwardException(ForwardException::Ip) => f.write_str("accept rules in ip filter FORWARD"),
            Self::ForwardException(ForwardException::Ip6) => {
                f.write_str("accept rules in ip6 filter FORWARD")
            }
            Self::WireguardDevice(link) => write!(f, "wireguard {link}"),
            Self::WireguardPeer { link, key } => write!(f, "wireguard peer {key} dev {link}"),
            Self::XfrmPolicy { direction, source, destination } => {
                write!(f, "xfrm policy src {source} dst {destination} dir {}", direction.as_str())
            }
            Self::IkeCredentials => f.write_str("ike credentials"),
            Self::IkeConnection(name) => write!(f, "ike connection {name}"),
            Self::IkeAssociation(number) => write!(f, "ike association {number}"),
            Self::Neighbour { link, address } => write!(f, "neighbour {address} dev {link}"),
            Self::Fdb { link, mac } => write!(f, "fdb {mac} dev {link}"),
            Self::UdpPeer(subnet) => write!(f, "udp peer's subnet {subnet}"),
            Self::Route { destination, metric: 0 } => write!(f, "route {destination}"),
            Self::Route { destination, metric } => write!(f, "route {destination} metric {metric}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(sysctl) => write!(f, "= {}", sysctl.value),
            Self::Link(link) => {
                match &link.kind {
                    LinkKind::Bridge => f.write_str("type bridge")?,
                    LinkKind::Vxlan { vni, port, device, local, learning, gbp } => {
                        write!(f, "type vxlan id {vni} dev {device} local {local} dstport {port}")?;
                        f.write_str(if *learning { " learning" } else { " nolearning" })?;
                        f.write_str(if *gbp { " gbp" } else { "" })?;
                    }
                    LinkKind::Wireguard => f.write_str("type wireguard")?,
                    LinkKind::WireguardTun => f.write_str("type tun for wireguard")?,
                    LinkKind::Xfrm { number } => write!(f, "type xfrm if_id {number}")?,
                    LinkKind::Tun { local } => write!(f, "type tun local {local}")?,
                    LinkKind::Ipip { local } => write!(f, "type ipip local {local} remote any")?,
                }
                if let Some(mac) = link.mac {
                    write!(f, " address {mac}")?;
                }
                write!(f, " mtu {} {}", link.mtu, if link.up { "up" } else { "down" })
            }
            Self::Port(port) => {
                f.write_str(if port.attached { "master tartan0" } else { "nomaster" })?;
                f.write_str(if port.hairpin { " hairpin on" } else { " hairpin off" })
            }
            Self::Offload(offload) => {
                write!(f, "tx checksum {}", if offload.tx_checksum { "on" } else { "off" })
            }
            Self::Address(_) | Self::ForwardException | Self::IkeAssociation => Ok(()),
            Self::IkeCredentials(IkeCredentials::PresharedKey) => f.write_str("preshared key"),
            Self::IkeCredentials(IkeCredentials::Certificate { node }) => write!(f, "certificate of {node}"),
            Self::NftTable(table) => {
                let elements: usize = table.elements.values().map(Vec::len).sum();
                write!(f, "({} lines, {elements} set elements)", table.declaration.lines().count())
            }
            Self::WireguardDevice(device) => write!(f, "key {} listen-port {}", device.key, device.port),
            Self::WireguardPeer(peer) => {
                let allowed: Vec<String> = peer.allowed.iter().map(ToString::to_string).collect();
                write!(f, "endpoint {} allowed-ips {}", peer.endpoint, allowed.join(","))?;
                if peer.keepalive > 0 {
                    write!(f, " persistent-keepalive {}", peer.keepalive)?;
                }
                f.write_str(match peer.preshared {
                    Preshared::None => "",
                    Preshared::Key(_) => " preshared-key (hidden)",
                    Preshared::Missing => " preshared-key (missing)",
                })
            }
            Self::XfrmPolicy(policy) => write!(
                f,
                "tmpl src {} dst {} proto esp reqid {} mode tunnel",
                policy.source, policy.destination, policy.request
            ),
            Self::IkeConnection(connection) => {
                write!(f, "local {} remote {}", connection.local, connection.remote)?;
                let IkeSettings { authentication: _, esp_proposal, ike_proposal, udp_encapsulation } =
                    &connection.settings;
                if connection.is_named() {
                    write!(f, " id {} peer-id {}", connection.local_id, connection.remote_id)?;
                }
                write!(f, " esp {esp_proposal} ike {ike_proposal}")?;
                f.write_str(if *udp_encapsulation { " encap" } else { "" })
            }
            Self::Neighbour(neighbour) => write!(f, "lladdr {} nud permanent", neighbour.mac),
            Self::Fdb(fdb) => write!(f, "dst {} self permanent", fdb.destination),
            Self::UdpPeer(peer) => {
                write!(f, "via {} table {}", peer.gateway, crate::mark::UDP_TABLE)?;
                match peer.source {
                    Some(source) => write!(f, " src {source}"),
                    None => Ok(()),
                }
            }
            Self::Route(route) => {
                match &route.kind {
                    RouteKind::Via { gateway, link, onlink } => {
                        write!(f, "via {gateway} dev {link}{}", if *onlink { " onlink" } else { "" })?;
                    }
                    RouteKind::Device { link } => write!(f, "dev {link}")?,
                    RouteKind::Unreachable => f.write_str("unreachable")?,
                }
                if let Some(source) = route.source {
                    write!(f, " src {source}")?;
                }
                if let Some(mtu) = route.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.action, self.key, self.value)?;
        match &self.before {
            Some(before) => write!(f, " (was {before})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in the way: {}", self.key, self.found)
    }
}
