//! kube-proxy on a node, with or without the rest of Kubernetes.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::fabric::Node;
use crate::prerequisites::Program;
use crate::process::Process;

/// The interface that pods hang on: kube-proxy takes what comes from it for a pod's traffic.
pub const POD_BRIDGE: &str = "tartan0";

/// Starts kube-proxy on `node`. It recognizes pods by [`POD_BRIDGE`], and the node's own addresses by those in the
/// status of its Node.
pub(crate) fn start(kubeconfig: &Path, node: &Node) -> Result<Process> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.name(),
        "clientConnection": { "kubeconfig": kubeconfig },
        "detectLocalMode": "BridgeInterface",
        "detectLocal": { "bridgeInterface": POD_BRIDGE },
        // Limits of connection tracking belong to the machine, not to a namespace.
        "conntrack": { "maxPerCore": 0 },
    });
    let directory = node.disk().join("config");
    fs::create_dir_all(&directory)?;
    let path = directory.join("kube-proxy.json");
    fs::write(&path, config.to_string())?;
    let mut command = node.command(&Program::kubernetes("kube-proxy")?.display().to_string());
    command.arg("--config").arg(path);
    node.start("kube-proxy", &command)
}
