//! Watches: one task for each kind, which feeds the allocator and never decides anything.
//!
//! List and watch, not streaming lists: an API server that refuses the latter would never be synced. A
//! watch lives for less than a minute, which is how long a silently dead connection can go unnoticed.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Node as KubeNode},
    networking::v1::ServiceCIDR,
};
use kube::{Api, Client};
use kube_runtime::watcher::{self, Config, Event, watcher};
use serde::de::DeserializeOwned;
use std::time::Instant;
use tartan_crds::{ClusterNetwork, NetworkPool, NodeNetwork, SubnetLease};
use tartan_daemon::WENT_BACK;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    chart_values,
    client::{reason, text, untyped},
    metrics::Metrics,
    world::{Change, ChartValues, Delta, Lease, Network, Node, NodeNet, Pool, ServiceRange},
};

const WATCH_SECONDS: u32 = 50;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Starts all watches. They end when the receiver is gone.
pub fn start(client: &Client, namespace: &str, metrics: &Metrics, to: &mpsc::Sender<Delta>) -> JoinSet<()> {
    let config = || Config::default().timeout(WATCH_SECONDS);
    let chart = config().fields(&format!("metadata.name={}", chart_values::CONFIG_MAP));
    let feed = |kind| Feed { kind, metrics: metrics.clone(), to: to.clone() };
    let mut tasks = JoinSet::new();
    let nodes: Api<KubeNode> = Api::all(client.clone());
    tasks.spawn(follow(nodes, config(), feed("nodes"), |o| Some(Node::parse(o)), Delta::Nodes));
    let networks = untyped::<ClusterNetwork>(client);
    tasks.spawn(follow(
        networks,
        config(),
        feed("clusternetworks"),
        |o| Some(Network::parse(o)),
        Delta::Networks,
    ));
    let pools = untyped::<NetworkPool>(client);
    tasks.spawn(follow(pools, config(), feed("networkpools"), |o| Some(Pool::parse(o)), Delta::Pools));
    let leases = untyped::<SubnetLease>(client);
    tasks.spawn(follow(leases, config(), feed("subnetleases"), Lease::parse, Delta::Leases));
    let node_networks = untyped::<NodeNetwork>(client);
    tasks.spawn(follow(
        node_networks,
        config(),
        feed("nodenetworks"),
        |o| Some(NodeNet::parse(o)),
        Delta::NodeNetworks,
    ));
    let services: Api<ServiceCIDR> = Api::all(client.clone());
    tasks.spawn(follow(
        services,
        config(),
        feed("servicecidrs"),
        |o| Some(ServiceRange::parse(o)),
        Delta::ServiceRanges,
    ));
    let charts: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    tasks.spawn(follow(charts, chart, feed("configmaps"), |o| Some(ChartValues::parse(o)), Delta::Charts));
    tasks
}

struct Feed {
    kind: &'static str,
    metrics: Metrics,
    to: mpsc::Sender<Delta>,
}

/// Follows one kind for ever. Errors are waited out: the watcher goes on where it was, or lists anew.
async fn follow<K, T, W>(
    api: Api<K>,
    config: Config,
    feed: Feed,
    parse: impl Fn(K) -> Option<T> + Send,
    wrap: W,
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Send,
    W: Fn(Change<T>) -> Delta + Send,
{
    let mut stream = watcher(api, config).map_err(WatchFailure).boxed();
    let mut delay = FIRST_DELAY;
    let mut listing: (Vec<T>, Instant) = (vec![], Instant::now());
    while let Some(event) = stream.next().await {
        let change = match event {
            Err(failure) => {
                feed.metrics.watch_failed(feed.kind, failure.reason());
                if failure.text() == WENT_BACK && feed.to.send(Delta::WentBack).await.is_err() {
                    return;
                }
                // At debug after the first: an API server that is away for minutes is one fact. That a
                // version is too old to go on from is how a watch ends after a while.
                if delay == FIRST_DELAY && failure.reason() != "expired" {
                    tracing::warn!(kind = feed.kind, error = failure.text(), "watch failed, trying again");
                } else {
                    tracing::debug!(kind = feed.kind, error = failure.text(), "watch failed, trying again");
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LONGEST_DELAY);
                continue;
            }
            Ok(Event::Init) => {
                // The list is requested after this event, so a write answered before now is in it.
                listing = (vec![], Instant::now());
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listing.0.extend(parse(object));
                continue;
            }
            Ok(Event::InitDone) => {
                tracing::debug!(kind = feed.kind, objects = listing.0.len(), "listed");
                Some(Change::Listed { objects: std::mem::take(&mut listing.0), since: listing.1 })
            }
            Ok(Event::Apply(object)) => parse(object).map(Change::Seen),
            Ok(Event::Delete(object)) => parse(object).map(Change::Gone),
        };
        delay = FIRST_DELAY;
        if let Some(change) = change
            && feed.to.send(wrap(change)).await.is_err()
        {
            return;
        }
    }
}

struct WatchFailure(watcher::Error);

impl WatchFailure {
    fn reason(&self) -> &'static str {
        match &self.0 {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => reason(error),
            watcher::Error::WatchError(status) if status.code == 410 => "expired",
            watcher::Error::WatchError(_) => "server",
            watcher::Error::NoResourceVersion => "invalid",
        }
    }

    fn text(&self) -> String {
        match &self.0 {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => text(error),
            watcher::Error::WatchError(status) => status.message.clone(),
            watcher::Error::NoResourceVersion => self.0.to_string(),
        }
    }
}
