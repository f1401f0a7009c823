//! From one snapshot of all inputs to the data path's [`Intent`]. Pure.
//!
//! What concerns this node must be right, or there is no intent and the reason is a condition. What
//! concerns a peer is contained to that peer.

mod holders;
mod identity;
mod keys;
mod own;
mod peers;
mod pod_mtu;
mod protected;
mod uplink;
mod words;

use std::{collections::BTreeSet, net::IpAddr};

use ipnetwork::IpNetwork;
use tartan_crds::{Family, IpsecAuthentication, ObservedLease, conditions::reason};
use tartan_datapath::{
    mark,
    model::{
        Backend, Endpoints, Facts, Host, IkeAuthentication, IkeSettings, Intent, Local, Masquerade, Peer,
        Present, Side, Udp, Uplink, Vxlan, Wireguard,
    },
    mtu,
    pair::PAIRING_VERSION,
    uplink::select_uplink,
};

pub use identity::{Role, mac};
pub use keys::{WireguardKey, WireguardKeys, is_asked_for, wanted as wanted_keys};
pub use own::own_leases;
pub use uplink::reach_target;
pub use words::{backend, backend_type};

use crate::{
    cni::vacate::Request,
    inputs::{Lease, Network, Node, NodeNet, Snapshot},
};
use keys::Ends;
use own::{agree_with_pod_cidrs, primary};
use pod_mtu::{least_mtu, wanted_mtu};
use protected::protected;
use words::accepts;

/// All that an intent is made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Our Node's name.
    pub node: &'a str,
    pub snapshot: Snapshot<'a>,
    pub facts: &'a Facts,
    /// Where the API server is.
    pub api_server: &'a [IpAddr],
    /// The link by which the kernel sends to the uplink selection's `canReach`.
    pub reach_link: Option<u32>,
    /// Backends that could not be set up.
    pub lost: &'a BTreeSet<Backend>,
    /// WireGuard links of which that is so, though another works.
    pub lost_links: &'a BTreeSet<&'static str>,
    pub wireguard: &'a WireguardKeys,
    pub present: &'a Present,
    /// Somebody forwards the packets of the udp path, or did a moment ago.
    pub forwarder: bool,
}

/// Why this node can't be programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// Of [`tartan_crds::conditions::reason`].
    pub reason: &'static str,
    pub message: String,
}

impl NotReady {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Something about a peer's objects that costs the peer, not us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFault {
    pub node: String,
    pub message: String,
}

/// What is to be programmed, and what was wrong with peers' objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    pub intent: Intent,
    pub faults: Vec<PeerFault>,
    /// The lease that says how we send and receive.
    pub observed_lease: Option<ObservedLease>,
    /// What it says is about to end; the operator waits to hear that we go by it.
    pub ending: Vec<String>,
    /// Names of our primary leases, in whose status peers look.
    pub primary_leases: Vec<String>,
    /// Names of the others.
    pub further_leases: Vec<String>,
    /// Those of them that are asked back.
    pub returning: Vec<Request>,
    /// What was asked of this node and can't be had. Traffic flows all the same.
    pub troubles: Vec<NotReady>,
    /// Of which this node needs WireGuard keys.
    pub key_generations: BTreeSet<u32>,
    /// Why there is no WireGuard key, where one is asked for.
    pub no_key: Option<String>,
}

/// The intent for this node.
pub fn build(sources: &Sources<'_>) -> Result<Built, NotReady> {
    let Sources { node: name, snapshot, facts, api_server, reach_link, .. } = *sources;
    let network = snapshot.network.ok_or_else(|| {
        NotReady::new(reason::NO_CLUSTER_NETWORK, "there is no ClusterNetwork named default: create it")
    })?;
    let node = snapshot.node.ok_or_else(|| {
        NotReady::new(
            reason::INPUTS_INCOMPLETE,
            format!("there is no Node named {name}: is --node-name right?"),
        )
    })?;
    let node_net = snapshot.node_net.ok_or_else(|| {
        let message = format!("the operator has not made NodeNetwork {name} yet");
        NotReady::new(reason::INPUTS_INCOMPLETE, message)
    })?;
    let own = own_leases(name, node, &snapshot)?;
    agree_with_pod_cidrs(&own, node, network)?;
    let uplink =
        uplink::choice(node_net.spec.uplink.as_ref(), &node.internal_ips, reach_link).and_then(|choice| {
            select_uplink(facts, &choice).map_err(|error| NotReady::new(reason::NO_UPLINK, error.to_string()))
        })?;
    let wanted_mtu = wanted_mtu(&own, network);
    let mut local = local(sources, network, (node, node_net), &own, uplink);
    let mut troubles = pod_mtu::troubles(facts, &local, wanted_mtu, least_mtu(&own));
    let (peers, faults) = peers::peers(name, &snapshot, api_server);
    let Ends { published, leaving, troubles: of_keys, no_key } = keys::ends(sources, network, &local, &peers);
    local.side.endpoints.wireguard = published;
    troubles.extend(of_keys);
    let mut entries: Vec<IpNetwork> = network.entries.iter().map(|entry| entry.range.network()).collect();
    let kept = kept_entries(&entries, facts, &local, &peers);
    if let Some(subnet) = kept.first() {
        troubles.push(NotReady::new(
            reason::ENTRY_IN_USE,
            format!(
                "{} subnets in use, such as {subnet}, lie in no entry of ClusterNetwork.spec.cidrs any more; they are kept as they are: put the entry back, and set drain: true before you remove it",
                kept.len()
            ),
        ));
    }
    entries.extend(kept);
    let protected = protected(facts, api_server, &local, &peers);
    let host = host(facts, &local.uplink);
    let intent = Intent {
        entries,
        vxlan: vxlan(network),
        wireguard: Wireguard {
            user_space: sources.wireguard.user_space,
            keepalive: u16::try_from(network.wireguard.persistent_keepalive).unwrap_or(0),
            preshared: sources.wireguard.preshared,
            leaving,
            sessions: sources.wireguard.sessions.clone(),
        },
        ipsec: IkeSettings {
            authentication: match network.ipsec.authentication {
                IpsecAuthentication::PresharedKey => IkeAuthentication::PresharedKey,
                IpsecAuthentication::Certificate => IkeAuthentication::Certificate,
            },
            esp_proposal: network.ipsec.esp_proposal.clone(),
            ike_proposal: network.ipsec.ike_proposal.clone(),
            udp_encapsulation: network.ipsec.udp_encapsulation,
        },
        udp: Udp { port: udp_port(network) },
        fallback: backend(network.fallback),
        masquerade: masquerade(network, node_net),
        local,
        peers,
        protected,
        host,
        present: sources.present.clone(),
    };
    let named = |primary: bool| {
        own.iter().filter(move |(_, lease)| lease.primary == primary).map(|(name, _)| (*name).to_owned())
    };
    let (primary_leases, further_leases) = (named(true).collect(), named(false).collect());
    let returning = own.iter().filter_map(|(name, lease)| {
        let since = lease.returning.clone()?;
        Some(Request { lease: (*name).to_owned(), subnet: lease.subnet.network(), since })
    });
    let returning = returning.collect();
    let key_generations = sources.wireguard.keys.keys().copied().collect();
    if intent.local.side.accepts.contains(&Backend::Udp) && !sources.forwarder {
        troubles.push(no_forwarder());
    }
    let ending = primary(&own).map(|lease| lease.backend.ending.clone()).unwrap_or_default();
    let observed_lease =
        primary(&own).map(|lease| ObservedLease { uid: lease.uid.clone(), generation: lease.generation });
    Ok(Built {
        intent,
        faults,
        observed_lease,
        ending,
        primary_leases,
        further_leases,
        returning,
        troubles,
        key_generations,
        no_key,
    })
}

/// Leased subnets that lie in no entry though they are in use here: an entry was removed, or the
/// ClusterNetwork made anew, under them. What worked goes on, and its packets are still the pod network's.
/// A peer's subnet that has no route of ours yet is none of these.
fn kept_entries(entries: &[IpNetwork], facts: &Facts, local: &Local, peers: &[Peer]) -> Vec<IpNetwork> {
    let outside = |subnet: &IpNetwork| {
        !entries.iter().any(|entry| {
            entry.is_ipv4() == subnet.is_ipv4()
                && entry.prefix() <= subnet.prefix()
                && entry.contains(subnet.network())
        })
    };
    let own = local.subnets.iter().map(|subnet| subnet.prefix);
    let theirs = peers.iter().flat_map(|peer| &peer.subnets).map(|subnet| subnet.prefix);
    own.chain(theirs.filter(|subnet| facts.routed.contains(subnet))).filter(outside).collect()
}

fn local(
    sources: &Sources<'_>,
    network: &Network,
    (node, node_net): (&Node, &NodeNet),
    own: &[(&str, &Lease)],
    uplink: Uplink,
) -> Local {
    let vxlan_mac = mac(&node.uid, Role::Vtep);
    let send = primary(own).map(|lease| lease.backend.clone()).unwrap_or_default();
    let accepts = accepts(&send);
    let receives = |backend: Backend| accepts.contains(&backend);
    // The tunnel goes out by the first address: IPv4 where there is one.
    let underlay = uplink.addresses.first().map(tartan_datapath::model::Family::of);
    let used = accepts.iter().copied().chain([backend(network.fallback)]);
    let wanted = wanted_mtu(own, network);
    let least = least_mtu(own);
    let mtu = underlay.map(|underlay| mtu::pod_mtu(uplink.mtu, underlay, used, wanted, least));
    let mut endpoints = Endpoints {
        vxlan: receives(Backend::Vxlan).then_some(vxlan_mac),
        ipip: receives(Backend::Ipip),
        host_gw: receives(Backend::HostGw),
        ipsec: receives(Backend::Ipsec),
        udp: (receives(Backend::Udp) && sources.forwarder).then(|| udp_port(network)),
        // Takes knowing the peers.
        wireguard: vec![],
    };
    endpoints.lose(sources.lost);
    let side = Side {
        backend: backend(send.kind),
        endpoints,
        accepts,
        direct_routing: send.direct_routing,
        public_ips: public_ips(&node_net.spec.public_ips, &uplink),
        // What peers are told; our own packets come from the uplink's addresses, of course.
        tunnel_sources: vec![],
        uplink_prefixes: uplink.prefixes.clone(),
        pairing_version: PAIRING_VERSION,
        sealed: send.sealed,
    };
    Local {
        node: sources.node.to_owned(),
        side,
        subnets: own.iter().map(|(_, lease)| peers::subnet(&network.entries, lease)).collect(),
        mtu: mtu.unwrap_or(least),
        uplink,
        vxlan_mac,
        bridge_mac: mac(&node.uid, Role::Bridge),
    }
}

/// The uplink's addresses, where the node's own setting doesn't name another of the family.
fn public_ips(overrides: &[IpAddr], uplink: &Uplink) -> Vec<IpAddr> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| {
            let own = || uplink.addresses.iter().map(IpNetwork::ip).find(|ip| Family::of(*ip) == family);
            overrides.iter().copied().find(|ip| Family::of(*ip) == family).or_else(own)
        })
        .collect()
}

fn vxlan(network: &Network) -> Vxlan {
    let parameters = &network.vxlan;
    Vxlan {
        // Admission bounds both.
        vni: u32::try_from(parameters.vni).unwrap_or(1),
        port: u16::try_from(parameters.port).unwrap_or(8472),
        learning: parameters.learning,
        gbp: parameters.gbp,
        tx_checksum_offload: parameters.tx_checksum_offload,
    }
}

fn no_forwarder() -> NotReady {
    NotReady::new(
        reason::FORWARDER_MISSING,
        format!(
            "no process forwards the packets of {}, so no node reaches this one by udp: install the forwarder (forwarder.enabled of the chart), or see the log of its pod on this node",
            mark::UDP
        ),
    )
}

/// Admission bounds it.
fn udp_port(network: &Network) -> u16 {
    u16::try_from(network.udp.port).unwrap_or(8285)
}

fn masquerade(network: &Network, node_net: &NodeNet) -> Option<Masquerade> {
    let wanted = &network.masquerade;
    node_net.spec.masquerade.unwrap_or(wanted.enabled).then(|| Masquerade {
        except: wanted.non_masquerade_cidrs.iter().map(|cidr| cidr.network()).collect(),
        fully_random: wanted.fully_random,
        v4: wanted.families.is_empty() || wanted.families.contains(&Family::V4),
        v6: wanted.families.is_empty() || wanted.families.contains(&Family::V6),
    })
}

fn host(facts: &Facts, uplink: &Uplink) -> Host {
    let on_link = facts.links.iter().find(|link| link.index == uplink.index).map_or(0, |link| link.rp_filter);
    Host {
        forward_drop: facts.forward_drop.clone(),
        ports: facts.ports.clone(),
        bridge_netfilter: facts.bridge_netfilter,
        uplink_strict_rp_filter: facts.rp_filter_all.max(on_link) == 1,
    }
}

#[cfg(test)]
mod tests;
