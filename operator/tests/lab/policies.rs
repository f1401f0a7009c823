//! The chart's admission policies on the lab's API server.

use std::process::Command;

use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tartan_crds::ClusterNetwork;
use tartan_lab::{
    prerequisites::{KUBERNETES_VERSION, Program},
    run,
};

use super::Lab;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tartan");

impl Lab {
    /// Has the ClusterNetwork protected as the chart does it. The server enforces a policy a moment after it took it:
    /// a test waits for the first refusal.
    pub fn protect_network(&self) {
        let mut helm = Command::new(Program::Helm.path().unwrap());
        helm.env_remove("KUBECONFIG");
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, self.api.directory().join(variable));
        }
        helm.args(["template", "tartan", CHART, "--namespace", "tartan-system"]);
        helm.args(["--kube-version", KUBERNETES_VERSION]);
        helm.args(["--set", "image.registry=localhost", "--show-only", "templates/policies/network.yaml"]);
        let policy = run(&mut helm).unwrap().ok().unwrap().stdout;
        self.api.apply(&policy).unwrap().ok().unwrap();
    }

    /// What the server says to a change of the ClusterNetwork, which is not made. `None`: it would take it.
    pub fn refusal(&self, patch: &Value) -> Option<String> {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let networks = self.all::<ClusterNetwork>();
        match self.runtime.block_on(networks.patch("default", &params, &Patch::Merge(patch))) {
            Ok(_) => None,
            Err(kube::Error::Api(status)) => Some(status.message.clone()),
            Err(other) => panic!("{other:?}"),
        }
    }
}
