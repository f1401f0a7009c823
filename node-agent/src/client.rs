//! Connections to the API server.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Longer than any answer takes on a server that works.
const ANSWER: Duration = Duration::from_secs(15);

/// Two clients, since a watch may be silent for a minute and a request may not.
#[derive(Clone)]
pub struct Clients {
    pub watch: Client,
    pub request: Client,
    /// Where the API server is: must stay reachable whatever the pod network covers.
    pub addresses: Vec<IpAddr>,
}

/// Connects by a kubeconfig file, or as the environment says (in-cluster account, `~/.kube/config`).
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
    // Retrying is decided here, with the state of the world known.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    let addresses = addresses_of(&config).await;
    let watch = Client::try_from(config.clone()).context("cannot make an API client")?;
    config.read_timeout = Some(ANSWER);
    config.write_timeout = Some(ANSWER);
    let request = Client::try_from(config).context("cannot make an API client")?;
    Ok(Clients { watch, request, addresses })
}

async fn addresses_of(config: &Config) -> Vec<IpAddr> {
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    match tokio::time::timeout(Duration::from_secs(5), tokio::net::lookup_host((host, 443))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.sort();
            addresses.dedup();
            addresses
        }
        Ok(Err(error)) => {
            tracing::warn!(host, %error, "the API server's name has no address yet: it is not protected");
            vec![]
        }
        Err(_) => {
            tracing::warn!(host, "no answer about the API server's name: its address is not protected");
            vec![]
        }
    }
}

/// What went wrong with a request, as one of a fixed set of labels.
pub fn reason(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
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
