//! Build, demo and test commands, shared by `cargo xtask` and the tests on whole clusters.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]
#![allow(clippy::indexing_slicing, reason = "serde_json's Value answers Null for what is not there")]

pub mod arm64;
pub mod bench;
pub mod cluster;
pub mod codegen;
pub mod demo;
pub mod image;
pub mod licences;
pub mod mutants;
pub mod prometheus;
pub mod test;
pub mod workspace;
