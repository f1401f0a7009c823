//! Sealed pairs: their packets come and go encrypted, or not at all.
//!
//! A route says where packets should go, and goes with its device; these rules say where they may. What would leave
//! for a sealed peer's pods by any other device is rejected, and what comes in clear is dropped: plain from its pods
//! to ours, or in a tunnel from its addresses. A pod's packet to a node's own address is none of these, as it is sent
//! in clear by design.
//!
//! Judged before destinations are translated, so that a NodePort stays what the sender asked for.

use std::{collections::BTreeMap, fmt::Write as _};

use ipnetwork::IpNetwork;

use super::Words;
use crate::{
    mark,
    model::{Intent, Peer},
    pair::is_sealed,
};

/// `sealedN`: where sealed peers' tunnel packets come from; `sealednetsN`: their pods.
pub(super) fn declare_sets(
    intent: &Intent,
    families: &[Words],
    subnets: &[IpNetwork],
    (text, elements): (&mut String, &mut BTreeMap<String, Vec<String>>),
) {
    let addresses: Vec<IpNetwork> = sealed(intent)
        .flat_map(|peer| peer.side.public_ips.iter().chain(&peer.side.tunnel_sources))
        .map(|address| IpNetwork::from(*address))
        .collect();
    for words in [super::V4, super::V6] {
        let name = format!("sealed{}", words.digit);
        let _ = writeln!(text, "  set {name} {{\n    type {};\n  }}", words.set_type);
        elements.insert(name, words.members(&addresses));
    }
    for words in families {
        let name = format!("sealednets{}", words.digit);
        let _ = writeln!(text, "  set {name} {{\n    type {};\n    flags interval;\n  }}", words.set_type);
        elements.insert(name, words.members(subnets));
    }
}

/// First in the guard: neither a tunnel nor a plain route may take these.
pub(super) fn add_guard(
    intent: &Intent,
    families: &[Words],
    verdict: impl Fn(&Words) -> String,
    text: &mut String,
) {
    for words in families.iter().filter(|_| concerns(intent)) {
        let (Words { ip, digit, .. }, verdict) = (words, verdict(words));
        let _ = writeln!(
            text,
            "    oifname != {{ {} }} {ip} daddr @sealednets{digit} counter name \"stray\" {verdict}",
            devices()
        );
    }
}

/// Tunnel packets for us: `ours` matches them.
pub(super) fn add_received(intent: &Intent, ours: &str, families: &[Words], text: &mut String) {
    for Words { ip, digit, .. } in families.iter().filter(|_| concerns(intent)) {
        let _ = writeln!(text, "    {ip} saddr @sealed{digit} {ours} counter name \"sealed_clear\" drop");
    }
}

pub(super) fn add_chain(intent: &Intent, families: &[Words], text: &mut String) {
    if !concerns(intent) {
        return;
    }
    text.push_str("  chain sealed {\n    type filter hook prerouting priority raw; policy accept;\n");
    for Words { ip, digit, .. } in families {
        let _ = writeln!(
            text,
            "    iifname != {{ {} }} {ip} saddr @sealednets{digit} {ip} daddr @local{digit} \
             counter name \"sealed_clear\" drop",
            devices()
        );
    }
    text.push_str("  }\n");
}

/// Whether this node can be one of an encrypted pair.
fn concerns(intent: &Intent) -> bool {
    intent.local.side.accepts.iter().any(|backend| backend.encrypts())
}

fn sealed(intent: &Intent) -> impl Iterator<Item = &Peer> {
    intent.peers.iter().filter(|peer| is_sealed(&intent.local.side, &peer.side))
}

fn devices() -> String {
    mark::ENCRYPTING.map(|name| format!("\"{name}\"")).join(", ")
}
