//! Standing traffic of every class between every ordered pair of nodes, and what became of it.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use tartan_crds::BackendType;
use tartan_lab::{
    Namespace, eventually,
    traffic::{Load, LoadOptions, Report},
    vm,
};

use super::{
    beside,
    scene::{MTU, PORT, Scene},
};

/// What a packet meets on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    PodToPod,
    NodeToPod,
    ClusterIp,
    /// From outside to the one node, which sends it on to the other's pod.
    NodePortCluster,
    /// From the one node's pod to the other node's address.
    NodePortLocal,
}

pub const CLASSES: [Class; 5] =
    [Class::PodToPod, Class::NodeToPod, Class::ClusterIp, Class::NodePortCluster, Class::NodePortLocal];

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodToPod => "pod to pod",
            Self::NodeToPod => "node to pod",
            Self::ClusterIp => "ClusterIP",
            Self::NodePortCluster => "NodePort Cluster",
            Self::NodePortLocal => "NodePort Local",
        }
    }

    /// Where a load starts, and the address and port that it sends to.
    fn ends<'a>(self, scene: &'a Scene, from: &str, to: &str) -> (&'a Namespace, (IpAddr, u16)) {
        let (own, other) = (scene.end(from), scene.end(to));
        let node = |name: &str| scene.fabric.node(name);
        let place: &Namespace = match self {
            Self::PodToPod | Self::ClusterIp | Self::NodePortLocal => &own.pod,
            Self::NodeToPod => node(from),
            Self::NodePortCluster => scene.fabric.existing_outside().unwrap(),
        };
        let target = match self {
            Self::PodToPod | Self::NodeToPod => (other.address(), PORT),
            Self::ClusterIp => (other.service(), PORT),
            Self::NodePortCluster => (node(from).address().into(), other.port_of_any_node()),
            Self::NodePortLocal => (node(to).address().into(), other.port_of_own_node()),
        };
        (place, target)
    }

    /// One load of so many that `share` what a virtual machine bears, or on a host, so many times `slower`.
    pub fn load(self, in_a_machine: bool, share: u32, slower: u32) -> LoadOptions {
        let amount = match (self, in_a_machine) {
            (Self::PodToPod, false) => MUCH,
            (_, false) => SOME,
            (Self::PodToPod, true) => MUCH_OF_A_MACHINE,
            (_, true) => SOME_OF_A_MACHINE,
        };
        LoadOptions {
            udp_rate: (amount.udp_rate / share / slower).max(1),
            tcp_interval: amount.tcp_interval * share * slower,
            ..amount
        }
    }
}

/// Between two pods. Its full packets fit exactly, whatever backend carries them, and its TCP flow of many bytes is
/// segmented and merged (GSO, GRO) on its way.
const MUCH: LoadOptions = LoadOptions {
    udp_rate: 1000,
    udp_mtu: Some(MTU),
    tcp_flows: 8,
    tcp_interval: Duration::from_millis(50),
    tcp_bulk: 64 << 10,
};
/// A fifth by each other class, and no flow of many bytes: all of it shares two processors, and what an overloaded
/// machine drops by itself is no finding.
const SOME: LoadOptions = LoadOptions {
    udp_rate: 200,
    tcp_flows: 2,
    tcp_interval: Duration::from_millis(100),
    tcp_bulk: 0,
    ..MUCH
};
/// In a virtual machine, which is more than ten times slower.
const MUCH_OF_A_MACHINE: LoadOptions =
    LoadOptions { udp_rate: 100, tcp_interval: Duration::from_secs(1), ..MUCH };
const SOME_OF_A_MACHINE: LoadOptions =
    LoadOptions { udp_rate: 10, tcp_flows: 1, tcp_bulk: 0, ..MUCH_OF_A_MACHINE };

/// By how much all traffic is slowed down, on request: for a host that is busy with other things.
pub const SLOWER: &str = "TARTAN_SLOWER";

pub fn asked_slower() -> u32 {
    std::env::var(SLOWER).map_or(1, |text| text.parse().unwrap())
}

/// Where processes do what kernels do elsewhere, each packet costs several times as much of the same processors. Of three
/// nodes, half of what a kernel bears leaves them idle for half of the time, but by WireGuard never: packets wait for
/// seconds then, and are sent when the change is over.
fn of_processes(kinds: &[BackendType]) -> u32 {
    match (beside::wireguard_is_a_process(), kinds.contains(&BackendType::Wireguard)) {
        (true, true) => 4,
        (true, false) => 2,
        (false, _) => 1,
    }
}

/// Loads that flow.
pub struct Standing {
    amount: Amount,
    loads: Vec<(Key, Load)>,
}

/// What each load depends on.
#[derive(Clone, Copy)]
struct Amount {
    /// How many loads of a class share what a virtual machine bears.
    share: u32,
    slower: u32,
}

impl Amount {
    /// What nodes here bear at all times, with flows between so many of them, which may come to send by these backends.
    fn bearable(nodes: usize, kinds: &[BackendType]) -> Self {
        let pairs = u32::try_from(nodes * (nodes - 1)).unwrap();
        let (share, slower) = if vm::is_inside() { (pairs, 1) } else { (1, of_processes(kinds)) };
        Self { share, slower: asked_slower() * slower }
    }

    fn of(self, class: Class) -> LoadOptions {
        class.load(vm::is_inside(), self.share, self.slower)
    }
}

/// Class, from which node, to which.
pub type Key = (Class, String, String);

/// What came of each load.
pub struct Outcome {
    amount: Amount,
    reports: BTreeMap<Key, Report>,
}

impl Standing {
    /// Returns when every flow of every class and ordered pair of these nodes has been answered. So much as nodes here bear
    /// whatever backend they come to send by.
    pub fn start(scene: &Scene, nodes: &[String]) -> Self {
        Self::of(&CLASSES, scene, nodes)
    }

    /// The same of these classes alone.
    pub fn of(classes: &[Class], scene: &Scene, nodes: &[String]) -> Self {
        Self::with(classes, scene, nodes, Amount::bearable(nodes.len(), &[BackendType::Wireguard]))
    }

    /// Between all nodes, which send by no others than these backends.
    pub fn by(kinds: &[BackendType], scene: &Scene) -> Self {
        let nodes = scene.names();
        Self::with(&CLASSES, scene, &nodes, Amount::bearable(nodes.len(), kinds))
    }

    /// Between all nodes, which are two, the whole of it: an emulated machine has no processor to spare then.
    pub fn whole(scene: &Scene) -> Self {
        let amount = Amount { share: 1, slower: asked_slower() };
        Self::with(&CLASSES, scene, &scene.names(), amount)
    }

    fn with(classes: &[Class], scene: &Scene, nodes: &[String], amount: Amount) -> Self {
        let mut keys: Vec<Key> = vec![];
        for from in nodes {
            for to in nodes.iter().filter(|to| *to != from) {
                keys.extend(classes.iter().map(|class| (*class, from.clone(), to.clone())));
            }
        }
        let start = |key: &Key| {
            let (class, from, to) = key;
            let (place, target) = class.ends(scene, from, to);
            let load = Load::start(place, &format!("{class:?}-{from}-{to}"), target, &amount.of(*class));
            (key.clone(), load.unwrap_or_else(|error| panic!("{class:?} from {from} to {to}: {error:#}")))
        };
        // Side by side: most of the time is waiting for answers.
        let loads = std::thread::scope(|scope| {
            let threads: Vec<_> = keys.iter().map(|key| scope.spawn(move || start(key))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        scene.tell(&format!("traffic flows, slowed down by {}", amount.slower));
        Self { amount, loads }
    }

    /// Ends the loads that begin or end at this node, without a look at them.
    pub fn forget(&mut self, node: &str) {
        self.loads.retain(|((_, from, to), _)| from != node && to != node);
    }

    pub fn finish(self) -> Outcome {
        for (_, load) in &self.loads {
            load.stop();
        }
        let reports = self.loads.into_iter().map(|(key, load)| (key, load.finish().unwrap())).collect();
        Outcome { amount: self.amount, reports }
    }
}

impl Outcome {
    /// Every load that lost a connection or that nothing came back of, or packets for longer than is allowed.
    pub fn faults(&self, allowed: Duration) -> Vec<String> {
        let faulty = |class: Class, report: &Report| {
            let rate = u128::from(self.amount.of(class).udp_rate);
            let dead = report.flows.iter().any(|flow| flow.received == 0);
            let packets = u128::from(packets(report));
            dead || connections(report) > 0 || packets > (rate * allowed.as_millis()).div_ceil(1000)
        };
        let faulty = self.reports.iter().filter(|((class, ..), report)| faulty(*class, report));
        faulty.map(|((class, from, to), report)| format!("{class:?} from {from} to {to}: {report}")).collect()
    }

    /// Of all classes.
    pub fn total(&self) -> Sum {
        let mut total = Sum::default();
        self.reports.values().for_each(|report| total.add(report));
        total
    }

    pub fn sums(&self) -> BTreeMap<Class, Sum> {
        let mut sums: BTreeMap<Class, Sum> = BTreeMap::new();
        for ((class, ..), report) in &self.reports {
            sums.entry(*class).or_default().add(report);
        }
        sums
    }
}

/// UDP packets that did not come back.
fn packets(report: &Report) -> u64 {
    report.flows.iter().filter(|flow| flow.protocol == "udp").map(|flow| flow.lost).sum()
}

/// TCP connections that ended, and those that were stuck at the end.
fn connections(report: &Report) -> u64 {
    let tcp = report.flows.iter().filter(|flow| flow.protocol != "udp");
    tcp.map(|flow| flow.connections_lost + flow.lost).sum()
}

/// The loads of one class together.
#[derive(Default, Clone, Copy)]
pub struct Sum {
    pub sent: u64,
    pub packets: u64,
    /// Of TCP, on their way from the one that asks.
    pub segments: u64,
    pub connections: u64,
    /// Milliseconds from a message to its echo, of any that came.
    pub delay: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.sent += report.sent();
        self.packets += packets(report);
        self.segments += report.segments_lost();
        self.connections += connections(report);
        self.delay = self.delay.max(report.max_delay_ms());
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, packets, segments, connections, delay } = self;
        write!(
            f,
            "{sent:7} sent, {packets} packets lost, {segments} segments lost, {connections} connections lost, \
             longest delay {delay} ms"
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (class, sum) in self.sums() {
            writeln!(f, "   {:16} {sum}", class.as_str())?;
        }
        Ok(())
    }
}

pub fn let_flow(time: Duration) {
    let start = Instant::now();
    eventually("enough traffic", time * 3, || start.elapsed() >= time).unwrap();
}
