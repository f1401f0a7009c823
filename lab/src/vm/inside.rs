//! What is different for the lab in a virtual machine: nothing can be installed or built there, and the API server is
//! the host's.
//!
//! The host is reached by qemu's user-mode network: a connection to [`HOST`] is one to the host's loopback.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// An environment variable that says so.
pub(super) const INSIDE: &str = "TARTAN_LAB_INSIDE";
/// Where the machine's program lies, and those that it starts.
pub(super) const PROGRAMS: &str = "/program";
/// The administrator's, where the machine reaches an API server.
pub(super) const KUBECONFIG: &str = "/program/kubeconfig";

/// The host's loopback, as seen from inside. (qemu, "user mode networking"; its network must not be a pod network.)
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const HOSTS_NETWORK: &str = "10.0.2.0/24";
pub(crate) const OWN_ADDRESS: &str = "10.0.2.15/24";
/// The machine's only network device.
pub(crate) const NIC: &str = "eth0";

/// Whether this is a machine of [`super::Machine`].
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The administrator's kubeconfig of an API server that this machine reaches.
pub fn kubeconfig() -> PathBuf {
    PathBuf::from(KUBECONFIG)
}

/// A program that lies beside the machine's.
pub fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}
