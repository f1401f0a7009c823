//! Starting and stopping the parts, in one place.

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::{
    allocator::{Allocator, Inputs},
    chart_values::Chart,
    cli::Run,
    election,
    events::Events,
    execute::Executor,
    http::{self, Heartbeat},
    metrics::Metrics,
};

/// News that may wait for the allocator; then watches wait.
const NEWS: usize = 4096;

/// Runs the operator until SIGTERM or SIGINT.
pub async fn run(options: Run) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let identity = options.identity();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), identity, "starting");

    let clients = tartan_daemon::connection::connect(options.kubeconfig.as_deref()).await?;
    let metrics = Metrics::default();
    let heartbeat = Heartbeat::default();
    let (events, event_task) = Events::start(clients.request.clone(), identity.clone(), metrics.clone());
    let (deltas_to, deltas) = mpsc::channel(NEWS);
    let mut watches = crate::watch::start(&clients.watch, &options.namespace, &metrics, &deltas_to);
    drop(deltas_to);
    let (leads, leading) = watch::channel(options.no_leader_election);
    let show = tokio::spawn(show_leadership(metrics.clone(), leading.clone()));
    let election = if options.no_leader_election {
        // Keeps the sender: whoever watches it must not take its end for the end of leadership.
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
            drop(leads);
        })
    } else {
        let client = clients.request.clone();
        tokio::spawn(election::run(client, options.namespace.clone(), identity, leads, stopped.clone()))
    };
    let executor = Executor::new(&clients.request, events.clone(), metrics.clone());
    let chart = Chart::new(&clients.request, events, metrics.clone());
    let inputs = Inputs { deltas, leading, stop: stopped.clone() };
    let allocator = Allocator::new(executor, chart, metrics.clone(), heartbeat.clone(), inputs);
    let mut allocator = tokio::spawn(allocator.run());
    let mut server = tokio::spawn(http::serve(options.listen, metrics, heartbeat, stopped));

    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = &mut allocator => ended.context("the allocator ended").and_then(|()| anyhow::bail!("the allocator ended")),
        ended = &mut server => ended.context("the HTTP server ended").and_then(|result| result),
        ended = watches.join_next() => {
            let ended = ended.transpose().context("a watch ended");
            ended.and_then(|_| anyhow::bail!("a watch ended"))
        }
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    if !allocator.is_finished() {
        allocator.await.context("the allocator failed")?;
    }
    // The leader's lease goes back only when nothing is written any more.
    election.await.context("leader election failed")?;
    watches.shutdown().await;
    show.abort();
    event_task.abort();
    if !server.is_finished() {
        // Scrapers hold connections open; they get a moment.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), server).await;
    }
    tracing::info!("stopped");
    outcome
}

async fn show_leadership(metrics: Metrics, mut leading: watch::Receiver<bool>) {
    loop {
        let leads = *leading.borrow_and_update();
        metrics.leads(leads);
        if leading.changed().await.is_err() {
            return;
        }
    }
}
