//! The watches: four streams in one. They never end and never decide anything.
//!
//! List and watch, not streaming lists: a server that refuses the latter would never be synced. A watch
//! lives for less than a minute, which bounds how long a silently dead connection goes unnoticed.

use std::fmt::Debug;

use futures::{
    StreamExt as _,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{Api, Client, ResourceExt as _, core::DeserializeGuard};
use kube_runtime::{
    WatchStreamExt as _,
    watcher::{self, Config, Event, watcher},
};
use serde::de::DeserializeOwned;
use tartan_crds::{ClusterNetwork, NodeNetwork, SubnetLease, wellknown};

use super::{Change, Delta, Lease, Network, Node, NodeNet};

const WATCH_SECONDS: u32 = 50;
const PAGE: u32 = 500;

/// A change, or what keeps us from seeing changes.
pub type Watched = Result<Change, (&'static str, watcher::Error)>;

/// Follows all that the agent of `node` reads. Errors are waited out with backoff; the streams go on.
pub fn follow(client: &Client, node: &str) -> SelectAll<BoxStream<'static, Watched>> {
    let named = |name: &str| config().fields(&format!("metadata.name={name}"));
    futures::stream::select_all([
        stream::<ClusterNetwork, Network>(
            client,
            "clusternetworks",
            named(wellknown::CLUSTER_NETWORK),
            Change::Network,
        ),
        stream::<SubnetLease, Lease>(client, "subnetleases", config(), Change::Lease),
        stream::<NodeNetwork, NodeNet>(client, "nodenetworks", named(node), Change::NodeNet),
        stream::<KubeNode, Node>(client, "nodes", named(node), Change::Node),
    ])
}

fn config() -> Config {
    Config::default().timeout(WATCH_SECONDS).page_size(PAGE)
}

fn stream<K, T>(
    client: &Client,
    kind: &'static str,
    config: Config,
    wrap: fn(Delta<T>) -> Change,
) -> BoxStream<'static, Watched>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    T: From<K> + Send + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
    watcher(api, config)
        .default_backoff()
        .map(move |event| match event {
            Ok(event) => Ok(wrap(delta(event))),
            Err(error) => Err((kind, error)),
        })
        .boxed()
}

fn delta<K, T>(event: Event<DeserializeGuard<K>>) -> Delta<T>
where
    K: kube::Resource<DynamicType = ()>,
    T: From<K>,
{
    let read = |object: DeserializeGuard<K>| {
        let name = object.name_any();
        (name, object.0.map(T::from).map_err(|error| error.error))
    };
    match event {
        Event::Init => Delta::Restart,
        Event::InitApply(object) => {
            let (name, object) = read(object);
            Delta::Listed(name, object)
        }
        Event::InitDone => Delta::Synced,
        Event::Apply(object) => {
            let (name, object) = read(object);
            Delta::Set(name, object)
        }
        Event::Delete(object) => Delta::Gone(object.name_any()),
    }
}
