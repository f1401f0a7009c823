//! Operators as real processes against a real API server.
//!
//! One program, since each that talks to the API server takes the compiler half a minute.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod administrator;
mod allocate;
mod bad_objects;
mod foresight;
mod further_blocks;
mod lab;
mod races;
mod reclaim;
