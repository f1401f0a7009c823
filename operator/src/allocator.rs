//! The allocator: one task that owns the [`World`], decides and writes.
//!
//! Every wake-up runs the same code: take in all news, decide over everything, write what differs, take in
//! the answers. News, retries, timers and start differ only in when that happens.

mod retry;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use tartan_crds::wellknown::CLUSTER_NETWORK;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout_at},
};

use crate::{
    chart_values::Chart,
    decide::{Action, Decisions, decide},
    events,
    execute::{Answer, CONCURRENCY, Executor, News, Outcome, key, learn},
    http::Heartbeat,
    metrics::Metrics,
    world::{Change, Delta, Lease, Node, Record as _, World},
};
use retry::Retries;

/// Between two rounds: news that come in a burst are decided on together.
const PAUSE: Duration = Duration::from_millis(20);
/// The loop goes round at least this often, which is what `/healthz` looks at.
const IDLE: Duration = Duration::from_secs(10);
/// Status of the network and of pools is written at most this often.
const STATUS_PACE: Duration = Duration::from_secs(1);
/// Writes of one round. Leases come first, so what is left over are reports.
const WRITES: usize = 256;

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
    idle_told: Option<&'static str>,
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
            idle_told: None,
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
        let not_before = tokio::time::Instant::now() + PAUSE;
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
        let decisions = decide(&self.world, Timestamp::now());
        self.metrics.decided(start.elapsed());
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

    /// Writes what was decided. Returns when to go round again although no news may come.
    async fn write(&mut self, decisions: Decisions) -> Option<Instant> {
        let mut again = self.carry_out(decisions.actions).await;
        let now = Instant::now();
        let differs = decisions.network_status.is_some() || !decisions.pool_statuses.is_empty();
        if differs && now >= self.status_after {
            self.status_after = now + STATUS_PACE;
            let mut good = true;
            if let Some(status) = &decisions.network_status {
                good &= self.executor.write_network_status(&mut self.world, status).await;
            }
            for (name, status) in &decisions.pool_statuses {
                good &= self.executor.write_pool_status(&mut self.world, name, status).await;
            }
            if !good {
                self.status_after = now + STATUS_PACE * 5;
                again = earliest(again, self.status_after);
            }
        } else if differs {
            again = earliest(again, self.status_after);
        }
        if let Some(due) = self.chart.apply_if_due(&mut self.world).await {
            again = earliest(again, due);
        }
        again
    }

    async fn carry_out(&mut self, actions: Vec<Action>) -> Option<Instant> {
        let now = Instant::now();
        let mut actions: Vec<Action> =
            actions.into_iter().filter(|action| self.retries.may_try(&key(action), now)).collect();
        let mut again = self.retries.next(now);
        if actions.len() > WRITES {
            actions.truncate(WRITES);
            again = Some(now);
        }
        if actions.iter().any(|action| matches!(action, Action::CreateLease { .. }))
            && !self.network_is_current().await
        {
            actions.retain(|action| !matches!(action, Action::CreateLease { .. }));
            again = Some(now);
        }
        for action in &actions {
            if let Action::CreateLease { spec, .. } = action {
                let wish = (spec.node_name.clone(), spec.subnet.family());
                self.world.wishes.insert(wish, spec.subnet);
            }
        }
        let executor = self.executor.clone();
        let mut answers = stream::iter(actions)
            .map(|action| {
                let executor = executor.clone();
                async move { (key(&action), node_of_new_lease(&action), executor.carry_out(action).await) }
            })
            .buffer_unordered(CONCURRENCY);
        let mut leading = self.inputs.leading.clone();
        loop {
            let answer = tokio::select! {
                biased;
                // Leadership lost: start no more writes. Those in flight are refused or harmless.
                lost = leading.wait_for(|leads| !leads) => { drop(lost); break }
                answer = answers.next() => answer,
            };
            let Some((key, node, Answer { news, at, outcome })) = answer else { break };
            for news in news {
                learn(&mut self.world, news, at);
            }
            match outcome {
                Outcome::Done => {
                    self.retries.succeeded(&key);
                    if let Some(seen) = node.and_then(|node| self.seen.remove(&node)) {
                        self.metrics.allocated(at.duration_since(seen));
                    }
                    again = Some(at);
                }
                Outcome::Overtaken => {
                    // Twice in a row at once, then with a pause: two operators must not chase each other.
                    again = earliest(again, self.retries.overtaken(key, at));
                }
                Outcome::Failed(_) => again = earliest(again, self.retries.failed(key, at)),
            }
        }
        again
    }

    /// Blocks are cut as the ClusterNetwork says. One read before a round of creates keeps an operator whose
    /// watch lags from cutting a range that others cut otherwise by now.
    async fn network_is_current(&mut self) -> bool {
        let known = self.world.network().map(|network| (network.meta.uid.clone(), network.generation));
        match self.executor.reread_network().await {
            Ok(Some(network)) => {
                let current = known == Some((network.meta().uid.clone(), network.generation));
                learn(&mut self.world, News::Network(Box::new(network)), Instant::now());
                current
            }
            Ok(None) => {
                self.world.networks.forget(CLUSTER_NETWORK);
                false
            }
            Err(error) => {
                self.metrics.request_failed(crate::client::reason(&error));
                tracing::warn!(
                    error = crate::client::text(&error),
                    "cannot read the ClusterNetwork, no leases are created"
                );
                false
            }
        }
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

fn node_of_new_lease(action: &Action) -> Option<String> {
    match action {
        Action::CreateLease { spec, .. } => Some(spec.node_name.clone()),
        _ => None,
    }
}

fn earliest(known: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(known.map_or(other, |known| known.min(other)))
}
