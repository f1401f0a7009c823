//! Waiting on conditions with a deadline: the only place of the lab that sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(50);

/// Polls `condition` until it holds. The error names what did not happen and how long it was waited for.
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    eventually_ok(what, deadline, || if condition() { Ok(()) } else { bail!("not yet") })
}

/// Polls `attempt` until it succeeds; the error carries the last attempt's.
pub fn eventually_ok<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error.context(format!("{what} did not happen within {deadline:?}")));
            }
            Err(_) => pause(POLL),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the poll interval of a wait with a deadline")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_says_what_it_waited_for_and_why_it_failed() {
        let error = eventually_ok::<()>("dinner", Duration::from_millis(1), || bail!("no fire")).unwrap_err();
        assert_eq!(format!("{error:#}"), "dinner did not happen within 1ms: no fire");
    }
}
