//! Many requests and many watches at the same time, from one process: what simulates nodes and their agents.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt as _, Stream, StreamExt as _, TryStreamExt as _, future::ready, stream};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use serde_json::Value;
use tartan_lab::ApiServer;
use tokio::{runtime::Runtime, task::JoinHandle};

/// As many as the operator's own.
const CONCURRENCY: usize = 12;

pub const GROUP: &str = "/apis/tartan.network/v1alpha1";

/// A client of the administrator's.
pub struct Load {
    runtime: Runtime,
    kubeconfig: Kubeconfig,
    client: Client,
}

impl Load {
    pub fn new(api: &ApiServer) -> Result<Self> {
        // With several providers in the graph rustls would not choose one; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Runtime::new()?;
        let kubeconfig = Kubeconfig::read_from(api.kubeconfig())?;
        let client = runtime.block_on(connect(&kubeconfig))?;
        Ok(Self { runtime, kubeconfig, client })
    }

    /// Sends all requests, as many at a time as the operator does.
    pub fn send(&self, requests: Vec<Request>) -> Result<Vec<Value>> {
        let client = &self.client;
        let sent = stream::iter(requests)
            .map(|request| async move {
                let what = format!("{} {}", request.method, request.path);
                request.send(client).await.with_context(|| what)
            })
            .buffer_unordered(CONCURRENCY);
        self.runtime.block_on(sent.try_collect())
    }

    /// Lets time pass while watches go on.
    pub fn pass(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// Seconds from `start` until `done`.
    pub fn until(&self, what: &str, start: Instant, mut done: impl FnMut() -> bool) -> Result<f64> {
        while !done() {
            if start.elapsed() > Duration::from_secs(600) {
                bail!("{what} did not come in 600 s");
            }
            self.pass(Duration::from_millis(20));
        }
        Ok(start.elapsed().as_secs_f64())
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        let request = http::Request::get(path).body(vec![])?;
        Ok(self.runtime.block_on(self.client.request(request))?)
    }

    /// A text that is no JSON, such as the server's metrics.
    pub fn text(&self, path: &str) -> Result<String> {
        let request = http::Request::get(path).body(vec![])?;
        Ok(self.runtime.block_on(self.client.request_text(request))?)
    }

    /// One that has a connection of its own.
    pub fn another_client(&self) -> Result<Client> {
        self.runtime.block_on(connect(&self.kubeconfig))
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    /// Sends the requests evenly over `time`, and waits for all answers.
    pub fn send_over(&self, time: Duration, requests: Vec<Request>) -> Result<()> {
        let client = &self.client;
        let gap = time.div_f64(requests.len().max(1) as f64);
        let start = tokio::time::Instant::now();
        let due = (0..).zip(requests).map(|(place, request)| async move {
            tokio::time::sleep_until(start + gap * place).await;
            let what = format!("{} {}", request.method, request.path);
            request.send(client).await.with_context(|| what).map(drop)
        });
        self.runtime.block_on(futures::future::try_join_all(due)).map(drop)
    }

    /// Follows a path by a connection of its own, from now on: each event is a line of JSON.
    pub fn events(&self, path: &str) -> Result<impl Stream<Item = String> + Send + Unpin + 'static> {
        let client = self.another_client()?;
        let list: Value = self.get(&format!("{path}?limit=1"))?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let request = http::Request::get(format!(
            "{path}?watch=true&resourceVersion={version}&allowWatchBookmarks=false&timeoutSeconds=3600"
        ));
        let lines = self.runtime.block_on(client.request_stream(request.body(vec![])?))?;
        Ok(lines.lines().scan((), |(), line| ready(line.ok())).boxed())
    }

    /// Counts what a watch of a path is told from now on.
    pub fn watch(&self, path: &str) -> Result<Watch> {
        let mut lines = self.events(path)?;
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let task = self.runtime.spawn(async move {
            while let Some(line) = lines.next().await {
                counted.events.fetch_add(1, Ordering::Relaxed);
                counted.bytes.fetch_add(line.len() as u64 + 1, Ordering::Relaxed);
                if line.starts_with("{\"type\":\"ADDED\"") {
                    counted.added.fetch_add(1, Ordering::Relaxed);
                }
                if line.contains("\"podCIDR\":") {
                    counted.first_pod_cidr.get_or_init(Instant::now);
                    counted.with_pod_cidr.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Watch { counts, task })
    }
}

async fn connect(kubeconfig: &Kubeconfig) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(kubeconfig.clone(), &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

pub struct Request {
    pub path: String,
    method: &'static str,
    kind: &'static str,
    body: Value,
    /// The node whose agent sends it; the administrator's own otherwise.
    agent_of: Option<String>,
}

impl Request {
    pub fn create(path: &str, body: Value) -> Self {
        Self::new("POST", path.to_owned(), "application/json", body)
    }

    pub fn delete(path: String) -> Self {
        Self::new("DELETE", path, "application/json", Value::Null)
    }

    /// Server-side apply as an agent.
    pub fn apply(path: String, body: Value) -> Self {
        let path = format!("{path}?fieldManager=tartan-node-agent&force=true");
        Self::new("PATCH", path, "application/apply-patch+yaml", body)
    }

    /// Strategic merge as an agent.
    pub fn strategic(path: String, body: Value) -> Self {
        let path = format!("{path}?fieldManager=tartan-node-agent");
        Self::new("PATCH", path, "application/strategic-merge-patch+json", body)
    }

    fn new(method: &'static str, path: String, kind: &'static str, body: Value) -> Self {
        Self { path, method, kind, body, agent_of: None }
    }

    /// Sent by the rights of the agent of `node`, as its token would give them.
    pub fn of_agent(self, node: &str) -> Self {
        Self { agent_of: Some(node.to_owned()), ..self }
    }

    pub async fn send(self, client: &Client) -> kube::Result<Value> {
        let body = if self.body.is_null() { vec![] } else { self.body.to_string().into_bytes() };
        let mut request = http::Request::builder().method(self.method).uri(self.path);
        if let Some(node) = self.agent_of {
            request = request
                .header("impersonate-user", "system:serviceaccount:tartan-system:tartan-node-agent")
                .header("impersonate-group", "system:serviceaccounts")
                .header("impersonate-group", "system:serviceaccounts:tartan-system")
                .header("impersonate-group", "system:authenticated")
                .header("impersonate-extra-authentication.kubernetes.io%2fnode-name", node);
        }
        let request = request.header("content-type", self.kind).body(body);
        client.request(request.map_err(kube::Error::HttpError)?).await
    }
}

#[derive(Default)]
struct Counts {
    events: AtomicU64,
    bytes: AtomicU64,
    added: AtomicU64,
    with_pod_cidr: AtomicU64,
    first_pod_cidr: OnceLock<Instant>,
}

/// A watch that counts what it is told.
pub struct Watch {
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Watch {
    pub fn events(&self) -> u64 {
        self.counts.events.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    pub fn added(&self) -> u64 {
        self.counts.added.load(Ordering::Relaxed)
    }

    pub fn with_pod_cidr(&self) -> u64 {
        self.counts.with_pod_cidr.load(Ordering::Relaxed)
    }

    pub fn first_pod_cidr(&self) -> Option<Instant> {
        self.counts.first_pod_cidr.get().copied()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
