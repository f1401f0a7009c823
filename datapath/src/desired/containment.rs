//! What a peer may take: a clumsy or hostile status costs its own node, never another.
//!
//! Subnets come from the operator and are checked all the same, against the entries and against each
//! other. Hardware and public addresses come from the peers themselves. Where two nodes claim one thing,
//! the node that sorts first keeps it: any fixed rule will do, as long as it is the same in each round.
//! But of two subnets that overlap, one that is a block of its entry comes before one that isn't: the operator leases
//! blocks and nothing else, and whoever makes a wide lease by hand must not cut off those whose blocks it covers.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::{
    model::{Intent, Peer, PublicKey, Subnet},
    problem::{Problem, ProblemKind},
};

/// What is left of a peer.
pub(super) struct Allowed {
    pub(super) subnets: Vec<IpNetwork>,
    /// Those of them that are no block of their entry.
    irregular: BTreeSet<IpNetwork>,
    /// False where its tunnel end point is another's.
    pub(super) end_point: bool,
    /// WireGuard keys of it that are another's.
    pub(super) refused_keys: BTreeSet<PublicKey>,
}

/// One answer for each peer, in their order. O(n log n).
pub(super) fn check(intent: &Intent, problems: &mut Vec<Problem>) -> Vec<Allowed> {
    let mut allowed: Vec<Allowed> = intent
        .peers
        .iter()
        .map(|peer| {
            let all = Allowed {
                subnets: vec![],
                irregular: BTreeSet::new(),
                end_point: true,
                refused_keys: BTreeSet::new(),
            };
            all.with_subnets(intent, peer, problems)
        })
        .collect();
    refuse_overlaps(intent, &mut allowed, problems);
    refuse_shared_macs(intent, &mut allowed, problems);
    refuse_shared_keys(intent, &mut allowed, problems);
    report_shared_addresses(intent, problems);
    allowed
}

impl Allowed {
    fn with_subnets(mut self, intent: &Intent, peer: &Peer, problems: &mut Vec<Problem>) -> Self {
        for subnet in &peer.subnets {
            let inside = intent.entries.iter().any(|entry| covers(entry, &subnet.prefix));
            if inside {
                self.subnets.push(subnet.prefix);
                if !subnet.regular {
                    self.irregular.insert(subnet.prefix);
                }
            } else {
                problems.push(problem(ProblemKind::SubnetOutside, peer, format!(
                    "subnet {} lies in no entry of ClusterNetwork.spec.cidrs: it gets no route; append an entry that covers it or delete the lease",
                    subnet.prefix
                )));
            }
        }
        self
    }
}

/// Where two overlap, which of them keeps its addresses: the lesser.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Ours,
    Regular,
    Irregular,
}

/// Sorted by address, a prefix that covers others comes directly before them.
fn refuse_overlaps(intent: &Intent, allowed: &mut [Allowed], problems: &mut Vec<Problem>) {
    // Of the same prefix and claim, the node that sorts first.
    let ours = |subnet: &Subnet| if subnet.regular { Claim::Ours } else { Claim::Irregular };
    let mut all: Vec<(IpNetwork, Claim, Option<usize>)> =
        intent.local.subnets.iter().map(|subnet| (subnet.prefix, ours(subnet), None)).collect();
    for (index, peer) in allowed.iter().enumerate() {
        all.extend(peer.subnets.iter().map(|subnet| {
            let claim = if peer.irregular.contains(subnet) { Claim::Irregular } else { Claim::Regular };
            (*subnet, claim, Some(index))
        }));
    }
    let name =
        |index: Option<usize>| index.and_then(|index| intent.peers.get(index)).map(|peer| peer.node.as_str());
    all.sort_by(|(a, x, i), (b, y, j)| {
        (a.network(), a.prefix(), x, name(*i)).cmp(&(b.network(), b.prefix(), y, name(*j)))
    });
    let mut outer: Option<(IpNetwork, Claim, Option<usize>)> = None;
    for (subnet, claim, owner) in all {
        match outer {
            Some((holder, theirs, by)) if covers(&holder, &subnet) && by != owner => {
                // Between equals the one that came first stays.
                let inner_stays = claim < theirs;
                let (loser, lost, winner) =
                    if inner_stays { (by, holder, owner) } else { (owner, subnet, by) };
                if let Some(index) = loser {
                    refuse(intent, allowed, problems, index, lost, name(winner));
                }
                if inner_stays {
                    outer = Some((subnet, claim, owner));
                }
            }
            Some((holder, _, by)) if covers(&holder, &subnet) && by == owner => {}
            _ => outer = Some((subnet, claim, owner)),
        }
    }
}

fn refuse(
    intent: &Intent,
    allowed: &mut [Allowed],
    problems: &mut Vec<Problem>,
    index: usize,
    subnet: IpNetwork,
    holder: Option<&str>,
) {
    let (Some(allowed), Some(peer)) = (allowed.get_mut(index), intent.peers.get(index)) else { return };
    allowed.subnets.retain(|own| *own != subnet);
    let holder = holder.unwrap_or(&intent.local.node);
    problems.push(problem(
        ProblemKind::SubnetOverlap,
        peer,
        format!("subnet {subnet} overlaps one of node {holder}, which keeps it: delete the lease that should not be"),
    ));
}

fn refuse_shared_macs(intent: &Intent, allowed: &mut [Allowed], problems: &mut Vec<Problem>) {
    let mut holders = BTreeMap::from([(intent.local.vxlan_mac, intent.local.node.as_str())]);
    for index in in_name_order(intent) {
        let Some(peer) = intent.peers.get(index) else { continue };
        let Some(mac) = peer.side.endpoints.vxlan else { continue };
        if let Some(holder) = holders.get(&mac) {
            if let Some(allowed) = allowed.get_mut(index) {
                allowed.end_point = false;
            }
            problems.push(problem(
                ProblemKind::DuplicateMac,
                peer,
                format!("its tunnel end point {mac} is that of node {holder}: it gets no tunnel until it publishes its own"),
            ));
        } else {
            holders.insert(mac, &peer.node);
        }
    }
}

/// Two peers with one key would be one peer to the kernel, and take each other's packets.
fn refuse_shared_keys(intent: &Intent, allowed: &mut [Allowed], problems: &mut Vec<Problem>) {
    let own = super::host::wireguard_ends(intent);
    let mut holders: BTreeMap<PublicKey, &str> =
        own.iter().map(|own| (own.key, intent.local.node.as_str())).collect();
    for index in in_name_order(intent) {
        let Some(peer) = intent.peers.get(index) else { continue };
        for theirs in &peer.side.endpoints.wireguard {
            let Some(holder) = holders.insert(theirs.key, &peer.node) else { continue };
            holders.insert(theirs.key, holder);
            if let Some(allowed) = allowed.get_mut(index) {
                allowed.refused_keys.insert(theirs.key);
            }
            problems.push(problem(
                ProblemKind::DuplicateKey,
                peer,
                format!("its WireGuard key {} is that of node {holder}: it gets no encrypted path until it has its own; remove its key file and restart its agent", theirs.key),
            ));
        }
    }
}

/// Only reported: packets to one address reach one machine, whoever claims it.
fn report_shared_addresses(intent: &Intent, problems: &mut Vec<Problem>) {
    let mut holders = BTreeMap::new();
    for index in in_name_order(intent) {
        let Some(peer) = intent.peers.get(index) else { continue };
        for address in &peer.side.public_ips {
            if let Some(holder) = holders.insert(*address, peer.node.as_str()) {
                problems.push(problem(
                    ProblemKind::DuplicateAddress,
                    peer,
                    format!("its address {address} is also that of node {holder}: packets for both go to one machine"),
                ));
            }
        }
    }
}

fn in_name_order(intent: &Intent) -> Vec<usize> {
    let mut order: Vec<usize> = (0..intent.peers.len()).collect();
    order.sort_by_key(|index| intent.peers.get(*index).map(|peer| peer.node.as_str()));
    order
}

fn covers(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

fn problem(kind: ProblemKind, peer: &Peer, message: String) -> Problem {
    Problem { kind, node: peer.node.clone(), message }
}
