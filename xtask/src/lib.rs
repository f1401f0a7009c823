//! Build, demo and test commands, shared by `cargo xtask` and the tests on whole clusters.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

pub mod codegen;
pub mod workspace;
