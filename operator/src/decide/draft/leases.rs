//! What becomes of leases: each is written once in a round at most.

use std::collections::BTreeMap;

use tartan_crds::{Cidr, Family, PodCidrModeInForce, SubnetLeaseSpec, wellknown::label};

use super::Draft;
use crate::{
    decide::{Action, DeleteGrounds, DeleteReason, UpdateReason, layout::Membership},
    world::{Choice, Lease, Node},
};

impl<'a> Draft<'a> {
    /// Leases a block to a node, its first of the family or a further one.
    pub fn create(
        &mut self,
        node: &Node,
        membership: Membership<'_>,
        (subnet, chosen): (Cidr, Choice),
        primary: bool,
    ) {
        self.take(subnet);
        let spec = self.spec(node, membership, subnet, primary);
        let labels = labels(&spec);
        self.actions.push(Action::CreateLease { spec: Box::new(spec), labels, chosen });
    }

    /// Makes a lease of this node say what it should. `true` where it did already, apart from its pool.
    pub fn keep(&mut self, node: &Node, membership: Membership<'_>, lease: &'a Lease, primary: bool) -> bool {
        let Ok(current) = &lease.spec else { return false };
        let returned = current.released_at.is_some() || current.node_uid != node.meta.uid;
        if !self.may_touch(lease) {
            return !returned;
        }
        self.settled.insert(&lease.meta.name);
        let mut spec = self.spec(node, membership, lease.subnet, primary);
        if !primary {
            spec.returning = self.growth.returning.get(lease.meta.name.as_str()).cloned();
        }
        let labels = labels(&spec);
        if *current != spec || lease.labels != labels {
            let why = if returned {
                UpdateReason::Returned
            } else if lease.traces.edited_by.is_some() {
                UpdateReason::Edited
            } else if current.primary && !primary {
                UpdateReason::Demoted
            } else if current.returning != spec.returning {
                UpdateReason::Growth
            } else {
                UpdateReason::Pool
            };
            let lease = lease.meta.clone();
            self.actions.push(Action::UpdateLease { lease, spec: Box::new(spec), labels, why });
        }
        !returned
    }

    pub fn release(&mut self, lease: &'a Lease) {
        let Ok(spec) = lease.spec.as_ref() else { return };
        let node = spec.node_name.as_str();
        if !self.may_touch(lease) {
            return;
        }
        self.settled.insert(&lease.meta.name);
        self.actions.push(Action::ReleaseLease {
            lease: lease.meta.clone(),
            subnet: lease.subnet,
            node: node.to_owned(),
            node_uid: spec.node_uid.clone(),
            successor: self.world.nodes.get(node).map(|node| node.meta.uid.clone()),
        });
    }

    pub fn delete(&mut self, lease: &'a Lease, why: DeleteReason) {
        let Some(node) = lease.node().filter(|_| self.may_touch(lease)) else { return };
        self.settled.insert(&lease.meta.name);
        self.actions.push(Action::DeleteLease {
            lease: lease.meta.clone(),
            subnet: lease.subnet,
            node: node.to_owned(),
            grounds: DeleteGrounds {
                why,
                successor: self.world.nodes.get(node).map(|node| node.meta.uid.clone()),
                pod_cidrs_bind: self.mode != PodCidrModeInForce::Ignore,
            },
            wanted_by: self.taken_for.get(lease.meta.name.as_str()).map(|node| (*node).to_owned()),
        });
    }

    /// Gives up a held lease because this node needs its block.
    pub fn take_early(&mut self, lease: &'a Lease, node: &'a Node) {
        self.taken_for.insert(&lease.meta.name, &node.meta.name);
        self.delete(lease, DeleteReason::TakenEarly);
    }

    /// Leaves a lease as it is.
    pub fn leave(&mut self, lease: &'a Lease) {
        self.settled.insert(&lease.meta.name);
    }

    fn spec(&self, node: &Node, membership: Membership<'_>, subnet: Cidr, primary: bool) -> SubnetLeaseSpec {
        SubnetLeaseSpec {
            node_name: node.meta.name.clone(),
            node_uid: node.meta.uid.clone(),
            subnet,
            pool: membership.pool.to_owned(),
            primary,
            backend: self.transitions.backend(self.layout, membership, &node.meta.name),
            node_addresses: if primary { self.node_addresses.of_node(&node.meta.name) } else { vec![] },
            wireguard_keys: if primary { self.node_keys.of_node(&node.meta.name) } else { vec![] },
            mtu: self.layout.mtu(membership),
            returning: None,
            released_at: None,
        }
    }
}

fn labels(spec: &SubnetLeaseSpec) -> BTreeMap<String, String> {
    [
        (label::NODE, spec.node_name.as_str()),
        (label::POOL, spec.pool.as_str()),
        (label::FAMILY, if spec.subnet.family() == Family::V4 { "IPv4" } else { "IPv6" }),
    ]
    .into_iter()
    // A name may be longer than a label's value can be.
    .filter(|(_, value)| value.len() <= 63)
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}
