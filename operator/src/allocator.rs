//! The allocator: one task that owns the [`World`], decides and writes.
//!
//! Every wake-up runs the same code: take in all news, decide over everything, write what differs, take in
//! the answers. News, retries, timers and start differ only in when that happens.

mod retry;
mod writing;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::wellknown::CLUSTER_NETWORK;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout_at},
};

use crate::{
    chart_values::Chart,
    decide::{Decisions, decide},
    events,
    execute::{Executor, NetworkVersion},
    http::Heartbeat,
    metrics::Metrics,
    world::{Change, Delta, Lease, Node, World},
};
use retry::{Outage, Retries};

/// Between two rounds: news that come in a burst are decided on together.
const PAUSE: Duration = Duration::from_millis(20);
/// As many times as long as deciding takes: where there are thousands of nodes, it shall not be all there is done.
const PAUSE_FACTOR: u32 = 2;
/// The loop goes round at least this often, which is what `/healthz` looks at.
const IDLE: Duration = Duration::from_secs(10);

pub struct Allocator {
    world: World,
    executor: Executor,
    chart: Chart,
    metrics: Metrics,
    heartbeat: Heartbeat,
    inputs: Inputs,
    retries: Retries,
    /// When a node without a lease was first seen, for the latency metric.
    seen: HashMap<String, Instant>,
    status_after: Instant,
    /// How long the last round of deciding took.
    deciding: Duration,
    outage: Outage,
    idle_told: Option<&'static str>,
    /// The version of the ClusterNetwork since which all leases were read.
    leases_listed_for: Option<NetworkVersion>,
}

/// What wakes the allocator.
pub struct Inputs {
    pub deltas: mpsc::Receiver<Delta>,
    pub leading: watch::Receiver<bool>,
    pub stop: watch::Receiver<bool>,
}

impl Allocator {
    pub fn new(
        executor: Executor,
        chart: Chart,
        metrics: Metrics,
        heartbeat: Heartbeat,
        inputs: Inputs,
    ) -> Self {
        Self {
            world: World::default(),
            executor,
            chart,
            metrics,
            heartbeat,
            inputs,
            retries: Retries::default(),
            seen: HashMap::new(),
            status_after: Instant::now(),
            deciding: Duration::ZERO,
            outage: Outage::default(),
            idle_told: None,
            leases_listed_for: None,
        }
    }

    /// Runs until `stop`, or until the watches have ended.
    pub async fn run(mut self) {
        let mut wake_at = Instant::now();
        while self.next_news(wake_at).await {
            self.heartbeat.beat();
            let decisions = self.decide();
            wake_at = self.next_wake(&decisions);
            if self.leads() {
                self.tell_if_idle(&decisions);
                let mut stop = self.inputs.stop.clone();
                let again = tokio::select! {
                    // Writes in flight are dropped: whatever became of them, the next start finds out.
                    _ = stop.wait_for(|stop| *stop) => return,
                    again = self.write(decisions) => again,
                };
                if let Some(again) = again {
                    wake_at = wake_at.min(again);
                }
            }
        }
    }

    fn leads(&self) -> bool {
        *self.inputs.leading.borrow() && !*self.inputs.stop.borrow()
    }

    /// Waits for news that matter or for `wake_at`, and takes in everything that has come. `false` to end.
    async fn next_news(&mut self, wake_at: Instant) -> bool {
        let not_before = tokio::time::Instant::now() + PAUSE.max(self.deciding * PAUSE_FACTOR);
        let deadline = tokio::time::Instant::from_std(wake_at).max(not_before);
        loop {
            let Inputs { deltas, leading, stop } = &mut self.inputs;
            let delta = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return false,
                changed = leading.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return false,
                },
                // Cancel-safe: a delta is either received or still in the channel.
                delta = timeout_at(deadline, deltas.recv()) => delta,
            };
            match delta {
                Ok(Some(delta)) => {
                    if self.take_in(delta) {
                        break;
                    }
                }
                Ok(None) => return false,
                Err(_) => break,
            }
        }
        sleep_until(not_before).await;
        while let Ok(delta) = self.inputs.deltas.try_recv() {
            self.take_in(delta);
        }
        true
    }

    fn take_in(&mut self, delta: Delta) -> bool {
        let now = Instant::now();
        match &delta {
            Delta::Nodes(Change::Seen(node)) => self.note_node(node, now),
            Delta::Nodes(Change::Listed { objects, .. }) => {
                objects.iter().for_each(|node| self.note_node(node, now));
            }
            Delta::Nodes(Change::Gone(node)) => {
                self.seen.remove(&node.meta.name);
            }
            Delta::Leases(Change::Seen(lease)) => self.note_lease(lease),
            Delta::Leases(Change::Listed { objects, .. }) => {
                objects.iter().for_each(|lease| self.note_lease(lease));
            }
            _ => {}
        }
        self.world.apply(delta)
    }

    fn note_node(&mut self, node: &Node, now: Instant) {
        if !self.world.nodes.contains(&node.meta.name) {
            self.seen.entry(node.meta.name.clone()).or_insert(now);
        }
    }

    /// A lease that somebody else wrote ends the wait as well, but is no latency of ours.
    fn note_lease(&mut self, lease: &Lease) {
        if let Some(node) = lease.node() {
            self.seen.remove(node);
        }
    }

    fn decide(&mut self) -> Decisions {
        let start = Instant::now();
        let now = Timestamp::now();
        self.world.tell_time(now);
        let decisions = decide(&self.world, now);
        self.deciding = start.elapsed();
        self.metrics.decided(self.deciding);
        let idle = decisions.idle.is_some();
        self.metrics.show(decisions.figures.clone(), self.world.incomplete(), idle);
        decisions
    }

    fn next_wake(&self, decisions: &Decisions) -> Instant {
        let now = Instant::now();
        let due = decisions.wake_at.and_then(|at| {
            let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
            now.checked_add(wait)
        });
        due.map_or(now + IDLE, |due| due.min(now + IDLE))
    }

    /// Without a usable ClusterNetwork there is no status to say so in.
    fn tell_if_idle(&mut self, decisions: &Decisions) {
        let reason = decisions.idle.as_ref().map(|problem| problem.reason);
        if reason == self.idle_told {
            return;
        }
        self.idle_told = reason;
        match &decisions.idle {
            Some(problem) => {
                tracing::warn!(reason = problem.reason, "{}", problem.message);
                let about = events::ours("ClusterNetwork", CLUSTER_NETWORK, "");
                self.executor.events.warn(about, problem.reason, "Allocate", problem.message.clone());
            }
            None => tracing::info!("the ClusterNetwork is there: allocating"),
        }
    }
}
