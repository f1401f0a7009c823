//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Ready means that this node's pod network works, and turns back when it does not. Healthy means that the
//! loop still goes round: a process whose loop hangs is worth a restart. An API server that is away is no
//! reason for either.

use std::{future::Future, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use tartan_daemon::METRICS_CONTENT_TYPE;

use crate::metrics::Metrics;

/// The loop beats each second; its slowest step, a large nft transaction, may take twenty.
const HANGS: Duration = Duration::from_secs(120);
/// How long a scrape waits for the loop to read the rule counters.
const REFRESH: Duration = Duration::from_millis(500);

/// Asks the loop to read counters that only it can read.
pub type Refresh = mpsc::Sender<oneshot::Sender<()>>;

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    refresh: Refresh,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state((metrics, refresh));
    axum::serve(listener, router).with_graceful_shutdown(stop).await.context("the HTTP server failed")
}

async fn show_metrics(State((metrics, refresh)): State<(Metrics, Refresh)>) -> impl IntoResponse {
    let (done, answer) = oneshot::channel();
    // A busy loop costs the scrape the newest figures, not the scrape.
    if refresh.try_send(done).is_ok() {
        let _ = tokio::time::timeout(REFRESH, answer).await;
    }
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State((metrics, _)): State<(Metrics, Refresh)>) -> impl IntoResponse {
    match metrics.view().last_beat {
        Some(beat) if beat.elapsed() > HANGS => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the loop has not gone round for {:?}\n", beat.elapsed()),
        ),
        _ => (StatusCode::OK, "ok\n".to_owned()),
    }
}

async fn readyz(State((metrics, _)): State<(Metrics, Refresh)>) -> impl IntoResponse {
    let view = metrics.view();
    match (view.not_ready, view.last_good) {
        (None, Some(_)) => (StatusCode::OK, "ok\n".to_owned()),
        (Some((reason, message)), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}: {message}\n")),
        (None, None) => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first pass\n".to_owned()),
    }
}
