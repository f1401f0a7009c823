//! The command line. Every flag has an environment twin, which is what the chart sets.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use tartan_daemon::logging::LogFormat;

use crate::{cni::files::Places, extension};

/// Makes this node's kernel equal to what the cluster's SubnetLeases say, and keeps it so.
///
/// Links, routes, neighbours, forwarding entries, settings and one nft table, all marked as its own:
/// nothing else is touched. Stopping or restarting it leaves pod traffic as it is; only `cleanup` takes
/// things away. Serves /metrics, /healthz and /readyz.
#[derive(Debug, Parser)]
#[command(name = "tartan-node-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run until SIGTERM (the default). Everything stays in place at the end.
    Run,
    /// Show the path to every other node and why it is that one, and what `run` would change. Changes
    /// nothing. Exit code 0: nothing to change; 1: something; 2: it could not be found out.
    Diff {
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Remove everything that the agent put on this node and put changed settings back. Needs no API
    /// server. Pods that still run lose their network.
    Cleanup {
        /// Also while an agent runs here, which would put everything back.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UserWireguard {
    Never,
    Auto,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options")]
pub struct Options {
    /// The name of the Node that this is. Needed by `run` and `diff`.
    #[arg(long, env = "NODE_NAME", value_name = "NAME", global = true)]
    pub node_name: Option<String>,

    /// How to reach the API server. Without it: the in-cluster account, or ~/.kube/config.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(
        long,
        env = "TARTAN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "[::]:9472",
        global = true
    )]
    pub listen: SocketAddr,

    /// The container runtime's directory of network configurations.
    #[arg(
        long,
        env = "TARTAN_CNI_CONF_DIR",
        value_name = "DIR",
        default_value = "/etc/cni/net.d",
        global = true
    )]
    pub cni_conf_dir: PathBuf,

    /// The agent's own files. Must be emptied by a reboot, as /run is.
    #[arg(long, env = "TARTAN_RUN_DIR", value_name = "DIR", default_value = "/run/tartan", global = true)]
    pub run_dir: PathBuf,

    /// Facts about the node's subnet in flannel's format, for software that reads them.
    #[arg(
        long,
        env = "TARTAN_SUBNET_ENV",
        value_name = "FILE",
        default_value = "/run/flannel/subnet.env",
        global = true
    )]
    pub subnet_env: PathBuf,

    /// What no start of a pod takes longer than: for so long a block that goes back is left out of the CNI
    /// configuration before it is given up. The kubelet gives a start up after 4 minutes.
    #[arg(
        long,
        env = "TARTAN_POD_START_LIMIT",
        value_name = "DURATION",
        default_value = "5m",
        global = true
    )]
    pub pod_start_limit: tartan_crds::Duration,

    /// The preshared key of the ipsec backend, a text of 32 characters or more: in a container, where the Secret is
    /// mounted.
    #[arg(
        long,
        env = "TARTAN_IPSEC_KEY",
        value_name = "FILE",
        default_value = "/etc/tartan/ipsec/presharedKey",
        global = true
    )]
    pub ipsec_key: PathBuf,

    /// Where a network that asks for certificates has this node's for the ipsec backend: `ca.crt`, `tls.crt` and
    /// `tls.key`, which are read again when they change.
    #[arg(
        long,
        env = "TARTAN_IPSEC_CERTIFICATES",
        value_name = "DIR",
        default_value = "/etc/tartan/ipsec",
        global = true
    )]
    pub ipsec_certificates: PathBuf,

    /// Where the host's /proc/sys can be written: in a container, where it is mounted.
    #[arg(long, env = "TARTAN_PROC_SYS", value_name = "DIR", default_value = "/proc/sys", global = true)]
    pub proc_sys: PathBuf,

    /// WireGuard's preshared key, 32 bytes in base64, where the network has one: in a container, where the Secret is
    /// mounted.
    #[arg(
        long,
        env = "TARTAN_PRESHARED_KEY",
        value_name = "FILE",
        default_value = "/etc/tartan/wireguard/presharedKey",
        global = true
    )]
    pub preshared_key: PathBuf,

    /// Whether a process beside the agent may do WireGuard where the kernel has none (`auto`). It is tartan-wireguard, and
    /// slower than a kernel.
    #[arg(long, env = "TARTAN_USER_WIREGUARD", value_enum, default_value = "never", global = true)]
    pub user_wireguard: UserWireguard,

    /// Directory of programs that ClusterNetwork.spec.backends.extension may name, on nodes with that backend. They
    /// run with the agent's rights. Without it none is run.
    #[arg(long, env = "TARTAN_EXTENSION_COMMANDS_FROM", value_name = "DIR", global = true)]
    pub extension_commands_from: Option<PathBuf>,

    /// Log format.
    #[arg(long, env = "TARTAN_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,

    /// What to log, such as info or debug, or by module: info,tartan_datapath=debug,kube=warn.
    #[arg(long, env = "TARTAN_LOG", value_name = "FILTER", default_value = "info", global = true)]
    pub log: String,
}

impl Options {
    pub fn node_name(&self) -> anyhow::Result<&str> {
        self.node_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| anyhow::anyhow!("say which Node this is: --node-name or NODE_NAME"))
    }

    pub fn places(&self) -> Places {
        Places {
            cni_conf_dir: self.cni_conf_dir.clone(),
            run_dir: self.run_dir.clone(),
            subnet_env: self.subnet_env.clone(),
        }
    }

    pub fn extension(&self) -> extension::task::Places {
        let directory =
            self.extension_commands_from.clone().filter(|directory| !directory.as_os_str().is_empty());
        extension::task::Places { directory, file: self.run_dir.join("extension.json") }
    }

    /// Where the process answers, if there is one.
    pub fn user_wireguard_sockets(&self) -> PathBuf {
        self.run_dir.join("wireguard")
    }

    pub fn kernel(&self) -> tartan_datapath::kernel::Options {
        tartan_datapath::kernel::Options {
            proc_sys: self.proc_sys.clone(),
            restore_dir: self.run_dir.join("restore"),
            // They live as long as the kernel's sessions do: a node that reboots has new ones.
            wireguard_keys: self.run_dir.clone(),
            preshared_key: self.preshared_key.clone(),
            user_wireguard: match self.user_wireguard {
                UserWireguard::Never => None,
                UserWireguard::Auto => Some(self.user_wireguard_sockets()),
            },
            vici: self.run_dir.join("ipsec/charon.vici"),
            ipsec_key: self.ipsec_key.clone(),
            ipsec_certificates: self.ipsec_certificates.clone(),
            ..tartan_datapath::kernel::Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_flag_has_a_twin() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command.get_arguments().filter(|a| a.get_id() != "help" && a.get_id() != "version") {
            assert!(argument.get_env().is_some(), "{} has no environment twin", argument.get_id());
            assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
        }
    }

    #[test]
    fn run_is_the_default() {
        let cli = Cli::try_parse_from(["tartan-node-agent", "--node-name", "a"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.options.node_name().unwrap(), "a");
        let cli = Cli::try_parse_from(["tartan-node-agent", "diff", "--output", "json", "--node-name", "a"]);
        assert!(matches!(cli.unwrap().command, Some(Command::Diff { output: Output::Json })));
    }
}
