//! `explain NODE`: why a node has this subnet, this pool and this backend, or none. Reads the objects once,
//! decides as the running operator does, and writes nothing.

mod text;

use std::{collections::BTreeMap, time::Instant};

use anyhow::Context as _;
use futures::try_join;
use k8s_openapi::{
    api::{core::v1::Node as KubeNode, networking::v1::ServiceCIDR},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde::de::DeserializeOwned;
use tartan_crds::{ClusterNetwork, NetworkPool, NodeNetwork, SubnetLease};

pub use text::text;

use crate::{
    cli::{Explain, Output},
    client::untyped,
    decide::{State, explain},
    world::{Change, Delta, Lease, Meta, Network, Node, NodeNet, Pool, ServiceRange, World},
};

/// The answer, ready to print.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    /// The node has, or would get, what it needs.
    pub is_leased: bool,
}

pub async fn run(options: &Explain) -> anyhow::Result<Answer> {
    let clients = tartan_daemon::connection::connect(options.kubeconfig.as_deref()).await?;
    let mut world = read_world(&clients.request).await?;
    let supposed = !options.labels.is_empty();
    if supposed {
        suppose(&mut world, &options.node, options.labels.iter().cloned().collect());
    }
    let explanation = explain(&world, &options.node, supposed, Timestamp::now()).with_context(|| {
        format!(
            "there is no Node {}: check the name, or ask what one with given labels would get by --labels",
            options.node
        )
    })?;
    let text = match options.output {
        Output::Text => text(&explanation),
        Output::Json => serde_json::to_string_pretty(&explanation)? + "\n",
    };
    Ok(Answer { text, is_leased: explanation.state != State::Waiting })
}

/// Puts a Node there that has these labels, or gives them to the one that is there.
pub fn suppose(world: &mut World, name: &str, labels: BTreeMap<String, String>) {
    let known = world.nodes.get(name).cloned();
    let node = known.unwrap_or_else(|| Node {
        meta: Meta { name: name.to_owned(), ..Meta::default() },
        ..Node::default()
    });
    world.nodes.learn(Node { labels, ..node }, Instant::now());
}

async fn read_world(client: &Client) -> anyhow::Result<World> {
    let since = Instant::now();
    let nodes: Api<KubeNode> = Api::all(client.clone());
    let services: Api<ServiceCIDR> = Api::all(client.clone());
    let (nodes, networks, pools, leases, node_networks, services) = try_join!(
        read("nodes", nodes, |object| Some(Node::parse(object))),
        read("clusternetworks", untyped::<ClusterNetwork>(client), |object| Some(Network::parse(object))),
        read("networkpools", untyped::<NetworkPool>(client), |object| Some(Pool::parse(object))),
        read("subnetleases", untyped::<SubnetLease>(client), Lease::parse),
        read("nodenetworks", untyped::<NodeNetwork>(client), |object: DynamicObject| {
            Some(NodeNet::parse(object))
        }),
        read("servicecidrs", services, |object| Some(ServiceRange::parse(object))),
    )?;
    let mut world = World::default();
    world.apply(Delta::Nodes(Change::Listed { objects: nodes, since }));
    world.apply(Delta::Networks(Change::Listed { objects: networks, since }));
    world.apply(Delta::Pools(Change::Listed { objects: pools, since }));
    world.apply(Delta::Leases(Change::Listed { objects: leases, since }));
    world.apply(Delta::NodeNetworks(Change::Listed { objects: node_networks, since }));
    world.apply(Delta::ServiceRanges(Change::Listed { objects: services, since }));
    Ok(world)
}

async fn read<K, T>(kind: &str, api: Api<K>, parse: impl Fn(K) -> Option<T>) -> anyhow::Result<Vec<T>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = api.list(&ListParams::default()).await.with_context(|| format!("cannot list {kind}"))?;
    Ok(list.items.into_iter().filter_map(parse).collect())
}
