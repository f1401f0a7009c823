//! Writing Nodes and NodeNetworks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tartan_crds::{
    Cidr, NodeNetworkSpec,
    conditions::reason,
    wellknown::{GROUP, VERSION, annotation, field_manager},
};

use super::{Executor, News, Outcome, Overtaken, apply, unless_overtaken};
use crate::{
    events,
    world::{Meta, Node, NodeNet},
};

/// A Node changes all the time (heartbeats, images), so a version guard may fail a few times for nothing.
const MIRROR_ATTEMPTS: usize = 4;

impl Executor {
    /// Writes podCIDRs into a Node that has none. Guarded by UID and version: if another IPAM was faster,
    /// the Node comes back with its podCIDRs and the next round gives the lease back.
    pub(super) async fn mirror_pod_cidrs(
        &self,
        mut node: Meta,
        cidrs: &[Cidr],
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        let params =
            PatchParams { field_manager: Some(field_manager::OPERATOR.into()), ..PatchParams::default() };
        for _ in 0..MIRROR_ATTEMPTS {
            let patch = json!({
                "metadata": {
                    "uid": node.uid,
                    "resourceVersion": node.version,
                    "annotations": { annotation::MIRRORED: texts.join(",") },
                },
                "spec": { "podCIDR": texts.first(), "podCIDRs": texts },
            });
            let patched = self.nodes.patch(&node.name, &params, &Patch::Merge(&patch)).await;
            match patched {
                Ok(patched) => {
                    tracing::info!(node = node.name, cidrs = texts.join(","), "podCIDRs written");
                    news.push(News::Node(Box::new(Node::parse(patched))));
                    return Ok(Outcome::Done);
                }
                Err(kube::Error::Api(status)) if status.is_conflict() || status.code == 422 => {
                    let live = self.reread_node(&node.name, news).await?;
                    match live {
                        Some(live) if live.meta.uid == node.uid && live.pod_cidrs.is_empty() => {
                            if status.code == 422 {
                                // Not a race: something refuses the write as such.
                                return self.refused(&node, kube::Error::Api(status));
                            }
                            node = live.meta;
                        }
                        _ => return Ok(Outcome::Overtaken),
                    }
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    news.push(News::NoNode(node.name.clone()));
                    return Ok(Outcome::Overtaken);
                }
                Err(error) => return self.refused(&node, error),
            }
        }
        Ok(Outcome::Overtaken)
    }

    fn refused(&self, node: &Meta, error: kube::Error) -> kube::Result<Outcome> {
        if let kube::Error::Api(status) = &error {
            let about = events::node(&node.name, &node.uid);
            let note = format!("the Node's podCIDRs can't be written: {}", status.message);
            self.events.warn(about, reason::POD_CIDR_MISMATCH, "Mirror", note);
        }
        Err(error)
    }

    /// The Node as the API server has it now.
    pub(super) async fn reread_node(&self, name: &str, news: &mut Vec<News>) -> kube::Result<Option<Node>> {
        let node = self.nodes.get_opt(name).await?.map(Node::parse);
        news.push(match &node {
            Some(node) => News::Node(Box::new(node.clone())),
            None => News::NoNode(name.to_owned()),
        });
        Ok(node)
    }

    /// The node's NodeNetwork as the API server has it now.
    pub(super) async fn reread_node_network(
        &self,
        name: &str,
        news: &mut Vec<News>,
    ) -> kube::Result<Option<NodeNet>> {
        let object = self.node_networks.get_opt(name).await?.map(NodeNet::parse);
        news.push(match &object {
            Some(object) => News::NodeNetwork(Box::new(object.clone())),
            None => News::NoNodeNetwork(name.to_owned()),
        });
        Ok(object)
    }

    pub(super) async fn apply_node_network(
        &self,
        node: &Meta,
        spec: &NodeNetworkSpec,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "NodeNetwork",
            "metadata": {
                "name": node.name,
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid }],
            },
            "spec": spec,
        });
        let applied = apply(&self.node_networks, &node.name, &object, false).await?;
        let live = applied.data.get("spec").cloned().unwrap_or_default();
        let mut written = NodeNet::parse(applied);
        if written.spec.as_ref() != Ok(spec) {
            // Apply leaves what another hand added, and the spec is the operator's as a whole.
            let patch =
                json!({ "metadata": { "uid": written.meta.uid }, "spec": leading_to(&live, &json!(spec)) });
            let params =
                PatchParams { field_manager: Some(field_manager::OPERATOR.into()), ..PatchParams::default() };
            let patched = self.node_networks.patch(&node.name, &params, &Patch::Merge(&patch)).await;
            match unless_overtaken(patched)? {
                Ok(patched) => written = NodeNet::parse(patched),
                Err(_) => return Ok(Outcome::Overtaken),
            }
        }
        news.push(News::NodeNetwork(Box::new(written)));
        Ok(Outcome::Done)
    }

    /// Where garbage collection runs it does the same; this is for where it doesn't.
    pub(super) async fn delete_node_network(
        &self,
        node_network: &Meta,
        owner: Option<&str>,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let name = &node_network.name;
        let live = self.reread_node(name, news).await?;
        if live.is_some_and(|live| owner.is_none_or(|owner| owner == live.meta.uid)) {
            return Ok(Outcome::Overtaken);
        }
        let preconditions = Preconditions { uid: Some(node_network.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match unless_overtaken(self.node_networks.delete(name, &params).await)? {
            Ok(_) | Err(Overtaken::Gone) => {
                news.push(News::NoNodeNetwork(name.clone()));
                Ok(Outcome::Done)
            }
            Err(Overtaken::Changed) => Ok(Outcome::Overtaken),
        }
    }

    pub(super) async fn report_leased(
        &self,
        node: &Meta,
        condition: &Condition,
        before: Option<&Condition>,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "NodeNetwork",
            "metadata": { "name": node.name },
            "status": { "conditions": [condition] },
        });
        match unless_overtaken(apply(&self.node_networks, &node.name, &object, true).await)? {
            Ok(applied) => news.push(News::NodeNetwork(Box::new(NodeNet::parse(applied)))),
            Err(_) => {
                news.push(News::NoNodeNetwork(node.name.clone()));
                return Ok(Outcome::Overtaken);
            }
        }
        let is_news = before.is_none_or(|before| before.reason != condition.reason);
        // Waiting for another IPAM's podCIDRs is how every node starts in Adopt mode.
        let is_ordinary = [reason::OK, reason::WAITING_FOR_POD_CIDR].contains(&condition.reason.as_str());
        let about = events::node(&node.name, &node.uid);
        if is_news && !is_ordinary {
            self.events.warn(about, &condition.reason, "Lease", condition.message.clone());
        } else if condition.status == "True" && before.is_none_or(|before| before.status == "False") {
            self.events.note(about, "Leased", "Lease", condition.message.clone());
        }
        Ok(Outcome::Done)
    }
}

/// The merge patch that makes `wanted` of `live`: it removes what is null and keeps what is absent (RFC 7396).
fn leading_to(live: &Value, wanted: &Value) -> Value {
    let (Some(live), Some(wanted)) = (live.as_object(), wanted.as_object()) else { return wanted.clone() };
    let surplus = live.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let kept = wanted
        .iter()
        .map(|(key, value)| (key.clone(), leading_to(live.get(key).unwrap_or(&Value::Null), value)));
    Value::Object(surplus.chain(kept).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_hand_added_is_taken_out_at_any_depth() {
        let live =
            json!({ "pool": "a", "masquerade": false, "uplink": { "interface": "x", "canReach": "y" } });
        let check = |wanted: Value, patch: Value| assert_eq!(leading_to(&live, &wanted), patch);
        check(json!({ "pool": "b" }), json!({ "pool": "b", "masquerade": null, "uplink": null }));
        check(
            json!({ "pool": "a", "uplink": { "interface": "z" }, "publicIPs": ["1"] }),
            json!({
                "pool": "a", "masquerade": null, "uplink": { "interface": "z", "canReach": null }, "publicIPs": ["1"],
            }),
        );
    }
}
