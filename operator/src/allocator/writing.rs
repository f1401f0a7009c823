//! The second half of a round: writing what was decided, and taking in the answers.

use std::{
    collections::BTreeSet,
    mem,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use tartan_crds::PodCidrModeInForce;

use super::{Allocator, retry::is_outage};
use crate::{
    client,
    decide::{Action, Decisions},
    execute::{Answer, CONCURRENCY, NetworkVersion, Outcome, key, learn, said},
    world::World,
};

/// Status of the network and of pools is written at most this often.
const STATUS_PACE: Duration = Duration::from_secs(1);
/// Each agent is sent each status of the network: with so many nodes it is written a second later.
const NODES_PER_SECOND: u32 = 500;
/// After so many in a row, which is after a second or two, a lease that can't be written is told of.
const TELLING_FAILURES: u32 = 3;
/// Writes of one round, after which news are taken in.
const WRITES: usize = 256;
/// Where this many leases are to be written, nothing else is: they are what nodes wait for.
const MANY_LEASES: usize = 64;
/// Then a round is longer, since each begins with a look at all objects.
const LEASE_WRITES: usize = 1024;

impl Allocator {
    /// Writes what was decided. Returns when to go round again although no news may come.
    ///
    /// The other way round where the mode becomes Adopt: `Auto` takes what is leased while the status says Mirror for
    /// leased under Mirror, so nothing is leased by the new mode before the status says that one.
    pub(super) async fn write(&mut self, mut decisions: Decisions) -> Option<Instant> {
        let mode = |world: &World| world.network().and_then(|network| network.status.pod_cidr_mode);
        let (before, after) = (mode(&self.world), decisions.mode);
        let adopts = (before, after) == (Some(PodCidrModeInForce::Mirror), Some(PodCidrModeInForce::Adopt));
        let mut again = None;
        if !adopts {
            again = self.carry_out(mem::take(&mut decisions.actions)).await;
        }
        if let Some(due) = self.write_statuses(&decisions).await {
            again = earliest(again, due);
        }
        if adopts && mode(&self.world) == after {
            again = earliest_of(again, self.carry_out(mem::take(&mut decisions.actions)).await);
        }
        if let Some(due) = self.chart.apply_if_due(&mut self.world).await {
            again = earliest(again, due);
        }
        again
    }

    /// When to try again, where what differs was not written now.
    async fn write_statuses(&mut self, decisions: &Decisions) -> Option<Instant> {
        if decisions.network_status.is_none() && decisions.pool_statuses.is_empty() {
            return None;
        }
        let now = Instant::now();
        if now < self.status_after {
            return Some(self.status_after);
        }
        let nodes = u32::try_from(self.world.nodes.len()).unwrap_or(u32::MAX);
        self.status_after = now + STATUS_PACE * (1 + nodes / NODES_PER_SECOND);
        let mut good = true;
        if let Some(status) = &decisions.network_status {
            good &= self.executor.write_network_status(&mut self.world, status).await;
        }
        for (name, status) in &decisions.pool_statuses {
            good &= self.executor.write_pool_status(&mut self.world, name, status).await;
        }
        if good {
            return None;
        }
        self.status_after = now + STATUS_PACE * 5;
        Some(self.status_after)
    }

    async fn carry_out(&mut self, actions: Vec<Action>) -> Option<Instant> {
        let now = Instant::now();
        // A lease whose state is in doubt is read before it is written again.
        if !actions.iter().any(|action| matches!(action, Action::RereadLease { .. })) {
            let waiting: BTreeSet<&str> = actions.iter().filter_map(who_waits).collect();
            self.world.refused.retain(|node, _| waiting.contains(node.as_str()));
        }
        if let Some(resume) = self.outage.rests_until(now) {
            return Some(resume);
        }
        let mut actions: Vec<Action> =
            actions.into_iter().filter(|action| self.retries.may_try(&key(action), now)).collect();
        let mut again = self.retries.next(now);
        let limit = writes_of_a_round(&actions);
        if actions.len() > limit {
            actions.truncate(limit);
            again = Some(now);
        }
        if actions.iter().any(|action| matches!(action, Action::CreateLease { .. })) {
            match self.executor.may_create(&mut self.world, &mut self.leases_listed_for).await {
                Ok(true) => {}
                Ok(false) => {
                    actions.retain(|action| !matches!(action, Action::CreateLease { .. }));
                    again = Some(now);
                }
                Err(error) => {
                    let reason = client::reason(&error);
                    self.metrics.request_failed(reason);
                    // Blocks are not cut on old knowledge; giving them back re-reads what it needs.
                    actions.retain(|action| !matches!(action, Action::CreateLease { .. }));
                    let rest = self.outage.note(false, &[(reason, client::text(&error))]);
                    again = earliest(again, rest.unwrap_or(now + STATUS_PACE));
                }
            }
        }
        for action in &actions {
            // A further block is no block that the node would want as its first.
            if let Action::CreateLease { spec, chosen, .. } = action
                && spec.primary
            {
                let of = (spec.node_name.clone(), spec.subnet.family());
                self.world.wishes.insert(of, (spec.subnet, *chosen));
            }
        }
        let mut executor = self.executor.clone();
        executor.decided_by = self.world.network().map(NetworkVersion::of).unwrap_or_default();
        let mut answers = stream::iter(actions)
            .map(|action| {
                let executor = executor.clone();
                let node = who_waits(&action).map(str::to_owned);
                let is_new = matches!(action, Action::CreateLease { .. });
                let about = (key(&action), said(&action), node, is_new);
                async move { (about, executor.carry_out(action).await) }
            })
            .buffer_unordered(CONCURRENCY);
        let mut leading = self.inputs.leading.clone();
        let (mut good, mut failures) = (false, vec![]);
        loop {
            let answer = tokio::select! {
                biased;
                // Leadership lost: start no more writes. Those in flight are refused or harmless.
                lost = leading.wait_for(|leads| !leads) => { drop(lost); break }
                answer = answers.next() => answer,
            };
            let Some(((key, said, node, is_new), Answer { news, at, outcome })) = answer else { break };
            for news in news {
                learn(&mut self.world, news, at);
            }
            match outcome {
                Outcome::Done => {
                    good = true;
                    self.retries.succeeded(key, said.as_deref(), at);
                    if let Some(node) = &node {
                        self.world.refused.remove(node);
                    }
                    if let Some(seen) = node.filter(|_| is_new).and_then(|node| self.seen.remove(&node)) {
                        self.metrics.allocated(at.duration_since(seen));
                    }
                    again = Some(at);
                }
                Outcome::Overtaken => {
                    good = true;
                    // Twice in a row at once, then with a pause: two operators must not chase each other.
                    again = earliest(again, self.retries.overtaken(key, at));
                }
                Outcome::Failed(reason, error) => {
                    again = earliest(again, self.retries.failed(key.clone(), at));
                    let is_telling = self.retries.failures(&key) >= TELLING_FAILURES
                        && !["network", "unauthorized"].contains(&reason);
                    if let Some(node) = node.filter(|_| is_telling) {
                        self.world.refused.insert(node, error.clone());
                    }
                    failures.push((reason, error));
                }
            }
            // Nothing but failures that concern no object: the API server is away. What is left waits.
            if !good && failures.len() >= CONCURRENCY && is_outage(&failures) {
                break;
            }
        }
        drop(answers);
        again = earliest_of(again, self.outage.note(good, &failures));
        again
    }
}

/// How many of the actions, which are in the order of their urgency, are carried out in one round.
fn writes_of_a_round(actions: &[Action]) -> usize {
    match actions.iter().filter(|action| action.is_about_a_lease()).count() {
        leases if leases >= MANY_LEASES => leases.min(LEASE_WRITES),
        _ => WRITES,
    }
}

/// The node that a lease is written or given up for.
fn who_waits(action: &Action) -> Option<&str> {
    match action {
        Action::CreateLease { spec, .. } | Action::UpdateLease { spec, .. } => Some(&spec.node_name),
        // There may be another machine under the name.
        Action::ReleaseLease { node, .. } => Some(node),
        Action::DeleteLease { wanted_by, .. } => wanted_by.as_deref(),
        _ => None,
    }
}

fn earliest(known: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(known.map_or(other, |known| known.min(other)))
}

fn earliest_of(known: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    other.map_or(known, |other| earliest(known, other))
}
