//! The chart's admission policies, as an installation has them.

use std::path::Path;

use serde_json::{Value, json};
use tartan_lab::{Output, eventually, prerequisites::KUBERNETES_VERSION};

use super::{cluster::PATIENCE, scene::Scene};

/// Keeps the ClusterNetwork and its entries while leases are in them.
pub const OF_NETWORK: &str = "tartan-cluster-network";
/// Refuses leases that are no blocks.
pub const OF_LEASES: &str = "tartan-subnet-leases";

impl Scene {
    /// Brings all of them into force.
    pub fn apply_policies(&self) {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/tartan");
        let render = ["template", "tartan", chart.to_str().unwrap(), "--namespace", "tartan-system"];
        let only = ["--kube-version", KUBERNETES_VERSION, "--show-only", "templates/policies/*.yaml"];
        let words = [&render[..], &only, &["--set", "image.registry=localhost"]].concat();
        let rendered = self.api().helm(&words).unwrap().ok().unwrap().stdout;
        self.api().apply(&rendered).unwrap().ok().unwrap();
        // The API server takes in a policy within a second, and learns what kind its parameter is within half a minute.
        eventually("the policies are in force", 2 * PATIENCE, || {
            let deleted = self.try_kubectl(&["delete", "clusternetwork", "default", "--dry-run=server"]);
            let made = self.make_lease("192.0.2.0/24", ("nobody", "nobody"), true);
            deleted.stderr.contains("leases are left") && made.stderr.contains("not a block")
        })
        .unwrap();
    }

    /// Makes an installation without this policy, until [`Self::apply_policies`]; then does what it refused.
    pub fn without_policy(&self, name: &str, act: impl Fn(&Self) -> Output) {
        self.kubectl(&["delete", "validatingadmissionpolicybinding", name]);
        eventually("the policy is in force no more", PATIENCE, || act(self).success()).unwrap();
    }

    /// Creates a further lease by hand, for a node with this name and UID.
    pub fn make_lease(&self, subnet: &str, (node, uid): (&str, &str), dry_run: bool) -> Output {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lease: Value = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
            "metadata": { "name": subnet.replace('/', "-") },
            "spec": {
                "nodeName": node, "nodeUID": uid, "subnet": subnet, "pool": "default",
                "backend": { "type": "host-gw", "accepts": ["host-gw"] },
            },
        });
        std::fs::write(file.path(), lease.to_string()).unwrap();
        let mut words = vec!["create", "-f", file.path().to_str().unwrap()];
        if dry_run {
            words.push("--dry-run=server");
        }
        self.try_kubectl(&words)
    }
}
