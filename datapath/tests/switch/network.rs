//! Nodes as network namespaces on links that a router joins, each with one pod, and what they hear of each other.

use std::{collections::BTreeSet, fmt, process::Command, sync::mpsc, time::Duration};

use nix::sched::{CloneFlags, unshare};
use tartan_datapath::{
    model::{
        Backend, Family, Host, IkeSettings, Intent, Local, Mac, Masquerade, Peer, Present, PublicKey, Udp,
        Uplink, Vxlan,
    },
    mtu,
};

use super::node::{Node, Order, mac, subnet};

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

#[track_caller]
pub fn run(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}
