//! The task that writes to the API. It holds the newest [`Writes`] and repeats what failed until it
//! succeeds or is superseded. It never decides what is written.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::json;
use tartan_crds::{NodeNetwork, SubnetLease, wellknown::field_manager};
use tartan_daemon::connection::reason;
use tokio::{sync::watch, time::Instant};

use super::{Availability, NODE_REASON, NodeNetworkWrite, Writes, status, told::Told};
use crate::metrics::Metrics;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Figures are written this much later for each peer, so that all nodes of a large cluster together stay
/// below 50 writes per second while nodes come and go.
const DELAY_PER_PEER: Duration = Duration::from_millis(20);

/// Writes until the sender is gone. With another client, what is under way begins anew.
pub async fn run(
    mut clients: watch::Receiver<Client>,
    node: String,
    mut wanted: watch::Receiver<Writes>,
    told: Told,
    metrics: Metrics,
) {
    let mut last_figures: Option<Instant> = None;
    let mut retry = FIRST_RETRY;
    while wanted.changed().await.is_ok() {
        loop {
            let writes = wanted.borrow_and_update().clone();
            let wait = figures_wait(&writes, last_figures);
            let figures = wait.is_zero() && writes.node_network.is_some();
            let client = clients.borrow_and_update().clone();
            let done = tokio::select! {
                done = write(&client, &node, (&writes, &wanted), figures.then_some(&mut last_figures), (&told, &metrics)) => done,
                // Cut off, a write may have arrived or not.
                Ok(()) = clients.changed() => {
                    retry = FIRST_RETRY;
                    continue;
                }
            };
            let pause = match done {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    wait
                }
                Err(()) => {
                    retry = (retry * 2).min(LONGEST_RETRY);
                    retry
                }
            };
            if pause.is_zero() {
                break;
            }
            // Cancel-safe: all only wait. New writes supersede what is left of these.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = clients.changed() => retry = FIRST_RETRY,
                changed = wanted.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// How long the NodeNetwork's figures must wait.
fn figures_wait(writes: &Writes, last: Option<Instant>) -> Duration {
    match (&writes.node_network, last) {
        (Some(write), Some(last)) if !write.urgent => {
            let peers = u32::try_from(write.status.peers).unwrap_or(0);
            (Duration::from_secs(1) + DELAY_PER_PEER * peers).saturating_sub(last.elapsed())
        }
        _ => Duration::ZERO,
    }
}

/// All parts, whatever becomes of the others. What is not wanted any more when its turn comes is left out. Without
/// `figures` the NodeNetwork waits; with it, it becomes the time at which that was tried.
async fn write(
    client: &Client,
    node: &str,
    (writes, wanted): (&Writes, &watch::Receiver<Writes>),
    figures: Option<&mut Option<Instant>>,
    (told, metrics): (&Told, &Metrics),
) -> Result<(), ()> {
    let Writes { leases, node_network, availability } = writes;
    let mut result = Ok(());
    let mut note = |what: &'static str, object: &str, outcome: Result<(), kube::Error>| match outcome {
        Ok(()) => metrics.api_write(what, "ok"),
        Err(error) => {
            metrics.api_write(what, reason(&error));
            tracing::warn!(what, object, %error, "cannot write to the API, will try again");
            result = Err(());
        }
    };
    for (name, status) in leases {
        if !wanted.borrow().leases.iter().any(|now| (&now.0, &now.1) == (name, status)) {
            continue;
        }
        told.lease(name, status, false);
        let patch = apply::<SubnetLease>(client, name, status).await;
        if patch.is_ok() {
            told.lease(name, status, true);
        }
        note("lease-status", name, patch);
    }
    let stands = |write: &&NodeNetworkWrite| {
        wanted.borrow().node_network.as_ref().is_some_and(|now| now.status == write.status)
    };
    if let (Some(write), Some(last)) = (node_network.as_ref().filter(stands), figures) {
        *last = Some(Instant::now());
        told.node_network(&write.status, false);
        let patch = apply::<NodeNetwork>(client, node, &write.status).await;
        if patch.is_ok() {
            told.node_network(&write.status, true);
        }
        note("node-network-status", node, patch);
    }
    let stands = |said: &&Availability| wanted.borrow().availability.as_ref() == Some(*said);
    if let Some(availability) = availability.as_ref().filter(stands) {
        let patch = say(client, node, availability).await;
        note("node-condition", node, patch);
    }
    result
}

/// Server-side apply of a status. Forced: every field of it is ours alone.
async fn apply<K>(client: &Client, name: &str, status: &impl Serialize) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name },
        "status": status,
    });
    let api: Api<K> = Api::all(client.clone());
    let parameters = PatchParams::apply(field_manager::AGENT).force();
    api.patch_status(name, &parameters, &Patch::Apply(patch)).await.map(|_| ())
}

/// Strategic merge: it touches our condition and none of the kubelet's.
async fn say(client: &Client, node: &str, availability: &Availability) -> Result<(), kube::Error> {
    let now = k8s_openapi::jiff::Timestamp::now();
    let now = format!("{now:.0}");
    let (value, reason, message) = match availability {
        Availability::Available => ("False", NODE_REASON, "the pod network is set up on this node"),
        Availability::Unavailable(why) => ("True", why.reason, why.message.as_str()),
    };
    let patch = json!({ "status": { "conditions": [{
        "type": "NetworkUnavailable",
        "status": value,
        "reason": reason,
        "message": status::shorten(message),
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }] } });
    let api: Api<KubeNode> = Api::all(client.clone());
    let parameters =
        PatchParams { field_manager: Some(field_manager::AGENT.into()), ..PatchParams::default() };
    api.patch_status(node, &parameters, &Patch::Strategic(patch)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::future::pending;
    use http::{Request, Response};
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_said_again_by_another_client_at_once() {
        let deaf = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let hears = service_fn(move |request: Request<Body>| {
            let _ = said.send(request.uri().path().to_owned());
            let answer = Response::new(Body::from(b"{}".to_vec()));
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let (client, clients) = watch::channel(Client::new(deaf, "none"));
        let (wanted, to_write) = watch::channel(Writes::default());
        let writer =
            tokio::spawn(run(clients, "one".to_owned(), to_write, Told::default(), Metrics::default()));
        wanted.send_replace(Writes { availability: Some(Availability::Available), ..Writes::default() });
        tokio::task::yield_now().await;
        client.send_replace(Client::new(hears, "none"));
        let path = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await;
        assert_eq!(path.unwrap().unwrap(), "/api/v1/nodes/one/status");
        drop(wanted);
        drop(client);
        writer.await.unwrap();
    }
}
