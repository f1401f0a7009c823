//! Helm against an API server.

use std::process::Command;

use anyhow::Result;

use super::ApiServer;
use crate::{
    prerequisites::Program,
    run::{Output, run},
};

impl ApiServer {
    /// Runs Helm as the administrator, with settings of its own.
    pub fn helm(&self, arguments: &[&str]) -> Result<Output> {
        let mut helm = Command::new(Program::Helm.path()?);
        let own = self.directory().join("helm");
        helm.env("KUBECONFIG", self.kubeconfig());
        for (variable, directory) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            helm.env(variable, own.join(directory));
        }
        run(helm.args(arguments))
    }
}
