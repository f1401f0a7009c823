//! The operator's real hands, one request at a time.
//!
//! The executor is async and can't be copied, a state of the model must be: so what the API server has answered
//! is kept, and the executor is run from the start with these answers until it asks for more.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use http::{Method, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tartan_crds::wellknown::annotation;
use tartan_operator::{
    events::Events,
    execute::{Executor, NetworkVersion, News},
    metrics::Metrics,
    world::World,
};
use tokio::{runtime::Runtime, sync::Notify};

use super::{
    objects,
    state::{Act, Block, Lease, Node, Reply, Report, Request, Stage},
};

/// How far a write has come.
#[derive(Clone, Debug)]
pub enum Progress {
    Asks(Request),
    Ends(Vec<Learned>),
}

/// What an operator has learned from a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Learned {
    Lease(Block, Lease),
    NoLease(Block),
    Doubt(Block),
    Node(u8, Node),
    NoNode(u8),
    Report(u8, Option<Report>),
    Network(Stage),
}

pub struct Hands {
    runtime: Runtime,
    executor: Executor,
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Option<Request>>,
    bell: Notify,
}

impl Hands {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let wire = Arc::new(Wire::default());
        let executor = {
            let _inside = runtime.enter();
            let listener = Arc::clone(&wire);
            let service = tower::service_fn(move |request: http::Request<Body>| {
                let wire = Arc::clone(&listener);
                async move { wire.answer(request).await }
            });
            // Events go nowhere: nothing rests on them.
            let deaf = tower::service_fn(|_: http::Request<Body>| {
                std::future::pending::<Result<Response<Body>, std::io::Error>>()
            });
            let metrics = Metrics::default();
            let (events, _) = Events::start(Client::new(deaf, "none"), "model".into(), metrics.clone());
            Executor::new(&Client::new(service, "none"), events, metrics)
        };
        Self { runtime, executor, wire }
    }

    pub fn carry_out(&self, act: Act, heard: &[Reply]) -> Progress {
        self.rewind(heard);
        let mut executor = self.executor.clone();
        if let Act::Create { cut_by, .. } = act {
            executor.decided_by = objects::version(cut_by);
        }
        let answer = self.runtime.block_on(async {
            tokio::select! {
                biased;
                answer = executor.carry_out(objects::action(act)) => Some(answer),
                () = self.wire.bell.notified() => None,
            }
        });
        match answer {
            Some(answer) => Progress::Ends(answer.news.iter().map(known).collect()),
            None => Progress::Asks(self.wire.asked.lock().unwrap().take().unwrap()),
        }
    }

    /// The look around before a round of creates. `serve` answers at once.
    pub fn may_create(
        &self,
        world: &World,
        listed_for: &Option<NetworkVersion>,
        mut serve: impl FnMut(Request) -> Reply,
    ) -> (bool, World, Option<NetworkVersion>) {
        let mut heard = vec![];
        loop {
            self.rewind(&heard);
            let (mut world, mut listed_for) = (world.clone(), listed_for.clone());
            let may = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    may = self.executor.may_create(&mut world, &mut listed_for) => Some(may),
                    () = self.wire.bell.notified() => None,
                }
            });
            match may {
                Some(may) => return (may.unwrap(), world, listed_for),
                None => heard.push(serve(self.wire.asked.lock().unwrap().take().unwrap())),
            }
        }
    }

    fn rewind(&self, heard: &[Reply]) {
        *self.wire.replies.lock().unwrap() = heard.iter().cloned().collect();
    }
}

impl Wire {
    async fn answer(&self, request: http::Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let reply = self.replies.lock().unwrap().pop_front();
        let Some(reply) = reply else {
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            *self.asked.lock().unwrap() = Some(read(&parts, &body));
            self.bell.notify_one();
            return std::future::pending().await;
        };
        let (code, body) = match reply {
            Reply::Lost => return Err(std::io::Error::other("nobody answered")),
            Reply::Node(name, Some(node)) => (200, objects::node_json(name, node)),
            Reply::Report(name, Some(report)) => (200, objects::node_network_json(name, report)),
            Reply::Lease(block, Some(lease)) => (200, objects::lease_json(block, lease)),
            Reply::Leases(all) => {
                let items: Vec<Value> =
                    all.into_iter().map(|(block, lease)| objects::lease_json(block, lease)).collect();
                let kind = "SubnetLeaseList";
                (
                    200,
                    json!({ "apiVersion": "tartan.network/v1alpha1", "kind": kind, "metadata": {}, "items": items }),
                )
            }
            Reply::Network(stage) => (200, objects::network(stage, "Ignore")),
            Reply::Deleted => {
                (200, json!({ "apiVersion": "v1", "kind": "Status", "status": "Success", "code": 200 }))
            }
            Reply::Exists => refusal(409, "AlreadyExists"),
            Reply::Conflict => refusal(409, "Conflict"),
            Reply::NotFound | Reply::Node(_, None) | Reply::Report(_, None) | Reply::Lease(_, None) => {
                refusal(404, "NotFound")
            }
            Reply::Refused => refusal(422, "Invalid"),
        };
        Ok(Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap())
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": code }),
    )
}

/// The request in the model's terms, with the guards that were really sent.
fn read(parts: &http::request::Parts, body: &Value) -> Request {
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let guard = |name: &str| {
        let guards = if parts.method == Method::DELETE { &body["preconditions"] } else { &body["metadata"] };
        guards[name].as_str().map(str::to_owned)
    };
    let of_node = path.contains(&"nodes");
    let uid_number = if of_node { objects::uid_number } else { objects::number };
    let uid = guard("uid").map(|uid| uid_number(&uid));
    let version = guard("resourceVersion").map(|version| version.parse().unwrap());
    match (parts.method.as_str(), path.as_slice()) {
        ("GET", [.., "clusternetworks", "default"]) => Request::GetNetwork,
        ("GET", [.., "nodes", name]) => Request::GetNode(objects::number(name)),
        ("GET", [.., "nodenetworks", name]) => Request::GetReport(objects::number(name)),
        ("GET", [.., "subnetleases", name]) => Request::GetLease(objects::block_of(name)),
        ("GET", [.., "subnetleases"]) => {
            let query = parts.uri.query().unwrap_or_default();
            let node = query.split("nodeName%3D").nth(1).and_then(|rest| rest.split('&').next());
            Request::ListLeases(node.map(objects::number))
        }
        ("POST", [.., "subnetleases"]) => {
            let spec = &body["spec"];
            Request::Create {
                block: objects::block_of(spec["subnet"].as_str().unwrap()),
                node: objects::number(spec["nodeName"].as_str().unwrap()),
                node_uid: objects::uid_number(spec["nodeUID"].as_str().unwrap()),
                primary: spec["primary"].as_bool().unwrap(),
                cut_by: body["metadata"]["annotations"][annotation::CUT_BY].as_str().map(objects::cut_by),
            }
        }
        ("PATCH", [.., "subnetleases", name]) => Request::Patch {
            block: objects::block_of(name),
            uid,
            version,
            set: objects::set(&body["spec"], 0),
        },
        ("DELETE", [.., "subnetleases", name]) => {
            Request::Delete { block: objects::block_of(name), uid, version }
        }
        ("PATCH", [.., "nodes", name]) => Request::PatchNode {
            node: objects::number(name),
            uid,
            version,
            block: objects::block_of(body["spec"]["podCIDR"].as_str().unwrap()),
        },
        _ => panic!("unexpected request: {} {}", parts.method, parts.uri),
    }
}

fn known(news: &News) -> Learned {
    match news {
        News::Lease(lease) => {
            let (block, lease) = objects::small_lease(lease);
            Learned::Lease(block, lease)
        }
        News::NoLease(name) => Learned::NoLease(objects::block_of(name)),
        News::LeaseInDoubt(name) => Learned::Doubt(objects::block_of(name)),
        News::Node(node) => {
            let (name, node) = objects::small_node(node);
            Learned::Node(name, node)
        }
        News::Network(network) => Learned::Network(objects::stage(&NetworkVersion::of(network))),
        News::NoNode(name) => Learned::NoNode(objects::number(name)),
        News::NodeNetwork(said) => {
            Learned::Report(objects::number(&said.meta.name), Some(objects::small_report(said)))
        }
        News::NoNodeNetwork(name) => Learned::Report(objects::number(name), None),
    }
}
