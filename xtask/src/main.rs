//! `cargo xtask …`: build, demo, test and bench commands. Wiring only.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools of the tartan repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A real three-node Kubernetes with tartan in it, on this machine
    Demo(xtask::demo::Options),
    /// Everything that CI runs
    Test(xtask::test::Options),
    /// Plants faults in a copy of the tree and requires that tests fail
    Mutants(xtask::mutants::Options),
    /// The figures that the documentation quotes; asserts nothing
    Bench(xtask::bench::Options),
    /// Writes the generated files again: CRDs, and the chart's copies of them
    Codegen {
        /// Change nothing; fail where a committed file differs
        #[arg(long)]
        check: bool,
    },
    /// Writes the licence texts of what is compiled into the programs
    Licences { file: std::path::PathBuf },
    /// Builds the programs for arm64 and starts each under emulation
    Arm64,
    /// Builds the container images as docker archives
    Image {
        /// Folder for the archives
        #[arg(long)]
        out: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(options) => xtask::demo::run(&options),
        Command::Test(options) => xtask::test::run(&options),
        Command::Mutants(options) => xtask::mutants::run(&options),
        Command::Bench(options) => xtask::bench::run(&options),
        Command::Codegen { check } => xtask::codegen::run(check),
        Command::Licences { file } => xtask::licences::run(&file),
        Command::Arm64 => xtask::arm64::run(),
        Command::Image { out } => xtask::image::run(out.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
