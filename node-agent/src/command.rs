//! What the command line asks for, to its end. In the library, since what is asynchronous is compiled where it is run
//! from: the program would have most of it compiled again.

use std::{io::Write as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use tokio::runtime::Builder;

use crate::{
    cleanup::cleanup,
    cli::{Cli, Command},
    diff::diff,
    run::run,
};

/// The exit code says whether there are differences, where they were asked for.
pub fn execute(Cli { command, options }: Cli) -> anyhow::Result<ExitCode> {
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    // One thread: the kernel's edge works on the network namespace of its own, and memory stays small.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let outcome = match command.unwrap_or(Command::Run) {
        Command::Run => runtime.block_on(run(options)).map(|()| ExitCode::SUCCESS),
        Command::Diff { output } => runtime.block_on(diff(&options, output)).and_then(|answer| {
            std::io::stdout().write_all(answer.text.as_bytes())?;
            Ok(ExitCode::from(u8::from(answer.differs)))
        }),
        Command::Cleanup { force } => runtime.block_on(cleanup(&options, force)).map(|()| ExitCode::SUCCESS),
    };
    // A look-up that hangs in a thread of its own must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}
