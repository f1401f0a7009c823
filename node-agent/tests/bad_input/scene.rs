//! Two nodes in one rack with a pod each, and everything that runs in a cluster.

use std::process::Command;

use serde_json::{Value, json};
use tartan_lab::{ApiServer, Node, Output, Pod, Process, eventually_ok, traffic::Echo};

use super::{
    cluster::{Cluster, PATIENCE, wait_until_reaches},
    table::{Answer, Row},
};

pub struct Scene {
    _operator: Process,
    /// Other programs on node2 that hold ports, and ours beside the agent; they end when they are taken out.
    holders: Vec<Echo>,
    beside: Vec<Process>,
    pub cluster: Cluster,
    pub pods: (Pod, Pod),
}

impl Scene {
    /// The pair of nodes routes plainly, so that their tunnel devices are free to be meddled with.
    pub fn set() -> Self {
        let mut cluster = Cluster::bare(&[2]);
        cluster.create(
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "tartan-system" } }),
        );
        cluster.create(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
            "spec": { "cidrs": [pods_entry()], "defaultBackend": { "type": "host-gw" } },
        }));
        let program = tartan_lab::program("tartan-operator").unwrap();
        let mut command: Command = cluster.node("node1").command(program.to_str().unwrap());
        command.args(["run", "--no-leader-election"]).env("KUBECONFIG", cluster.api.kubeconfig());
        let operator = cluster.node("node1").start("operator", &command).unwrap();
        cluster.start_all();
        cluster.wait_until_joined();
        let subnet = |node: &str| cluster.field("node", node, ".spec.podCIDR");
        assert!(!subnet("node1").is_empty());
        let pods = (cluster.node("node1").pod("a").unwrap(), cluster.node("node2").pod("b").unwrap());
        wait_until_reaches(&pods.0, &pods.1);
        let scene = Self { _operator: operator, holders: vec![], beside: vec![], cluster, pods };
        scene.apply_policies();
        scene
    }

    pub fn api(&self) -> &ApiServer {
        &self.cluster.api
    }

    pub fn node2(&self) -> &Node {
        self.cluster.node("node2")
    }

    /// `kubectl` with these words, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) {
        self.try_kubectl(arguments).ok().unwrap();
    }

    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.api().kubectl(arguments).unwrap()
    }

    /// What the API server says against a patch of the ClusterNetwork's spec; panics where it says nothing.
    pub fn network_refusal(&self, spec: &Value) -> String {
        let said = self.try_patch_network(spec);
        assert!(!said.success(), "{spec} was accepted");
        said.stderr
    }

    /// The same of any `kubectl`.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let said = self.try_kubectl(arguments);
        assert!(!said.success(), "{arguments:?} was accepted");
        said.stderr
    }

    pub fn patch_network(&self, spec: &Value) {
        self.try_patch_network(spec).ok().unwrap();
    }

    pub fn try_patch_network(&self, spec: &Value) -> Output {
        let patch = json!({ "spec": spec }).to_string();
        self.try_kubectl(&["patch", "clusternetwork", "default", "--type=merge", "-p", &patch])
    }

    /// Entries beside that of the pods. What goes is drained first.
    pub fn entries(&self, others: &[Value]) {
        let mut cidrs = vec![pods_entry()];
        cidrs.extend_from_slice(others);
        let there = self.cluster.field("clusternetwork", "default", ".spec.cidrs");
        let there: Vec<Value> = serde_json::from_str(&there).unwrap();
        let kept = |entry: &Value| cidrs.iter().any(|other| other["name"] == entry["name"]);
        let mut both = cidrs.clone();
        for mut entry in there.into_iter().filter(|entry| !kept(entry)) {
            entry["drain"] = true.into();
            both.push(entry);
        }
        self.patch_network(&json!({ "cidrs": both }));
        self.patch_network(&json!({ "cidrs": cidrs }));
    }

    pub fn pool(&self, name: &str, spec: &Value) {
        self.cluster.create(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": name }, "spec": spec,
        }));
    }

    pub fn delete_pools(&self) {
        self.kubectl(&["delete", "networkpools", "--all"]);
    }

    /// A Node of which there is no more than the object.
    pub fn add_node(&self, name: &str, labels: &Value, spec: &Value) {
        let metadata = json!({ "name": name, "labels": labels });
        self.cluster
            .create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec }));
    }

    /// Writes a Node's addresses, as its kubelet does.
    pub fn has_addresses(&self, node: &str, addresses: &Value) {
        let patch = json!({ "status": { "addresses": addresses } }).to_string();
        self.kubectl(&["patch", "node", node, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    /// The lease of a node, as kubectl names it, once it has one.
    pub fn lease_of(&self, node: &str) -> String {
        let label = format!("tartan.network/node={node}");
        let found = eventually_ok("a lease", PATIENCE, || {
            let name = self.api().kubectl(&["get", "subnetleases", "-l", &label, "-o", "name"])?.ok()?.stdout;
            anyhow::ensure!(!name.trim().is_empty(), "none of {node}");
            Ok(name.trim().to_owned())
        });
        found.unwrap()
    }

    /// Makes every node receive this backend: node9 sends by it.
    pub fn ask_for(&self, backend: &str) {
        let labels = json!({ "other": "yes" });
        self.pool(
            "other",
            &json!({ "nodeSelector": { "matchLabels": labels }, "backend": { "type": backend } }),
        );
        self.add_node("node9", &labels, &json!({}));
    }

    pub fn ask_no_more(&self) {
        self.kubectl(&["delete", "node", "node9"]);
        self.delete_pools();
    }

    /// An annotation of node2; an empty one is taken away.
    pub fn annotate(&self, name: &str, value: &str) {
        let word = if value.is_empty() { format!("{name}-") } else { format!("{name}={value}") };
        self.kubectl(&["annotate", "node", "node2", "--overwrite", &word]);
    }

    /// Starts node2's agent again, by `wrap` of its command line.
    pub fn restart_agent(&mut self, wrap: &[&str]) {
        self.cluster.stop_agent("node2");
        if wrap.is_empty() {
            self.cluster.start_agent("node2");
            return;
        }
        let plain = self.cluster.command("node2");
        let mut command = self.node2().command(wrap[0]);
        command.args(&wrap[1..]).arg(env!("CARGO_BIN_EXE_tartan-node-agent"));
        for (name, value) in plain.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        self.cluster.start_command("node2", &command);
    }

    /// Lets another program have this port of node2.
    pub fn take_port(&mut self, port: u16) {
        self.holders.push(Echo::start(self.node2(), port).unwrap());
    }

    /// Starts a program of ours on node2.
    pub fn start_program(&mut self, name: &str) {
        let program = tartan_lab::program(name).unwrap();
        let command = self.node2().command(program.to_str().unwrap());
        let process = self.node2().start(name, &command).unwrap();
        self.beside.push(process);
    }

    /// Ends what [`Self::take_port`] and [`Self::start_program`] began.
    pub fn end_programs(&mut self) {
        self.beside.clear();
        self.holders.clear();
    }

    /// Does what the row says is wrong, finds the answer, mends it, and sees the answer go. What is not as the
    /// row says.
    pub fn provoke(&mut self, row: &Row) -> Vec<String> {
        let said = (row.provoke)(self);
        let found = match row.answer {
            Answer::Refused => Self::is_answer(row, "", &said),
            Answer::Event(kind) => eventually_ok(row.input, PATIENCE, || {
                let these = format!("--field-selector=reason={},involvedObject.kind={kind}", row.reason);
                let words =
                    ["get", "events", "--all-namespaces", &these, "-o", "jsonpath={.items[*].message}"];
                Self::is_answer(row, row.reason, &self.try_kubectl(&words).ok()?.stdout)
            }),
            Answer::Log => {
                eventually_ok(row.input, PATIENCE, || Self::is_answer(row, "", &self.cluster.log("node2")))
            }
            Answer::Condition(kind, name, condition, status) => eventually_ok(row.input, PATIENCE, || {
                let (is, reason, message) = self.cluster.condition_of(kind, name, condition);
                anyhow::ensure!(is == status, "{condition} of {kind} {name} is {is}: {reason}: {message}");
                Self::is_answer(row, &reason, &message)
            }),
        };
        (row.mend)(self);
        let mended = match row.answer {
            Answer::Condition(kind, name, condition, status) => eventually_ok("mended", PATIENCE, || {
                let (is, reason, message) = self.cluster.condition_of(kind, name, condition);
                anyhow::ensure!(
                    is != status || reason != row.reason,
                    "{condition}: {is}: {reason}: {message}"
                );
                Ok(())
            }),
            Answer::Refused | Answer::Event(_) | Answer::Log => Ok(()),
        };
        self.cluster.wait_until_joined();
        [found, mended]
            .into_iter()
            .filter_map(Result::err)
            .map(|error| format!("{}: {error:#}", row.input))
            .collect()
    }

    fn is_answer(row: &Row, reason: &str, text: &str) -> anyhow::Result<()> {
        anyhow::ensure!(row.reason.is_empty() || reason == row.reason, "the reason is {reason}: {text}");
        for part in [row.names, row.remedy] {
            anyhow::ensure!(text.contains(part), "{part:?} is not in: {text}");
        }
        Ok(())
    }
}

/// The entry that both nodes' subnets come from.
pub fn pods_entry() -> Value {
    json!({ "name": "pods", "cidr": "10.244.0.0/16", "nodeMaskSize": 24 })
}

pub fn entry(name: &str, cidr: &str, mask: u8) -> Value {
    json!({ "name": name, "cidr": cidr, "nodeMaskSize": mask })
}

/// Nothing to put right.
pub fn nothing(_: &mut Scene) {}
