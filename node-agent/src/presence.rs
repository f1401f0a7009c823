//! Whether a process that carries packets in user space is there: the forwarder of the udp path, or the user-space
//! WireGuard.

use std::time::{Duration, Instant};

/// What is known of one. A process that is replaced is away for some milliseconds, or for a second when its container is
/// started anew: peers need not hear of that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presence {
    counts: bool,
    missing_since: Option<Instant>,
}

/// How long it may be away, from when that is first seen: while all is well nobody looks.
const GRACE: Duration = Duration::from_secs(10);

impl Presence {
    /// Whether it counts as running.
    pub fn saw(&mut self, runs: bool, now: Instant) -> bool {
        self.missing_since = (self.counts && !runs).then(|| self.missing_since.unwrap_or(now));
        self.counts = runs || self.missing_since.is_some_and(|since| now.duration_since(since) < GRACE);
        self.counts
    }

    /// It is away and still counts: look again soon, since nothing tells when it has been away for too long.
    pub fn is_missing(&self) -> bool {
        self.counts && self.missing_since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_replaced_is_not_missed() {
        let (start, mut process) = (Instant::now(), Presence::default());
        assert!(!process.saw(false, start), "it has never run");
        assert!(!process.is_missing());
        assert!(process.saw(true, start));
        let away = start + GRACE * 6;
        assert!(process.saw(false, away), "nobody looked for a minute, and it has just gone");
        assert!(process.saw(false, away + GRACE / 2));
        assert!(process.is_missing(), "so that somebody looks when the time is over");
        assert!(!process.saw(false, away + GRACE));
        assert!(!process.is_missing());
        assert!(!process.saw(false, away + GRACE + GRACE / 2), "it is still away");
        assert!(process.saw(true, away + GRACE * 2));
        assert!(!process.is_missing());
        assert!(process.saw(false, away + GRACE * 3), "and has its time again");
    }
}
