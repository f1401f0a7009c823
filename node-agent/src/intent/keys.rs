//! WireGuard keys of this node: which generations it has, publishes, and has left. Pure; how a rotation goes is told in
//! the data path's module `rotation`.

use std::collections::{BTreeMap, BTreeSet};

use tartan_crds::{BackendType, SubnetLeaseStatus, conditions::reason};
use tartan_datapath::{
    mark,
    model::{Backend, Local, Peer, Preshared, PublicKey, WireguardEndpoint},
    pair, rotation,
};

use super::{NotReady, Sources, accepts};
use crate::inputs::{Lease, Network, Snapshot};

/// Peers that a message names.
const NAMED: usize = 4;

/// What this node has for WireGuard.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WireguardKeys {
    /// By generation. Empty where no lease asks for any.
    pub keys: BTreeMap<u32, WireguardKey>,
    /// Keys of peers with which a handshake was completed.
    pub sessions: BTreeSet<PublicKey>,
    pub preshared: Preshared,
    /// A process does WireGuard here, not the kernel.
    pub user_space: bool,
    /// Why the preshared key can't be had.
    pub no_preshared: Option<String>,
    /// A rotation takes longer than nodes need for it.
    pub late: bool,
}

/// A key of this node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WireguardKey {
    pub key: Option<PublicKey>,
    /// Why it can't be had from its file.
    pub problem: Option<String>,
}

/// Where this node receives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Ends {
    pub(super) published: Vec<WireguardEndpoint>,
    pub(super) leaving: Vec<WireguardEndpoint>,
    pub(super) troubles: Vec<NotReady>,
    /// Why there is no key at all.
    pub(super) no_key: Option<String>,
}

/// Generations of which this node needs a key; none where no lease of it asks for one.
pub fn wanted(name: &str, snapshot: &Snapshot<'_>) -> BTreeSet<u32> {
    if !is_asked_for(Backend::Wireguard, name, snapshot) {
        return BTreeSet::new();
    }
    let published = held(snapshot).flat_map(generations);
    rotation::open(current(name, snapshot), published)
}

/// Whether a lease of this node wants packets received by the backend.
pub fn is_asked_for(backend: Backend, name: &str, snapshot: &Snapshot<'_>) -> bool {
    own(name, snapshot).any(|lease| accepts(&lease.backend).contains(&backend))
}

/// The network's generation, and never one below this node's own. Without a word of the operator's, which comes soon
/// after the lease, no peer's is followed: there is no way back from one that a single node made up.
pub(super) fn current(name: &str, snapshot: &Snapshot<'_>) -> u32 {
    let ours = own(name, snapshot).flat_map(generations).max();
    let told = snapshot.network.and_then(|network| network.keys.as_ref()).map(|keys| keys.generation);
    told.max(ours).unwrap_or(0)
}

/// This node's end points, and what is wrong with them.
pub(super) fn ends(sources: &Sources<'_>, network: &Network, local: &Local, peers: &[Peer]) -> Ends {
    let Sources { node, snapshot, wireguard, lost, lost_links, .. } = sources;
    let mut ends = Ends::default();
    if !local.side.accepts.contains(&Backend::Wireguard) {
        return ends;
    }
    let current = current(node, snapshot);
    let mut own = vec![];
    for (generation, WireguardKey { key, problem }) in &wireguard.keys {
        if let Some(key) = key {
            let port = port(node, snapshot, network, *generation);
            own.push(WireguardEndpoint { generation: *generation, key: *key, port });
        }
        let Some(problem) = problem else { continue };
        let consequence = match key {
            Some(_) => "the link goes on with the key that it has, until it must be made anew",
            None => "until then this node's keys are not rotated",
        };
        ends.troubles.push(NotReady::new(reason::BACKEND_UNAVAILABLE, format!("{problem}; {consequence}")));
    }
    if own.is_empty() {
        ends.troubles.clear();
        ends.no_key = wireguard.keys.values().find_map(|key| key.problem.clone());
    }
    if let Some(problem) = &wireguard.no_preshared {
        let message =
            format!("{problem}; peers that are set up go on with what they have, and no other is added");
        ends.troubles.push(NotReady::new(reason::BACKEND_UNAVAILABLE, message));
    }
    // One that no tunnel can join to us never answers.
    let reached: Vec<&Peer> =
        peers.iter().filter(|peer| pair::outer_address(&local.side, &peer.side).is_some()).collect();
    let waiting: Vec<&Peer> = reached
        .into_iter()
        .filter(|peer| !rotation::has_moved(current, &peer.side.endpoints.wireguard, &wireguard.sessions))
        .collect();
    let usable = |end: &WireguardEndpoint| {
        !lost.contains(&Backend::Wireguard) && !lost_links.contains(mark::wireguard(end.generation))
    };
    let (usable, lost): (Vec<_>, Vec<_>) = own.into_iter().partition(usable);
    (ends.published, ends.leaving) = rotation::publishes(current, usable, waiting.is_empty());
    ends.leaving.extend(lost);
    ends.troubles.extend(silent(current, &waiting).filter(|_| wireguard.late));
    ends
}

/// Peers that have a new key and don't answer with it.
fn silent(current: u32, waiting: &[&Peer]) -> Option<NotReady> {
    let ends: Vec<(&str, u16)> = waiting
        .iter()
        .filter_map(|peer| {
            let all = &peer.side.endpoints.wireguard;
            let new = all.iter().find(|endpoint| endpoint.generation == current)?;
            Some((peer.node.as_str(), new.port))
        })
        .collect();
    let port = ends.first()?.1;
    let names: Vec<&str> = ends.iter().take(NAMED).map(|(name, _)| *name).collect();
    let more = if ends.len() > NAMED { format!(" and {} more", ends.len() - NAMED) } else { String::new() };
    Some(NotReady::new(
        reason::KEY_ROTATION_WAITS,
        format!(
            "new WireGuard keys are not used with {}{more}, from which no handshake comes: let UDP port {port} through between the nodes, and give both the same preshared key; until then packets go by the keys of before",
            names.join(", ")
        ),
    ))
}

/// That which this node publishes for the generation, so that a changed setting waits for the next one.
fn port(name: &str, snapshot: &Snapshot<'_>, network: &Network, generation: u32) -> u16 {
    let statuses = own(name, snapshot).filter_map(|lease| lease.status.as_ref());
    let published = statuses
        .flat_map(endpoints)
        .find(|(other, _)| *other == generation)
        .and_then(|(_, port)| u16::try_from(port?).ok());
    // Admission bounds it.
    let base = u16::try_from(network.wireguard.port).unwrap_or(51820);
    published.unwrap_or(base.saturating_add(u16::from(generation % 2 == 1)))
}

fn own<'a>(name: &'a str, snapshot: &Snapshot<'a>) -> impl Iterator<Item = &'a Lease> {
    held(snapshot).filter(move |lease| lease.node == name)
}

fn held<'a>(snapshot: &Snapshot<'a>) -> impl Iterator<Item = &'a Lease> {
    snapshot.leases.values().filter(|lease| !lease.released)
}

fn generations(lease: &Lease) -> impl Iterator<Item = u32> {
    lease.status.iter().flat_map(endpoints).map(|(generation, _)| generation)
}

/// Generation and port of each WireGuard end point.
fn endpoints(status: &SubnetLeaseStatus) -> impl Iterator<Item = (u32, Option<i32>)> {
    let all = status.endpoints.iter().filter(|endpoint| endpoint.kind == BackendType::Wireguard);
    all.map(|endpoint| (u32::try_from(endpoint.generation.unwrap_or(0)).unwrap_or(0), endpoint.port))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use tartan_crds::Endpoint;

    use super::*;
    use crate::{
        inputs::KeyGeneration,
        testing::{Known, answered, known, status},
    };

    fn key(node: u8, generation: u32) -> PublicKey {
        PublicKey([node * 16 + u8::try_from(generation).unwrap(); 32])
    }

    fn publish(known: &mut Known, node: u8, generations: &[u32]) {
        let lease = known.leases.values_mut().find(|lease| lease.created == i64::from(node)).unwrap();
        let ends = generations.iter().map(|generation| Endpoint {
            public_key: Some(key(node, *generation).to_string()),
            port: Some(51820 + i32::try_from(generation % 2).unwrap()),
            generation: i32::try_from(*generation).ok(),
            ..Endpoint::plain(BackendType::Wireguard)
        });
        lease.backend.accepts.push(BackendType::Wireguard);
        let mut status = lease.status.take().unwrap_or_else(|| status(node));
        status.endpoints.retain(|endpoint| endpoint.kind != BackendType::Wireguard);
        status.endpoints.extend(ends);
        lease.status = Some(status);
    }

    /// node1 with two peers, of which each publishes these; the network's generation is 1 where it is told.
    fn three(told: Option<u32>, own: &[u32], second: &[u32], third: &[u32]) -> Known {
        let mut known = known();
        known.network.as_mut().unwrap().keys =
            told.map(|generation| KeyGeneration { generation, since: Timestamp::UNIX_EPOCH });
        known.add(answered(2, "node2"));
        known.add(answered(3, "node3"));
        for (node, generations) in [(1, own), (2, second), (3, third)] {
            publish(&mut known, node, generations);
        }
        for generation in wanted("node1", &known.snapshot()) {
            known
                .wireguard
                .keys
                .insert(generation, WireguardKey { key: Some(key(1, generation)), problem: None });
        }
        known
    }

    fn generations(ends: &[WireguardEndpoint]) -> Vec<u32> {
        ends.iter().map(|end| end.generation).collect()
    }

    /// Generations that node1 publishes, and that it has left.
    fn ends(known: &Known) -> (Vec<u32>, Vec<u32>) {
        let intent = known.build().unwrap().intent;
        (generations(&intent.local.side.endpoints.wireguard), generations(&intent.wireguard.leaving))
    }

    #[test]
    fn a_node_follows_the_network_and_leaves_the_keys_of_before_when_all_have_answered() {
        assert_eq!(ends(&three(Some(0), &[], &[0], &[0])), (vec![0], vec![]));
        // The generation rises.
        let mut known = three(Some(1), &[0], &[0], &[0]);
        assert_eq!(ends(&known), (vec![0, 1], vec![]));
        // One peer has answered, then both have; they still publish the old ones.
        known = three(Some(1), &[0, 1], &[0, 1], &[0, 1]);
        known.wireguard.sessions.insert(key(2, 1));
        assert_eq!(ends(&known), (vec![0, 1], vec![]));
        known.wireguard.sessions.insert(key(3, 1));
        assert_eq!(ends(&known), (vec![1], vec![0]));
        // Nobody publishes the old ones but this node, whose word is on its way.
        assert_eq!(ends(&three(Some(1), &[0, 1], &[1], &[1])), (vec![1], vec![0]));
        assert_eq!(ends(&three(Some(1), &[1], &[1], &[1])), (vec![1], vec![]));
    }

    #[test]
    fn without_a_word_of_the_operator_keys_stay_and_no_node_goes_back() {
        assert_eq!(ends(&three(None, &[5], &[5], &[5])), (vec![5], vec![]));
        assert_eq!(ends(&three(None, &[], &[5], &[9])), (vec![0], vec![]));
        assert_eq!(ends(&three(None, &[], &[], &[])), (vec![0], vec![]));
        assert_eq!(ends(&three(Some(0), &[5], &[5], &[5])), (vec![5], vec![]));
    }

    #[test]
    fn a_link_or_key_that_cannot_be_had_keeps_the_one_of_before() {
        let mut known = three(Some(1), &[0], &[1], &[1]);
        known.wireguard.sessions = [key(2, 1), key(3, 1)].into();
        let problem = Some("no space".to_owned());
        known.wireguard.keys.insert(1, WireguardKey { key: None, problem });
        let built = known.build().unwrap();
        assert_eq!(ends(&known), (vec![0], vec![]));
        assert!(built.no_key.is_none());
        assert!(built.troubles[0].message.contains("no space; until then this node's keys are not rotated"));
    }

    #[test]
    fn a_changed_port_waits_for_the_next_generation() {
        let mut known = three(Some(1), &[0], &[0], &[0]);
        known.network.as_mut().unwrap().wireguard.port = 4000;
        let ports: Vec<u16> =
            known.build().unwrap().intent.local.side.endpoints.wireguard.iter().map(|end| end.port).collect();
        assert_eq!(ports, [51820, 4001]);
    }

    #[test]
    fn a_peer_that_is_silent_for_long_is_named_with_the_port() {
        let mut known = three(Some(1), &[0, 1], &[0, 1], &[0]);
        assert!(known.build().unwrap().troubles.is_empty());
        known.wireguard.late = true;
        let troubles = known.build().unwrap().troubles;
        assert_eq!(troubles.len(), 1, "{troubles:?}");
        let NotReady { reason, message } = &troubles[0];
        assert_eq!(*reason, reason::KEY_ROTATION_WAITS);
        assert!(
            message.contains("node2") && message.contains("51821") && !message.contains("node3"),
            "{message}"
        );
    }

    #[test]
    fn a_node_that_no_lease_asks_has_no_key() {
        assert!(wanted("node1", &known().snapshot()).is_empty());
    }

    #[test]
    fn a_process_carries_as_large_packets_as_the_kernel_and_the_status_says_who_carries() {
        use crate::publish::status::wireguard_place;
        let mut known = three(Some(0), &[0], &[0], &[0]);
        known.facts.links.iter_mut().for_each(|link| link.mtu = 9000);
        let mut check = |user_space: bool, place: &str| {
            known.wireguard.user_space = user_space;
            let intent = known.build().unwrap().intent;
            assert_eq!((intent.local.mtu, intent.wireguard.user_space), (8940, user_space));
            assert_eq!(wireguard_place(&intent).map(tartan_crds::WireguardPlace::as_str), Some(place));
        };
        check(false, "kernel");
        check(true, "user-space");
        assert_eq!(wireguard_place(&crate::testing::intent()), None);
    }
}
