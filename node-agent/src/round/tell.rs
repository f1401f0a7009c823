//! What a round tells metrics and log.

use std::{collections::BTreeMap, time::Instant};

use tartan_crds::WireguardPlace;
use tartan_datapath::model::{Backend, Family};

use super::{Memory, Worked};
use crate::{assess::Assessment, ground::Ground, metrics::Metrics, publish::status};

pub(super) fn record(
    metrics: &Metrics,
    ground: &Ground,
    worked: &Worked,
    verdict: &Assessment,
    settled: bool,
) {
    for ((kind, action), count) in &worked.applied {
        metrics.steps(kind, *action, "ok", *count);
    }
    for (step, failed) in &worked.failed {
        metrics.steps(step.key.kind(), step.action, "failed", 1);
        metrics.failure(failed.reason);
        tracing::debug!(%step, error = failed.message, "step failed");
    }
    for (reason, _) in &worked.unseen {
        metrics.failure(reason);
    }
    for step in &worked.plan.steps {
        tracing::debug!(%step, "step");
    }
    let applied: usize = worked.applied.values().sum();
    if applied > 0 {
        tracing::info!(steps = applied, failed = worked.failed.len(), "changed the kernel");
    }
    let not_ready = verdict.not_ready.as_ref().map(|why| (why.reason, why.message.clone()));
    metrics.show(|view| {
        view.owned.clone_from(&worked.owned);
        view.peers = BTreeMap::new();
        for path in &worked.desired.paths {
            let backend = path.pairing.path.backend().map_or("none", Backend::as_str);
            let family = match path.family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            };
            *view.peers.entry((family, backend, path.pairing.reason.as_str())).or_default() += 1;
        }
        view.certificate_expiry = worked.certificate_expiry;
        view.sealed_peers = status::sealed_peers(&worked.desired.paths) as u64;
        view.problems = BTreeMap::new();
        for problem in &worked.desired.problems {
            *view.problems.entry(problem.kind.as_str()).or_default() += 1;
        }
        if let Some(built) = ground.built() {
            let primary = built.intent.local.subnets.iter().filter(|subnet| subnet.primary).count();
            view.wireguard = status::wireguard_place(&built.intent).map(WireguardPlace::as_str);
            view.leases = (primary as u64, (built.intent.local.subnets.len() - primary) as u64);
        }
        view.conflicts = worked.plan.conflicts.len() as u64;
        view.deletions_frozen = ground.frozen().is_some();
        view.held_back = worked.plan.held_back as u64;
        if settled && not_ready.is_none() {
            view.last_good = Some(Instant::now());
        }
        view.not_ready = not_ready;
    });
}

/// Logs a verdict that differs from the last one.
pub(super) fn say(verdict: Assessment, memory: &mut Memory) {
    if verdict.not_ready != memory.said.not_ready {
        match &verdict.not_ready {
            Some(why) => tracing::warn!(reason = why.reason, "not ready: {}", why.message),
            None => tracing::info!("this node's pod network works again"),
        }
    }
    for trouble in verdict.troubles.iter().filter(|trouble| !memory.said.troubles.contains(trouble)) {
        tracing::warn!(reason = trouble.reason, "{}", trouble.message);
    }
    memory.said = verdict;
}
