//! The choice of a backend and the change from one to another, with the real operator, real agents and standing
//! traffic of every class.
//!
//! The same scenarios run in namespaces of this host, with WireGuard in user space where its kernel has none, and, for what
//! it lacks, in a virtual machine: there this very program runs again, against an API server on the host ([`machine`]).
//! What nodes can't do is told, and that it is refused as it should be is tested; in the machine nothing may be missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod api;
mod as_before;
mod beside;
mod certified;
mod change;
mod daemon;
mod direct;
mod dissected;
#[path = "../bad_input/elsewhere.rs"]
mod elsewhere;
mod figures;
mod hung;
mod interrupted;
mod late;
mod machine;
mod matrix;
mod mixed;
mod moved;
mod off;
mod ring;
mod rotation;
mod scene;
mod sealed;
mod services;
mod shrunk;
mod six;
mod standing;
mod unfit;

use std::time::Duration;

use tartan_lab::{eventually_ok, vm};

/// Waits for what takes longer than one look, on a busy machine too.
#[track_caller]
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> anyhow::Result<T>) -> T {
    // Looking costs: in a virtual machine more than half of what there is, if it were done all the time.
    let (patience, pause) = if vm::is_inside() { (300, 500) } else { (90, 0) };
    let done = eventually_ok(what, Duration::from_secs(patience), || {
        attempt().inspect_err(|_| standing::let_flow(Duration::from_millis(pause)))
    });
    done.unwrap_or_else(|error| panic!("{error:#}"))
}
