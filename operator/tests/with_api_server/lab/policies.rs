//! The chart's admission policies on the lab's API server.

use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tartan_crds::ClusterNetwork;
use tartan_lab::prerequisites::KUBERNETES_VERSION;

use super::Lab;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tartan");

impl Lab {
    /// Has the ClusterNetwork protected as the chart does it. The server enforces a policy a moment after it took it:
    /// a test waits for the first refusal.
    pub fn protect_network(&self) {
        let render = ["template", "tartan", CHART, "--namespace", "tartan-system"];
        let only = ["--kube-version", KUBERNETES_VERSION, "--show-only", "templates/policies/network.yaml"];
        let words = [&render[..], &only, &["--set", "image.registry=localhost"]].concat();
        let policy = self.api.helm(&words).unwrap().ok().unwrap().stdout;
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
