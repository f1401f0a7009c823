//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Ready means that it does what the agent asks for, which may be nothing. Not ready is a device that it can't
//! attach to, or an address that it can't receive on.

use std::{future::pending, net::SocketAddr};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State as Axum,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tartan_daemon::{METRICS_CONTENT_TYPE, listen::bind_when_free};

use crate::metrics::{Metrics, State};

/// Serves for ever. An address in use is no reason not to forward: it is asked for until it is free.
pub async fn serve(listen: SocketAddr, metrics: Metrics) -> anyhow::Result<()> {
    let listener = bind_when_free(listen).await?;
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(metrics);
    axum::serve(listener, router).with_graceful_shutdown(pending()).await.context("the HTTP server failed")
}

async fn show_metrics(Axum(metrics): Axum<Metrics>) -> impl IntoResponse {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(Axum(metrics): Axum<Metrics>) -> impl IntoResponse {
    match metrics.state() {
        Some(State::Forwarding) => (StatusCode::OK, "forwarding\n".to_owned()),
        Some(State::Waiting) => (StatusCode::OK, "no device to forward for\n".to_owned()),
        Some(State::Failed(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first look\n".to_owned()),
    }
}
