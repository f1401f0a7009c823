//! What the level-3 tests share: a real API server with our CRDs, and operators as real processes.

mod agent;
mod policies;

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::Once,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Event, Namespace, Node},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tartan_crds::{Cidr, ClusterNetwork, NetworkPool, NodeNetwork, SubnetLease};
use tartan_lab::{ApiServer, ApiServerOptions};
use tokio::runtime::Runtime;

pub const PATIENCE: Duration = Duration::from_secs(90);

/// An API server with the CRDs of this repository.
pub struct Lab {
    pub api: ApiServer,
    pub runtime: Runtime,
    pub client: Client,
}

impl Lab {
    pub fn start() -> Self {
        Self::start_with(ApiServerOptions::default())
    }

    pub fn start_with(options: ApiServerOptions) -> Self {
        static TLS: Once = Once::new();
        TLS.call_once(|| {
            rustls::crypto::ring::default_provider().install_default().unwrap();
        });
        let api = ApiServer::start(options).unwrap();
        let runtime = Runtime::new().unwrap();
        let file = Kubeconfig::read_from(api.kubeconfig()).unwrap();
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        let lab = Self { api, runtime, client };
        lab.create_crds();
        let namespace = json!({ "metadata": { "name": "tartan-system" } });
        lab.create::<Namespace>(namespace).unwrap();
        lab
    }

    pub fn create_crds(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in tartan_crds::crds() {
            let name = definition.metadata.name.clone().unwrap();
            let value = tartan_crds::crd_yaml(&definition).unwrap();
            let params = PatchParams::apply("test").force();
            self.runtime.block_on(crds.patch(&name, &params, &Patch::Apply(&value))).unwrap();
        }
        for definition in tartan_crds::crds() {
            let name = definition.metadata.name.unwrap();
            self.until(&format!("CRD {name} is established"), || {
                let definition = self.runtime.block_on(crds.get(&name)).unwrap();
                let conditions = definition.status.and_then(|status| status.conditions).unwrap_or_default();
                conditions.iter().any(|c| c.type_ == "Established" && c.status == "True")
            });
        }
    }

    pub fn delete_crds(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in tartan_crds::crds() {
            let name = definition.metadata.name.unwrap();
            self.runtime.block_on(crds.delete(&name, &DeleteParams::default())).unwrap();
            self.until(&format!("CRD {name} is gone"), || {
                self.runtime.block_on(crds.get_opt(&name)).unwrap().is_none()
            });
        }
    }

    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub fn create<K>(&self, object: Value) -> kube::Result<K>
    where
        K: kube::Resource<DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.runtime.block_on(self.all::<K>().create(&PostParams::default(), &object))
    }

    pub fn network(&self, spec: Value) {
        self.create::<ClusterNetwork>(json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork",
            "metadata": { "name": "default" }, "spec": spec,
        }))
        .unwrap();
    }

    pub fn pool(&self, name: &str, spec: Value) {
        self.create::<NetworkPool>(json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool",
            "metadata": { "name": name }, "spec": spec,
        }))
        .unwrap();
    }

    pub fn node(&self, name: &str, rest: Value) {
        let mut node = json!({ "metadata": { "name": name } });
        merge(&mut node, rest);
        self.create::<Node>(node).unwrap();
    }

    /// Creates `n-0000`, `n-0001`, … as fast as the API server takes them.
    pub fn many_nodes(&self, range: std::ops::Range<usize>) {
        let api = self.all::<Node>();
        let creates = stream::iter(range).map(|number| {
            let api = api.clone();
            async move {
                let node = json!({ "metadata": { "name": format!("n-{number:04}") } });
                api.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await
            }
        });
        self.runtime.block_on(creates.buffer_unordered(16).try_for_each(|_| async { Ok(()) })).unwrap();
    }

    pub fn patch<K>(&self, name: &str, patch: Value)
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        let api = self.all::<K>();
        self.runtime.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).unwrap();
    }

    pub fn delete<K>(&self, name: &str)
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.runtime.block_on(self.all::<K>().delete(name, &DeleteParams::default())).unwrap();
    }

    pub fn list<K>(&self) -> Vec<K>
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.runtime.block_on(self.all::<K>().list(&ListParams::default())).map_or(vec![], |list| list.items)
    }

    pub fn get<K>(&self, name: &str) -> Option<K>
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.runtime.block_on(self.all::<K>().get_opt(name)).unwrap()
    }

    /// Subnets by node; a lease that is held has a `~` before its subnet.
    pub fn leases(&self) -> BTreeMap<String, Vec<String>> {
        let mut leases: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for lease in self.list::<SubnetLease>() {
            let mark = if lease.spec.released_at.is_some() { "~" } else { "" };
            leases.entry(lease.spec.node_name).or_default().push(format!("{mark}{}", lease.spec.subnet));
        }
        leases
    }

    pub fn lease_of(&self, node: &str) -> Option<String> {
        self.leases().get(node).and_then(|leases| leases.first().cloned())
    }

    /// `status reason` of a condition; nothing where it or the object is not there.
    pub fn condition<K>(&self, name: &str, kind: &str) -> String
    where
        K: kube::Resource<DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let text = |c: Value| format!("{} {}", c["status"].as_str().unwrap(), c["reason"].as_str().unwrap());
        self.find_condition::<K>(name, kind).map_or_else(String::new, text)
    }

    /// What a condition says; nothing where it or the object is not there.
    pub fn condition_message<K>(&self, name: &str, kind: &str) -> String
    where
        K: kube::Resource<DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let text = |c: Value| c["message"].as_str().unwrap().to_owned();
        self.find_condition::<K>(name, kind).map_or_else(String::new, text)
    }

    fn find_condition<K>(&self, name: &str, kind: &str) -> Option<Value>
    where
        K: kube::Resource<DynamicType = ()>
            + serde::de::DeserializeOwned
            + serde::Serialize
            + Clone
            + std::fmt::Debug,
    {
        let object = serde_json::to_value(self.get::<K>(name)?).unwrap();
        let conditions = object.pointer("/status/conditions")?.as_array()?;
        conditions.iter().find(|condition| condition["type"] == kind).cloned()
    }

    pub fn events_about(&self, kind: &str, name: &str) -> Vec<String> {
        let about = |event: &Event| {
            event.involved_object.kind.as_deref() == Some(kind)
                && event.involved_object.name.as_deref() == Some(name)
        };
        let events = self.list::<Event>();
        events.into_iter().filter(about).filter_map(|event| event.reason).collect()
    }

    /// `reason: message` of each event about the network.
    pub fn network_events(&self) -> Vec<String> {
        let events = self.list::<Event>().into_iter();
        events
            .filter(|event| event.involved_object.kind.as_deref() == Some("ClusterNetwork"))
            .map(|event| {
                format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default())
            })
            .collect()
    }

    #[track_caller]
    pub fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        tartan_lab::eventually(what, PATIENCE, condition).unwrap();
    }

    /// Asserts that `probe` keeps giving the same for a while in which the operator goes round several times.
    #[track_caller]
    pub fn stays<T: PartialEq + std::fmt::Debug>(&self, what: &str, probe: impl Fn() -> T) {
        let before = probe();
        let end = Instant::now() + Duration::from_secs(3);
        tartan_lab::eventually(what, PATIENCE, || {
            assert_eq!(probe(), before, "{what}");
            Instant::now() >= end
        })
        .unwrap();
    }

    #[track_caller]
    pub fn until_leased(&self, node: &str, subnet: &str) {
        let end = Instant::now() + PATIENCE;
        let mut found = None;
        let good = tartan_lab::eventually("the lease", PATIENCE, || {
            found = self.lease_of(node);
            found.as_deref() == Some(subnet) || Instant::now() > end
        });
        assert_eq!(found.as_deref(), Some(subnet), "lease of {node} {good:?}: {:?}", self.leases());
    }

    pub fn operator(&self) -> Operator {
        self.operator_with(&["--no-leader-election"])
    }

    pub fn operator_with(&self, arguments: &[&str]) -> Operator {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Another build of it, for figures.
        let program = std::env::var_os("TARTAN_TEST_OPERATOR");
        let child = Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_tartan-operator").into()))
            .args(["run", "--listen", &listen.to_string()])
            .args(arguments)
            .env("KUBECONFIG", self.api.kubeconfig())
            .env("TARTAN_LOG", std::env::var("TARTAN_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Operator { child, listen }
    }
}

/// A running operator, killed when dropped.
pub struct Operator {
    child: Child,
    listen: SocketAddr,
}

impl Operator {
    /// The body of a page, or nothing where it does not answer 200.
    pub fn page(&self, path: &str) -> Option<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.listen).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    /// The value of a series, such as `tartan_cidr_blocks_used{entry="a",cidr="10.0.0.0/16"}`.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let page = self.page("/metrics")?;
        page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    pub fn is_ready(&self) -> bool {
        self.page("/readyz").is_some()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM; how long the process took to end, and whether it ended well.
    pub fn terminate(&mut self) -> (Duration, bool) {
        let start = Instant::now();
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (start.elapsed(), status.success())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn assert_disjoint(leases: &BTreeMap<String, Vec<String>>) {
    let mut subnets: Vec<Cidr> =
        leases.values().flatten().map(|subnet| subnet.trim_start_matches('~').parse().unwrap()).collect();
    subnets.sort();
    for pair in subnets.windows(2) {
        assert!(!pair[0].overlaps(pair[1]), "{} and {} overlap", pair[0], pair[1]);
    }
}

pub fn entry(name: &str, cidr: &str, mask: u8) -> Value {
    json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask })
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// How many leases a node has, from a list of NodeNetworks.
pub fn node_networks(lab: &Lab) -> Vec<String> {
    lab.list::<NodeNetwork>().into_iter().filter_map(|object| object.metadata.name).collect()
}
