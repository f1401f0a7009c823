//! From API objects to the compact values.

use k8s_openapi::api::core::v1::Node as KubeNode;
use tartan_crds::{ClusterNetwork, NodeNetwork, PodCidrMode, PodCidrModeInForce, SubnetLease};

use super::{Entry, KeyGeneration, Lease, Network, Node, NodeNet};

impl From<ClusterNetwork> for Network {
    fn from(object: ClusterNetwork) -> Self {
        let spec = object.spec;
        let status = object.status.unwrap_or_default();
        let in_force = status.pod_cidr_mode;
        let keys = status.wireguard_keys.map(|keys| KeyGeneration {
            generation: u32::try_from(keys.generation).unwrap_or(0),
            since: keys.since.0,
        });
        Self {
            // Admission bounds the length.
            entries: spec
                .cidrs
                .iter()
                .map(|entry| Entry {
                    range: entry.cidr,
                    block_len: u8::try_from(entry.node_mask_size).unwrap_or(u8::MAX),
                })
                .collect(),
            vxlan: spec.backends.vxlan,
            wireguard: spec.backends.wireguard,
            extension: spec.backends.extension,
            ipsec: spec.backends.ipsec,
            udp: spec.backends.udp,
            fallback: spec.fallback_backend,
            masquerade: spec.masquerade,
            mtu: spec.mtu,
            keys,
            pod_cidrs_ignored: in_force
                .map_or(spec.pod_cidr_mode == PodCidrMode::Ignore, |mode| mode == PodCidrModeInForce::Ignore),
        }
    }
}

impl From<SubnetLease> for Lease {
    fn from(object: SubnetLease) -> Self {
        let spec = object.spec;
        Self {
            uid: object.metadata.uid.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or(0),
            node: spec.node_name,
            node_uid: spec.node_uid,
            subnet: spec.subnet,
            primary: spec.primary,
            backend: spec.backend,
            node_addresses: spec.node_addresses,
            wireguard_keys: spec.wireguard_keys,
            mtu: spec.mtu,
            returning: spec.returning.filter(|_| !spec.primary),
            released: spec.released_at.is_some(),
            created: object.metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            status: object.status,
        }
    }
}

impl From<NodeNetwork> for NodeNet {
    fn from(object: NodeNetwork) -> Self {
        Self {
            generation: object.metadata.generation,
            spec: object.spec,
            status: object.status.map(Box::new),
        }
    }
}

impl From<KubeNode> for Node {
    fn from(object: KubeNode) -> Self {
        let spec = object.spec.unwrap_or_default();
        let status = object.status.unwrap_or_default();
        let mut pod_cidrs = spec.pod_cidrs.unwrap_or_default();
        if pod_cidrs.is_empty() {
            pod_cidrs.extend(spec.pod_cidr);
        }
        Self {
            uid: object.metadata.uid.unwrap_or_default(),
            pod_cidrs,
            internal_ips: status
                .addresses
                .unwrap_or_default()
                .into_iter()
                .filter(|address| address.type_ == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            network_unavailable: status
                .conditions
                .unwrap_or_default()
                .into_iter()
                .find(|condition| condition.type_ == "NetworkUnavailable")
                .map(|condition| (condition.status, condition.reason.unwrap_or_default())),
        }
    }
}
