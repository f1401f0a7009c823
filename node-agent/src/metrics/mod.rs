//! Metrics, prefix `tartan_agent_`. Labels come from fixed sets or are names of this node's own devices,
//! never of peers: the number of series does not grow with the cluster.

mod view;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tartan_datapath::model::Action;

pub use view::View;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    kind: &'static str,
    action: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    what: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Handles on all metrics; a clone is the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    view: Arc<RwLock<View>>,
    rounds: Family<Outcome, Counter>,
    round_seconds: Histogram,
    steps: Family<Step, Counter>,
    failures: Family<Reason, Counter>,
    api_writes: Family<Write, Counter>,
    watch_errors: Family<Kind, Counter>,
    files_written: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            registry: Arc::default(),
            view: Arc::default(),
            rounds: Family::default(),
            round_seconds: Histogram::new(exponential_buckets(0.0005, 2.5, 10)),
            steps: Family::default(),
            failures: Family::default(),
            api_writes: Family::default(),
            watch_errors: Family::default(),
            files_written: Counter::default(),
        };
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("tartan_agent_build_info", "The running version", build);
        registry.register(
            "tartan_agent_rounds",
            "Rounds, by what came of them: ok, failed, or waiting for inputs",
            metrics.rounds.clone(),
        );
        registry.register_with_unit(
            "tartan_agent_round_duration",
            "From snapshot to applied plan",
            Unit::Seconds,
            metrics.round_seconds.clone(),
        );
        registry.register(
            "tartan_agent_steps",
            "Changes to the kernel, by kind of object, action and result",
            metrics.steps.clone(),
        );
        registry.register("tartan_agent_failures", "Failures by reason", metrics.failures.clone());
        registry.register(
            "tartan_agent_api_writes",
            "Writes to the API, by what and result",
            metrics.api_writes.clone(),
        );
        registry.register(
            "tartan_agent_watch_errors",
            "Failures of watches, by kind of object",
            metrics.watch_errors.clone(),
        );
        registry.register(
            "tartan_agent_files_written",
            "CNI files and subnet.env written because they were missing or altered",
            metrics.files_written.clone(),
        );
        registry.register_collector(Box::new(view::ViewCollector(metrics.view.clone())));
        registry.register_collector(Box::new(view::Devices));
        registry.register_collector(Box::new(tartan_daemon::process::Process));
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    /// The text that Prometheus scrapes.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Changes what the last round saw.
    pub fn show(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn view(&self) -> View {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn round(&self, result: &'static str, took: Duration) {
        self.rounds.get_or_create(&Outcome { result }).inc();
        self.round_seconds.observe(took.as_secs_f64());
    }

    pub fn steps(&self, kind: &'static str, action: Action, result: &'static str, count: usize) {
        self.steps.get_or_create(&Step { kind, action: action.as_str(), result }).inc_by(count as u64);
    }

    pub fn failure(&self, reason: &'static str) {
        self.failures.get_or_create(&Reason { reason }).inc();
    }

    pub fn api_write(&self, what: &'static str, result: &'static str) {
        self.api_writes.get_or_create(&Write { what, result }).inc();
    }

    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&Kind { kind }).inc();
    }

    pub fn files_written(&self, count: usize) {
        self.files_written.inc_by(count as u64);
    }
}
