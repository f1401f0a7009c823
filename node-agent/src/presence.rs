//! Whether a process that carries packets in user space is there: the forwarder of the udp path, or the user-space
//! WireGuard.

use std::time::{Duration, Instant};

/// What is known of one. A process that is replaced is away for some milliseconds, or for a second when its container is
/// started anew: peers need not hear of that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presence {
    last_seen: Option<Instant>,
    missing: bool,
}

/// How long it may be away.
const GRACE: Duration = Duration::from_secs(10);

impl Presence {
    /// Whether it counts as running.
    pub fn saw(&mut self, runs: bool, now: Instant) -> bool {
        if runs {
            self.last_seen = Some(now);
        }
        let counts = self.last_seen.is_some_and(|seen| now.duration_since(seen) < GRACE);
        self.missing = counts && !runs;
        counts
    }

    /// It is away and still counts: look again soon, since nothing tells when it has been away for too long.
    pub fn is_missing(&self) -> bool {
        self.missing
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
        assert!(process.saw(false, start + GRACE / 2));
        assert!(process.is_missing(), "so that somebody looks when the time is over");
        assert!(!process.saw(false, start + GRACE));
        assert!(!process.is_missing());
        assert!(process.saw(true, start + GRACE * 2));
    }
}
