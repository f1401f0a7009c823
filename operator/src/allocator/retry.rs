//! When what failed is tried again: each object on its own, so that one that can't be written delays no other.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);
/// Overtaken is ordinary: what is true now is known, so the next decision may be carried out at once.
const FREE_TRIES: u32 = 2;
/// For so long a write that was taken is known, which is longer than any pause.
const REMEMBERED: Duration = Duration::from_secs(150);

type Key = (&'static str, String);

#[derive(Debug, Default)]
pub struct Retries {
    pending: HashMap<Key, Retry>,
    done: HashMap<Key, Done>,
    hasher: RandomState,
}

/// A write that was taken.
#[derive(Debug)]
struct Done {
    /// What it said, as a hash.
    said: u64,
    times: u32,
    at: Instant,
}

#[derive(Debug)]
struct Retry {
    failures: u32,
    not_before: Instant,
}

impl Retries {
    pub fn may_try(&self, key: &Key, now: Instant) -> bool {
        self.pending.get(key).is_none_or(|retry| retry.not_before <= now)
    }

    /// Notes that it was written, and what. The same again and again is undone by another hand each time (a second
    /// controller, a webhook): it is written with a pause that grows, so that the two are no load for the API server
    /// and for all that watch.
    pub fn succeeded(&mut self, key: Key, said: Option<&str>, now: Instant) {
        self.pending.remove(&key);
        let Some(said) = said.map(|said| self.hasher.hash_one(said)) else { return };
        let times = match self.done.get(&key) {
            Some(done) if done.said == said && now < done.at + REMEMBERED => done.times.saturating_add(1),
            _ => 1,
        };
        self.done.insert(key.clone(), Done { said, times, at: now });
        let delay = self.delay(&key, times, FREE_TRIES);
        if !delay.is_zero() {
            self.pending.insert(key, Retry { failures: 0, not_before: now + delay });
        }
    }

    /// Notes a failure; when it may be tried again.
    pub fn failed(&mut self, key: Key, now: Instant) -> Instant {
        self.note(key, now, 0)
    }

    /// How often in a row it has failed.
    pub fn failures(&self, key: &Key) -> u32 {
        self.pending.get(key).map_or(0, |retry| retry.failures)
    }

    /// Notes that somebody was faster.
    pub fn overtaken(&mut self, key: Key, now: Instant) -> Instant {
        self.note(key, now, FREE_TRIES)
    }

    /// The next time that something may be tried again. Forgets what was not tried for long.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        self.pending.retain(|_, retry| retry.not_before + LONGEST > now);
        self.done.retain(|_, done| now < done.at + REMEMBERED);
        self.pending.values().map(|retry| retry.not_before).filter(|at| *at > now).min()
    }

    fn note(&mut self, key: Key, now: Instant, free: u32) -> Instant {
        let failures = self.pending.get(&key).map_or(0, |retry| retry.failures).saturating_add(1);
        let not_before = now + self.delay(&key, failures, free);
        self.pending.insert(key, Retry { failures, not_before });
        not_before
    }

    fn delay(&self, key: &Key, times: u32, free: u32) -> Duration {
        let jitter = self.hasher.hash_one(key) % 64;
        let delay = match times.saturating_sub(free).checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
        };
        // Up to a quarter more, so that what failed together does not come back together.
        delay + delay.mul_f64(jitter as f64 / 256.0)
    }
}

/// Rest while the API server is away, so that its return meets no storm.
#[derive(Debug, Default)]
pub struct Outage {
    rest: Option<Duration>,
    until: Option<Instant>,
}

const LONGEST_REST: Duration = Duration::from_secs(5);

impl Outage {
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Takes in what came of a round's writes. When to go on, where it is to rest.
    pub fn note(&mut self, good: bool, failures: &[(&'static str, String)]) -> Option<Instant> {
        if let Some((reason, error)) = failures.first() {
            tracing::warn!(failures = failures.len(), reason, error, "writes failed, trying again");
        }
        if good || failures.is_empty() || !is_outage(failures) {
            *self = Self::default();
            return None;
        }
        let rest = self.rest.map_or(FIRST, |rest| (rest * 2).min(LONGEST_REST));
        *self = Self { rest: Some(rest), until: Some(Instant::now() + rest) };
        self.until
    }
}

/// Whether failures say nothing about the objects: the API server could not be asked.
pub fn is_outage(failures: &[(&'static str, String)]) -> bool {
    let outages = ["network", "server", "throttled", "timeout", "unauthorized"];
    failures.iter().all(|(reason, _)| outages.contains(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("create-lease", name.to_owned())
    }

    #[test]
    fn a_failure_delays_only_its_own_object_longer_each_time() {
        let mut retries = Retries::default();
        let now = Instant::now();
        let mut last = Duration::ZERO;
        for _ in 0..8 {
            let delay = retries.failed(key("bad"), now) - now;
            assert!(delay > last, "{delay:?} after {last:?}");
            last = delay;
        }
        assert!(last <= LONGEST.mul_f64(1.25));
        assert!(!retries.may_try(&key("bad"), now) && retries.may_try(&key("good"), now));
        assert!(retries.may_try(&key("bad"), now + last));
        assert_eq!(retries.next(now), Some(now + last));
        retries.succeeded(key("bad"), Some("it"), now);
        assert!(retries.may_try(&key("bad"), now));
        assert_eq!(retries.next(now), None);
    }

    #[test]
    fn what_was_overtaken_is_tried_at_once_but_not_for_ever() {
        let mut retries = Retries::default();
        let now = Instant::now();
        assert_eq!(retries.overtaken(key("a"), now), now);
        assert_eq!(retries.overtaken(key("a"), now), now);
        assert!(retries.overtaken(key("a"), now) > now);
    }
    #[test]
    fn what_another_hand_undoes_each_time_is_written_ever_more_seldom_and_something_else_at_once() {
        let mut retries = Retries::default();
        let mut now = Instant::now();
        let mut written = 0;
        let end = now + Duration::from_secs(600);
        while now < end {
            if retries.may_try(&key("a"), now) {
                retries.succeeded(key("a"), Some("the same"), now);
                written += 1;
            }
            let _ = retries.next(now);
            now += Duration::from_millis(20);
        }
        assert!((10..25).contains(&written), "written {written} times in ten minutes");
        retries.succeeded(key("a"), Some("another"), now);
        assert!(retries.may_try(&key("a"), now));
        retries.succeeded(key("a"), Some("the same"), now);
        assert!(retries.may_try(&key("a"), now));
    }
}
