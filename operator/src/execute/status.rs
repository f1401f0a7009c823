//! Writing the status of ClusterNetwork and NetworkPools.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use tartan_crds::{
    ClusterNetworkStatus, NetworkPoolStatus, PodCidrModeInForce,
    conditions::{kind, reason},
    wellknown::{CLUSTER_NETWORK, GROUP, VERSION},
};

use super::{Executor, News, apply, unless_overtaken};
use crate::{
    client::{self, text},
    events,
    world::{Network, Pool, World},
};

impl Executor {
    /// The network as the API server has it now; `None` where there is none.
    pub async fn reread_network(&self) -> kube::Result<Option<Network>> {
        Ok(self.networks.get_opt(CLUSTER_NETWORK).await?.map(Network::parse))
    }

    pub async fn write_network_status(&self, world: &mut World, status: &ClusterNetworkStatus) -> bool {
        let Some(network) = world.network() else { return true };
        let (uid, before) = (network.meta.uid.clone(), network.status.clone());
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "ClusterNetwork",
            "metadata": { "name": CLUSTER_NETWORK },
            "status": status,
        });
        match unless_overtaken(apply(&self.networks, CLUSTER_NETWORK, &object, true).await) {
            Ok(Ok(applied)) => {
                let network = Network::parse(applied);
                super::learn(world, News::Network(Box::new(network)), std::time::Instant::now());
                let (old, new) = (&before.conditions, &status.conditions);
                self.tell_of_changes("ClusterNetwork", CLUSTER_NETWORK, &uid, old, new);
                self.tell_of_room(&uid, &before.cidrs, &status.cidrs);
                self.tell_of_mode(&uid, before.pod_cidr_mode, status.pod_cidr_mode);
                true
            }
            Ok(Err(_)) => true,
            Err(error) => self.status_failed("ClusterNetwork", CLUSTER_NETWORK, &error),
        }
    }

    pub async fn write_pool_status(&self, world: &mut World, name: &str, status: &NetworkPoolStatus) -> bool {
        let Some(pool) = world.pools.get(name) else { return true };
        let (uid, before) = (pool.meta.uid.clone(), pool.status.conditions.clone());
        let object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "NetworkPool",
            "metadata": { "name": name },
            "status": status,
        });
        match unless_overtaken(apply(&self.pools, name, &object, true).await) {
            Ok(Ok(applied)) => {
                world.pools.learn(Pool::parse(applied), std::time::Instant::now());
                self.tell_of_changes("NetworkPool", name, &uid, &before, &status.conditions);
                true
            }
            Ok(Err(_)) => true,
            Err(error) => self.status_failed("NetworkPool", name, &error),
        }
    }

    fn status_failed(&self, kind: &'static str, name: &str, error: &kube::Error) -> bool {
        self.metrics.request_failed(client::reason(error));
        tracing::warn!(kind, name, error = text(error), "status not written, trying again later");
        false
    }

    /// Who owns podCIDRs has changed, by what was asked for or by what `Auto` saw.
    fn tell_of_mode(&self, uid: &str, before: Option<PodCidrModeInForce>, after: Option<PodCidrModeInForce>) {
        let (Some(before), Some(after)) = (before, after) else { return };
        let what = match after {
            _ if before == after => return,
            PodCidrModeInForce::Adopt => {
                "new nodes wait until another IPAM has written their podCIDRs; where there is none, set \
                 spec.podCIDRMode to Mirror"
            }
            PodCidrModeInForce::Mirror => "new nodes get blocks from here, and their podCIDRs say them",
            PodCidrModeInForce::Ignore => "new nodes get blocks from here, and nobody reads podCIDRs",
        };
        tracing::info!(?before, ?after, "podCIDR mode changed");
        let about = events::ours("ClusterNetwork", CLUSTER_NETWORK, uid);
        let note = format!("the podCIDR mode in force was {before:?} and is {after:?}: {what}");
        self.events.warn(about, reason::POD_CIDR_MODE_CHANGED, "Allocate", note);
    }

    /// An event for each condition that left its usual state, found another reason, or came back to it.
    fn tell_of_changes(
        &self,
        object: &str,
        name: &str,
        uid: &str,
        before: &[Condition],
        after: &[Condition],
    ) {
        for condition in after {
            let old = before.iter().find(|old| old.type_ == condition.type_);
            let same =
                old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
            let usual = if [kind::PROGRESSING, kind::DRAINING].contains(&condition.type_.as_str()) {
                "False"
            } else {
                "True"
            };
            if same || (condition.status == usual && old.is_none_or(|old| old.status == usual)) {
                continue;
            }
            let about = events::ours(object, name, uid);
            let note = format!("{}: {}", condition.type_, condition.message);
            tracing::info!(
                kind = object,
                name,
                condition = condition.type_,
                status = condition.status,
                reason = condition.reason,
                message = condition.message,
                "condition changed"
            );
            self.events.publish(about, condition, note);
        }
    }
}
