//! Helm against an API server, and requests with tokens of the chart's service accounts.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use kube::core::{Request, params::Patch as PatchBody};
use serde_json::Value;
use tartan_lab::prerequisites::Program;
use tartan_lab::{ApiServer, Output, run};

pub const NAMESPACE: &str = "tartan-system";

pub fn chart() -> String {
    xtask::workspace::chart().display().to_string()
}

/// Helm with settings of its own.
pub struct Helm {
    home: tempfile::TempDir,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// For commands that talk to nobody.
    pub fn alone() -> Self {
        Self { home: tempfile::tempdir().unwrap(), kubeconfig: None }
    }

    pub fn of(api: &ApiServer) -> Self {
        Self { kubeconfig: Some(api.kubeconfig()), ..Self::alone() }
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut helm = Command::new(Program::Helm.path().unwrap());
        helm.env_remove("KUBECONFIG");
        if let Some(kubeconfig) = &self.kubeconfig {
            helm.env("KUBECONFIG", kubeconfig);
        }
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(variable, self.home.path().join(variable));
        }
        // What a test sets itself comes later and wins.
        let (verb, rest) = arguments.split_first().unwrap();
        helm.arg(verb);
        if ["install", "upgrade", "template"].contains(verb) {
            helm.arg("--values").arg(xtask::workspace::root().join("xtask/tests/values/registry.yaml"));
        }
        run(helm.args(rest)).unwrap()
    }

    /// A command about the release, such as `install tartan CHART`, that must succeed without a warning.
    pub fn release(&self, arguments: &[&str]) -> String {
        let said = self.run(&[arguments, &["--namespace", NAMESPACE]].concat()).ok().unwrap();
        assert_eq!(said.stderr, "", "helm {} warned", arguments.join(" "));
        said.stdout
    }
}

pub fn install(api: &ApiServer) -> Helm {
    let helm = Helm::of(api);
    helm.release(&["install", "tartan", &chart(), "--create-namespace"]);
    let wait = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"];
    api.kubectl(&wait).unwrap().ok().unwrap();
    helm
}

pub fn get(api: &ApiServer, target: &[&str]) -> Value {
    let said = api.kubectl(&[&["get", "-o", "json"], target].concat()).unwrap().ok().unwrap();
    serde_json::from_str(&said.stdout).unwrap()
}

/// One who makes requests, with one identity.
pub struct Caller {
    pub name: &'static str,
    client: kube::Client,
    runtime: std::rc::Rc<tokio::runtime::Runtime>,
}

impl Caller {
    pub fn new(
        runtime: &std::rc::Rc<tokio::runtime::Runtime>,
        name: &'static str,
        kubeconfig: &Path,
    ) -> Self {
        let options = kube::config::KubeConfigOptions::default();
        let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
        let client = runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
            kube::Client::try_from(config).unwrap()
        });
        Self { name, client, runtime: std::rc::Rc::clone(runtime) }
    }

    /// What the API server says: `Ok`, or the code and the message of its refusal.
    pub fn ask(&self, what: &Ask) -> Result<Value, (u16, String)> {
        let Ask { path, name, subresource, how } = what;
        let request = Request::new(*path);
        let strict = kube::api::PostParams::default();
        let built = match (how, subresource) {
            (How::Get, Some(sub)) => request.get_subresource(sub, name),
            (How::Get, None) => request.get(name, &kube::api::GetParams::default()),
            (How::List, _) => request.list(&kube::api::ListParams::default()),
            (How::Create(body), None) => request.create(&strict, body.to_string().into_bytes()),
            (How::Create(body), Some(sub)) => {
                request.create_subresource(sub, name, &strict, body.to_string().into_bytes())
            }
            (How::Replace(body), None) => request.replace(name, &strict, body.to_string().into_bytes()),
            (How::Replace(body), Some(sub)) => {
                request.replace_subresource(sub, name, &strict, body.to_string().into_bytes())
            }
            (How::Delete, _) => request.delete(name, &kube::api::DeleteParams::default()),
            (How::Patch(kind, body), sub) => {
                let mut params = kube::api::PatchParams::apply("tartan-node-agent");
                let patch = match kind {
                    Kind::Merge => PatchBody::Merge(body),
                    Kind::Strategic => PatchBody::Strategic(body),
                    Kind::Apply => PatchBody::Apply(body),
                };
                params.force = *kind == Kind::Apply;
                match sub {
                    Some(sub) => request.patch_subresource(sub, name, &params, &patch),
                    None => request.patch(name, &params, &patch),
                }
            }
        };
        let answer = self.runtime.block_on(self.client.request::<Value>(built.unwrap()));
        answer.map_err(|error| match error {
            kube::Error::Api(status) => (status.code, status.message.clone()),
            other => panic!("{}: {path}/{name}: {other:?}", self.name),
        })
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    pub path: &'static str,
    pub name: String,
    pub subresource: Option<&'static str>,
    pub how: How,
}

#[derive(Debug, Clone)]
pub enum How {
    Get,
    List,
    Create(Value),
    Replace(Value),
    Delete,
    Patch(Kind, Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Merge,
    Strategic,
    Apply,
}
