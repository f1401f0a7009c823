//! The command line. Every flag has an environment twin, which is what the chart sets.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use tartan_daemon::logging::LogFormat;

/// Does WireGuard for the devices that tartan-node-agent made because the kernel has none.
///
/// It waits while there is no such device. Needs NET_ADMIN and /dev/net/tun. Serves /metrics, /healthz and /readyz.
#[derive(Clone, Debug, Parser)]
#[command(name = "tartan-wireguard", version)]
pub struct Options {
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "TARTAN_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9475")]
    pub listen: SocketAddr,

    /// Directory of the sockets by which the agent sets keys and peers: for root alone. The agent has the same.
    #[arg(
        long,
        env = "TARTAN_WIREGUARD_SOCKETS",
        value_name = "DIR",
        default_value = "/run/tartan/wireguard"
    )]
    pub sockets: PathBuf,

    /// Log format.
    #[arg(long, env = "TARTAN_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// What to log, such as info or debug, or by module.
    #[arg(long, env = "TARTAN_LOG", value_name = "FILTER", default_value = "info,gotatun=warn")]
    pub log: String,
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
