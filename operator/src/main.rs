//! `tartan-operator`: wiring only; see the library.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use tartan_operator::{
    cli::{Cli, Command, Explain, Run},
    explain, run,
};

/// It could not be done, or found out.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    // Before anything asks for TLS: with several providers in the graph rustls would not choose one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outcome = match Cli::parse().command {
        Command::Run(options) => run_operator(options).map(|()| ExitCode::SUCCESS),
        Command::Explain(options) => explain_node(&options),
    };
    outcome.unwrap_or_else(|error| {
        // Logging may be what failed.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn run_operator(options: Run) -> anyhow::Result<()> {
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run::run(options));
    // A lookup that hangs in a thread of its own must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

fn explain_node(options: &Explain) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(explain::run(options))?;
    std::io::stdout().write_all(answer.text.as_bytes())?;
    Ok(ExitCode::from(u8::from(!answer.is_leased)))
}
