//! Two nodes as network namespaces, each with a pod and what its agent would have made, and a stranger's place on
//! their link.

use std::{
    io,
    net::{SocketAddrV4, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use tartan_lab::within;

/// Namespaces, and the forwarders in them.
pub struct Lab {
    forwarders: Vec<(u8, Child)>,
}

impl Lab {
    /// Node 1 and node 2 with their pods, and node 3 which has no forwarder of ours; nothing forwards yet.
    pub fn start() -> Self {
        // Names of namespaces are mounts: here they are this thread's and its children's alone, and end with them.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("kernel tests need root");
        run("mount --make-rprivate /; mkdir -p /run/netns; mount -t tmpfs netns /run/netns");
        run("ip netns add under; ip -n under link add br0 type bridge; ip -n under link set br0 up");
        for node in 1..=3 {
            run(&format!(
                "ip netns add node{node}
                 ip link add eth0 netns node{node} type veth peer name to{node} netns under
                 ip -n under link set to{node} master br0 up
                 ip -n node{node} link set lo up
                 ip -n node{node} address add 192.0.2.{node}/24 dev eth0
                 ip netns exec node{node} sysctl -qw net.ipv4.ip_forward=1
                 ip -n node{node} link set eth0 up"
            ));
        }
        for node in 1..=2 {
            run(&format!(
                "ip netns add pod{node}
                 ip link add eth0 netns pod{node} type veth peer name pod netns node{node}
                 ip -n node{node} link add tartan0 type bridge
                 ip -n node{node} link set tartan0 mtu 1472 up
                 ip -n node{node} address add 10.244.{node}.1/24 dev tartan0
                 ip -n node{node} address add 10.244.{node}.0/32 dev tartan0
                 ip -n node{node} link set pod master tartan0 up
                 ip -n pod{node} link set lo up
                 ip -n pod{node} address add 10.244.{node}.2/24 dev eth0
                 ip -n pod{node} link set eth0 mtu 1472 up
                 ip -n pod{node} route add default via 10.244.{node}.1"
            ));
            make_device(node);
        }
        Self { forwarders: vec![] }
    }

    pub fn forward(&mut self, node: u8) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("node{node}"), env!("CARGO_BIN_EXE_tartan-forwarder")]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        self.forwarders.push((node, child));
    }

    /// `kill -9`.
    pub fn kill(&mut self, node: u8) {
        let place = self.forwarders.iter().position(|(of, _)| *of == node).unwrap();
        let (_, mut child) = self.forwarders.remove(place);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The sum of a counter's series that have this in their labels.
    pub fn metric(&self, node: u8, name: &str, labels: &str) -> u64 {
        let text = run(&format!("ip netns exec node{node} curl -s 127.0.0.1:9474/metrics"));
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in &mut self.forwarders {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the agent makes: the device, and the peers in their table.
pub fn make_device(node: u8) {
    let (peer, name) = (3 - node, "tartan-udp");
    run(&format!(
        "ip -n node{node} tuntap add dev {name} mode tun multi_queue vnet_hdr
         ip netns exec node{node} sysctl -qw net.ipv4.conf.{name}.accept_local=1 net.ipv4.conf.{name}.rp_filter=2
         ip -n node{node} link set {name} mtu 1472 alias 'tartan: managed by tartan-node-agent; udp 192.0.2.{node}:8285' up
         ip -n node{node} address add 127.84.84.84/32 dev {name}"
    ));
    for peer in [peer, 3] {
        run(&format!(
            "ip -n node{node} route add 10.244.{peer}.0/24 via 192.0.2.{peer} dev {name} onlink proto 84 table 84 src 10.244.{node}.0
             ip -n node{node} route add 10.244.{peer}.0/24 dev {name} proto 84 src 10.244.{node}.0"
        ));
    }
}

pub fn netns(name: &str) -> PathBuf {
    format!("/run/netns/{name}").into()
}

/// A socket in a node's namespace.
pub fn socket(node: u8, local: &str) -> UdpSocket {
    let local: SocketAddrV4 = local.parse().unwrap();
    within(&netns(&format!("node{node}")), || UdpSocket::bind(local).unwrap()).unwrap()
}

/// What comes next, which is awaited.
pub fn answer(socket: &UdpSocket) -> Vec<u8> {
    receive(socket, Duration::from_secs(10)).expect("an answer")
}

/// Whether anything is there, or comes soon.
pub fn is_answered(socket: &UdpSocket) -> bool {
    receive(socket, Duration::from_millis(300)).is_some()
}

fn receive(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = [0; 65536];
    match socket.recv(&mut buffer) {
        Ok(length) => Some(buffer[..length].to_vec()),
        Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Tries again until it is so.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come");
        pause(Duration::from_millis(20));
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks, and for traffic to flow")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
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
