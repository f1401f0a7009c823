//! Agents without nodes: each answers for its own node, by that node's rights, as `tartan-node-agent` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Result, bail};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::api::{GROUP, Load, Request};

/// How many of all agents wait for an answer at the same time.
const CONCURRENCY: usize = 64;

/// All agents of the cluster. They stop when this is dropped.
pub struct Fleet {
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    refused: AtomicU64,
}

impl Fleet {
    /// Starts agents that answer whatever happens from now on.
    pub fn start(load: &Load) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let leases = load.events(&format!("{GROUP}/subnetleases"))?;
        let node_networks = load.events(&format!("{GROUP}/nodenetworks"))?;
        let mut nodes = Nodes::default();
        let due = stream::select(leases, node_networks)
            .flat_map(move |line| stream::iter(nodes.hear(&serde_json::from_str(&line).unwrap_or_default())));
        let client = load.another_client()?;
        let counted = counts.clone();
        let sent = due.for_each_concurrent(CONCURRENCY, move |request| {
            let (client, counts) = (client.clone(), counted.clone());
            async move {
                counts.sent.fetch_add(1, Ordering::Relaxed);
                let what = request.path.clone();
                match request.send(&client).await {
                    Ok(_) => {}
                    // The node or its lease went meanwhile.
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => {
                        if counts.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                            eprintln!("{what}: {error}");
                        }
                    }
                }
            }
        });
        Ok(Self { counts, task: load.spawn(sent) })
    }

    /// Requests so far.
    pub fn sent(&self) -> f64 {
        self.counts.sent.load(Ordering::Relaxed) as f64
    }

    /// An error where the API server has refused one.
    pub fn check(&self) -> Result<()> {
        match self.counts.refused.load(Ordering::Relaxed) {
            0 => Ok(()),
            refused => bail!("{refused} writes of agents were refused, the first as printed above"),
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the agents know.
#[derive(Default)]
struct Nodes {
    subnets: BTreeMap<String, String>,
    node_networks: BTreeSet<String>,
}

impl Nodes {
    /// What the agent of the node that an event is about writes then.
    fn hear(&mut self, event: &Value) -> Vec<Request> {
        let object = &event["object"];
        if event["type"] == "DELETED" {
            return vec![];
        }
        match object["kind"].as_str() {
            Some("SubnetLease") => self.hear_of_lease(object),
            Some("NodeNetwork") if event["type"] == "ADDED" => {
                let node = text(&object["metadata"]["name"]);
                let due = self.subnets.get(node).map(|subnet| node_network(node, subnet, 3));
                self.node_networks.insert(node.to_owned());
                due.into_iter().collect()
            }
            _ => vec![],
        }
    }

    fn hear_of_lease(&mut self, lease: &Value) -> Vec<Request> {
        let (node, subnet) = (text(&lease["spec"]["nodeName"]), text(&lease["spec"]["subnet"]));
        let status = lease_status(node);
        if is_released(lease) || lease["status"]["publicIPs"] == status["publicIPs"] {
            return vec![];
        }
        self.subnets.insert(node.to_owned(), subnet.to_owned());
        let known = self.node_networks.contains(node).then(|| node_network(node, subnet, 3));
        [apply_lease(lease), available(node)].into_iter().chain(known).collect()
    }
}

fn is_released(lease: &Value) -> bool {
    !lease["spec"]["releasedAt"].is_null()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What all agents would write if they took nothing of what is there for theirs.
pub fn say_again(leases: &[Value]) -> Vec<Request> {
    leases.iter().filter(|lease| !is_released(lease)).map(apply_lease).collect()
}

/// What all agents write when the figures of their nodes have changed: `addresses` are those that pods have.
pub fn new_figures(leases: &[Value], addresses: u32) -> Vec<Request> {
    let living = leases.iter().filter(|lease| !is_released(lease));
    let figures = |lease: &Value| {
        node_network(text(&lease["spec"]["nodeName"]), text(&lease["spec"]["subnet"]), addresses)
    };
    living.map(figures).collect()
}

fn apply_lease(lease: &Value) -> Request {
    let node = text(&lease["spec"]["nodeName"]);
    say(node, "SubnetLease", "subnetleases", text(&lease["metadata"]["name"]), &lease_status(node))
}

fn node_network(node: &str, subnet: &str, addresses: u32) -> Request {
    let status = json!({
        "observedGeneration": 1, "agentVersion": "0.1.0", "kernelVersion": "6.12.0",
        "uplink": { "interface": "eth0", "addresses": [public_ip(node)], "mtu": 1500 },
        "podMTU": 1450, "backend": "vxlan", "receives": ["vxlan"], "peers": 4999,
        "paths": [{ "backend": "vxlan", "direct": false, "reason": "same-backend", "peers": 4999 }],
        "addressUse": [{ "subnet": subnet, "used": addresses, "capacity": 253 }],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Programmed", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    });
    say(node, "NodeNetwork", "nodenetworks", node, &status)
}

fn say(node: &str, kind: &str, resource: &str, name: &str, status: &Value) -> Request {
    let body = json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": kind, "metadata": { "name": name }, "status": status,
    });
    Request::apply(format!("{GROUP}/{resource}/{name}/status"), body).of_agent(node)
}

/// The Node's condition, which lets the scheduler use it.
fn available(node: &str) -> Request {
    let body = json!({ "status": { "conditions": [{
        "type": "NetworkUnavailable", "status": "False", "reason": "TartanReady", "message": "",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } });
    Request::strategic(format!("/api/v1/nodes/{node}/status"), body).of_agent(node)
}

fn lease_status(node: &str) -> Value {
    let number = number(node);
    json!({
        "publicIPs": [public_ip(node)], "uplinkPrefixes": ["172.16.0.0/16"],
        "mtu": 1450, "pairingVersion": 1,
        "endpoints": [{
            "type": "vxlan", "vtepMAC": format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256),
        }],
    })
}

fn public_ip(node: &str) -> String {
    let number = number(node);
    format!("172.16.{}.{}", number / 256, number % 256)
}

/// The number that the name of a node was made of.
fn number(node: &str) -> usize {
    node.trim_start_matches('n').parse().unwrap_or_default()
}
