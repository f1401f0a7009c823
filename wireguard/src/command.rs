//! What the command line asks for, to its end. In the library, since what is asynchronous is compiled where it is run
//! from: the program would have most of it compiled again.

use anyhow::Context as _;
use tokio::runtime::Builder;

use crate::{cli::Options, control::run};

pub fn execute(options: Options) -> anyhow::Result<()> {
    tartan_daemon::logging::start(options.log_format, &options.log).context("--log")?;
    // Its memory holds keys: no core dump of it, and no debugger but root's.
    nix::sys::prctl::set_dumpable(false).context("cannot forbid core dumps")?;
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(options))
}
