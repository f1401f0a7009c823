//! What the command line asks for, to its end. In the library, since what is asynchronous is compiled where it is run
//! from: the program would have most of it compiled again.

use anyhow::Context as _;
use tokio::runtime::Builder;

use crate::{cli::Options, control::run};

pub fn execute(options: Options) -> anyhow::Result<()> {
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    // One thread for all but the packets, which have their own.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(options))
}
