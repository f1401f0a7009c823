//! Two nodes as network namespaces on one link. On each, the data path does what the agent has it do, anew for each
//! call as after a restart, and a process of ours does WireGuard, or another program.

use std::{
    fs::File,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};
use tartan_datapath::{
    kernel::{Kernel, Options, WIREGUARD_PROCESS_ABSENT},
    model::{Backend, Deletions, Intent, Peer, PublicKey, Side, Subnet, WireguardEndpoint},
};
use tartan_lab::within;

use crate::common::{self, net};

pub struct Lab {
    folder: tempfile::TempDir,
    processes: Vec<(u8, Child)>,
}

/// In a virtual machine it is where it was put.
fn program() -> String {
    std::env::var("TARTAN_WIREGUARD").unwrap_or_else(|_| env!("CARGO_BIN_EXE_tartan-wireguard").to_owned())
}

/// The address of a node's bridge: one that pods of the other reach through the tunnel.
pub fn inner(node: u8) -> String {
    format!("10.244.{node}.1")
}

impl Lab {
    pub fn start() -> Self {
        // Names of namespaces are mounts: here they are this thread's and its children's alone, and end with them.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("kernel tests need root");
        run("mount --make-rprivate /; mkdir -p /run/netns; mount -t tmpfs netns /run/netns");
        run("ip netns add under; ip -n under link add br0 type bridge; ip -n under link set br0 up");
        for node in 1..=2 {
            run(&format!(
                "ip netns add node{node}
                 ip link add eth0 netns node{node} type veth peer name to{node} netns under
                 ip -n under link set to{node} master br0 up
                 ip -n node{node} link set lo up
                 ip netns exec node{node} sysctl -qw net.ipv6.conf.default.accept_dad=0
                 ip -n node{node} address add 192.0.2.{node}/24 dev eth0
                 ip -n node{node} link set eth0 up"
            ));
        }
        Self { folder: tempfile::tempdir().unwrap(), processes: vec![] }
    }

    /// Of the link between the nodes.
    pub fn set_mtu(&self, mtu: u32) {
        for node in 1..=2 {
            run(&format!(
                "ip -n under link set to{node} mtu {mtu}; ip -n node{node} link set eth0 mtu {mtu}"
            ));
        }
    }

    pub fn place(&self, node: u8) -> PathBuf {
        self.folder.path().join(format!("node{node}"))
    }

    pub fn sockets(&self, node: u8) -> PathBuf {
        self.place(node).join("wireguard")
    }

    pub fn log(&self, node: u8) -> String {
        std::fs::read_to_string(self.place(node).join("log")).unwrap_or_default()
    }

    /// Starts the process with all that it could ever log.
    pub fn serve(&mut self, node: u8) {
        let sockets = self.sockets(node);
        self.spawn(node, &[&program(), "--log", "trace", "--sockets", sockets.to_str().unwrap()]);
    }

    /// Starts another's program in its place. It has the device while that is there, and its socket in a place of its
    /// own.
    pub fn serve_by_wireguard_go(&mut self, node: u8) {
        let program = tartan_lab::prerequisites::Program::WireguardGo.path().unwrap();
        let script = format!(
            "mkdir -p {sockets} /var/run/wireguard; mount --make-rprivate /; mount --bind {sockets} /var/run/wireguard
             exec {program} --foreground tartan-wg0",
            sockets = self.sockets(node).display(),
            program = program.display()
        );
        self.spawn(node, &["unshare", "-m", "sh", "-ec", &script]);
    }

    fn spawn(&mut self, node: u8, words: &[&str]) {
        std::fs::create_dir_all(self.place(node)).unwrap();
        let log = File::options().create(true).append(true).open(self.place(node).join("log")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("node{node}")]).args(words);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.processes.push((node, command.spawn().unwrap()));
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: u8) {
        let place = self.processes.iter().position(|(of, _)| *of == node).unwrap();
        let (_, mut child) = self.processes.remove(place);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Does `work` with a new kernel edge on the node.
    fn on<T: Send>(&self, node: u8, work: impl AsyncFnOnce(&mut Kernel) -> T + Send) -> T {
        self.on_allowed(node, Some(self.sockets(node)), work)
    }

    fn on_allowed<T: Send>(
        &self,
        node: u8,
        user_wireguard: Option<PathBuf>,
        work: impl AsyncFnOnce(&mut Kernel) -> T + Send,
    ) -> T {
        let namespace = File::open(netns(node)).unwrap();
        let place = self.place(node);
        let (restore_dir, wireguard_keys) = (place.join("restore"), place);
        let options = Options { restore_dir, wireguard_keys, user_wireguard, ..Options::default() };
        std::thread::scope(|scope| {
            let work = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let mut kernel = Kernel::open(options).unwrap();
                    work(&mut kernel).await
                })
            });
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn key(&self, node: u8, generation: u32) -> PublicKey {
        self.on(node, async |kernel| kernel.wireguard_key(generation).unwrap())
    }

    /// What the node should be for the other with the key of `theirs`.
    pub fn intent(&self, node: u8, generations: &[u32], peers: Vec<Peer>) -> Intent {
        let mut intent = common::intent(peers);
        let local = &mut intent.local;
        let ends = generations.iter().map(|generation| end(*generation, self.key(node, *generation)));
        encrypting(&mut local.side, node, ends.collect());
        local.subnets =
            vec![Subnet { prefix: net(&format!("10.244.{node}.0/24")), primary: true, regular: true }];
        local.uplink.addresses = vec![net(&format!("192.0.2.{node}/24"))];
        local.mtu = 1440;
        intent.wireguard.user_space = true;
        // Those who are left on keys of before have answered by them.
        intent.wireguard.sessions =
            intent.peers.iter().filter_map(|peer| Some(peer.side.endpoints.wireguard.first()?.key)).collect();
        intent.masquerade = None;
        intent
    }

    /// Programs the intent, and finds nothing left to do; fails where that is not so.
    pub fn settle(&self, node: u8, intent: &Intent) {
        self.on(node, async |kernel| {
            // Keys are known once they were asked for.
            for end in &intent.local.side.endpoints.wireguard {
                kernel.wireguard_key(end.generation).unwrap();
            }
            common::settle(kernel, intent).await;
        });
    }

    /// Programs it until that works: a process that was just started needs a moment.
    pub fn settle_soon(&self, node: u8, intent: &Intent) {
        eventually("a process that answers", || self.round(node, intent).is_empty());
        self.settle(node, intent);
    }

    /// Programs the intent; what failed, with reasons.
    pub fn round(&self, node: u8, intent: &Intent) -> Vec<(String, &'static str)> {
        self.on(node, async |kernel| failures(kernel, intent).await)
    }

    /// The same where no process may do WireGuard.
    pub fn round_without_user_space(&self, node: u8, intent: &Intent) -> Vec<(String, &'static str)> {
        self.on_allowed(node, None, async |kernel| failures(kernel, intent).await)
    }

    /// Peers with which there was a handshake.
    pub fn sessions(&self, node: u8) -> Vec<PublicKey> {
        self.on(node, async |kernel| {
            // The kernel edge learns whose the links are when it looks.
            kernel.observe(&std::collections::BTreeMap::new()).await;
            kernel.wireguard_sessions().unwrap().into_iter().collect()
        })
    }

    /// Both nodes with these generations, each the other's peer.
    pub fn both(&self, generations: &[u32]) -> [Intent; 2] {
        [1, 2].map(|node| self.intent(node, generations, vec![self.peer(3 - node, generations)]))
    }

    pub fn peer(&self, node: u8, generations: &[u32]) -> Peer {
        let ends = generations.iter().map(|generation| end(*generation, self.key(node, *generation)));
        peer(node, ends.collect())
    }

    /// `wg show`, which looks for the socket in a place of its own.
    pub fn wg(&self, node: u8, what: &str) -> String {
        let sockets = self.sockets(node);
        run(&format!(
            "mkdir -p /var/run/wireguard
             unshare -m sh -ec 'mount --make-rprivate /; mount --bind {} /var/run/wireguard; ip netns exec node{node} wg show {what}'",
            sockets.display()
        ))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn end(generation: u32, key: PublicKey) -> WireguardEndpoint {
    let port = 51820 + u16::try_from(generation % 2).unwrap();
    WireguardEndpoint { generation, key, port }
}

/// A node that sends by wireguard.
pub fn peer(node: u8, ends: Vec<WireguardEndpoint>) -> Peer {
    let mut peer = common::neighbour(node);
    encrypting(&mut peer.side, node, ends);
    peer.subnets = vec![Subnet { prefix: net(&format!("10.244.{node}.0/24")), primary: true, regular: true }];
    peer.mtu = Some(1440);
    peer
}

fn encrypting(side: &mut Side, node: u8, ends: Vec<WireguardEndpoint>) {
    side.backend = Backend::Wireguard;
    side.accepts.insert(Backend::Wireguard);
    side.endpoints.wireguard = ends;
    side.public_ips = vec![common::ip(&format!("192.0.2.{node}"))];
}

async fn failures(kernel: &mut Kernel, intent: &Intent) -> Vec<(String, &'static str)> {
    for end in &intent.local.side.endpoints.wireguard {
        kernel.wireguard_key(end.generation).unwrap();
    }
    let (seen, _, outcome) = common::round(kernel, intent, Deletions::Allowed).await;
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    outcome.failures.iter().map(|f| (f.step.key.to_string(), f.error.reason())).collect()
}

/// What is told of a device without its process, and of its peer.
pub fn absent(device: &str, peer: PublicKey) -> Vec<(String, &'static str)> {
    let objects = [format!("wireguard {device}"), format!("wireguard peer {peer} dev {device}")];
    objects.into_iter().map(|object| (object, WIREGUARD_PROCESS_ABSENT)).collect()
}

pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub fn reaches(from: u8, to: u8) -> bool {
    succeeds(&format!("ip netns exec node{from} ping -qc1 -W1 {}", inner(to)))
}

/// A socket in a node's namespace.
pub fn socket(node: u8, local: &str) -> UdpSocket {
    within(&netns(node), || UdpSocket::bind(local).unwrap()).unwrap()
}

/// Sends this much by TCP from one node's pod address to the other's.
pub fn stream(from: u8, to: u8, bytes: usize) -> anyhow::Result<()> {
    stream_to(from, to, &inner(to), bytes)
}

/// The same to another of the other's addresses.
pub fn stream_to(from: u8, to: u8, address: &str, bytes: usize) -> anyhow::Result<()> {
    tartan_lab::traffic::stream(&netns(from), &netns(to), address.parse()?, bytes)
}

fn netns(node: u8) -> PathBuf {
    format!("/run/netns/node{node}").into()
}

/// Tries again until it is so.
#[track_caller]
pub fn eventually(what: &str, done: impl FnMut() -> bool) {
    tartan_lab::eventually(what, Duration::from_secs(30), done).unwrap();
}

pub fn succeeds(line: &str) -> bool {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    output.status.success()
}

/// Runs a script that must succeed and returns what it printed.
#[track_caller]
pub fn run(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
