//! Progress on standard error: what is being done, and that it is still being done.

use std::io::Write as _;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const REMIND: Duration = Duration::from_secs(20);

/// One long step. Says what it is at the start, repeats itself with the elapsed time, and says when it is done.
pub(crate) struct Step {
    what: String,
    start: Instant,
    reminder: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
}

impl Step {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let (what, start) = (what.into(), Instant::now());
        say(&format!("{what} ..."));
        let (sender, stop) = mpsc::channel::<()>();
        let text = what.clone();
        let thread = std::thread::spawn(move || {
            while stop.recv_timeout(REMIND) == Err(mpsc::RecvTimeoutError::Timeout) {
                say(&format!("{text} ... {} s", start.elapsed().as_secs()));
            }
        });
        Self { what, start, reminder: Some((sender, thread)) }
    }

    pub(crate) fn done(mut self) {
        self.silence();
        say(&format!("{}: done in {:.1} s", self.what, self.start.elapsed().as_secs_f64()));
    }

    fn silence(&mut self) {
        if let Some((sender, thread)) = self.reminder.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.silence();
    }
}

pub(crate) fn say(line: &str) {
    // Nobody can be told that standard error is closed.
    let _ = writeln!(std::io::stderr(), "lab: {line}");
}
