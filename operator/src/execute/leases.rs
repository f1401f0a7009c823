//! Writing leases.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::ObjectMeta,
};
use serde_json::{Map, Value, json};
use tartan_crds::{
    Cidr, SubnetLeaseSpec,
    conditions::reason,
    wellknown::{annotation, field_manager, label},
};

use super::{Executor, NetworkVersion, News, Outcome, Overtaken, unless_overtaken};
use crate::{
    client::may_have_happened,
    decide::{DeleteGrounds, DeleteReason, LastLook, UpdateReason, is_still_free_to_take, is_still_gone},
    events::{self, About},
    world::{Choice, Lease, Meta, Node},
};

impl Executor {
    pub(super) async fn create_lease(
        &self,
        spec: &SubnetLeaseSpec,
        labels: BTreeMap<String, String>,
        chosen: Choice,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let name = spec.subnet.object_name();
        let annotations = [
            (annotation::CUT_BY.to_owned(), self.decided_by.to_string()),
            (annotation::CHOSEN.to_owned(), chosen.as_str().to_owned()),
        ];
        let object = DynamicObject {
            types: Some(kube::core::TypeMeta::resource::<tartan_crds::SubnetLease>()),
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(annotations.into()),
                ..ObjectMeta::default()
            },
            data: json!({ "spec": spec }),
        };
        let params =
            PostParams { field_manager: Some(field_manager::OPERATOR.into()), ..PostParams::default() };
        match self.leases.create(&params, &object).await {
            Ok(created) => {
                tracing::info!(node = spec.node_name, subnet = %spec.subnet, pool = spec.pool, "leased");
                if chosen == Choice::Restored {
                    self.tell_of_restoration(spec, created.metadata.uid.as_deref().unwrap_or_default());
                }
                news.extend(read(created));
                Ok(Outcome::Done)
            }
            // Another operator's, or our own first attempt whose answer was lost: look who owns it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.reread_lease(&name, news).await?;
                Ok(Outcome::Overtaken)
            }
            // Admission refuses what was decided by a ClusterNetwork that has changed since.
            Err(kube::Error::Api(status)) if status.code == 422 => {
                let Some(network) = self.reread_network().await? else { return Ok(Outcome::Overtaken) };
                let overtaken = NetworkVersion::of(&network) != self.decided_by;
                news.push(News::Network(Box::new(network)));
                if overtaken { Ok(Outcome::Overtaken) } else { Err(kube::Error::Api(status)) }
            }
            Err(error) => {
                if may_have_happened(&error) {
                    news.push(News::LeaseInDoubt(name));
                }
                Err(error)
            }
        }
    }

    pub(super) async fn update_lease(
        &self,
        lease: &Meta,
        spec: &SubnetLeaseSpec,
        labels: &BTreeMap<String, String>,
        why: UpdateReason,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        if why == UpdateReason::Returned {
            // A view of Nodes that lags would give the lease back to a Node that is gone.
            let live = self.reread_node(&spec.node_name, news).await?;
            if live.is_none_or(|live| live.meta.uid != spec.node_uid) {
                return Ok(Outcome::Overtaken);
            }
        }
        // The label of a pool whose name is too long for one is null: that of the pool before goes.
        let labels: Map<String, Value> = [label::NODE, label::POOL, label::FAMILY]
            .into_iter()
            .map(|name| (name.to_owned(), json!(labels.get(name))))
            .collect();
        let outcome = self.patch_lease(lease, &labels, &whole(spec), news).await?;
        if outcome == Outcome::Done {
            tracing::info!(
                node = spec.node_name,
                subnet = %spec.subnet,
                pool = spec.pool,
                why = why.as_str(),
                "lease updated"
            );
        }
        if outcome == Outcome::Done && why == UpdateReason::Edited {
            let about = events::ours("SubnetLease", &lease.name, &lease.uid);
            let note = format!(
                "the spec of {} was edited; it says again what was decided by ClusterNetwork and NetworkPools: change these",
                spec.subnet
            );
            self.events.warn(about, reason::LEASE_EDITED, "Restore", note);
        }
        Ok(outcome)
    }

    pub(super) async fn release_lease(
        &self,
        decided: &Meta,
        subnet: Cidr,
        node: &str,
        successor: Option<&str>,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let Some(lease) = self.reread_lease(&decided.name, news).await? else {
            return Ok(Outcome::Overtaken);
        };
        // After the lease: where the Node comes back later, its lease is given back in a new version.
        let live_node = self.reread_node(node, news).await?;
        if lease.meta.uid != decided.uid
            || lease.node() != Some(node)
            || !is_still_gone(&lease, successor, live_node.as_ref())
        {
            return Ok(Outcome::Overtaken);
        }
        let released = json!({ "releasedAt": Time(Timestamp::now()) });
        let outcome = self.patch_lease(&lease.meta, &Map::new(), &released, news).await?;
        if outcome == Outcome::Done {
            tracing::info!(node, %subnet, "released: the node is gone");
            let about = events::ours("SubnetLease", &decided.name, &decided.uid);
            let note = format!("node {node} is gone; {subnet} is held for its return");
            self.events.note(about, "Released", "Release", note);
        }
        Ok(outcome)
    }

    pub(super) async fn delete_lease(
        &self,
        decided: &Meta,
        node: &str,
        grounds: &DeleteGrounds,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let Some(lease) = self.reread_lease(&decided.name, news).await? else {
            return Ok(Outcome::Overtaken);
        };
        let live_node = self.reread_node(node, news).await?;
        let why = grounds.why;
        let rivals = if why == DeleteReason::Duplicate { self.leases_of(node).await? } else { vec![] };
        let node_network = match &live_node {
            Some(_) if why.asks_for_pods() => self.reread_node_network(node, news).await?,
            _ => None,
        };
        let look =
            LastLook { node: live_node.as_ref(), node_network: node_network.as_ref(), rivals: &rivals };
        if lease.meta.uid != decided.uid
            || lease.node() != Some(node)
            || !is_still_free_to_take(grounds, &lease, look)
        {
            return Ok(Outcome::Overtaken);
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(lease.meta.uid.clone()),
                resource_version: Some(lease.meta.version.clone()),
            }),
            ..DeleteParams::default()
        };
        let name = lease.meta.name.clone();
        match unless_overtaken(self.leases.delete(&name, &params).await) {
            Ok(Ok(_)) => {
                tracing::info!(node, subnet = %lease.subnet, why = why.as_str(), "lease deleted");
                self.tell_of_deletion(&lease, node, live_node.as_ref(), why);
                news.push(News::NoLease(name));
                Ok(Outcome::Done)
            }
            Ok(Err(overtaken)) => {
                news.push(overtaken_news(name, overtaken));
                Ok(Outcome::Overtaken)
            }
            Err(error) => {
                news.push(News::LeaseInDoubt(name));
                Err(error)
            }
        }
    }

    fn tell_of_restoration(&self, spec: &SubnetLeaseSpec, uid: &str) {
        let SubnetLeaseSpec { subnet, node_name, .. } = spec;
        let note = format!(
            "the lease of {subnet} was gone while node {node_name} has the block, and was made again; others have no path \
             there until its agent has published itself anew; to take a block from a node, drain it and delete its Node"
        );
        let about = events::ours("SubnetLease", &subnet.object_name(), uid);
        self.events.warn(about, reason::LEASE_RESTORED, "Restore", note);
    }

    fn tell_of_deletion(&self, lease: &Lease, node: &str, live: Option<&Node>, why: DeleteReason) {
        let subnet = lease.subnet;
        let about = |object| {
            About::with_related(object, events::ours("SubnetLease", &lease.meta.name, &lease.meta.uid))
        };
        let about_node = || about(events::node(node, live.map_or("", |node| &node.meta.uid)));
        match why {
            DeleteReason::Expired | DeleteReason::Reassigned => {}
            DeleteReason::Emptied => self.events.note(
                about_node(),
                "BlockReturned",
                "Return",
                format!("no pod had an address of {subnet} any more: the node gave it back"),
            ),
            DeleteReason::TakenEarly => {
                let uid = &self.decided_by.uid;
                self.events.warn(
                    about(events::ours("ClusterNetwork", tartan_crds::wellknown::CLUSTER_NETWORK, uid)),
                    reason::EXHAUSTED,
                    "Reclaim",
                    match live {
                        None => format!("{subnet}, held for node {node} that is gone, was needed before its time"),
                        Some(_) => format!("{subnet}, released by node {node}, went before its time to the node that it is reserved for"),
                    },
                );
            }
            DeleteReason::BackedOut | DeleteReason::Duplicate => self.events.warn(
                about_node(),
                if why == DeleteReason::BackedOut { reason::SECOND_IPAM } else { reason::POD_CIDR_MISMATCH },
                "BackOut",
                match why {
                    DeleteReason::BackedOut => {
                        format!("another IPAM set the Node's podCIDRs first; the unused lease of {subnet} was given back")
                    }
                    _ => format!("the node had two leases; the unused one of {subnet} was given back"),
                },
            ),
        }
    }

    /// The lease as the API server has it now.
    pub(super) async fn reread_lease(&self, name: &str, news: &mut Vec<News>) -> kube::Result<Option<Lease>> {
        let lease = self.leases.get_opt(name).await?.and_then(Lease::parse);
        news.push(match &lease {
            Some(lease) => News::Lease(Box::new(lease.clone())),
            None => News::NoLease(name.to_owned()),
        });
        Ok(lease)
    }

    /// All leases as the API server has them now.
    pub(super) async fn list_leases(&self) -> kube::Result<Vec<Lease>> {
        let leases = self.leases.list(&ListParams::default()).await?;
        Ok(leases.items.into_iter().filter_map(Lease::parse).collect())
    }

    async fn leases_of(&self, node: &str) -> kube::Result<Vec<Lease>> {
        let selector = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let leases = self.leases.list(&selector).await?;
        Ok(leases.items.into_iter().filter_map(Lease::parse).collect())
    }

    async fn patch_lease(
        &self,
        lease: &Meta,
        labels: &Map<String, Value>,
        spec: &Value,
        news: &mut Vec<News>,
    ) -> kube::Result<Outcome> {
        let guard = json!({ "uid": lease.uid, "resourceVersion": lease.version, "labels": labels });
        let patch = json!({ "metadata": guard, "spec": spec });
        let params =
            PatchParams { field_manager: Some(field_manager::OPERATOR.into()), ..PatchParams::default() };
        match unless_overtaken(self.leases.patch(&lease.name, &params, &Patch::Merge(&patch)).await) {
            Ok(Ok(patched)) => {
                news.extend(read(patched));
                Ok(Outcome::Done)
            }
            Ok(Err(overtaken)) => {
                news.push(overtaken_news(lease.name.clone(), overtaken));
                Ok(Outcome::Overtaken)
            }
            Err(error) => {
                if may_have_happened(&error) {
                    news.push(News::LeaseInDoubt(lease.name.clone()));
                }
                Err(error)
            }
        }
    }
}

/// Fields that are left out where there is nothing to say, by the object that they are of.
const OPTIONAL: [(&str, &[&str]); 2] =
    [("", &["mtu", "nodeAddresses", "wireguardKeys", "returning", "releasedAt"]), ("/backend", &["ending"])];

/// A spec as a merge patch that leaves nothing of the one before: that removes what is null and keeps what is absent.
fn whole(spec: &SubnetLeaseSpec) -> Value {
    let mut wanted = json!(spec);
    for (place, optional) in OPTIONAL {
        let Some(fields) = wanted.pointer_mut(place).and_then(Value::as_object_mut) else { continue };
        for field in optional {
            fields.entry(*field).or_insert(Value::Null);
        }
    }
    wanted
}

fn overtaken_news(name: String, overtaken: Overtaken) -> News {
    match overtaken {
        Overtaken::Gone => News::NoLease(name),
        Overtaken::Changed => News::LeaseInDoubt(name),
    }
}

fn read(object: DynamicObject) -> Option<News> {
    Lease::parse(object).map(|lease| News::Lease(Box::new(lease)))
}

#[cfg(test)]
mod tests {
    use tartan_crds::LeaseBackend;

    use super::*;

    #[test]
    fn a_patch_names_every_field_of_a_spec_so_that_none_is_left_of_the_one_before() {
        let time = Some(Time(Timestamp::UNIX_EPOCH));
        let full = SubnetLeaseSpec {
            node_name: "a".into(),
            node_uid: "u".into(),
            subnet: "10.0.0.0/24".parse().unwrap(),
            pool: "default".into(),
            primary: true,
            backend: LeaseBackend { ending: vec!["receive:udp".into()], ..LeaseBackend::default() },
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            wireguard_keys: vec!["key".into()],
            mtu: Some(1400),
            returning: time.clone(),
            released_at: time,
        };
        let bare = SubnetLeaseSpec {
            node_addresses: vec![],
            wireguard_keys: vec![],
            mtu: None,
            returning: None,
            released_at: None,
            backend: LeaseBackend::default(),
            ..full.clone()
        };
        assert_eq!(names(&whole(&bare)), names(&json!(full)));
    }
    /// Of all fields, those of fields included.
    fn names(value: &Value) -> Vec<String> {
        let Some(fields) = value.as_object() else { return vec![] };
        let inner = |(name, value): (&String, &Value)| {
            let below = names(value).into_iter().map(move |below| format!("{name}.{below}"));
            std::iter::once(name.clone()).chain(below).collect::<Vec<_>>()
        };
        fields.iter().flat_map(inner).collect()
    }
}
