//! What the kernel tests share: a network namespace of their own, an intent, and other tools as oracle.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{collections::BTreeSet, net::IpAddr, process::Command};

use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tartan_datapath::{
    desired::desired,
    kernel::{Kernel, Observation, Options, Outcome},
    model::{
        Backend, Deletions, Endpoints, Host, IkeSettings, Intent, Key, Local, Mac, Masquerade, Peer, Plan,
        Present, Side, Subnet, Udp, Uplink, Vxlan, Wireguard,
    },
    plan::plan,
};

/// Runs `test` on a thread in a network namespace of its own, with an uplink `eth0` (192.0.2.11/24).
pub fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect(
            "kernel tests need root: run them with sudo, or `cargo xtask test --quick` for those that don't",
        );
        run("mount --make-rprivate /");
        // sysfs shows the devices of the namespace in which it was mounted; iproute2 needs none of it.
        run("ip link set lo up");
        // Otherwise the kernel's own IPv6 addresses appear while a test on a slow machine looks.
        if std::path::Path::new("/proc/sys/net/ipv6").exists() {
            run("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
        }
        run("ip link add eth0 type veth peer name far");
        run("ip link set far up");
        run("ip address add 192.0.2.11/24 dev eth0");
        run("ip link set eth0 up");
        run("ip route add default via 192.0.2.1");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Runs a command line that must succeed and returns what it printed.
#[track_caller]
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
    assert!(output.status.success(), "`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The same for a command that prints JSON.
#[track_caller]
pub fn json(line: &str) -> Value {
    let text = run(line);
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).expect("JSON")
}

pub fn net(text: &str) -> IpNetwork {
    text.parse().expect("a prefix")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn side(backend: Backend, address: &str, mac: u32) -> Side {
    let [a, b, c, d] = mac.to_be_bytes();
    Side {
        backend,
        accepts: BTreeSet::from([Backend::Vxlan, Backend::HostGw]),
        endpoints: Endpoints { vxlan: Some(Mac([2, 0, a, b, c, d])), host_gw: true, ..Endpoints::default() },
        direct_routing: false,
        public_ips: vec![ip(address)],
        tunnel_sources: vec![],
        uplink_prefixes: vec![net("192.0.2.0/24")],
        pairing_version: 1,
        sealed: false,
    }
}

/// A peer that is reached by vxlan.
pub fn remote(number: u32) -> Peer {
    let address = IpAddr::V4((u32::from(std::net::Ipv4Addr::new(198, 51, 0, 0)) + number).into());
    let subnet = IpNetwork::new(IpAddr::V4((0x0a40_0000 + (number << 8)).into()), 24).expect("a prefix");
    let mut side = side(Backend::Vxlan, &address.to_string(), number);
    side.uplink_prefixes = vec![net("198.51.0.0/16")];
    Peer {
        node: format!("remote{number:05}"),
        side,
        subnets: vec![Subnet { prefix: subnet, primary: true, regular: true }],
        mtu: Some(1450),
    }
}

/// A peer on the same link that is reached directly.
pub fn neighbour(number: u8) -> Peer {
    let side = side(Backend::HostGw, &format!("192.0.2.{number}"), 0x00ff_0000 + u32::from(number));
    let subnet = net(&format!("10.250.{number}.0/24"));
    Peer {
        node: format!("near{number:03}"),
        side,
        subnets: vec![Subnet { prefix: subnet, primary: true, regular: true }],
        mtu: Some(1400),
    }
}

/// The route to a subnet, in words.
pub fn route_of(intent: &Intent, subnet: &str) -> String {
    let key = Key::Route { destination: net(subnet), metric: 0 };
    desired(intent).elements.get(&key).map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

/// The intent of a host-gw node with these peers.
pub fn intent(peers: Vec<Peer>) -> Intent {
    Intent {
        local: Local {
            node: "here".into(),
            side: side(Backend::HostGw, "192.0.2.11", 0x00fe_0001),
            subnets: vec![Subnet { prefix: net("10.251.1.0/24"), primary: true, regular: true }],
            uplink: Uplink {
                name: "eth0".into(),
                index: 2,
                mtu: 1500,
                addresses: vec![net("192.0.2.11/24")],
                prefixes: vec![net("192.0.2.0/24")],
            },
            mtu: 1450,
            vxlan_mac: Mac([2, 0, 0, 0xfe, 0, 1]),
            bridge_mac: Mac([2, 1, 0, 0xfe, 0, 1]),
        },
        peers,
        entries: vec![net("10.0.0.0/8")],
        vxlan: Vxlan { vni: 1, port: 8472, learning: false, gbp: false, tx_checksum_offload: true },
        wireguard: Wireguard::default(),
        ipsec: IkeSettings::default(),
        udp: Udp { port: 8285 },
        fallback: Backend::Vxlan,
        masquerade: Some(Masquerade {
            except: vec![net("10.0.0.0/8"), net("172.16.0.0/12")],
            fully_random: true,
            v4: true,
            v6: true,
        }),
        protected: vec![],
        host: Host { bridge_netfilter: false, ..Host::default() },
        present: Present::default(),
    }
}

/// A kernel edge with a folder of its own for previous values.
pub fn kernel(folder: &tempfile::TempDir) -> Kernel {
    let options = Options { restore_dir: folder.path().join("restore"), ..Options::default() };
    Kernel::open(options).expect("sockets")
}

/// One round: what the agent's loop does.
pub async fn round(
    kernel: &mut Kernel,
    intent: &Intent,
    deletions: Deletions,
) -> (Observation, Plan, Outcome) {
    let desired = desired(intent).elements;
    let seen = kernel.observe(&desired).await;
    let plan = plan(&desired, &seen.observed, deletions);
    let outcome = kernel.apply(&plan).await;
    (seen, plan, outcome)
}

/// Rounds until nothing is left to do: one that works, one that finds nothing.
#[track_caller]
pub fn assert_clean(result: &(Observation, Plan, Outcome)) {
    let (seen, _, outcome) = result;
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    let failures: Vec<String> =
        outcome.failures.iter().map(|f| format!("{}: {:?}", f.step, f.error)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Programs the intent and asserts that a second look finds nothing to do.
pub async fn settle(kernel: &mut Kernel, intent: &Intent) {
    assert_clean(&round(kernel, intent, Deletions::Allowed).await);
    let second = round(kernel, intent, Deletions::Allowed).await;
    assert_clean(&second);
    let steps: Vec<String> = second.1.steps.iter().map(ToString::to_string).collect();
    assert!(steps.is_empty(), "the second round still plans:\n{}", steps.join("\n"));
}
