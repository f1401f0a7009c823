//! What a round found, for the verdict.

use tartan_datapath::{
    kernel::Unanswered,
    mark,
    model::{Intent, Key, Peer},
};

use super::{Files, Worked};
use crate::{assess::Findings, ground::Ground, intent::Built};

pub(super) fn findings<'a>(ground: &'a Ground, worked: &'a Worked, files: &'a Files) -> Findings<'a> {
    let built = ground.built();
    Findings {
        facts: ground.facts(),
        failed: &worked.failed,
        unseen: &worked.unseen,
        conflicts: &worked.plan.conflicts,
        problems: &worked.desired.problems,
        faults: built.map_or(&[], |built| &built.faults),
        frozen: ground.frozen(),
        shadowing: files.shadowing.as_deref(),
        files: files.error.as_deref(),
        foreign_file: files.foreign.as_deref(),
        paths: &worked.desired.paths,
        no_ground: ground.missing(),
        unmet: built.map_or(&[], |built| &built.troubles),
        extension: &[],
        no_key: built.and_then(|built| built.no_key.as_deref()),
        spare: built.map(|built| built.intent.spare_backends()).unwrap_or_default(),
        wireguard_links: built.map(wireguard_links).unwrap_or_default(),
        second_vxlan: [mark::VXLAN, mark::VXLAN6]
            .into_iter()
            .all(|name| worked.desired.elements.contains_key(&Key::Link(name.to_owned()))),
        outdated_preshared: worked.outdated_preshared,
        daemon_awaited: worked.daemon_awaited,
        process_awaited: worked.process_awaited,
        no_handshake: vec![],
        unanswered: built.map(|built| unanswered(built, &worked.unanswered)).unwrap_or_default(),
    }
}

/// Names of the nodes that don't answer the IKE daemon.
fn unanswered<'a>(built: &'a Built, found: &Unanswered) -> Vec<&'a str> {
    let silent = |peer: &&Peer| peer.side.public_ips.iter().any(|address| found.late.contains(address));
    built.intent.peers.iter().filter(silent).map(|peer| peer.node.as_str()).collect()
}

/// The links of this node's keys.
pub(super) fn wireguard_links(built: &Built) -> Vec<&'static str> {
    let Intent { local, wireguard, .. } = &built.intent;
    let ends = local.side.endpoints.wireguard.iter().chain(&wireguard.leaving);
    ends.map(|end| mark::wireguard(end.generation)).collect()
}
