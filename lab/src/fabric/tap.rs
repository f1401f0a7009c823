//! Taps on the nodes' cables: every packet that a node puts on the wire is counted at the switch, by what it is.
//!
//! Counted by the kernel at the switch's ports, so nothing is missed, however busy the machine is, and a node that is
//! off, reset or without its devices is still watched: ports are known by name.

use std::fmt;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Node;
use crate::namespace::Namespace;

/// Packets that came from one node's cable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tapped {
    /// With a pod's address on the outside: anybody on the way reads them.
    pub plain: u64,
    pub vxlan: u64,
    pub ipip: u64,
    /// Wrapped in UDP by a program, by flannel's port.
    pub udp: u64,
    pub wireguard: u64,
    /// ESP, also in UDP.
    pub esp: u64,
}

/// Name and match of each kind, in nft's words. A packet counts once.
///
/// A tunnel's port alone says nothing: it may be the source port that a pod's flow was given, and what comes is its answer.
/// By their first bytes, which no message of our loads begins with: RFC 7348 section 5, the header of IPv4, and the
/// message types of WireGuard's protocol.
const KINDS: [(&str, &str); 5] = [
    ("vxlan", "udp dport 8472 @th,64,8 0x08"),
    ("ipip", "meta l4proto 4"),
    ("udp", "udp dport 8285 @th,64,4 4"),
    ("wireguard", "udp dport 51820-51829 @th,64,8 1-4"),
    ("esp", "meta l4proto esp"),
];

impl Tapped {
    /// Packets of pods that can be read on the way, whatever they are wrapped in.
    pub fn clear(&self) -> u64 {
        self.plain + self.vxlan + self.ipip + self.udp
    }

    pub fn encrypted(&self) -> u64 {
        self.wireguard + self.esp
    }
}

impl fmt::Display for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plain, vxlan, ipip, udp, wireguard, esp } = self;
        write!(f, "{plain} plain, {vxlan} vxlan, {ipip} ipip, {udp} udp, {wireguard} wireguard, {esp} esp")
    }
}

/// Starts counting, or starts anew.
pub(super) fn place(router: &Namespace, nodes: &[Node], pods: &str) -> Result<()> {
    let mut table = "table bridge tap; delete table bridge tap; table bridge tap {\n".to_owned();
    let family = if pods.contains(':') { "ip6" } else { "ip" };
    let mut chain = "chain prerouting { type filter hook prerouting priority -300;\n".to_owned();
    for node in nodes {
        let (name, port) = (node.name(), node.port());
        let kinds = KINDS.map(|(kind, what)| (kind, what.to_owned()));
        let more = [
            // RFC 3948 section 2.2: an SPI, which is never zero.
            ("esp", "udp dport 4500 @th,64,32 != 0".to_owned()),
            ("plain", format!("{family} saddr {pods}")),
            ("plain", format!("{family} daddr {pods}")),
        ];
        for (kind, what) in kinds.into_iter().chain(more) {
            chain.push_str(&format!("iifname {port} {what} counter name {name}-{kind} accept\n"));
        }
        for kind in KINDS.map(|(kind, _)| kind).into_iter().chain(["plain"]) {
            table.push_str(&format!("counter {name}-{kind} {{ }}\n"));
        }
    }
    table.push_str(&chain);
    table.push_str("}\n}\n");
    router.script(&format!("nft -f - <<'END'\n{table}\nEND"))?;
    Ok(())
}

pub(super) fn read(router: &Namespace, node: &str) -> Result<Tapped> {
    let listing = router.exec(&["nft", "-j", "list", "counters", "table", "bridge", "tap"])?.ok()?.stdout;
    let listing: Value = serde_json::from_str(&listing).context("nft's counters")?;
    let items = listing.get("nftables").and_then(Value::as_array).context("nft lists counters")?;
    let count = |kind: &str| -> Result<u64> {
        let name = format!("{node}-{kind}");
        items
            .iter()
            .filter_map(|item| item.get("counter"))
            .find(|counter| counter.get("name").and_then(Value::as_str) == Some(&name))
            .and_then(|counter| counter.get("packets")?.as_u64())
            .with_context(|| format!("there is no tap named {name}"))
    };
    Ok(Tapped {
        plain: count("plain")?,
        vxlan: count("vxlan")?,
        ipip: count("ipip")?,
        udp: count("udp")?,
        wireguard: count("wireguard")?,
        esp: count("esp")?,
    })
}
