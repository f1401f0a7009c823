//! `tartan-node-agent`: wiring only; see the library.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use tartan_node_agent::{
    cleanup::cleanup,
    cli::{Cli, Command},
    diff::diff,
    run::run,
};

/// It could not be found out, or done.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            // Logging may be what failed.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn start() -> anyhow::Result<ExitCode> {
    // Before anything asks for TLS: with several providers in the graph rustls would not choose one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Cli { command, options } = Cli::parse();
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    // One thread: the kernel's edge works on the network namespace of its own, and memory stays small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = match command.unwrap_or(Command::Run) {
        Command::Run => runtime.block_on(run(options)).map(|()| ExitCode::SUCCESS),
        Command::Diff { output } => runtime.block_on(diff(&options, output)).and_then(|answer| {
            std::io::stdout().write_all(answer.text.as_bytes())?;
            Ok(ExitCode::from(u8::from(answer.differs)))
        }),
        Command::Cleanup { force } => runtime.block_on(cleanup(&options, force)).map(|()| ExitCode::SUCCESS),
    };
    // A look-up that hangs in a thread of its own must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}
