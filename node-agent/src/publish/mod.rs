//! What the agent tells the API: the status of its primary leases for its peers, its NodeNetwork for
//! people and the operator, one condition of its Node for the scheduler.
//!
//! [`status`] makes the values, purely. [`writes`] says which differ from what the API has, so that a
//! restart writes nothing. [`writer`] sends them, in a task of its own.

pub mod status;
pub mod writer;

use tartan_crds::{NodeNetworkStatus, SubnetLeaseStatus};

use crate::{inputs::Snapshot, intent::NotReady};

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
    pub node_network: NodeNetworkStatus,
    /// `None`: the Node goes on saying what it says.
    pub availability: Option<Availability>,
}

/// The part of `wanted` that the API doesn't have.
pub fn writes(wanted: &Published, snapshot: &Snapshot<'_>) -> Writes {
    let Published { lease, primary_leases, node_network, availability } = wanted;
    let leases = primary_leases
        .iter()
        .filter_map(|name| Some((name, lease.as_ref()?, snapshot.leases.get(name)?)))
        .filter(|(_, status, there)| there.status.as_ref() != Some(*status))
        .map(|(name, status, _)| (name.clone(), status.clone()))
        .collect();
    let node_network = snapshot.node_net.and_then(|there| {
        let mut before = there.status.as_deref().cloned().unwrap_or_default();
        // The list of conditions has two writers, each with types of its own.
        before.conditions.retain(|condition| status::OWN_CONDITIONS.contains(&condition.type_.as_str()));
        let mut status = node_network.clone();
        status::keep_transition_times(&mut status.conditions, &before.conditions);
        (status != before)
            .then(|| NodeNetworkWrite { urgent: status::differs_in_substance(&status, &before), status })
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

#[cfg(test)]
mod tests;
