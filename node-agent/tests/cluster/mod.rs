//! What the tests with real agents share: nodes as namespaces, a real API server, and objects written as the
//! operator would.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tartan_lab::{
    ApiServer, ApiServerOptions, Fabric, FabricOptions, Namespace, Node, Pod, Process, eventually,
    eventually_ok, program,
};

/// Where agents look for WireGuard's, on their node.
pub const PRESHARED_KEY: &str = "/run/presharedKey";

/// More than any step takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes, an API server, and the agents that were started.
pub struct Cluster {
    // Dropped first: agents before what they talk to.
    pub agents: BTreeMap<String, Process>,
    pub operator: Option<Process>,
    pub api: ApiServer,
    pub fabric: Fabric,
    started: usize,
}

impl Cluster {
    /// As many nodes on each segment as given, known to the API; no network, no leases, no agents.
    pub fn bare(segments: &[usize]) -> Self {
        Self::bare_on(FabricOptions::with_segments(segments))
    }

    pub fn bare_on(options: FabricOptions) -> Self {
        let mut fabric = Fabric::start(options).unwrap();
        let api = fabric.api_server(ApiServerOptions::default()).unwrap();
        let crds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        api.kubectl(&["apply", "-f", crds.to_str().unwrap()]).unwrap().ok().unwrap();
        let wait = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=60s"];
        api.kubectl(&wait).unwrap().ok().unwrap();
        eventually_ok("the new kinds are served", PATIENCE, || api.kubectl(&["get", "tartan"])?.ok())
            .unwrap();
        let cluster = Self { agents: BTreeMap::new(), operator: None, api, fabric, started: 0 };
        for node in cluster.fabric.nodes() {
            cluster.register(node.name());
        }
        cluster
    }

    /// Makes the Node object, as its kubelet would.
    pub fn register(&self, node: &str) {
        self.create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } }));
    }

    /// The same with a network, and a lease and NodeNetwork for each node N: 10.244.N.0/24 by `backend(N)`.
    pub fn leased(segments: &[usize], backend: impl Fn(usize) -> Value) -> Self {
        let cluster = Self::bare(segments);
        cluster.create_network("10.244.0.0/16");
        for node in cluster.fabric.nodes() {
            cluster.create_node_network(node.name());
            cluster.create_lease(node.number(), node.name(), &backend(node.number()));
        }
        cluster
    }

    pub fn create(&self, object: &Value) {
        self.api.apply(&object.to_string()).unwrap().ok().unwrap();
    }

    pub fn create_network(&self, cidr: &str) {
        self.create(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork",
            "metadata": { "name": "default" },
            "spec": { "cidrs": [{ "name": "pods", "cidr": cidr, "nodeMaskSize": 24 }] },
        }));
    }

    pub fn create_node_network(&self, node: &str) {
        self.create(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork",
            "metadata": { "name": node }, "spec": { "pool": "default" },
        }));
        // The operator's condition stands beside the agent's.
        let status = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": node },
            "status": { "conditions": [{
                "type": "Leased", "status": "True", "reason": "AsExpected", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }] },
        });
        let mut command = vec!["patch", "nodenetwork", node, "--subresource=status", "--type=merge"];
        let status = status.to_string();
        command.extend(["--field-manager=tartan-operator", "-p", &status]);
        self.api.kubectl(&command).unwrap().ok().unwrap();
    }

    pub fn create_lease(&self, number: usize, node: &str, backend: &Value) {
        let uid = self.field("node", node, ".metadata.uid");
        self.create(&lease(number, node, &uid, backend));
    }

    /// One field by JSONPath; empty where it isn't there.
    pub fn field(&self, kind: &str, name: &str, path: &str) -> String {
        self.template(kind, name, &format!("{{{path}}}"))
    }

    fn template(&self, kind: &str, name: &str, template: &str) -> String {
        let output = format!("-ojsonpath={template}");
        let said = self.api.kubectl(&["get", kind, name, &output, "--ignore-not-found"]).unwrap();
        said.ok().unwrap().stdout
    }

    /// Status and reason of a NodeNetwork's condition.
    pub fn condition(&self, node: &str, condition: &str) -> (String, String) {
        let (status, reason, _) = self.condition_of("nodenetwork", node, condition);
        (status, reason)
    }

    /// Status, reason and message, of one moment; empty where it isn't there.
    pub fn condition_of(&self, kind: &str, name: &str, condition: &str) -> (String, String, String) {
        let field = |field: &str| format!("{{.status.conditions[?(@.type==\"{condition}\")].{field}}}");
        let template = ["status", "reason", "message"].map(field).join("{\"\\n\"}");
        let said = self.template(kind, name, &template);
        let mut parts = said.splitn(3, '\n').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        (part(), part(), part())
    }

    pub fn wait_until_ready(&self, node: &str) {
        eventually_ok(&format!("{node} is ready"), PATIENCE, || {
            let found = self.condition(node, "Ready");
            anyhow::ensure!(found.0 == "True", "{found:?}\n{}", self.log(node));
            Ok(())
        })
        .unwrap();
    }

    pub fn wait_for_condition(&self, node: &str, kind: &str, status: &str, reason: &str) {
        eventually_ok(&format!("{kind} of {node} is {status} for {reason}"), PATIENCE, || {
            let found = self.condition(node, kind);
            anyhow::ensure!(found == (status.to_owned(), reason.to_owned()), "it is {found:?}");
            Ok(())
        })
        .unwrap();
    }

    pub fn node(&self, name: &str) -> &Node {
        self.fabric.node(name)
    }

    pub fn names(&self) -> Vec<String> {
        self.fabric.nodes().iter().map(|node| node.name().to_owned()).collect()
    }

    /// The agent's command on a node, without subcommand.
    pub fn command(&self, node: &str) -> Command {
        let mut command = self.node(node).command(env!("CARGO_BIN_EXE_tartan-node-agent"));
        command.env("NODE_NAME", node).env("KUBECONFIG", self.api.kubeconfig());
        command.env("TARTAN_LOG", "info,tartan_node_agent=debug");
        command.env("TARTAN_PRESHARED_KEY", PRESHARED_KEY);
        command
    }

    pub fn start_agent(&mut self, node: &str) {
        let command = self.command(node);
        self.start_command(node, &command);
    }

    pub fn start_command(&mut self, node: &str, command: &Command) {
        self.started += 1;
        let process = self.node(node).start(&format!("agent-{}", self.started), command).unwrap();
        self.agents.insert(node.to_owned(), process);
    }

    /// The real one, on the first node, for those who don't write leases themselves.
    pub fn start_operator(&mut self) {
        let program = program("tartan-operator").unwrap();
        let mut command = self.node("node1").command(&program.display().to_string());
        command.args(["run", "--no-leader-election"]).env("KUBECONFIG", self.api.kubeconfig());
        self.operator = Some(self.node("node1").start("operator", &command).unwrap());
    }

    pub fn start_all(&mut self) {
        for name in self.names() {
            self.start_agent(&name);
        }
    }

    pub fn stop_agent(&mut self, node: &str) {
        self.agents.remove(node).unwrap().stop(PATIENCE).unwrap();
    }

    /// Runs a script on a node while its agent is held: it puts back what is missing within milliseconds.
    pub fn script_behind_the_agent(&self, node: &str, script: &str) {
        let pid = self.agents[node].pid();
        self.node(node).script(&format!("kill -STOP {pid}; trap 'kill -CONT {pid}' EXIT\n{script}")).unwrap();
    }

    pub fn log(&self, node: &str) -> String {
        self.agents.get(node).map(Process::output).unwrap_or_default()
    }

    /// All nodes are ready and have a path to each of the others.
    pub fn wait_until_joined(&self) {
        let others = self.names().len() - 1;
        for name in self.names() {
            let joined = eventually_ok(&format!("{name} has a path to each node"), PATIENCE, || {
                let ready = self.condition(&name, "Ready");
                anyhow::ensure!(ready.0 == "True", "Ready is {ready:?}");
                let routes = routes(self.node(&name));
                let paths = routes.lines().filter(|line| !line.contains("unreachable")).count();
                anyhow::ensure!(paths == others, "routes:\n{routes}");
                Ok(())
            });
            joined.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log(&name)));
        }
    }

    /// Runs a subcommand to its end: exit code, standard output, standard error.
    pub fn agent(&self, node: &str, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(node).args(arguments).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    pub fn http(&self, node: &str, path: &str) -> String {
        self.try_http(node, path).unwrap()
    }

    /// The same of an agent that may not listen yet.
    pub fn try_http(&self, node: &str, path: &str) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:9472{path}");
        Ok(self.node(node).exec(&["curl", "-sS", "--max-time", "5", &url])?.ok()?.stdout)
    }

    /// Whether it answers there, and well.
    pub fn says_ok(&self, node: &str, path: &str) -> bool {
        self.try_http(node, path).is_ok_and(|said| said == "ok\n")
    }

    /// Resource versions of everything that agents write.
    pub fn versions(&self) -> String {
        let output =
            "-ojsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{\"\\n\"}{end}";
        self.api.kubectl(&["get", "nodes,subnetleases,nodenetworks", output]).unwrap().ok().unwrap().stdout
    }
}

pub fn lease(number: usize, node: &str, uid: &str, backend: &Value) -> Value {
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
        "metadata": { "name": format!("10.244.{number}.0-24") },
        "spec": {
            "nodeName": node, "nodeUID": uid, "subnet": format!("10.244.{number}.0/24"),
            "pool": "default", "primary": true, "backend": backend,
        },
    })
}

pub fn vxlan(_: usize) -> Value {
    json!({ "type": "vxlan", "accepts": ["vxlan"] })
}

pub fn host_gw(_: usize) -> Value {
    json!({ "type": "host-gw", "accepts": ["vxlan", "host-gw"] })
}

/// Routes of ours, one a line.
pub fn routes(node: &Node) -> String {
    node.exec(&["ip", "route", "show", "proto", "84"]).unwrap().ok().unwrap().stdout
}

/// Whether `from` gets an answer of `to` within a second.
pub fn reaches(from: &Namespace, to: &Pod) -> bool {
    from.exec(&["ping", "-n", "-c1", "-W1", &to.ip().to_string()]).unwrap().success()
}

pub fn wait_until_reaches(from: &Namespace, to: &Pod) {
    eventually(&format!("{} reaches {}", from.name(), to.name()), PATIENCE, || reaches(from, to)).unwrap();
}

/// How long until `condition` holds; fails after `limit`.
pub fn time_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    eventually(what, limit, condition).unwrap();
    start.elapsed()
}

pub fn exists(node: &Node, path: &str) -> bool {
    node.exec(&["test", "-e", path]).unwrap().success()
}
