//! Whether somebody forwards the packets of the udp path on this node. The kernel tells: a TUN device has a carrier
//! while a process holds it.

use std::time::{Duration, Instant};

use tartan_datapath::{mark, model::Facts};

/// What is known of the forwarder. One that is replaced is away for some milliseconds, or for a second when its
/// container is started anew: peers need not hear of that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarder {
    last_seen: Option<Instant>,
    missing: bool,
}

/// How long it may be away.
const GRACE: Duration = Duration::from_secs(10);

impl Forwarder {
    /// Whether it counts as running.
    pub fn look(&mut self, facts: &Facts, now: Instant) -> bool {
        self.saw(runs(facts), now)
    }

    fn saw(&mut self, runs: bool, now: Instant) -> bool {
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

fn runs(facts: &Facts) -> bool {
    facts.links.iter().any(|link| link.ours && link.name == mark::UDP && link.carrier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarder_that_is_replaced_is_not_missed() {
        let (start, mut forwarder) = (Instant::now(), Forwarder::default());
        assert!(!forwarder.saw(false, start), "it has never run");
        assert!(!forwarder.is_missing());
        assert!(forwarder.saw(true, start));
        assert!(forwarder.saw(false, start + GRACE / 2));
        assert!(forwarder.is_missing(), "so that somebody looks when the time is over");
        assert!(!forwarder.saw(false, start + GRACE));
        assert!(!forwarder.is_missing());
        assert!(forwarder.saw(true, start + GRACE * 2));
    }
}
