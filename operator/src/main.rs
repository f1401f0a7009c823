//! `tartan-operator`: wiring only; see the library.

use anyhow::Context as _;
use clap::Parser as _;
use tartan_operator::{
    cli::{Cli, Command},
    run,
};

fn main() -> anyhow::Result<()> {
    // Before anything asks for TLS: with several providers in the graph rustls would not choose one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Command::Run(options) = Cli::parse().command;
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run::run(options));
    // A lookup that hangs in a thread of its own must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}
