//! The objects as decisions see them: parsed once, here, and without what no decision needs.
//!
//! An object that does not parse stays an object: a lease that nobody can read still holds its block, and one
//! bad pool or entry says nothing about the others. Nothing here fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::{
    api::{
        core::v1::{Node as KubeNode, NodeCondition},
        networking::v1::ServiceCIDR,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::core::DynamicObject;
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::Value;
use tartan_crds::{
    BackendType, Cidr, ClusterNetworkSpec, ClusterNetworkStatus, Endpoint, NetworkPoolSpec,
    NetworkPoolStatus, SubnetLeaseSpec, SubnetLeaseStatus,
    wellknown::{annotation, field_manager, label},
};

use super::{
    chart::ChartValues,
    choice::Choice,
    node_net::NodeNet,
    table::{Meta, Record},
};

/// Why an object could not be read, for a condition.
pub type Unreadable = String;

/// A Kubernetes Node.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Node {
    pub meta: Meta,
    pub labels: BTreeMap<String, String>,
    /// `spec.podCIDRs`, as they are written there.
    pub pod_cidrs: Vec<String>,
    /// Our three annotations.
    pub mirrored: Option<String>,
    pub public_ips: Option<String>,
    pub uplink: Option<String>,
    /// Internal and external addresses.
    pub addresses: Vec<IpAddr>,
    /// Its kubelet is known to be alive.
    pub ready: bool,
    pub created: Timestamp,
}

impl Node {
    pub fn readable_pod_cidrs(&self) -> impl Iterator<Item = Cidr> {
        self.pod_cidrs.iter().filter_map(|text| text.parse().ok())
    }

    pub fn parse(node: KubeNode) -> Self {
        let KubeNode { metadata, spec, status } = node;
        let spec = spec.unwrap_or_default();
        let mut pod_cidrs = spec.pod_cidrs.unwrap_or_default();
        if let Some(only) = spec.pod_cidr.filter(|cidr| !cidr.is_empty() && pod_cidrs.is_empty()) {
            pod_cidrs.push(only);
        }
        let mut annotations = metadata.annotations.clone().unwrap_or_default();
        let status = status.unwrap_or_default();
        let addresses = status.addresses.unwrap_or_default();
        let is_ready = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
        Self {
            ready: status.conditions.unwrap_or_default().iter().any(is_ready),
            created: metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            labels: metadata.labels.clone().unwrap_or_default(),
            meta: meta(&metadata),
            pod_cidrs,
            mirrored: annotations.remove(annotation::MIRRORED),
            public_ips: annotations.remove(annotation::PUBLIC_IPS),
            uplink: annotations.remove(annotation::UPLINK),
            addresses: addresses.iter().filter_map(|address| address.address.parse().ok()).collect(),
        }
    }

    /// Whether the podCIDRs were written by somebody else.
    pub fn has_foreign_pod_cidrs(&self) -> bool {
        !self.pod_cidrs.is_empty() && self.mirrored.as_deref() != Some(self.pod_cidrs.join(",").as_str())
    }
}

/// The ClusterNetwork, with entries that could not be read apart from the others.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub meta: Meta,
    pub generation: Option<i64>,
    pub spec: Result<ClusterNetworkSpec, Unreadable>,
    /// Name of the entry (or its place) and what is wrong with it.
    pub bad_entries: Vec<(String, Unreadable)>,
    pub status: ClusterNetworkStatus,
}

impl Network {
    pub fn parse(mut object: DynamicObject) -> Self {
        let bad_entries = take_bad_entries(&mut object.data);
        Self {
            meta: meta(&object.metadata),
            generation: object.metadata.generation,
            spec: part(&mut object.data, "spec"),
            bad_entries,
            status: part(&mut object.data, "status").unwrap_or_default(),
        }
    }
}

/// Takes the entries that do not parse out of `spec.cidrs`, so that they spoil no others.
fn take_bad_entries(data: &mut Value) -> Vec<(String, Unreadable)> {
    let Some(entries) = data.pointer_mut("/spec/cidrs").and_then(Value::as_array_mut) else { return vec![] };
    let mut bad = vec![];
    let mut place = 0;
    entries.retain(|entry| {
        let verdict = tartan_crds::CidrEntry::deserialize(entry);
        if let Err(error) = &verdict {
            let name = entry.get("name").and_then(Value::as_str);
            bad.push((name.map_or_else(|| format!("#{place}"), str::to_owned), error.to_string()));
        }
        place += 1;
        verdict.is_ok()
    });
    bad
}

/// A NetworkPool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub meta: Meta,
    pub generation: Option<i64>,
    pub spec: Result<NetworkPoolSpec, Unreadable>,
    pub status: NetworkPoolStatus,
    /// Made from the chart's values.
    pub from_chart: bool,
}

impl Pool {
    pub fn parse(mut object: DynamicObject) -> Self {
        let labels = object.metadata.labels.as_ref();
        Self {
            meta: meta(&object.metadata),
            generation: object.metadata.generation,
            from_chart: labels.is_some_and(|labels| labels.contains_key(crate::chart_values::FROM_CHART)),
            spec: part(&mut object.data, "spec"),
            status: part(&mut object.data, "status").unwrap_or_default(),
        }
    }
}

/// A SubnetLease. Its block is known even where its spec can't be read: the name is the block.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    pub meta: Meta,
    pub generation: Option<i64>,
    pub subnet: Cidr,
    pub spec: Result<SubnetLeaseSpec, Unreadable>,
    pub labels: BTreeMap<String, String>,
    /// Why its block was chosen, where that was written.
    pub chosen: Option<Choice>,
    /// The node's agent has written what peers need: pods may have addresses of this block.
    pub in_use: bool,
    /// Backends by which peers can send to the node, as its agent published.
    pub endpoints: BTreeSet<BackendType>,
    /// The WireGuard public keys that the agent published, by generation.
    pub wireguard_keys: BTreeMap<i32, String>,
    /// Where peers send to, as the node's agent says.
    pub public_ips: Vec<IpAddr>,
    /// Which request for its return the agent has met.
    pub emptied: Option<Time>,
    pub created: Timestamp,
    /// Being deleted by somebody, held by a finalizer.
    pub deleting: bool,
    pub traces: Traces,
}

/// Traces of other hands than the operator's on a lease.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Traces {
    /// The block that its name locks, where that is another than its own.
    pub name_locks: Option<Cidr>,
    /// The field manager of a part of a spec that the operator wrote.
    pub edited_by: Option<String>,
    /// Why its status can't be read.
    pub bad_status: Option<Unreadable>,
}

/// Of two keys of one generation agents take the first.
fn wireguard_keys(endpoints: &[Endpoint]) -> BTreeMap<i32, String> {
    let mut keys = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.kind == BackendType::Wireguard) {
        let key = endpoint.public_key.clone().unwrap_or_default();
        keys.entry(endpoint.generation.unwrap_or(0)).or_insert(key);
    }
    keys
}

impl Lease {
    /// `None` where neither name nor spec tells a block: such an object can't be a lease of ours.
    pub fn parse(mut object: DynamicObject) -> Option<Self> {
        let spec: Result<SubnetLeaseSpec, Unreadable> = part(&mut object.data, "spec");
        let meta = meta(&object.metadata);
        let edited_by = edited_by(&object.metadata);
        let generation = object.metadata.generation;
        let subnet =
            spec.as_ref().ok().map(|spec| spec.subnet).or_else(|| Cidr::from_object_name(&meta.name).ok())?;
        let status: Result<SubnetLeaseStatus, Unreadable> = part(&mut object.data, "status");
        let bad_status = status.as_ref().err().cloned();
        let status = status.unwrap_or_default();
        let name_locks = Cidr::from_object_name(&meta.name).ok().filter(|locked| *locked != subnet);
        let traces = Traces { name_locks, edited_by, bad_status };
        let annotations = object.metadata.annotations.unwrap_or_default();
        let mut labels = object.metadata.labels.unwrap_or_default();
        labels.retain(|name, _| [label::NODE, label::POOL, label::FAMILY].contains(&name.as_str()));
        Some(Self {
            meta,
            generation,
            subnet,
            spec,
            labels,
            chosen: annotations.get(annotation::CHOSEN).and_then(|word| Choice::parse(word)),
            // What nobody can read may say that it is.
            in_use: traces.bad_status.is_some()
                || !status.public_ips.is_empty()
                || !status.endpoints.is_empty(),
            endpoints: status.endpoints.iter().map(|endpoint| endpoint.kind).collect(),
            wireguard_keys: wireguard_keys(&status.endpoints),
            public_ips: status.public_ips,
            emptied: status.emptied,
            created: object.metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: object.metadata.deletion_timestamp.is_some(),
            traces,
        })
    }

    /// The node that holds it, where that can be read.
    pub fn node(&self) -> Option<&str> {
        self.spec.as_ref().ok().map(|spec| spec.node_name.as_str())
    }

    pub fn released_at(&self) -> Option<Timestamp> {
        self.spec.as_ref().ok().and_then(|spec| spec.released_at.as_ref()).map(|time| time.0)
    }
}

/// A ServiceCIDR of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRange {
    pub meta: Meta,
    pub cidrs: Vec<Cidr>,
}

impl ServiceRange {
    pub fn parse(object: ServiceCIDR) -> Self {
        let cidrs = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
        Self {
            meta: meta(&object.metadata),
            cidrs: cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
        }
    }
}

macro_rules! records {
    ($($kind:ty),*) => {$(
        impl Record for $kind {
            fn meta(&self) -> &Meta {
                &self.meta
            }
        }
    )*};
}
records!(Node, Network, Pool, Lease, NodeNet, ServiceRange, ChartValues);

pub(super) fn meta(metadata: &ObjectMeta) -> Meta {
    Meta {
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        version: metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Who else wrote to a spec after the operator did. A lease that is another's, such as one that was restored from a
/// backup, is nobody's edit, and what the operator has written since leaves it none.
fn edited_by(metadata: &ObjectMeta) -> Option<String> {
    let writers = || {
        let all = metadata.managed_fields.iter().flatten();
        all.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some()))
            .filter_map(|entry| Some((entry.manager.as_deref()?, entry.time.as_ref())))
    };
    let is_ours = |name: &str| name == field_manager::OPERATOR;
    // To the second, as the API server has it: of one second, it is better asked once too often.
    let last = writers().filter(|(name, _)| is_ours(name)).map(|(_, time)| time).max()?;
    let edit = writers().filter(|(name, time)| !is_ours(name) && *time >= last).min();
    edit.map(|(name, _)| name.to_owned())
}

/// Takes `spec` or `status` out of an object. An absent one reads as empty.
pub(super) fn part<T: DeserializeOwned>(data: &mut Value, name: &str) -> Result<T, Unreadable> {
    let value = data.get_mut(name).map_or_else(|| Value::Object(Default::default()), Value::take);
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(managers: &[(&str, &str)]) -> Lease {
        dated(&managers.iter().map(|(manager, part)| (*manager, *part, 0)).collect::<Vec<_>>())
    }

    /// By whom which part was written, and in which second.
    fn dated(managers: &[(&str, &str, u32)]) -> Lease {
        let fields = |(manager, part, second): &(&str, &str, u32)| {
            let time = format!("2026-01-01T00:00:{second:02}Z");
            json!({ "manager": manager, "operation": "Update", "time": time, "fieldsV1": { *part: {} } })
        };
        let object = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
            "metadata": { "name": "10.0.1.0-24", "managedFields": managers.iter().map(fields).collect::<Vec<_>>() },
            "spec": {
                "nodeName": "a", "nodeUID": "u", "subnet": "10.0.0.0/24", "pool": "default",
                "backend": { "type": "vxlan", "accepts": [] },
            },
        });
        Lease::parse(serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn who_else_wrote_to_a_lease_is_seen_unless_it_is_altogether_anothers() {
        let edited = |managers| lease(managers).traces.edited_by;
        assert_eq!(edited(&[("tartan-operator", "f:spec"), ("tartan-node-agent", "f:status")]), None);
        let edit = [("kubectl-edit", "f:spec"), ("tartan-operator", "f:spec")];
        assert_eq!(edited(&edit).as_deref(), Some("kubectl-edit"));
        assert_eq!(edited(&[("restore", "f:spec")]), None);
        let edited = |managers| dated(managers).traces.edited_by;
        let restored = [("restore", "f:spec", 1), ("tartan-operator", "f:spec", 2)];
        assert_eq!(edited(&restored), None, "what the operator wrote since is no edit of the restorer's");
        let both = [restored[0], restored[1], ("kubectl-edit", "f:spec", 3)];
        assert_eq!(edited(&both).as_deref(), Some("kubectl-edit"));
        assert_eq!(edited(&[("kubectl-edit", "f:spec", 2), restored[1]]).as_deref(), Some("kubectl-edit"));
    }

    #[test]
    fn a_lease_whose_status_nobody_can_read_counts_as_in_use() {
        let with = |status: Value| {
            let object = json!({
                "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease", "metadata": { "name": "10.0.0.0-24" },
                "status": status,
            });
            Lease::parse(serde_json::from_value(object).unwrap()).unwrap()
        };
        let odd = with(json!({ "publicIPs": [7] }));
        assert!(odd.in_use && odd.traces.bad_status.is_some());
        assert!(!with(json!({})).in_use);
        assert!(with(json!({ "endpoints": [{ "type": "host-gw" }] })).in_use);
    }

    #[test]
    fn a_name_that_locks_another_block_is_noted() {
        assert_eq!(lease(&[]).traces.name_locks, "10.0.1.0/24".parse().ok());
    }
}
