//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Ready means that every watch has listed; a standby is ready too. Healthy means that the allocator still
//! goes round: a process whose loop hangs is worth a restart.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{net::TcpListener, sync::watch};

use tartan_daemon::METRICS_CONTENT_TYPE;

use crate::metrics::Metrics;

/// The loop wakes at least every ten seconds; a request takes at most fifteen.
const HANGS: Duration = Duration::from_secs(120);

/// When the allocator last went round.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    start: Instant,
    beat: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { start: Instant::now(), beat: Arc::default() }
    }
}

impl Heartbeat {
    pub fn beat(&self) {
        self.beat.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_secs(self.beat.load(Ordering::Relaxed)))
    }
}

/// Serves until `stop` turns true.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    heartbeat: Heartbeat,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state((metrics, heartbeat));
    let listener = tartan_daemon::listen::on(address)
        .and_then(TcpListener::from_std)
        .with_context(|| format!("cannot listen on {address} (--listen)"))?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics and health");
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            // An error means that the sender is gone: time to stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await
        .context("the HTTP server failed")
}

async fn show_metrics(State((metrics, _)): State<(Metrics, Heartbeat)>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State((_, heartbeat)): State<(Metrics, Heartbeat)>) -> impl IntoResponse {
    let silent = heartbeat.silent_for();
    if silent < HANGS {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the allocator has not gone round for {silent:?}\n"))
    }
}

async fn readyz(State((metrics, _)): State<(Metrics, Heartbeat)>) -> impl IntoResponse {
    let incomplete = metrics.incomplete();
    if incomplete.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for the first list of {}\n", incomplete.join(", ")),
        )
    }
}
