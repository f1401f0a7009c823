//! A NodeNetwork as decisions see it: what the operator wrote, and what the node's agent says of its data path.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use serde::Deserialize;
use tartan_crds::{
    AddressUse, BackendType, NodeNetworkSpec, ObservedLease, PathCount,
    conditions::{kind, reason},
};

use super::{
    objects::{Lease, Node, Unreadable, meta, part},
    table::Meta,
};

/// A NodeNetwork. Of the agent's part only what decisions need: the rest changes often.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeNet {
    pub meta: Meta,
    pub generation: Option<i64>,
    pub spec: Result<NodeNetworkSpec, Unreadable>,
    /// UID of the Node that owns it.
    pub owner: Option<String>,
    /// The operator's own condition.
    pub leased: Option<Condition>,
    pub report: Report,
}

/// What a node's agent says of its data path.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// What it sends by, as programmed.
    pub backend: Option<BackendType>,
    pub receives: BTreeSet<BackendType>,
    /// What it should receive and can't.
    pub unavailable: BTreeSet<BackendType>,
    /// What joins it to peers.
    #[serde(skip)]
    pub sends: BTreeSet<BackendType>,
    /// To how many peers it sends in clear. Agents of before don't say: then it is counted from its paths, where a
    /// peer of two backends counts twice.
    #[serde(skip)]
    pub clear_peers: i64,
    /// Of how many it takes encrypted packets only.
    pub sealed_peers: i64,
    /// The lease that all this goes by. Agents of before don't say.
    pub observed_lease: Option<ObservedLease>,
    /// It has read the leases, so that what it says of addresses is of all blocks that name its node.
    #[serde(skip)]
    pub knows_leases: bool,
    /// How many addresses pods have of each of its blocks.
    pub address_use: UsedAddresses,
}

/// Figures that change with every pod. Two are equal when no decision can hang on what differs before the next
/// round, which comes by itself within seconds: the same blocks, as many free addresses to a power of two, empty since
/// the same time.
#[derive(Clone, Debug, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct UsedAddresses(pub Vec<AddressUse>);

impl PartialEq for UsedAddresses {
    fn eq(&self, other: &Self) -> bool {
        let coarse = |figures: &AddressUse| {
            let free = figures.capacity.saturating_sub(figures.used);
            (figures.subnet, free.checked_ilog2(), figures.empty_since.clone())
        };
        self.0.iter().map(coarse).eq(other.0.iter().map(coarse))
    }
}

impl NodeNet {
    /// What the agent says of this machine; what was said of another under its name is no news of this one.
    pub fn report_of(&self, node: &Node) -> Option<&Report> {
        (self.owner.as_deref() == Some(&node.meta.uid)).then_some(&self.report)
    }

    /// Whether the agent says that pods of this machine have addresses of a lease's block.
    pub fn tells_of_pods(&self, node: &Node, lease: &Lease) -> bool {
        let mut blocks = self.report_of(node).into_iter().flat_map(|report| &report.address_use.0);
        blocks.any(|of| of.used > 0 && of.subnet.overlaps(lease.subnet))
    }

    pub fn parse(mut object: DynamicObject) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            #[serde(default)]
            conditions: Vec<Condition>,
            #[serde(default)]
            paths: Vec<PathCount>,
            clear_peers: Option<i64>,
            #[serde(flatten)]
            report: Report,
        }
        let mut status: Status = part(&mut object.data, "status").unwrap_or_default();
        let paths = status.paths.iter().filter(|paths| paths.peers > 0 && !paths.direct);
        status.report.sends = paths.map(|paths| paths.backend).collect();
        let clear = status.paths.iter().filter(|paths| !paths.backend.encrypts());
        status.report.clear_peers =
            status.clear_peers.unwrap_or_else(|| clear.map(|paths| paths.peers).sum());
        let ready = status.conditions.iter().find(|condition| condition.type_ == kind::READY);
        status.report.knows_leases = ready.is_some_and(|ready| ready.reason != reason::INPUTS_INCOMPLETE);
        let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
        Self {
            meta: meta(&object.metadata),
            generation: object.metadata.generation,
            spec: part(&mut object.data, "spec"),
            owner: owners.iter().find(|owner| owner.kind == "Node").map(|owner| owner.uid.clone()),
            leased: status.conditions.into_iter().find(|condition| condition.type_ == kind::LEASED),
            report: status.report,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A peer that is reached by ipip for IPv4 and by vxlan for IPv6 is one peer.
    #[test]
    fn peers_in_clear_are_as_many_as_the_agent_says_and_counted_where_it_does_not() {
        let check = |status: Value, expected: i64| {
            let object = json!({
                "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": "a" }, "status": status,
            });
            let report = NodeNet::parse(serde_json::from_value(object).unwrap()).report;
            assert_eq!((report.clear_peers, report.sealed_peers), (expected, 2));
        };
        let path = |backend: &str| json!({ "backend": backend, "peers": 1 });
        let paths = [path("ipip"), path("vxlan"), path("wireguard")];
        check(json!({ "paths": paths, "clearPeers": 1, "sealedPeers": 2 }), 1);
        check(json!({ "paths": paths, "clearPeers": 0, "sealedPeers": 2 }), 0);
        check(json!({ "paths": paths, "sealedPeers": 2 }), 2);
    }
}
