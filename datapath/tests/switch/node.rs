//! A node: its namespace's task, which does what the agent's loop does, its forwarder, and what it publishes.

use std::{
    collections::BTreeSet,
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, setns};
use tartan_datapath::{
    desired::desired,
    kernel::{Kernel, Options},
    model::{
        Backend, Deletions, Endpoints, Intent, Mac, PublicKey, Side, Subnet, Wireguard, WireguardEndpoint,
    },
    plan::plan,
};

use super::network::{Kind, run};

/// What a node's task is asked, and how it goes about it.
pub struct Order {
    pub intent: Intent,
    /// The task is another process after each step.
    pub torn: bool,
    /// Peers' keys that have answered.
    pub done: mpsc::Sender<BTreeSet<PublicKey>>,
}

/// A node, as the others know it and as its task has it.
pub struct Node {
    pub name: &'static str,
    pub number: u8,
    pub link: u8,
    /// WireGuard keys by generation.
    pub keys: Vec<PublicKey>,
    pub side: Side,
    /// What its WireGuard links need beside its end points.
    pub wireguard: Wireguard,
    pub torn: bool,
    pub orders: Option<mpsc::Sender<Order>>,
    task: Option<JoinHandle<()>>,
    forwarder: Child,
}

impl Node {
    pub fn start(name: &'static str, number: u8, link: u8) -> Self {
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
    pub fn wait_for_forwarder(&self) {
        if !self.side.accepts.contains(&Backend::Udp) {
            return;
        }
        let attached = format!("ip -n {} link show tartan-udp | grep -q LOWER_UP", self.name);
        run(&format!("for try in $(seq 200); do if {attached}; then exit 0; fi; sleep 0.1; done; exit 1"));
    }

    pub fn side_of(&self, kind: Kind, more: impl IntoIterator<Item = Backend>) -> Side {
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

    pub fn endpoints(&self, accepts: &BTreeSet<Backend>) -> Endpoints {
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

pub fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

pub fn subnet(number: u8) -> Subnet {
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
