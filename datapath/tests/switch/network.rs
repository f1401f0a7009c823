//! Nodes as network namespaces, each with a task that does what the agent's loop does, a forwarder, and one pod.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns, unshare};
use tartan_datapath::{
    desired::desired,
    kernel::{Kernel, Options},
    model::{
        Backend, Deletions, Endpoints, Family, Host, IkeSettings, Intent, Local, Mac, Masquerade, Peer,
        Present, PublicKey, Side, Subnet, Udp, Uplink, Vxlan, Wireguard, WireguardEndpoint,
    },
    mtu,
    plan::plan,
};

/// Between two nodes that learn of the same change.
const LAG: Duration = Duration::from_millis(30);

/// A backend as a pool asks for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub backend: Backend,
    pub direct: bool,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.backend, if self.direct { " with direct routing" } else { "" })
    }
}

/// What leaves by the uplink and can be read: pods' packets as they are, in VXLAN, in UDP, in IP.
const PROBE: &str = r#"
table inet probe {
  counter clear {
  }
  chain leaving {
    type filter hook postrouting priority 300; policy accept;
    oifname "eth0" ip saddr 10.244.0.0/16 counter name "clear"
    oifname "eth0" udp dport 8472 counter name "clear"
    oifname "eth0" udp dport 8285 counter name "clear"
    oifname "eth0" ip protocol 4 counter name "clear"
  }
}
"#;

pub struct Network {
    pub nodes: Vec<Node>,
}

/// What a node's task is asked, and how it goes about it.
pub struct Order {
    intent: Intent,
    /// The task is another process after each step.
    torn: bool,
    /// Peers' keys that have answered.
    done: mpsc::Sender<BTreeSet<PublicKey>>,
}

/// A node, as the others know it and as its task has it.
pub struct Node {
    pub name: &'static str,
    number: u8,
    link: u8,
    /// WireGuard keys by generation.
    pub keys: Vec<PublicKey>,
    pub side: Side,
    /// What its WireGuard links need beside its end points.
    pub wireguard: Wireguard,
    pub torn: bool,
    orders: Option<mpsc::Sender<Order>>,
    task: Option<JoinHandle<()>>,
    forwarder: Child,
}

impl Network {
    /// Nodes by name, each on a link by number; the links are joined by a router.
    pub fn start(nodes: &[(&'static str, u8)], kind: Kind) -> Self {
        // Names of namespaces are mounts: here they are this thread's and its children's alone, and end with them.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("kernel tests need root");
        run("mount --make-rprivate /; mkdir -p /run/netns; mount -t tmpfs netns /run/netns");
        run("ip netns add under");
        run("ip netns exec under sysctl -qw net.ipv4.ip_forward=1");
        for link in nodes.iter().map(|(_, link)| *link).collect::<BTreeSet<u8>>() {
            run(&format!(
                "ip -n under link add br{link} type bridge
                 ip -n under address add 198.18.{link}.1/24 dev br{link}
                 ip -n under link set br{link} up"
            ));
        }
        let mut all = vec![];
        for ((name, link), number) in nodes.iter().zip(1..) {
            run(&format!(
                "ip netns add {name}
                 ip netns add {name}-pod
                 ip link add eth0 netns {name} type veth peer name to-{name} netns under
                 ip -n under link set to-{name} master br{link} up
                 ip -n {name} address add 198.18.{link}.{number}0/24 dev eth0
                 ip -n {name} link set lo up
                 ip -n {name} link set eth0 up
                 ip -n {name} route add default via 198.18.{link}.1
                 ip link add eth0 netns {name}-pod type veth peer name pod netns {name}
                 ip -n {name} link set pod up
                 ip -n {name}-pod link set lo up
                 ip -n {name}-pod address add 10.244.{number}.2/24 dev eth0
                 ip -n {name}-pod link set eth0 mtu 1440 up
                 ip -n {name}-pod route add default via 10.244.{number}.1"
            ));
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, PROBE).unwrap();
            run(&format!("ip netns exec {name} nft -f {}", file.path().display()));
            all.push(Node::start(name, number, *link));
        }
        let mut network = Self { nodes: all };
        for node in &mut network.nodes {
            node.side = node.side_of(kind, [kind.backend]);
        }
        network.tell_all();
        network
    }

    /// As the operator and the agents do it: everybody receives the new one, then one node after the other sends by
    /// it, then everybody stops receiving the old one.
    pub fn change(&mut self, to: Kind) {
        let from = self.nodes[0].side.backend;
        self.seal(false);
        for place in 0..self.nodes.len() {
            let node = &mut self.nodes[place];
            node.side.accepts.insert(to.backend);
            if to.direct {
                node.side.accepts.insert(Backend::HostGw);
            }
            node.side.endpoints = node.endpoints(&node.side.accepts);
            // Reception first, then the others hear of it.
            self.tell(place);
            self.nodes[place].wait_for_forwarder();
            self.tell_all();
        }
        for place in 0..self.nodes.len() {
            let node = &mut self.nodes[place];
            (node.side.backend, node.side.direct_routing) = (to.backend, to.direct);
            self.tell_all();
        }
        // The operator waits for every agent's word; what was sent by the old one is long there by then.
        super::pause(Duration::from_secs(1));
        if from != to.backend {
            for place in 0..self.nodes.len() {
                let node = &mut self.nodes[place];
                node.side = node.side_of(to, [to.backend]);
                self.tell_all();
            }
        }
        self.seal(to.backend.encrypts());
    }

    /// Before anything changes pairs are not sealed any more, and when all has changed they are.
    fn seal(&mut self, sealed: bool) {
        for place in 0..self.nodes.len() {
            if self.nodes[place].side.sealed != sealed {
                self.nodes[place].side.sealed = sealed;
                self.tell_all();
            }
        }
    }

    /// Packets of pods that left any node unencrypted within a second.
    pub fn clear_packets(&self) -> u64 {
        let counted = |verb: &str| -> u64 {
            let count = |node: &Node| {
                let script = format!("ip netns exec {} nft -j {verb} counters table inet probe", node.name);
                let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
                let listing: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                let items = listing["nftables"].as_array().unwrap();
                items.iter().filter_map(|item| item["counter"]["packets"].as_u64()).sum::<u64>()
            };
            self.nodes.iter().map(count).sum()
        };
        counted("reset");
        super::pause(Duration::from_secs(1));
        counted("list")
    }

    /// Each node hears of the present state, one after the other.
    pub fn tell_all(&self) {
        for place in 0..self.nodes.len() {
            self.tell(place);
            super::pause(LAG);
        }
    }

    /// One node hears of the present state; the keys that have answered it by then.
    pub fn tell(&self, place: usize) -> BTreeSet<PublicKey> {
        let (done, answer) = mpsc::channel();
        let node = &self.nodes[place];
        let order = Order { intent: self.intent(place), torn: node.torn, done };
        node.orders.as_ref().unwrap().send(order).unwrap();
        answer.recv_timeout(Duration::from_secs(240)).expect("a round")
    }

    fn intent(&self, place: usize) -> Intent {
        let node = &self.nodes[place];
        let others = self.nodes.iter().filter(|other| other.name != node.name);
        let uplink_mtu = 1500;
        let uplink = format!("198.18.{}.{}0/24", node.link, node.number).parse().unwrap();
        Intent {
            local: Local {
                node: node.name.into(),
                side: node.side.clone(),
                subnets: vec![subnet(node.number)],
                uplink: Uplink {
                    name: "eth0".into(),
                    index: 2,
                    mtu: uplink_mtu,
                    addresses: vec![uplink],
                    prefixes: node.side.uplink_prefixes.clone(),
                },
                // With room for the largest header, so that no change makes it smaller.
                mtu: mtu::inside(uplink_mtu, Backend::Wireguard, Family::V4),
                vxlan_mac: mac(node.number),
                bridge_mac: Mac([2, 1, 0, 0, 0, node.number]),
            },
            peers: others
                .map(|other| Peer {
                    node: other.name.into(),
                    side: other.side.clone(),
                    subnets: vec![subnet(other.number)],
                    mtu: None,
                })
                .collect(),
            entries: vec!["10.244.0.0/16".parse().unwrap()],
            vxlan: Vxlan { vni: 1, port: 8472, learning: false, gbp: false, tx_checksum_offload: true },
            wireguard: node.wireguard.clone(),
            ipsec: IkeSettings::default(),
            udp: Udp { port: 8285 },
            fallback: Backend::Vxlan,
            masquerade: Some(Masquerade { except: vec![], fully_random: true, v4: true, v6: true }),
            protected: vec![],
            host: Host { ports: BTreeSet::from(["pod".to_owned()]), ..Host::default() },
            present: Present::default(),
        }
    }
}

impl Node {
    fn start(name: &'static str, number: u8, link: u8) -> Self {
        let (orders, inbox) = mpsc::channel();
        let (told, keys) = mpsc::channel();
        let task = std::thread::spawn(move || {
            let namespace = File::open(format!("/run/netns/{name}")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(inbox, &told));
        });
        let keys = keys.recv_timeout(Duration::from_secs(60)).expect("keys");
        let side = Side {
            backend: Backend::Vxlan,
            accepts: BTreeSet::new(),
            endpoints: Endpoints::default(),
            direct_routing: false,
            public_ips: vec![format!("198.18.{link}.{number}0").parse().unwrap()],
            tunnel_sources: vec![],
            uplink_prefixes: vec![format!("198.18.{link}.0/24").parse().unwrap()],
            pairing_version: 1,
            sealed: false,
        };
        let wireguard = Wireguard::default();
        Self {
            name,
            number,
            link,
            keys,
            side,
            wireguard,
            torn: false,
            orders: Some(orders),
            task: Some(task),
            forwarder: forwarder(name),
        }
    }

    /// As the agent publishes its end point: when somebody is attached to the device.
    fn wait_for_forwarder(&self) {
        if !self.side.accepts.contains(&Backend::Udp) {
            return;
        }
        let attached = format!("ip -n {} link show tartan-udp | grep -q LOWER_UP", self.name);
        run(&format!("for try in $(seq 200); do if {attached}; then exit 0; fi; sleep 0.1; done; exit 1"));
    }

    fn side_of(&self, kind: Kind, more: impl IntoIterator<Item = Backend>) -> Side {
        // The fallback, as the operator has it.
        let mut accepts = BTreeSet::from([Backend::Vxlan]);
        accepts.extend(more);
        if kind.direct {
            accepts.insert(Backend::HostGw);
        }
        Side {
            backend: kind.backend,
            endpoints: self.endpoints(&accepts),
            accepts,
            direct_routing: kind.direct,
            ..self.side.clone()
        }
    }

    fn endpoints(&self, accepts: &BTreeSet<Backend>) -> Endpoints {
        let wireguard = self.wireguard_end(0);
        Endpoints {
            wireguard: accepts.contains(&Backend::Wireguard).then_some(wireguard).into_iter().collect(),
            vxlan: accepts.contains(&Backend::Vxlan).then(|| mac(self.number)),
            ipip: accepts.contains(&Backend::Ipip),
            host_gw: accepts.contains(&Backend::HostGw),
            udp: accepts.contains(&Backend::Udp).then_some(8285),
            ..Endpoints::default()
        }
    }

    pub fn wireguard_end(&self, generation: u32) -> WireguardEndpoint {
        let key = self.keys[usize::try_from(generation).unwrap()];
        WireguardEndpoint { generation, key, port: 51820 + u16::try_from(generation % 2).unwrap() }
    }

    pub fn pod(&self) -> (String, IpAddr) {
        (format!("{}-pod", self.name), format!("10.244.{}.2", self.number).parse().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.forwarder.kill();
        let _ = self.forwarder.wait();
        self.orders = None;
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}

fn open(folder: &Path) -> Kernel {
    let (restore_dir, wireguard_keys) = (folder.join("restore"), folder.to_owned());
    Kernel::open(Options { restore_dir, wireguard_keys, ..Options::default() }).unwrap()
}

/// A round for each order, and a second that must find nothing to do; or a round for each step, by a process of its
/// own, until there is nothing to do.
async fn serve(inbox: mpsc::Receiver<Order>, told: &mpsc::Sender<Vec<PublicKey>>) {
    let folder = tempfile::tempdir().unwrap();
    let mut kernel = open(folder.path());
    told.send((0..4).map(|generation| kernel.wireguard_key(generation).unwrap()).collect()).unwrap();
    while let Ok(Order { mut intent, torn, done }) = inbox.recv() {
        intent.wireguard.sessions.extend(kernel.wireguard_sessions().unwrap());
        intent.present.ways = kernel.ways().await.unwrap();
        let desired = desired(&intent).elements;
        for round in 0.. {
            let seen = kernel.observe(&desired).await;
            assert!(seen.failures.is_empty(), "{:?}", seen.failures);
            let mut plan = plan(&desired, &seen.observed, Deletions::Allowed);
            if plan.steps.is_empty() {
                break;
            }
            assert!(round == 0 || (torn && round < 1000), "{}: {:?}", intent.local.node, plan.steps);
            assert!(plan.conflicts.is_empty(), "{:?}", plan.conflicts);
            plan.steps.truncate(if torn { 1 } else { usize::MAX });
            let outcome = kernel.apply(&plan).await;
            let failures: Vec<String> = outcome
                .failures
                .iter()
                .map(|failure| format!("{}: {:?}", failure.step, failure.error))
                .collect();
            assert!(failures.is_empty(), "{}: {}", intent.local.node, failures.join("; "));
            if torn {
                kernel = open(folder.path());
                for end in intent.local.side.endpoints.wireguard.iter().chain(&intent.wireguard.leaving) {
                    assert_eq!(kernel.wireguard_key(end.generation).unwrap(), end.key);
                }
            }
        }
        let _ = done.send(kernel.wireguard_sessions().unwrap());
    }
}

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

fn subnet(number: u8) -> Subnet {
    let prefix: IpNetwork = format!("10.244.{number}.0/24").parse().unwrap();
    Subnet { prefix, primary: true, regular: true }
}

/// The process that is there on each node, whatever backend is in use.
fn forwarder(node: &str) -> Child {
    // In a virtual machine there is nothing to build it with; it lies beside the test.
    let program = std::env::var_os("TARTAN_FORWARDER").map(PathBuf::from);
    let program = program.unwrap_or_else(|| tartan_lab::program("tartan-forwarder").unwrap());
    Command::new("ip").args(["netns", "exec", node]).arg(program).spawn().unwrap()
}

#[track_caller]
pub fn run(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}
