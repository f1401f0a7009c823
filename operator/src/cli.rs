//! The command line. Every flag has an environment twin, which is what the chart sets.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use tartan_daemon::logging::LogFormat;

/// Hands out pod subnets: every node that should have pod addresses holds a lease, and no two overlap.
///
/// Reads Nodes, the ClusterNetwork and NetworkPools; writes SubnetLeases, NodeNetworks, their status, and
/// (where podCIDRMode is Mirror) the podCIDRs of Nodes. Serves /metrics, /healthz and /readyz.
#[derive(Debug, Parser)]
#[command(name = "tartan-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until SIGTERM. Several may run: one leads and writes, the others stand by.
    Run(Run),
    /// Say why a node has its subnet, pool and backend, or why it has none. Reads the objects and writes nothing.
    ///
    /// Exit code 0: the node has, or is about to get, what it needs. 1: it gets none. 2: it could not be found out,
    /// or there is no such Node.
    Explain(Explain),
}

#[derive(Debug, Args)]
pub struct Explain {
    /// Name of the Node.
    #[arg(value_name = "NODE")]
    pub node: String,

    /// How to reach the API server. Without it: the in-cluster account, or ~/.kube/config.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// What a Node of this name would get if these were its labels.
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = parse_label)]
    pub labels: Vec<(String, String)>,

    /// Text for people, or JSON.
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let label = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = label.ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
pub struct Run {
    /// How to reach the API server. Without it: the in-cluster account, or ~/.kube/config.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "TARTAN_LISTEN", value_name = "ADDRESS:PORT", default_value = "[::]:9473")]
    pub listen: SocketAddr,

    /// The namespace of the release: of the leader election's Lease and of the ConfigMap tartan-config, which
    /// carries the chart's values.
    #[arg(long, env = "TARTAN_NAMESPACE", value_name = "NAME", default_value = "tartan-system")]
    pub namespace: String,

    /// This replica's name in leader election and events. Give each its own; the chart uses the pod's name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,

    /// Write without being elected. Safe, also with several replicas: they only do each other's work twice.
    #[arg(long, env = "TARTAN_NO_LEADER_ELECTION")]
    pub no_leader_election: bool,

    /// Log format.
    #[arg(long, env = "TARTAN_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// What to log, such as info or debug, or by module: info,tartan_operator=debug,kube=warn.
    #[arg(
        long,
        env = "TARTAN_LOG",
        value_name = "FILTER",
        default_value = "info,kube_client=off,kube_lease_manager=off"
    )]
    pub log: String,
}

impl Run {
    /// The given identity, or the host's name and the process number.
    pub fn identity(&self) -> String {
        self.identity.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}-{}", host.trim(), std::process::id())
        })
    }
}
