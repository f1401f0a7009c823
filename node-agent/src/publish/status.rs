//! The statuses as values. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use tartan_crds::{
    AddressUse, BackendType, Cidr, Endpoint, NodeNetworkStatus, ObservedLease, PathCount, PeerWithoutPath,
    SubnetLeaseStatus, Uplink, WireguardPlace,
    conditions::{kind, reason},
    ending_reception,
};
use tartan_datapath::{
    desired::PeerPath,
    mark,
    model::{Backend, Intent},
    pair::Path,
};

use crate::intent::{NotReady, backend_type};

/// The conditions of a NodeNetwork that are the agent's to write.
pub const OWN_CONDITIONS: [&str; 2] = [kind::READY, kind::DEGRADED];

/// How many peers without a path are named.
const NAMED_PEERS: usize = 16;
/// The longest message that we write into a condition; the API takes 32 KiB.
const MESSAGE: usize = 1024;

/// What peers must know to reach us.
///
/// `lost` are backends that could not be set up, `lost_links` WireGuard links.
pub fn lease(
    intent: &Intent,
    lost: &BTreeSet<Backend>,
    lost_links: &BTreeSet<&'static str>,
) -> SubnetLeaseStatus {
    let local = &intent.local;
    let side = &local.side;
    let own: Vec<IpAddr> = local.uplink.addresses.iter().map(ipnetwork::IpNetwork::ip).collect();
    let mut endpoints: Vec<Endpoint> = side
        .accepts
        .iter()
        .filter(|backend| !lost.contains(backend))
        .filter_map(|backend| match backend {
            Backend::Vxlan => {
                let mac = side.endpoints.vxlan?;
                Some(Endpoint { vtep_mac: Some(mac.to_string()), ..Endpoint::plain(BackendType::Vxlan) })
            }
            // More than one, below.
            Backend::Wireguard => None,
            Backend::Ipip => side.endpoints.ipip.then_some(Endpoint::plain(BackendType::Ipip)),
            Backend::HostGw => side.endpoints.host_gw.then_some(Endpoint::plain(BackendType::HostGw)),
            Backend::Ipsec => side.endpoints.ipsec.then_some(Endpoint::plain(BackendType::Ipsec)),
            Backend::Udp => {
                let port = side.endpoints.udp?;
                Some(Endpoint { port: Some(port.into()), ..Endpoint::plain(BackendType::Udp) })
            }
            Backend::Alloc | Backend::Extension => None,
        })
        .collect();
    let ends = side.endpoints.wireguard.iter().filter(|end| {
        !lost.contains(&Backend::Wireguard) && !lost_links.contains(mark::wireguard(end.generation))
    });
    endpoints.extend(ends.map(|end| Endpoint {
        public_key: Some(end.key.to_string()),
        port: Some(end.port.into()),
        generation: i32::try_from(end.generation).ok(),
        ..Endpoint::plain(BackendType::Wireguard)
    }));
    SubnetLeaseStatus {
        tunnel_sources: own.into_iter().filter(|address| !side.public_ips.contains(address)).collect(),
        public_ips: side.public_ips.clone(),
        uplink_prefixes: side
            .uplink_prefixes
            .iter()
            .filter_map(|prefix| Cidr::containing(prefix.network(), prefix.prefix()))
            .take(16)
            .collect(),
        endpoints,
        mtu: i32::try_from(local.mtu).ok(),
        pairing_version: i32::try_from(side.pairing_version).unwrap_or(0),
        emptied: None,
    }
}

/// What a round found out about this node.
#[derive(Clone, Debug)]
pub struct NodeView<'a> {
    pub generation: Option<i64>,
    /// The lease that the rest goes by.
    pub observed_lease: Option<ObservedLease>,
    /// What that says is about to end.
    pub ending: &'a [String],
    pub kernel_version: &'a str,
    /// What is programmed, if anything.
    pub intent: Option<&'a Intent>,
    pub paths: &'a [PeerPath],
    /// Reception is up.
    pub receives: bool,
    /// Backends that could not be set up.
    pub lost: &'a BTreeSet<Backend>,
    pub address_use: &'a [AddressUse],
    /// Why the node's own network does not work; `None`: it does.
    pub not_ready: Option<&'a NotReady>,
    /// What else is not as it should be, the worst first: reason and sentence.
    pub troubles: &'a [NotReady],
}

/// The status of the NodeNetwork.
pub fn node_network(view: NodeView<'_>, now: Timestamp) -> NodeNetworkStatus {
    let NodeView {
        generation,
        observed_lease,
        ending,
        kernel_version,
        intent,
        paths,
        receives,
        lost,
        address_use,
        not_ready,
        troubles,
    } = view;
    // As exact as the API keeps it: what was said compares with what is wanted.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    // By node: a peer of two families has two paths.
    let mut without: BTreeMap<&str, PeerWithoutPath> = BTreeMap::new();
    for path in paths.iter().filter(|path| path.pairing.is_refused()) {
        let reason = path.pairing.reason.sentence().to_owned();
        without.entry(&path.node).or_insert(PeerWithoutPath { node: path.node.clone(), reason });
    }
    let peers: BTreeSet<&str> = paths.iter().map(|path| path.node.as_str()).collect();
    let condition = |type_: &str, status: bool, reason: &str, message: &str| Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: shorten(message),
        last_transition_time: Time(now),
        observed_generation: generation,
    };
    let ready = match not_ready {
        None => condition(kind::READY, true, reason::OK, ""),
        Some(NotReady { reason, message }) => condition(kind::READY, false, reason, message),
    };
    let degraded = match troubles.first() {
        None => condition(kind::DEGRADED, false, reason::OK, ""),
        Some(worst) => {
            let all: Vec<&str> = troubles.iter().map(|trouble| trouble.message.as_str()).collect();
            condition(kind::DEGRADED, true, worst.reason, &all.join("; "))
        }
    };
    NodeNetworkStatus {
        observed_generation: generation,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_version: kernel_version.to_owned(),
        uplink: intent.map(|intent| Uplink {
            interface: intent.local.uplink.name.clone(),
            addresses: intent.local.uplink.addresses.iter().map(ipnetwork::IpNetwork::ip).collect(),
            mtu: i32::try_from(intent.local.uplink.mtu).unwrap_or(i32::MAX),
        }),
        pod_mtu: intent.and_then(|intent| i32::try_from(intent.local.mtu).ok()),
        address_use: address_use.to_vec(),
        backend: intent.filter(|_| receives).map(|intent| backend_type(intent.local.side.backend)),
        unavailable: lost.iter().map(|backend| backend_type(*backend)).collect(),
        receives: intent
            .filter(|_| receives)
            .map(|intent| {
                let side = &intent.local.side;
                let ready = |backend: &&Backend| side.endpoints.has(**backend) && !lost.contains(backend);
                let kinds = side.accepts.iter().filter(ready).map(|backend| backend_type(*backend));
                // Who is told that it ends is not one to begin with.
                kinds.filter(|kind| !ending.contains(&ending_reception(*kind))).collect()
            })
            .unwrap_or_default(),
        wireguard: intent.and_then(wireguard_place),
        paths: path_counts(paths, intent),
        peers: i64::try_from(peers.len()).unwrap_or(i64::MAX),
        peers_without_path_count: i64::try_from(without.len()).unwrap_or(i64::MAX),
        clear_peers: i64::try_from(clear_peers(paths)).ok(),
        sealed_peers: i64::try_from(sealed_peers(paths)).unwrap_or(i64::MAX),
        peers_without_path: without.into_values().take(NAMED_PEERS).collect(),
        observed_lease,
        conditions: vec![ready, degraded],
    }
}

/// Who does WireGuard here, where keys are in use.
pub fn wireguard_place(intent: &Intent) -> Option<WireguardPlace> {
    let has_keys = !intent.local.side.endpoints.wireguard.is_empty() || !intent.wireguard.leaving.is_empty();
    has_keys.then_some(if intent.wireguard.user_space {
        WireguardPlace::UserSpace
    } else {
        WireguardPlace::Kernel
    })
}

/// Nodes of which nothing is taken in clear: a peer of two families has two paths.
pub fn sealed_peers(paths: &[PeerPath]) -> usize {
    let sealed = paths.iter().filter(|path| path.sealed).map(|path| path.node.as_str());
    sealed.collect::<BTreeSet<&str>>().len()
}

/// Nodes that something is sent to in clear, by whichever backends.
fn clear_peers(paths: &[PeerPath]) -> usize {
    let clear = paths.iter().filter(|path| match path.pairing.path {
        Path::Vxlan { .. } | Path::Ipip { .. } | Path::Udp { .. } | Path::Direct { .. } => true,
        Path::Wireguard { .. } | Path::Ipsec { .. } | Path::None => false,
    });
    clear.map(|path| path.node.as_str()).collect::<BTreeSet<&str>>().len()
}

fn path_counts(paths: &[PeerPath], intent: Option<&Intent>) -> Vec<PathCount> {
    let overlay = intent.map(|intent| intent.local.side.backend).filter(|backend| backend.is_overlay());
    let mut peers: BTreeMap<(BackendType, bool, &str), BTreeSet<&str>> = BTreeMap::new();
    for path in paths {
        let (backend, direct) = match path.pairing.path {
            Path::Vxlan { .. } => (BackendType::Vxlan, false),
            Path::Ipip { .. } => (BackendType::Ipip, false),
            Path::Wireguard { .. } => (BackendType::Wireguard, false),
            Path::Ipsec { .. } => (BackendType::Ipsec, false),
            Path::Udp { .. } => (BackendType::Udp, false),
            // A plain route of an overlay node is that overlay's direct routing.
            Path::Direct { .. } => match overlay {
                Some(backend) => (backend_type(backend), true),
                None => (BackendType::HostGw, false),
            },
            Path::None => continue,
        };
        peers.entry((backend, direct, path.pairing.reason.as_str())).or_default().insert(&path.node);
    }
    peers
        .into_iter()
        .map(|((backend, direct, reason), peers)| PathCount {
            backend,
            direct,
            reason: reason.to_owned(),
            peers: i64::try_from(peers.len()).unwrap_or(i64::MAX),
        })
        .collect()
}

/// A condition that says the same as before keeps its time.
pub fn keep_transition_times(conditions: &mut [Condition], before: &[Condition]) {
    for condition in conditions {
        if let Some(old) = before.iter().find(|old| old.type_ == condition.type_)
            && old.status == condition.status
        {
            condition.last_transition_time = old.last_transition_time.clone();
        }
    }
}

/// Whether more than figures differ. Figures of all nodes change with every node that comes, so they may
/// wait.
pub fn differs_in_substance(a: &NodeNetworkStatus, b: &NodeNetworkStatus) -> bool {
    let substance = |status: &NodeNetworkStatus| {
        let NodeNetworkStatus {
            observed_generation,
            agent_version,
            kernel_version,
            uplink,
            pod_mtu,
            address_use: _,
            backend,
            unavailable,
            receives,
            wireguard,
            paths: _,
            peers: _,
            peers_without_path_count: _,
            clear_peers: _,
            sealed_peers: _,
            peers_without_path: _,
            observed_lease: _,
            conditions,
        } = status.clone();
        let verdicts: Vec<_> = conditions.into_iter().map(|c| (c.type_, c.status, c.reason)).collect();
        let backends = (backend, unavailable, receives, wireguard);
        (observed_generation, agent_version, kernel_version, uplink, pod_mtu, backends, verdicts)
    };
    substance(a) != substance(b)
}

pub(super) fn shorten(message: &str) -> String {
    match message.char_indices().nth(MESSAGE) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
    }
}
