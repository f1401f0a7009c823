//! Carrying out decisions: the only place that writes to the API server, apart from the chart's values.
//!
//! A write says which version of which object it was decided on, and what came of it goes back into the
//! [`World`] as [`News`]. A refused or lost write is no error of the operator: the next round decides on what
//! is true then. The cache is never trusted for freeing: what is released or deleted is read first.

mod ground;
mod leases;
mod nodes;
mod room;
mod status;

use std::time::Instant;

use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use tartan_crds::{ClusterNetwork, NetworkPool, NodeNetwork, SubnetLease, wellknown::field_manager};

use crate::{
    client::{reason, text, untyped},
    decide::Action,
    events::Events,
    metrics::Metrics,
    world::{Lease, Network, Node, NodeNet, World},
};

pub use ground::NetworkVersion;

/// Writes that run at once. More gain nothing: the API server is the limit.
pub const CONCURRENCY: usize = 12;

/// What the API server answered about an object.
#[derive(Debug)]
pub enum News {
    Lease(Box<Lease>),
    NoLease(String),
    /// The lease's state is not known.
    LeaseInDoubt(String),
    Node(Box<Node>),
    NoNode(String),
    NodeNetwork(Box<NodeNet>),
    NoNodeNetwork(String),
    Network(Box<Network>),
}

/// What came of an action.
#[derive(Debug)]
pub struct Answer {
    pub news: Vec<News>,
    pub at: Instant,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Somebody was faster, or the decision was out of date. Decided anew at once.
    Overtaken,
    /// Refused or lost, with the reason's label and for people. Tried again later.
    Failed(&'static str, String),
}

/// The hands of the operator.
#[derive(Clone)]
pub struct Executor {
    nodes: Api<KubeNode>,
    leases: Api<DynamicObject>,
    node_networks: Api<DynamicObject>,
    networks: Api<DynamicObject>,
    pools: Api<DynamicObject>,
    pub events: Events,
    /// The ClusterNetwork that was decided by.
    pub decided_by: NetworkVersion,
    metrics: Metrics,
}

impl Executor {
    pub fn new(client: &Client, events: Events, metrics: Metrics) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            leases: untyped::<SubnetLease>(client),
            node_networks: untyped::<NodeNetwork>(client),
            networks: untyped::<ClusterNetwork>(client),
            decided_by: NetworkVersion::default(),
            pools: untyped::<NetworkPool>(client),
            events,
            metrics,
        }
    }

    pub async fn carry_out(&self, action: Action) -> Answer {
        let kind = kind(&action);
        let mut news = vec![];
        let outcome = match self.attempt(action, &mut news).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let reason = reason(&error);
                self.metrics.request_failed(reason);
                // The allocator tells of all failures of a round in one line.
                tracing::debug!(kind, reason, error = text(&error), "request failed");
                Outcome::Failed(reason, text(&error))
            }
        };
        let result = match outcome {
            Outcome::Done => "done",
            Outcome::Overtaken => {
                self.metrics.conflicted(kind);
                "overtaken"
            }
            Outcome::Failed(..) => "failed",
        };
        self.metrics.wrote(kind, result);
        Answer { news, at: Instant::now(), outcome }
    }

    async fn attempt(&self, action: Action, news: &mut Vec<News>) -> kube::Result<Outcome> {
        match action {
            Action::CreateLease { spec, labels, chosen } => {
                self.create_lease(&spec, labels, chosen, news).await
            }
            Action::UpdateLease { lease, spec, labels, why } => {
                self.update_lease(&lease, &spec, &labels, why, news).await
            }
            Action::ReleaseLease { lease, subnet, node, successor, .. } => {
                self.release_lease(&lease, subnet, &node, successor.as_deref(), news).await
            }
            Action::DeleteLease { lease, node, grounds, .. } => {
                self.delete_lease(&lease, &node, &grounds, news).await
            }
            Action::RereadLease { name } => self.reread_lease(&name, news).await.map(|_| Outcome::Done),
            Action::MirrorPodCidrs { node, cidrs } => self.mirror_pod_cidrs(node, &cidrs, news).await,
            Action::ApplyNodeNetwork { node, spec } => self.apply_node_network(&node, &spec, news).await,
            Action::DeleteNodeNetwork { node_network, owner } => {
                self.delete_node_network(&node_network, owner.as_deref(), news).await
            }
            Action::ReportLeased { node, condition, before } => {
                self.report_leased(&node, &condition, before.as_deref(), news).await
            }
        }
    }
}

/// Server-side apply as the operator. Forced: these fields are the operator's alone.
async fn apply(
    api: &Api<DynamicObject>,
    name: &str,
    object: &serde_json::Value,
    on_status: bool,
) -> kube::Result<DynamicObject> {
    let params = PatchParams::apply(field_manager::OPERATOR).force();
    if on_status {
        api.patch_status(name, &params, &Patch::Apply(object)).await
    } else {
        api.patch(name, &params, &Patch::Apply(object)).await
    }
}

/// `None` where the object does not exist or the condition it was guarded by does not hold.
fn unless_overtaken<T>(result: kube::Result<T>) -> kube::Result<Result<T, Overtaken>> {
    match result {
        Ok(object) => Ok(Ok(object)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Err(Overtaken::Gone)),
        Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Err(Overtaken::Changed)),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overtaken {
    Gone,
    Changed,
}

/// The label of an action in metrics and logs.
pub fn kind(action: &Action) -> &'static str {
    match action {
        Action::CreateLease { .. } => "create-lease",
        Action::UpdateLease { .. } => "update-lease",
        Action::ReleaseLease { .. } => "release-lease",
        Action::DeleteLease { .. } => "delete-lease",
        Action::RereadLease { .. } => "reread-lease",
        Action::MirrorPodCidrs { .. } => "mirror-pod-cidrs",
        Action::ApplyNodeNetwork { .. } => "apply-node-network",
        Action::DeleteNodeNetwork { .. } => "delete-node-network",
        Action::ReportLeased { .. } => "report-leased",
    }
}

/// What an action writes, by kind and name: a failure delays only the next attempt at the same.
pub fn key(action: &Action) -> (&'static str, String) {
    let name = match action {
        Action::CreateLease { spec, .. } => format!("{} {}", spec.node_name, spec.subnet),
        Action::UpdateLease { lease, .. }
        | Action::ReleaseLease { lease, .. }
        | Action::DeleteLease { lease, .. } => lease.name.clone(),
        Action::RereadLease { name } => name.clone(),
        Action::MirrorPodCidrs { node, .. }
        | Action::ApplyNodeNetwork { node, .. }
        | Action::ReportLeased { node, .. } => node.name.clone(),
        Action::DeleteNodeNetwork { node_network, .. } => node_network.name.clone(),
    };
    (kind(action), name)
}

/// What a write makes an object say, apart from versions and times: the same for what is written once more.
pub fn said(action: &Action) -> Option<String> {
    Some(match action {
        // A block is the same, whyever it is chosen once more.
        Action::CreateLease { spec, labels, chosen: _ } => json!([spec, labels]).to_string(),
        Action::UpdateLease { spec, labels, .. } => json!([spec, labels]).to_string(),
        // Of another machine that came under the name and went, it is not the same.
        Action::ReleaseLease { lease, node_uid, .. } => json!([lease.uid, node_uid]).to_string(),
        Action::DeleteLease { lease, .. } => lease.uid.clone(),
        Action::RereadLease { .. } => return None,
        Action::MirrorPodCidrs { node, cidrs } => json!([node.uid, cidrs]).to_string(),
        Action::ApplyNodeNetwork { node, spec } => json!([node.uid, spec]).to_string(),
        Action::DeleteNodeNetwork { node_network, .. } => node_network.uid.clone(),
        Action::ReportLeased { node, condition, .. } => {
            json!([node.uid, condition.status, condition.reason, condition.message]).to_string()
        }
    })
}

/// Takes the news into the world.
pub fn learn(world: &mut World, news: News, at: Instant) {
    match news {
        News::Lease(lease) => world.learn_lease(*lease, at),
        News::NoLease(name) => {
            world.leases.forget(&name);
        }
        News::LeaseInDoubt(name) => world.leases.doubt(&name),
        News::Node(node) => world.nodes.learn(*node, at),
        News::NoNode(name) => {
            world.nodes.forget(&name);
        }
        News::NodeNetwork(node_network) => world.node_networks.learn(*node_network, at),
        News::NoNodeNetwork(name) => {
            world.node_networks.forget(&name);
        }
        News::Network(network) => world.networks.learn(*network, at),
    }
}
