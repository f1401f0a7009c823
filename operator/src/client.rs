//! Connections to the API server, and the fixed names of what can go wrong on them.

use std::{error::Error as _, path::Path, time::Duration};

use anyhow::Context as _;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject},
    config::{KubeConfigOptions, Kubeconfig},
};

/// Longer than any answer takes on a server that works.
const ANSWER: Duration = Duration::from_secs(15);

/// Two clients, since a watch may be silent for a minute and a write may not.
#[derive(Clone)]
pub struct Clients {
    pub watch: Client,
    pub write: Client,
}

/// Connects by a kubeconfig file, or as the environment says (in-cluster account, `~/.kube/config`).
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Clients> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await.context("no kubeconfig and no in-cluster account")?,
    };
    // The library would repeat a write for minutes, and then a create meets its own first attempt.
    // Retrying is decided here, with the state of the world known.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let watch = Client::try_from(config.clone())?;
    config.read_timeout = Some(ANSWER);
    config.write_timeout = Some(ANSWER);
    Ok(Clients { watch, write: Client::try_from(config)? })
}

/// A cluster-scoped kind of ours, as objects that need not parse.
pub fn untyped<K>(client: &Client) -> Api<DynamicObject>
where
    K: kube::Resource<DynamicType = ()>,
{
    Api::all_with(client.clone(), &ApiResource::erase::<K>(&()))
}

/// What went wrong, as one of a fixed set of labels.
pub fn reason(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            409 if status.is_already_exists() => "already_exists",
            409 => "conflict",
            404 => "not_found",
            401 => "unauthorized",
            403 => "forbidden",
            400 | 422 => "invalid",
            429 => "throttled",
            504 => "timeout",
            _ => "server",
        },
        _ => "network",
    }
}

/// The error for people: the library repeats the whole Status in its text.
pub fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        error => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            text
        }
    }
}

/// Whether the request may have been carried out although no good answer came.
pub fn may_have_happened(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500,
        _ => true,
    }
}
