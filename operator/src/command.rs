//! What the command line asks for, to its end. In the library, since what is asynchronous is compiled where it is run
//! from: the program would have most of it compiled again.

use std::{io::Write as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::runtime::Builder;

use crate::{
    cli::{Cli, Command, Explain, Run},
    explain, run,
};

/// The exit code says whether the node is leased, where that was asked for.
pub fn execute(Cli { command }: Cli) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => run_operator(options).map(|()| ExitCode::SUCCESS),
        Command::Explain(options) => explain_node(&options),
    }
}

fn run_operator(options: Run) -> anyhow::Result<()> {
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(run::run(options));
    // A lookup that hangs in a thread of its own must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn explain_node(options: &Explain) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(explain::run(options))?;
    std::io::stdout().write_all(answer.text.as_bytes())?;
    Ok(ExitCode::from(u8::from(!answer.is_leased)))
}
