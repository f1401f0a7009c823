//! What the agent tells the API: the status of its primary leases for its peers, its NodeNetwork for
//! people and the operator, one condition of its Node for the scheduler.
//!
//! [`status`] makes the values, purely. [`writes`] says which differ from what the API has, so that a
//! restart writes nothing, or from what it was [`told`] since. [`writer`] sends them, in a task of its own.

pub mod status;
pub mod told;
pub mod writer;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tartan_crds::{NodeNetworkStatus, ObservedLease, SubnetLeaseStatus};

use self::told::Told;
use crate::{
    cni,
    inputs::Snapshot,
    intent::{Built, NotReady},
};

/// Reason of our condition on the Node.
pub const NODE_REASON: &str = "TartanReady";

/// All that is to be written, each part only where it differs from what the API has.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Writes {
    /// By lease name.
    pub leases: Vec<(String, SubnetLeaseStatus)>,
    pub node_network: Option<NodeNetworkWrite>,
    pub availability: Option<Availability>,
}

/// What the Node's condition NetworkUnavailable should say. The scheduler puts no new pods on a node of
/// which it is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    Available,
    /// For a cause of this node, never of a peer or of the API.
    Unavailable(NotReady),
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeNetworkWrite {
    pub status: NodeNetworkStatus,
    /// More than figures changed: worth a write at once.
    pub urgent: bool,
}

impl Writes {
    pub fn is_empty(&self) -> bool {
        let Self { leases, node_network, availability } = self;
        leases.is_empty() && node_network.is_none() && availability.is_none()
    }
}

/// What the API should say after a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The status of our primary leases, once reception is really up.
    pub lease: Option<SubnetLeaseStatus>,
    pub primary_leases: Vec<String>,
    /// Our other leases, and the request for its return that each has met.
    pub further_leases: Vec<(String, Option<Time>)>,
    pub node_network: NodeNetworkStatus,
    /// The operator waits to hear which lease that goes by.
    pub is_awaited: bool,
    /// What the lease asks for may not be programmed: which one was said to be gone by stands.
    pub is_blind: bool,
    /// `None`: the Node goes on saying what it says.
    pub availability: Option<Availability>,
}

/// The part of `wanted` that the API doesn't have, as far as it is known.
pub fn writes(wanted: &Published, snapshot: &Snapshot<'_>, told: &Told) -> Writes {
    let Published { lease, primary_leases, further_leases, node_network, is_awaited, is_blind, availability } =
        wanted;
    let further = further_leases.iter().filter_map(|(name, emptied)| {
        // What is there otherwise stays: it was the primary lease once.
        let there = snapshot.leases.get(name)?.status.clone().unwrap_or_default();
        let differs = there.emptied != *emptied || told.of_lease(name, |said| said.emptied != *emptied);
        differs.then(|| (name.clone(), SubnetLeaseStatus { emptied: emptied.clone(), ..there }))
    });
    let leases = primary_leases
        .iter()
        .filter_map(|name| Some((name, lease.as_ref()?, snapshot.leases.get(name)?)))
        .filter(|(name, status, there)| {
            there.status.as_ref() != Some(*status) || told.lease_may_differ(name, status)
        })
        .map(|(name, status, _)| (name.clone(), status.clone()))
        .chain(further)
        .collect();
    let node_network = snapshot.node_net.and_then(|there| {
        let mut before = there.status.as_deref().cloned().unwrap_or_default();
        // The list of conditions has two writers, each with types of its own.
        before.conditions.retain(|condition| status::OWN_CONDITIONS.contains(&condition.type_.as_str()));
        let mut status = node_network.clone();
        if *is_blind {
            // The watch may not have brought yet what was said before.
            status.observed_lease = told.observed_lease().or(status.observed_lease);
        }
        status::keep_transition_times(&mut status.conditions, &before.conditions);
        let is_news = *is_awaited && status.observed_lease != before.observed_lease;
        let urgent =
            is_news || is_urgent(&status, &before) || told.of_node_network(|said| is_urgent(&status, said));
        let differs = status != before || told.node_network_may_differ(&status);
        differs.then_some(NodeNetworkWrite { urgent, status })
    });
    let said = snapshot.node.and_then(|node| node.network_unavailable.as_ref());
    let said = said.map(|(status, reason)| (status.as_str(), reason.as_str()));
    let availability = availability.clone().filter(|wanted| match (wanted, said) {
        (Availability::Available, Some((status, _))) => status != "False",
        (Availability::Unavailable(why), Some(said)) => said != ("True", why.reason),
        (_, None) => true,
    });
    Writes { leases, node_network, availability }
}

/// Which lease we go by. Where nothing is built, or packets may go another way still, what was said before stands.
pub fn observed_lease(built: Option<&Built>, snapshot: &Snapshot<'_>) -> Option<ObservedLease> {
    match built {
        Some(built) => built.observed_lease.clone(),
        None => snapshot.node_net?.status.as_deref()?.observed_lease.clone(),
    }
}

/// The operator gives a further block by what is said of the addresses in use: a subnet that fills up can't wait.
fn is_urgent(status: &NodeNetworkStatus, before: &NodeNetworkStatus) -> bool {
    status::differs_in_substance(status, before)
        || cni::differ_coarsely(&status.address_use, &before.address_use)
}

#[cfg(test)]
mod tests;
