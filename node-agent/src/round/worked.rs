//! What a round does to the kernel, and what it found there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use tartan_daemon::chain;
use tartan_datapath::{
    desired::{Desired, desired},
    kernel::{Kernel, Unanswered, WIREGUARD_PROCESS_ABSENT},
    model::{Action, Observed, Plan, Step},
    plan::plan,
};

use crate::{assess::Failed, ground::Ground};

/// Until when a peer that can answers the IKE daemon has done so, and until when it is known that one does not.
const ANSWER: Duration = Duration::from_secs(5);
const NO_ANSWER: Duration = Duration::from_secs(21);

/// What programming found and did.
#[derive(Debug, Default)]
pub(super) struct Worked {
    pub(super) desired: Desired,
    pub(super) plan: Plan,
    pub(super) applied: BTreeMap<(&'static str, Action), usize>,
    pub(super) failed: Vec<(Step, Failed)>,
    /// What is there of ours now, by kind.
    pub(super) owned: BTreeMap<&'static str, u64>,
    /// Parts of the kernel that could not be read.
    pub(super) unseen: Vec<(&'static str, String)>,
    pub(super) outdated_preshared: usize,
    pub(super) daemon_awaited: bool,
    pub(super) process_awaited: bool,
    pub(super) unanswered: Unanswered,
    pub(super) certificate_expiry: Option<SystemTime>,
}

impl Worked {
    /// Where the kernel does it, nobody can be away.
    pub(super) fn finds_wireguard(&self) -> bool {
        !self.failed.iter().any(|(_, failed)| failed.reason == WIREGUARD_PROCESS_ABSENT)
    }

    /// Until when to look what came of asking peers by the IKE daemon. `asked`: when any was asked last.
    pub(super) fn answers(&self, asked: &mut Option<Instant>, now: Instant) -> Option<Duration> {
        if self.applied.keys().any(|(kind, _)| ["ike-credentials", "ike-connection"].contains(kind)) {
            *asked = Some(now);
        }
        let left = asked.and_then(|asked| ANSWER.checked_sub(now.duration_since(asked)));
        left.filter(|left| !left.is_zero()).or(self.unanswered.more.then_some(NO_ANSWER))
    }

    pub(super) fn settled(&self) -> bool {
        self.failed.is_empty() && self.unseen.is_empty()
    }
}

pub(super) async fn program(ground: &Ground, kernel: &mut Kernel) -> Worked {
    let Some(built) = ground.built() else { return Worked::default() };
    let desired = desired(&built.intent);
    let seen = kernel.observe(&desired.elements).await;
    let plan = plan(&desired.elements, &seen.observed, ground.deletions());
    let outcome = kernel.apply(&plan).await;
    let owned = owned(&seen.observed, &outcome.applied);
    let failed = outcome.failures.into_iter().map(|failure| {
        let (reason, message) = (failure.error.reason(), chain(&failure.error));
        (failure.step.clone(), Failed { key: failure.step.key, reason, message })
    });
    Worked {
        applied: outcome.applied,
        failed: failed.collect(),
        owned,
        outdated_preshared: seen.outdated_preshared,
        unanswered: seen.unanswered,
        certificate_expiry: seen.certificate_expiry,
        unseen: seen.failures.iter().map(|error| (error.reason(), chain(error))).collect(),
        desired,
        plan,
        daemon_awaited: false,
        process_awaited: false,
    }
}

/// What was seen, with what was made and without what was removed since.
fn owned(seen: &Observed, applied: &BTreeMap<(&'static str, Action), usize>) -> BTreeMap<&'static str, u64> {
    let mut owned: BTreeMap<&'static str, u64> = BTreeMap::new();
    for key in seen.ours.keys() {
        *owned.entry(key.kind()).or_default() += 1;
    }
    for ((kind, action), count) in applied {
        let owned = owned.entry(kind).or_default();
        match action {
            Action::Create => *owned += *count as u64,
            Action::Replace => {}
            Action::Delete => *owned = owned.saturating_sub(*count as u64),
        }
    }
    owned
}

#[cfg(test)]
mod tests {
    use tartan_datapath::model::Key;

    use super::*;

    #[test]
    fn what_comes_of_asking_is_looked_at_though_other_rounds_come_between() {
        let (mut asked, begin) = (None, Instant::now());
        let asks = Worked {
            applied: [((Key::IkeCredentials.kind(), Action::Replace), 1)].into(),
            ..Worked::default()
        };
        let other = Worked { applied: [(("route", Action::Create), 1)].into(), ..Worked::default() };
        let second = Duration::from_secs(1);
        assert_eq!(other.answers(&mut asked, begin), None);
        assert_eq!(asks.answers(&mut asked, begin), Some(ANSWER));
        assert_eq!(other.answers(&mut asked, begin + second), Some(ANSWER - second));
        assert_eq!(other.answers(&mut asked, begin + ANSWER), None);
        let unanswered = Unanswered { more: true, ..Unanswered::default() };
        let waits = Worked { unanswered, ..Worked::default() };
        assert_eq!(waits.answers(&mut asked, begin + ANSWER), Some(NO_ANSWER));
    }
}
