//! What an operator makes sure of before it creates leases.

use std::time::Instant;

use tartan_crds::wellknown::CLUSTER_NETWORK;

use super::{Executor, News, learn};
use crate::world::{Change, Delta, Network, World};

/// A version of the ClusterNetwork.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkVersion {
    pub uid: String,
    pub generation: Option<i64>,
}

impl NetworkVersion {
    pub fn of(network: &Network) -> Self {
        Self { uid: network.meta.uid.clone(), generation: network.generation }
    }
}

/// As in the annotation [`tartan_crds::wellknown::annotation::CUT_BY`].
impl std::fmt::Display for NetworkVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.uid, self.generation.unwrap_or_default())
    }
}

impl Executor {
    /// Blocks are cut as the ClusterNetwork says, and a name locks only blocks of one size. So before a round
    /// of creates the ClusterNetwork is read, and once for each version of it all leases are: an operator whose
    /// watches lag must not cut a range anew over leases that it has not heard of. What happens after this look
    /// is admission's to judge: a create says by which version it was decided.
    ///
    /// `true` where the world was right already. `listed_for` is the version since which all leases were read.
    pub async fn may_create(
        &self,
        world: &mut World,
        listed_for: &mut Option<NetworkVersion>,
    ) -> kube::Result<bool> {
        let known = world.network().map(NetworkVersion::of);
        let Some(network) = self.reread_network().await? else {
            world.networks.forget(CLUSTER_NETWORK);
            return Ok(false);
        };
        let live = Some(NetworkVersion::of(&network));
        learn(world, News::Network(Box::new(network)), Instant::now());
        if *listed_for != live {
            let since = Instant::now();
            let objects = self.list_leases().await?;
            world.apply(Delta::Leases(Change::Listed { objects, since }));
            *listed_for = live;
            return Ok(false);
        }
        Ok(known == live)
    }
}
