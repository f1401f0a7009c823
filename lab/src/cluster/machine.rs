//! What turns a node of the fabric into a node of Kubernetes: containerd, kubelet, kube-proxy and their files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::families::Families;
use crate::apiserver::ApiServer;
use crate::fabric::Node;
use crate::home::Home;
use crate::images::PAUSE_IMAGE;
use crate::kubeconfig::Credentials;
use crate::prerequisites::Program;
use crate::process::{Identity, Process};

const MACHINE: &str = include_str!("machine.sh");

/// Starts containerd and kubelet on `node`. They end together with the process that is returned.
pub(super) fn start(home: &Home, api: &ApiServer, node: &Node, families: Families) -> Result<Process> {
    let config = node.disk().join("config");
    let log = log_directory(home, node);
    fs::create_dir_all(&config)?;
    fs::create_dir_all(&log)?;
    write_containerd(&config, node)?;
    let kubeconfig = write_kubelet(&config, api, node, families)?;
    let script = config.join("machine.sh");
    fs::write(&script, MACHINE)?;

    let cgroups = cgroups(&format!("tartan-lab-{}-{}", home.name(), node.name()))?;
    for cgroup in &cgroups {
        home.note_cgroup(cgroup)?;
    }
    home.enable_controllers(&["cpu", "cpuset", "io", "memory", "pids"])?;
    let cgroups: Vec<String> = cgroups.iter().map(|path| path.display().to_string()).collect();
    let mut machine = node.command("unshare");
    // When unshare dies, so does its child, the first process of the namespace, and with it all the others.
    machine.args(["--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc", "--", "sh"]);
    machine.arg(script).arg("cgroups");
    machine.env("CGROUPS", cgroups.join(" ")).env("CONFIG", &config).env("LOG", &log);
    machine.env("KUBELET", Program::kubernetes("kubelet")?).env("KUBECONFIG", kubeconfig);
    let addresses: Vec<String> = families.of(node).iter().map(ToString::to_string).collect();
    machine.env("NODE", node.name()).env("ADDRESS", addresses.join(","));
    node.start("machine", &machine)
}

/// Starts kube-proxy on `node`, which recognizes pods by [`crate::POD_BRIDGE`].
pub(super) fn start_proxy(api: &ApiServer, node: &Node) -> Result<Process> {
    let name = format!("{}-kube-proxy", node.name());
    let leaf = api.authority().sign(&name, "system:kube-proxy", &["system:node-proxier"], &[])?;
    let kubeconfig = api.write_kubeconfig(&name, &Credentials::Certificate(leaf))?;
    crate::proxy::start(&kubeconfig, node)
}

/// Where containerd and kubelet of this node log.
pub(super) fn log_directory(home: &Home, node: &Node) -> PathBuf {
    home.join("log").join(node.name())
}

/// A process of a running container, as the host sees it.
pub(super) fn process_of(container: &str) -> Result<Identity> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // From outside of the machine's cgroup namespace the whole path is seen, with the container at its end.
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroups.lines().any(|line| line.ends_with(container)) {
            return Identity::of(pid).context("the container has just ended");
        }
    }
    bail!("no process runs in container {container}")
}

/// A client of this node's containerd.
pub(super) fn ctr(node: &Node, arguments: &[&str]) -> Command {
    let mut command = node.command("ctr");
    command.args(["--namespace", "k8s.io"]).args(arguments);
    command
}

fn write_containerd(config: &Path, node: &Node) -> Result<()> {
    let root = node.disk().join("containerd");
    let text = format!(
        r#"version = 2
root = "{}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE, as in many containers and virtual machines, a lower score is refused.
  restrict_oom_score_adj = true
  # Its profile would stay in the host's kernel.
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#,
        root.display()
    );
    fs::write(config.join("containerd.toml"), text).context("write the configuration of containerd")
}

/// The answer is the path of kubelet's kubeconfig.
fn write_kubelet(config: &Path, api: &ApiServer, node: &Node, families: Families) -> Result<PathBuf> {
    let name = node.name();
    let user = format!("system:node:{name}");
    // kubectl exec and logs come in by the address.
    let addresses = node.addresses().into_iter().map(|address| format!("IP:{address}"));
    let names: Vec<String> = [format!("DNS:{name}")].into_iter().chain(addresses).collect();
    let leaf = api.authority().sign(&format!("kubelet-{name}"), &user, &["system:nodes"], &names)?;
    let kubeconfig =
        api.write_kubeconfig(&format!("kubelet-{name}"), &Credentials::Certificate(leaf.clone()))?;
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": api.ca() },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": leaf.certificate,
        "tlsPrivateKeyFile": leaf.key,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [families.cluster_dns()],
        "clusterDomain": "cluster.local",
        // The host's disk is none of the lab's business.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "nodefs.available": "1%" },
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
    });
    fs::write(config.join("kubelet.yaml"), serde_json::to_string_pretty(&kubelet)?)?;
    Ok(kubeconfig)
}

/// One directory of this name in every cgroup hierarchy of the host.
fn cgroups(name: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mut directories = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(target), Some("cgroup" | "cgroup2")) = (words.next(), words.next()) {
            let directory = Path::new(target).join(name);
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
    }
    Ok(directories)
}
