//! What a round's findings mean for this node: does its network work, is reception up, what else is wrong.
//! Pure.
//!
//! Objects of a peer may fail and the node is ready all the same; its own may not.

mod classify;

use std::collections::BTreeSet;

use tartan_crds::conditions::reason;
use tartan_datapath::{
    desired::PeerPath,
    kernel::WIREGUARD_PROCESS_ABSENT,
    mark,
    model::{Backend, Conflict, Facts, Key, Step},
    pair::Reason,
    problem::{Problem, ProblemKind},
};

use crate::intent::{NotReady, PeerFault};
use classify::{advice, api_reason, backend_of, is_own, link_of};

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub key: Key,
    /// Of the data path's fixed set.
    pub reason: &'static str,
    pub message: String,
}

/// What a round found, apart from the paths.
#[derive(Clone, Debug)]
pub struct Findings<'a> {
    pub facts: &'a Facts,
    pub failed: &'a [(Step, Failed)],
    /// Parts of the kernel that could not be read: reason and message.
    pub unseen: &'a [(&'static str, String)],
    pub conflicts: &'a [Conflict],
    pub problems: &'a [Problem],
    pub faults: &'a [PeerFault],
    /// Why deletions are held back.
    pub frozen: Option<String>,
    /// A CNI configuration that the runtime takes instead of ours.
    pub shadowing: Option<&'a str>,
    /// Why the CNI files could not be written.
    pub files: Option<&'a str>,
    /// A file of somebody else where ours would be.
    pub foreign_file: Option<&'a str>,
    pub paths: &'a [PeerPath],
    /// Why there is nothing to program, or nothing new.
    pub no_ground: Option<&'a NotReady>,
    /// What was asked of this node and can't be had.
    pub unmet: &'a [NotReady],
    /// What the administrator's programs failed at.
    pub extension: &'a [NotReady],
    /// Backends that the node only receives, for nodes that send by them.
    pub spare: BTreeSet<Backend>,
    /// Why there is no WireGuard key.
    pub no_key: Option<&'a str>,
    /// The WireGuard links that this node should have: two while keys are rotated.
    pub wireguard_links: Vec<&'static str>,
    /// The second VXLAN device is there, for peers without IPv4 alone.
    pub second_vxlan: bool,
    /// Peers that go on with the preshared key of before.
    pub outdated_preshared: usize,
    /// The IKE daemon was there for the agent before this one, which has only just ended.
    pub daemon_awaited: bool,
    /// Nodes that don't answer the IKE daemon.
    pub unanswered: Vec<&'a str>,
    /// The process of the user-space WireGuard has been away for a moment at most.
    pub process_awaited: bool,
    /// Nodes that should have answered WireGuard by now.
    pub no_handshake: Vec<&'a str>,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Assessment {
    /// Why this node's network does not work.
    pub not_ready: Option<NotReady>,
    /// What else is wrong, the worst first.
    pub troubles: Vec<NotReady>,
    /// Peers' packets find everything in place.
    pub reception: bool,
    /// Backends of which that is not so, though it is of the others.
    pub lost: BTreeSet<Backend>,
    /// WireGuard links of which that is so, though the other one works.
    pub lost_links: BTreeSet<&'static str>,
}

/// The data path's reason for an IKE daemon that was there before.
const DAEMON_ENDED: &str = "ike-daemon-ended";
/// For a certificate whose time is over, or a key or certificate in whose place another should come.
const CREDENTIALS_OLD: [&str; 2] = ["ike-certificate-expired", "ike-renewal-unfit"];
/// For one that isn't there or doesn't answer.
const DAEMON_AWAY: [&str; 2] = ["ike-daemon-unreachable", "ike-daemon-silent"];

/// Messages of one kind that are quoted; more are counted.
const QUOTED: usize = 4;

pub fn assess(findings: &Findings<'_>) -> Assessment {
    let Findings {
        facts,
        failed,
        unseen,
        conflicts,
        problems,
        faults,
        frozen,
        shadowing,
        files,
        foreign_file,
        paths,
        no_ground,
        unmet,
        extension,
        spare,
        no_key,
        wireguard_links,
        second_vxlan,
        outdated_preshared,
        daemon_awaited,
        unanswered,
        process_awaited,
        no_handshake,
    } = findings;
    // What it negotiated goes on: neither this node nor those that send to it shall do without.
    let missed = |reason: &str| {
        reason == DAEMON_ENDED
            || CREDENTIALS_OLD.contains(&reason)
            || (*daemon_awaited && DAEMON_AWAY.contains(&reason))
    };
    let mut lost_links = BTreeSet::new();
    let in_trouble: BTreeSet<&str> = failed
        .iter()
        .map(|(_, failed)| &failed.key)
        .chain(conflicts.iter().map(|conflict| &conflict.key))
        .filter_map(link_of)
        .collect();
    // A link that fails while the other one works costs a rotation of keys, and no more.
    let beside_another = |key: &Key| {
        let link = wireguard_links.iter().copied().find(|link| link_of(key) == Some(*link))?;
        wireguard_links.iter().any(|other| *other != link && !in_trouble.contains(other)).then_some(link)
    };
    let of_second_vxlan = |key: &Key| *second_vxlan && link_of(key) == Some(mark::VXLAN6);
    let mut lost = BTreeSet::new();
    let mut lose = |backend: Backend, why: String| {
        lost.insert(backend);
        NotReady::new(
            reason::BACKEND_UNAVAILABLE,
            format!("{why}: nodes that send by {backend} have no path to this one"),
        )
    };
    let spared = |key: &Key| backend_of(key).filter(|backend| spare.contains(backend));
    let mut broken: Vec<NotReady> = no_ground.iter().map(|why| (*why).clone()).collect();
    let mut troubles: Vec<NotReady> = Vec::new();
    if !facts.net_admin {
        broken.push(NotReady::new(
            reason::PERMISSION_DENIED,
            "the agent lacks the capability NET_ADMIN: add it to its securityContext",
        ));
    }
    if !facts.nft {
        broken.push(NotReady::new(
            reason::NFT_MISSING,
            "the program nft can't be started: install the nftables package on the node or in the image",
        ));
    }
    if let Some(message) = no_key {
        if spare.contains(&Backend::Wireguard) {
            troubles.push(lose(Backend::Wireguard, (*message).to_owned()));
        } else {
            broken.push(NotReady::new(reason::BACKEND_UNAVAILABLE, *message));
        }
    }
    for (reason, message) in unseen.iter() {
        broken.push(NotReady::new(api_reason(reason), message.clone()));
    }
    let (own, others): (Vec<&Failed>, Vec<&Failed>) =
        failed.iter().map(|(_, failed)| failed).partition(|failed| is_own(&failed.key));
    for failed in own {
        if missed(failed.reason) {
            troubles.push(NotReady::new(api_reason(failed.reason), failed.message.clone()));
            continue;
        }
        if let Some(link) = beside_another(&failed.key) {
            let advice = advice(failed);
            let message =
                format!("{}: {}{advice}: this node's keys are not rotated", failed.key, failed.message);
            troubles.push(NotReady::new(reason::BACKEND_UNAVAILABLE, message));
            lost_links.insert(link);
            continue;
        }
        // The node's network works: what it can't join are pairs that are encrypted.
        if failed.reason == WIREGUARD_PROCESS_ABSENT {
            let why = failed.message.clone();
            let told = if *process_awaited { NotReady::new("", why) } else { lose(Backend::Wireguard, why) };
            troubles.push(NotReady { reason: reason::WIREGUARD_NOT_RUNNING, ..told });
            continue;
        }
        if of_second_vxlan(&failed.key) {
            troubles.push(no_second_vxlan(&format!("{}: {}", failed.key, failed.message)));
            continue;
        }
        if let Some(backend) = spared(&failed.key) {
            let advice = advice(failed);
            troubles.push(lose(backend, format!("{}: {}{advice}", failed.key, failed.message)));
            continue;
        }
        let (list, advice) = match &failed.key {
            // Loose filters and the like: most hosts work without.
            Key::Sysctl(path) if !path.ends_with("forward") && !path.ends_with("forwarding") => (
                &mut troubles,
                " (mount the host's /proc/sys/net for writing, or set it on the host)".to_owned(),
            ),
            Key::Sysctl(_) => (&mut broken, " (mount the host's /proc/sys/net for writing)".to_owned()),
            Key::Offload(_) => (&mut troubles, String::new()),
            _ => (&mut broken, advice(failed)),
        };
        list.push(NotReady::new(
            api_reason(failed.reason),
            format!("{}: {}{advice}", failed.key, failed.message),
        ));
    }
    if let Some(message) = frozen {
        troubles.push(NotReady::new(reason::DELETIONS_FROZEN, message.clone()));
    }
    for conflict in conflicts.iter() {
        if let Some(link) = beside_another(&conflict.key) {
            let message =
                format!("{conflict}; remove it or rename it: until then this node's keys are not rotated");
            troubles.push(NotReady::new(reason::FOREIGN_OBJECT, message));
            lost_links.insert(link);
            continue;
        }
        if of_second_vxlan(&conflict.key) {
            troubles.push(no_second_vxlan(&conflict.to_string()));
            continue;
        }
        if let Some(backend) = spared(&conflict.key) {
            troubles.push(lose(backend, conflict.to_string()));
            continue;
        }
        let trouble = NotReady::new(reason::FOREIGN_OBJECT, format!("{conflict}; remove it or rename it"));
        if is_own(&conflict.key) { broken.push(trouble) } else { troubles.push(trouble) }
    }
    // Said once already.
    let others =
        others.iter().filter(|failed| !missed(failed.reason) && failed.reason != WIREGUARD_PROCESS_ABSENT);
    troubles.extend(quote(
        reason::APPLY_FAILED,
        others.map(|failed| format!("{}: {}", failed.key, failed.message)).collect(),
    ));
    for problem in problems.iter().filter(|problem| problem.kind == ProblemKind::ProtectedInEntry) {
        troubles.push(NotReady::new(reason::GUARD_REFUSED, problem.message.clone()));
    }
    for problem in problems.iter().filter(|problem| problem.kind == ProblemKind::SmallMtu) {
        troubles.push(NotReady::new(reason::MTU_TOO_LARGE, problem.message.clone()));
    }
    if let Some(message) = files {
        broken.push(NotReady::new(reason::APPLY_FAILED, *message));
    }
    if let Some(path) = foreign_file {
        troubles.push(NotReady::new(
            reason::FOREIGN_OBJECT,
            format!(
                "{path} was written by another program and is left alone: remove it, and this node's own takes its place"
            ),
        ));
    }
    if let Some(name) = shadowing {
        troubles.push(NotReady::new(
            reason::CNI_SHADOWED,
            format!(
                "the container runtime takes {name}, which sorts before {}: remove it",
                crate::cni::CONFLIST
            ),
        ));
    }
    for leftover in &facts.leftovers {
        troubles.push(NotReady::new(
            reason::LEFTOVER_FLANNEL,
            format!(
                "{leftover} of an earlier network is still there: remove it when no pod uses it any more"
            ),
        ));
    }
    let is_least = |trouble: &&NotReady| trouble.reason == reason::PODS_EXCEED_MTU;
    troubles.extend(unmet.iter().chain(extension.iter()).filter(|trouble| !is_least(trouble)).cloned());
    if *outdated_preshared > 0 {
        troubles.push(NotReady::new(
            reason::PRESHARED_KEY_CHANGED,
            format!(
                "the preshared key of WireGuard was changed, and is not in force yet with {outdated_preshared} of the peers: change backends.wireguard.rotate in the ClusterNetwork"
            ),
        ));
    }
    if !unanswered.is_empty() {
        troubles.push(NotReady::new(
            reason::IKE_UNANSWERED,
            format!(
                "no IPsec association with node {}: let UDP ports 500 and 4500 and ESP through between the nodes, and give both the same preshared key (Secret tartan-ipsec) or certificates of one authority",
                listed(unanswered)
            ),
        ));
    }
    if !no_handshake.is_empty() {
        troubles.push(NotReady::new(
            reason::WIREGUARD_UNANSWERED,
            format!(
                "no WireGuard handshake with node {}: let the UDP port of backends.wireguard through between the nodes, and give both the same preshared key; until then packets go another way, and the pool that is to encrypt is not sealed",
                listed(no_handshake)
            ),
        ));
    }
    // One that waits for a peer's first word is no trouble yet: every new node is such a peer.
    let refused = |path: &&PeerPath| {
        path.pairing.is_refused() && !matches!(path.pairing.reason, Reason::NoAddress | Reason::NoEndpoint)
    };
    let refused = paths.iter().filter(refused);
    troubles.extend(quote(
        reason::PEERS_WITHOUT_PATH,
        refused
            .map(|path| format!("no path to node {}: {}", path.node, path.pairing.reason.sentence()))
            .collect(),
    ));
    let of_peers =
        |problem: &&Problem| !matches!(problem.kind, ProblemKind::ProtectedInEntry | ProblemKind::SmallMtu);
    let mut peers: Vec<String> = faults.iter().map(|f| format!("node {}: {}", f.node, f.message)).collect();
    peers.extend(problems.iter().filter(of_peers).map(|p| format!("node {}: {}", p.node, p.message)));
    troubles.extend(quote(reason::PEER_INVALID, peers));
    troubles.extend(unmet.iter().filter(is_least).cloned());
    let needed = |key: &Key| match key {
        Key::Link(name) => {
            [mark::BRIDGE, mark::VXLAN, mark::VXLAN6].contains(&name.as_str()) && !of_second_vxlan(key)
        }
        _ => false,
    };
    let link_missing = failed.iter().any(|(_, failed)| needed(&failed.key))
        || conflicts.iter().any(|conflict| needed(&conflict.key));
    Assessment {
        reception: broken.is_empty() && !link_missing,
        not_ready: join(broken),
        troubles,
        lost,
        lost_links,
    }
}

fn no_second_vxlan(why: &str) -> NotReady {
    let message = format!("{why}: nodes that have no IPv4 address have no path to this one by vxlan");
    NotReady::new(reason::BACKEND_UNAVAILABLE, message)
}

fn join(broken: Vec<NotReady>) -> Option<NotReady> {
    let first = broken.first()?.reason;
    let messages: Vec<String> = broken.into_iter().map(|broken| broken.message).collect();
    quote(first, messages)
}

/// The first of these names, and how many more there are.
fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(QUOTED);
    let first = names.iter().take(QUOTED).copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

fn quote(reason: &'static str, messages: Vec<String>) -> Option<NotReady> {
    let more = messages.len().saturating_sub(QUOTED);
    let mut text: String = messages.iter().take(QUOTED).map(String::as_str).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    (!messages.is_empty()).then(|| NotReady::new(reason, text))
}

#[cfg(test)]
mod tests;
