//! What the lab needs and a fresh Debian does not have: packages by apt, Go programs by `go build`.
//!
//! Every entrance of the lab calls [`require`] itself; `cargo xtask` calls it early, so that the long part is seen to
//! be what it is. What is there already costs milliseconds.

mod packages;
mod programs;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

pub use programs::{KUBERNETES_VERSION, Program};

/// Something that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// etcd and the programs of Kubernetes.
    Kubernetes,
    /// Helm 3.
    Helm,
    /// Namespaces, bridges, CNI plugins, and the tools that look at them.
    Network,
    /// containerd and runc.
    Containers,
    /// What makes images: mmdebstrap, buildah, the program of the test image.
    Images,
    /// Prometheus and promtool.
    Prometheus,
    /// What goes into a virtual machine.
    Machines,
    /// `wg`, and another WireGuard in user space.
    Wireguard,
    /// Wireshark's, without its windows.
    Dissectors,
    /// A compiler for arm64 and what runs its programs; no test run needs it.
    Arm64,
}

impl Tool {
    pub const ALL: [Self; 9] = [
        Self::Network,
        Self::Kubernetes,
        Self::Helm,
        Self::Containers,
        Self::Images,
        Self::Prometheus,
        Self::Machines,
        Self::Wireguard,
        Self::Dissectors,
    ];

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &["openssl"],
            Self::Helm => &[],
            Self::Network => &[
                "conntrack",
                "curl",
                "containernetworking-plugins",
                "curl",
                "ethtool",
                "iperf3",
                "iproute2",
                "iptables",
                "iputils-ping",
                "nftables",
                "procps",
                "tcpdump",
            ],
            Self::Containers => &["containerd", "containernetworking-plugins", "runc"],
            Self::Images => &["buildah", "mmdebstrap"],
            Self::Prometheus => &["prometheus"],
            Self::Wireguard => &["wireguard-tools"],
            Self::Dissectors => &["tshark"],
            Self::Arm64 => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"],
            Self::Machines => &[
                "busybox-static",
                "conntrack",
                "ethtool",
                "iproute2",
                "iputils-ping",
                "kmod",
                "nftables",
                "procps",
                "tcpdump",
                "wireguard-tools",
                "xz-utils",
            ],
        }
    }

    fn programs(self) -> &'static [Program] {
        match self {
            Self::Kubernetes => &[Program::Kubernetes, Program::Etcd],
            Self::Helm => &[Program::Helm],
            Self::Images => &[Program::Agnhost],
            Self::Wireguard => &[Program::WireguardGo],
            Self::Network
            | Self::Containers
            | Self::Prometheus
            | Self::Machines
            | Self::Dissectors
            | Self::Arm64 => &[],
        }
    }
}

/// Installs or builds whatever of `tools` is missing. Minutes the first time, with progress on standard error.
pub fn require(tools: &[Tool]) -> Result<()> {
    if crate::vm::is_inside() {
        // What was put there is there.
        return Ok(());
    }
    let packages: Vec<&str> = tools.iter().flat_map(|tool| tool.packages()).copied().collect();
    packages::install(&packages)?;
    for program in tools.iter().flat_map(|tool| tool.programs()) {
        program.path()?;
    }
    Ok(())
}

/// Where things are kept that are expensive to make: outside the repository, by version.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("tartan"))
}
