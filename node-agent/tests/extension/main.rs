//! The backends whose paths are others' to make: the administrator's programs are really run, and tell real routes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "../cluster/mod.rs"]
mod cluster;
mod nodes;
mod programs;
mod scene;
