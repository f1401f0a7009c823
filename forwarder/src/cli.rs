//! The command line. Every flag has an environment twin, which is what the chart sets.

use std::{net::SocketAddr, num::NonZeroUsize};

use clap::Parser;
use tartan_daemon::logging::LogFormat;

/// Forwards between the TUN device that tartan-node-agent made for the udp backend and the peers.
///
/// It learns all that it needs from the device and its routes, and waits while the agent hasn't made them. Needs
/// NET_ADMIN and /dev/net/tun. Serves /metrics, /healthz and /readyz.
#[derive(Clone, Debug, Parser)]
#[command(name = "tartan-forwarder", version)]
pub struct Options {
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "TARTAN_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9474")]
    pub listen: SocketAddr,

    /// Queues, each with a thread per direction. Without it: as many as there are processors, up to 8.
    #[arg(long, env = "TARTAN_QUEUES", value_name = "NUMBER")]
    pub queues: Option<NonZeroUsize>,

    /// Log format.
    #[arg(long, env = "TARTAN_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// What to log, such as info or debug.
    #[arg(long, env = "TARTAN_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

/// The kernel allows 256; more than a few only cost memory.
const MOST: usize = 8;

impl Options {
    pub fn queues(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        self.queues.map_or_else(processors, usize::from)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_flag_has_a_twin() {
        let command = Options::command();
        command.clone().debug_assert();
        for argument in command.get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version") {
            assert!(argument.get_env().is_some(), "{} has no environment twin", argument.get_id());
            assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
        }
    }
}
