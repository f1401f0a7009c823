//! Connections to the API server, and the fixed names of what can go wrong on them.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::rewind::RewindLayer;

/// Longer than any answer takes on a server that works.
const ANSWER: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);

/// Two clients, since a watch may be silent for a minute and a request may not.
#[derive(Clone)]
pub struct Clients {
    pub watch: Client,
    pub request: Client,
    /// The API server's host: a name, or an address without brackets.
    pub host: String,
}

/// Connects by a kubeconfig file, or as the environment says (in-cluster account, `~/.kube/config`). Errors name
/// the file, or say that there is none; the server itself is not asked anything yet.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Clients> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => Config::infer().await.context("no kubeconfig and no in-cluster account")?,
    };
    // The library would repeat a write for minutes, and then a create meets its own first attempt. Retrying is
    // decided by those who know the state of the world.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let watch = ClientBuilder::try_from(config.clone()).context("cannot make an API client")?;
    config.read_timeout = Some(ANSWER);
    config.write_timeout = Some(ANSWER);
    let request = Client::try_from(config).context("cannot make an API client")?;
    let watch = watch.with_layer(&RewindLayer::new(request.clone())).build();
    Ok(Clients { watch, request, host })
}

/// What went wrong with a request, as one of a fixed set of labels.
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
        error => crate::chain(error),
    }
}
