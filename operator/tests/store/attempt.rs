//! What the API server makes of a write.

use super::*;

impl Store {
    fn last_look<'a>(&'a self, node: &str, rivals: &'a [Lease]) -> LastLook<'a> {
        LastLook { node: self.nodes.get(node), node_network: self.node_networks.get(node), rivals }
    }

    pub(super) fn attempt(&mut self, action: &Action) -> Vec<News> {
        match action {
            Action::CreateLease { spec, labels, chosen } => {
                self.create_lease((**spec).clone(), labels.clone(), Some(*chosen));
                vec![self.lease_news(&spec.subnet.object_name())]
            }
            Action::UpdateLease { lease, spec, labels, why } => {
                let node = self.nodes.get(&spec.node_name);
                let overtaken =
                    *why == UpdateReason::Returned && node.is_none_or(|node| node.meta.uid != spec.node_uid);
                if overtaken {
                    return vec![self.node_news(&spec.node_name)];
                }
                if self.is_version(lease) {
                    self.change_lease(&lease.name, |live| {
                        live.spec = Ok((**spec).clone());
                        live.labels.clone_from(labels);
                    });
                }
                vec![self.lease_news(&lease.name)]
            }
            Action::ReleaseLease { lease, node, successor, .. } => {
                let live = self.leases.get(&lease.name).cloned();
                if let Some(live) = live
                    && live.meta.uid == lease.uid
                    && is_still_gone(&live, successor.as_deref(), self.nodes.get(node))
                {
                    let now = self.now;
                    self.change_lease(&lease.name, |live| {
                        live.spec.as_mut().unwrap().released_at =
                            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
                    });
                }
                vec![self.lease_news(&lease.name), self.node_news(node)]
            }
            Action::DeleteLease { lease, node, grounds, .. } => {
                let live = self.leases.get(&lease.name).cloned();
                let rivals: Vec<Lease> =
                    self.leases.values().filter(|lease| lease.node() == Some(node)).cloned().collect();
                if let Some(live) = live
                    && live.meta.uid == lease.uid
                    && is_still_free_to_take(grounds, &live, self.last_look(node, &rivals))
                {
                    self.remove_lease(&lease.name);
                }
                vec![self.lease_news(&lease.name), self.node_news(node)]
            }
            Action::RereadLease { name } => vec![self.lease_news(name)],
            Action::MirrorPodCidrs { node, cidrs } => {
                let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
                let free = self.nodes.get(&node.name).is_some_and(|live| {
                    live.meta.uid == node.uid
                        && live.meta.version == node.version
                        && live.pod_cidrs.is_empty()
                });
                if free {
                    self.change_node(&node.name, |live| {
                        live.mirrored = Some(texts.join(","));
                        live.pod_cidrs = texts;
                    });
                }
                vec![self.node_news(&node.name)]
            }
            Action::ApplyNodeNetwork { node, spec } => {
                let meta = self.fresh(&node.name);
                let old = self.node_networks.get(&node.name);
                let object = NodeNet {
                    meta: Meta { uid: old.map_or(meta.uid, |old| old.meta.uid.clone()), ..meta },
                    generation: Some(1),
                    spec: Ok((**spec).clone()),
                    owner: Some(node.uid.clone()),
                    leased: old.and_then(|old| old.leased.clone()),
                    report: old.map(|old| old.report.clone()).unwrap_or_default(),
                };
                self.log.push(Delta::NodeNetworks(Change::Seen(object.clone())));
                self.node_networks.insert(node.name.clone(), object.clone());
                vec![News::NodeNetwork(Box::new(object))]
            }
            Action::DeleteNodeNetwork { node_network, owner } => {
                let live = self.nodes.get(&node_network.name);
                let is_its =
                    live.is_some_and(|live| owner.as_ref().is_none_or(|owner| *owner == live.meta.uid));
                let same = self.node_networks.get(&node_network.name).map(|object| &object.meta.uid);
                if !is_its && same == Some(&node_network.uid) {
                    self.node_networks.remove(&node_network.name);
                }
                vec![News::NoNodeNetwork(node_network.name.clone())]
            }
            Action::ReportLeased { node, condition, .. } => {
                let version = self.next().to_string();
                let Some(object) = self.node_networks.get_mut(&node.name) else {
                    return vec![News::NoNodeNetwork(node.name.clone())];
                };
                object.leased = Some((**condition).clone());
                object.meta.version = version;
                vec![News::NodeNetwork(Box::new(object.clone()))]
            }
        }
    }
}
