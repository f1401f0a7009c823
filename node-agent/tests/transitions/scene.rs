//! Nodes with real agents and kube-proxies, the real operator, and on each node one pod with an echo and Services.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, process::Command, time::Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tartan_crds::{BackendType, NodeNetwork, SubnetLease, conditions::kind};
use tartan_lab::{Fabric, FabricOptions, Pod, Process, program, run, traffic::Echo, vm};

use super::{
    api::Server,
    beside::{self, Beside, has_daemon},
    wait_for,
};

/// The network of all pods, where they have IPv4.
pub const PODS: &str = "10.244.0.0/16";
const PODS_V6: &str = "fd00:10:244::/48";
pub const PORT: u16 = 7000;
/// The pods', in bytes: less than any backend leaves of an uplink's 1500, so that it stays what it is in every change.
pub const MTU: u16 = 1400;

/// A pool, and the numbers of its nodes.
#[derive(Clone, Copy)]
pub struct Pool {
    pub name: &'static str,
    pub nodes: &'static [usize],
    pub backend: BackendType,
}

/// What a scene is like.
struct Setting<'a> {
    segments: &'a [usize],
    pools: &'a [Pool],
    /// Numbers of nodes, and ports there that another program has.
    taken: Vec<(usize, u16)>,
    daemons: bool,
    /// The pods', where somebody asks for one.
    mtu: Option<u16>,
    /// Neither nodes nor pods have IPv4.
    six: bool,
}

impl<'a> Setting<'a> {
    fn of(segments: &'a [usize], pools: &'a [Pool]) -> Self {
        Self { segments, pools, taken: vec![], daemons: true, mtu: Some(MTU), six: false }
    }
}

pub struct Scene {
    // In the order in which they must end.
    pub(super) ends: BTreeMap<String, End>,
    agents: BTreeMap<String, Process>,
    proxies: BTreeMap<String, Process>,
    pub(super) beside: BTreeMap<String, Beside>,
    /// Nodes have an IKE daemon.
    daemons: bool,
    operator: Option<Process>,
    taken: Vec<Echo>,
    begin: Instant,
    pub api: Server,
    pub fabric: Fabric,
    /// The network of all pods.
    pub pods: &'static str,
    started: usize,
}

/// The pod of a node, and how else it is reached.
pub struct End {
    pub(super) number: usize,
    _echo: Echo,
    pub pod: Pod,
}

impl Scene {
    /// As many nodes on each segment as given, in these pools, and all of them ready.
    pub fn start(segments: &[usize], pools: &[Pool]) -> Self {
        let mut scene = Self::with_agents(&Setting::of(segments, pools));
        for name in scene.names() {
            scene.start_proxy(&name);
        }
        for name in scene.names() {
            scene.add_end(&name);
            scene.add_services(&name);
        }
        scene.wait_until_services_are_known();
        scene.tell("pods and Services are there");
        scene
    }

    /// The same without Services and IKE daemons, and with the ports of WireGuard taken by another program on one node.
    pub fn without_services(segments: &[usize], pools: &[Pool], without_wireguard: usize) -> Self {
        let taken = (51820..51824).map(|port| (without_wireguard, port)).collect();
        Self::with_ends(&Setting { taken, daemons: false, ..Setting::of(segments, pools) })
    }

    /// The same without Services, and with the MTU that pods have where nobody asks for one.
    pub fn with_the_usual_mtu(segments: &[usize], pools: &[Pool]) -> Self {
        Self::with_ends(&Setting { mtu: None, ..Setting::of(segments, pools) })
    }

    /// The same without Services and without IPv4.
    pub fn of_ipv6_alone(segments: &[usize], pools: &[Pool]) -> Self {
        Self::with_ends(&Setting { six: true, ..Setting::of(segments, pools) })
    }

    fn with_ends(setting: &Setting<'_>) -> Self {
        let mut scene = Self::with_agents(setting);
        for name in scene.names() {
            scene.add_end(&name);
        }
        scene
    }

    fn with_agents(setting: &Setting<'_>) -> Self {
        let begin = Instant::now();
        let options =
            FabricOptions { without_v4: setting.six, ..FabricOptions::with_segments(setting.segments) };
        let mut fabric = Fabric::start(options).unwrap();
        fabric.outside().unwrap();
        let api = Server::start(&mut fabric);
        let mut scene = Self {
            ends: BTreeMap::new(),
            agents: BTreeMap::new(),
            proxies: BTreeMap::new(),
            beside: BTreeMap::new(),
            daemons: setting.daemons,
            operator: None,
            taken: vec![],
            begin,
            api,
            fabric,
            pods: if setting.six { PODS_V6 } else { PODS },
            started: 0,
        };
        for (number, port) in &setting.taken {
            let node = scene.fabric.node(&format!("node{number}"));
            scene.taken.push(Echo::start(node, *port).unwrap());
        }
        scene.tell("the API server is there");
        scene.create_objects(setting);
        scene.start_operator();
        for name in scene.names() {
            scene.start_agent(&name);
        }
        for name in scene.names() {
            scene.wait_until_ready(&name);
        }
        scene.tell("all nodes are ready");
        scene
    }

    /// How far it is, for whoever watches a virtual machine.
    pub fn tell(&self, what: &str) {
        println!("   {:5.1} s: {what}", self.begin.elapsed().as_secs_f64());
    }

    fn create_objects(&self, setting: &Setting<'_>) {
        let Setting { pools, mtu, six, .. } = setting;
        let node_mask_size = if *six { 64 } else { 24 };
        self.api.apply(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork",
            "metadata": { "name": "default" },
            "spec": {
                "cidrs": [{ "name": "pods", "cidr": self.pods, "nodeMaskSize": node_mask_size }], "mtu": mtu,
            },
        }));
        for pool in *pools {
            self.api.apply(&json!({
                "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool",
                "metadata": { "name": pool.name },
                "spec": {
                    "nodeSelector": { "matchLabels": { "pool": pool.name } },
                    "backend": { "type": pool.backend }, "transition": { "maxInFlight": 1 },
                },
            }));
        }
        for node in self.fabric.nodes() {
            let pool = pools.iter().find(|pool| pool.nodes.contains(&node.number()));
            self.create_node(node.name(), pool.map(|pool| pool.name));
            // The first is what it is reached by.
            let address = node.addresses()[0];
            let addresses = json!([{ "type": "InternalIP", "address": address }]);
            self.api.merge_status(&json!({
                "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
                "status": { "addresses": addresses },
            }));
        }
    }

    pub fn create_node(&self, name: &str, pool: Option<&str>) {
        let labels: BTreeMap<&str, &str> = pool.iter().map(|pool| ("pool", *pool)).collect();
        let metadata = json!({ "name": name, "labels": labels });
        self.api.apply(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata }));
    }

    pub fn names(&self) -> Vec<String> {
        self.fabric.nodes().iter().map(|node| node.name().to_owned()).collect()
    }

    /// It runs on the first node, as it would with the chart, and so loses the API server with it.
    pub fn start_operator(&mut self) {
        let program = lab_program("tartan-operator", || program("tartan-operator").unwrap());
        let mut command = self.fabric.node("node1").command(&program);
        command.args(["run", "--no-leader-election"]).env("KUBECONFIG", &self.api.kubeconfig);
        self.operator = Some(self.start_on("node1", "operator", &command));
    }

    pub fn kill_operator(&mut self) {
        self.operator.take().unwrap().kill().unwrap();
    }

    /// With the processes beside it, where they don't run yet.
    pub fn start_agent(&mut self, node: &str) {
        if !self.beside.contains_key(node) {
            let started = self.start_beside(node, self.daemons);
            self.beside.insert(node.to_owned(), started);
        }
        let command = self.agent_command(node);
        let process = self.start_on(node, "agent", &command);
        self.agents.insert(node.to_owned(), process);
    }

    pub fn kill_agent(&mut self, node: &str) {
        self.agents.remove(node).unwrap().kill().unwrap();
    }

    /// All that the agent of this node has said since it was started.
    pub fn said_by_agent(&self, node: &str) -> String {
        self.agents[node].output()
    }

    pub fn signal_agent(&self, node: &str, signal: Signal) {
        self.agents[node].signal(signal);
    }

    /// Runs a script on a node while its agent is held: it puts back what is missing within milliseconds.
    pub fn behind_the_agent(&self, node: &str, script: &str) {
        self.signal_agent(node, Signal::SIGSTOP);
        let done = self.fabric.node(node).script(script);
        self.signal_agent(node, Signal::SIGCONT);
        done.unwrap();
    }

    /// Everything on the node ends at once.
    pub fn power_off(&mut self, node: &str) {
        self.fabric.power_off_node(node).unwrap();
        self.agents.remove(node);
        self.beside.remove(node);
        self.proxies.remove(node);
        self.ends.remove(node);
    }

    /// The node starts with nothing but its disk, and gets a new pod.
    pub fn power_on(&mut self, node: &str) {
        self.fabric.power_on_node(node).unwrap();
        self.start_agent(node);
        self.start_proxy(node);
        // The API still says what was so before. The link to this file outlives a reboot, the file doesn't.
        wait_for(&format!("the agent of {node} to be there again"), || {
            self.fabric.node(node).exec(&["test", "-e", "/etc/cni/net.d/05-tartan.conflist"])?.ok()
        });
        self.add_end(node);
        self.add_services(node);
    }

    fn start_proxy(&mut self, node: &str) {
        let process = self.fabric.start_proxy(&self.api.kubeconfig, node).unwrap();
        self.proxies.insert(node.to_owned(), process);
    }

    /// The agent's command on a node, without subcommand.
    fn agent_command(&self, node: &str) -> Command {
        let program = lab_program("tartan-node-agent", || env!("CARGO_BIN_EXE_tartan-node-agent").into());
        let mut command = self.fabric.node(node).command(&program);
        command.env("NODE_NAME", node).env("KUBECONFIG", &self.api.kubeconfig);
        command.env("TARTAN_IPSEC_KEY", beside::KEY_FILE);
        command.env("TARTAN_IPSEC_CERTIFICATES", beside::CERTIFICATES);
        command.env("TARTAN_PRESHARED_KEY", beside::WIREGUARD_KEY_FILE);
        if beside::wireguard_is_a_process() {
            command.env("TARTAN_USER_WIREGUARD", "auto");
        }
        command
    }

    pub fn start_on(&mut self, node: &str, what: &str, command: &Command) -> Process {
        self.started += 1;
        self.fabric.node(node).start(&format!("{what}-{}", self.started), command).unwrap()
    }

    fn add_end(&mut self, node: &str) {
        let place = self.fabric.node(node);
        let number = place.number();
        let pod = place.pod("a").unwrap();
        let echo = Echo::start(&pod, PORT).unwrap();
        self.ends.insert(node.to_owned(), End { number, _echo: echo, pod });
    }

    pub fn end(&self, node: &str) -> &End {
        &self.ends[node]
    }

    pub fn wait_until_ready(&self, node: &str) {
        wait_for(&format!("{node} to be ready"), || {
            let status = self.node_network(node).status.unwrap_or_default();
            let ready = status.conditions.iter().find(|condition| condition.type_ == kind::READY);
            anyhow::ensure!(ready.is_some_and(|ready| ready.status == "True"), "{status:?}");
            Ok(())
        });
    }

    pub fn node_network(&self, node: &str) -> NodeNetwork {
        self.api.get(node).unwrap_or_else(|| NodeNetwork::new(node, Default::default()))
    }

    pub fn leases(&self) -> Vec<SubnetLease> {
        self.api.list()
    }

    /// Whether a node's pod gets an answer of another's.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.ends[&format!("node{from}")], &self.ends[&format!("node{to}")]);
        let ping = ["ping", "-n", "-c2", "-i0.2", "-W2", &to.address().to_string()];
        from.pod.exec(&ping).unwrap().success()
    }

    /// Runs a subcommand of the agent to its end: exit code, standard output.
    pub fn agent(&self, node: &str, arguments: &[&str]) -> (i32, String) {
        let output = self.agent_command(node).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    }
}

impl End {
    pub fn address(&self) -> IpAddr {
        self.pod.ip()
    }
}

/// Whether this kernel makes what the backend needs.
pub(super) fn kernel_has(kind: BackendType) -> bool {
    let script = match kind {
        BackendType::Vxlan => "ip link add probe type vxlan id 9 dstport 9999",
        BackendType::Ipip => "ip link add probe type ipip local 198.18.0.99",
        BackendType::Wireguard => "ip link add probe type wireguard",
        BackendType::Ipsec if !has_daemon() => return false,
        BackendType::Ipsec => {
            "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel \
             aead 'rfc4106(gcm(aes))' 0x0000000000000000000000000000000000000000 128"
        }
        BackendType::Udp => "ip tuntap add probe mode tun",
        BackendType::HostGw | BackendType::Alloc | BackendType::Extension => "true",
    };
    let mut probe = Command::new("unshare");
    probe.args(["--net", "--", "sh", "-c", script]);
    run(&mut probe).unwrap().success()
}

/// In a virtual machine every program lies beside this one.
pub fn lab_program(name: &str, elsewhere: impl FnOnce() -> PathBuf) -> String {
    let path = if vm::is_inside() { vm::program(name) } else { elsewhere() };
    path.display().to_string()
}

/// What a pool's spec is to say.
pub fn backend(pool: &str, to: BackendType) -> Value {
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "NetworkPool", "metadata": { "name": pool },
        "spec": { "backend": { "type": to } },
    })
}
