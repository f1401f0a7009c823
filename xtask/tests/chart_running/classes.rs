//! Standing traffic of every class of path between every ordered pair of nodes, and what became of it.
//!
//! Each node has one pod with an echo, and each of these pods has Services of its own: so each flow has one
//! end point that is known, and "from this node to that one" is true of Services too.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, time::Duration};

use tartan_lab::{
    Cluster, Namespace, eventually, images,
    traffic::{Echo, Load, LoadOptions, Report},
};
use xtask::cluster;

use super::{kubectl, let_flow};

const PORT: u16 = 7000;
/// The first NodePort of each policy; each node's pod has its own.
const ANY_NODE: u16 = 30100;
const OWN_NODE: u16 = 30200;

/// 8 TCP flows and 1,000 UDP packets a second between pods.
const MUCH: LoadOptions = LoadOptions {
    udp_rate: 1000,
    udp_mtu: None,
    tcp_flows: 8,
    tcp_interval: Duration::from_millis(50),
    tcp_bulk: 0,
};
/// A fifth by each other class: both ends of all thirty loads, their kernel and Kubernetes share two cores, and what
/// an overloaded machine drops by itself is no finding. A loss of 5 ms is still seen.
const SOME: LoadOptions =
    LoadOptions { udp_rate: 200, tcp_flows: 2, tcp_interval: Duration::from_millis(100), ..MUCH };
/// An echo that takes longer has waited for a processor: nothing here is a hundred milliseconds away.
const PROMPT: u64 = 500;

/// One pod with an echo on each node.
pub struct Scene<'a> {
    cluster: &'a Cluster,
    ends: Vec<End>,
    _echoes: Vec<Echo>,
    /// By how much all loads are slowed down.
    slower: u32,
}

/// The pod of a node, and how else it is reached.
struct End {
    node: String,
    number: u16,
    address: IpAddr,
    inside: Namespace,
    service: IpAddr,
}

impl<'a> Scene<'a> {
    /// With loads that are slowed down by this at least.
    pub fn set(cluster: &'a Cluster, slower: u32) -> Self {
        let nodes = cluster.nodes();
        let manifest: String = (0..).zip(nodes).map(|(number, node)| pod(node.name(), number)).collect();
        cluster.apply(&manifest).unwrap().ok().unwrap();
        kubectl(cluster, &["wait", "pod", "-l", "echo", "--for=condition=Ready", "--timeout=120s"]);
        let ends: Vec<End> =
            (0..).zip(nodes).map(|(number, node)| End::find(cluster, node.name(), number)).collect();
        let echoes = ends.iter().map(|end| Echo::start(&end.inside, PORT).unwrap()).collect();
        let mut scene = Self { cluster, ends, _echoes: echoes, slower };
        scene.wait_for_services();
        scene.find_pace();
        scene
    }

    /// One transaction of kube-proxy brings TCP and UDP of a Service. A UDP packet before it would be remembered as
    /// one to nobody, and so would all that follow it.
    fn wait_for_services(&self) {
        for (class, from, to) in self.flows() {
            let (place, (address, port)) = class.ends(self.cluster, from, to);
            let connect = format!("</dev/tcp/{address}/{port}");
            eventually(&format!("{class:?} from {} to {}", from.node, to.node), cluster::PATIENCE, || {
                place.exec(&["timeout", "1", "bash", "-c", &connect]).unwrap().success()
            })
            .unwrap();
        }
    }

    /// Slows the loads down until this machine answers them promptly while nothing happens.
    fn find_pace(&mut self) {
        loop {
            let traffic = self.traffic();
            let_flow(Duration::from_secs(5));
            let delay = traffic.longest_delay();
            println!("-- loads slowed down by {}: answered after {delay} ms at most", self.slower);
            if delay <= PROMPT {
                return;
            }
            self.slower *= 2;
            assert!(self.slower <= 8, "this machine is too slow, or too busy, for the traffic of this test");
        }
    }

    /// Every class for every ordered pair of nodes.
    fn flows(&self) -> impl Iterator<Item = (Class, &End, &End)> {
        let pairs = self.ends.iter().flat_map(|from| self.ends.iter().map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from.node != to.node);
        pairs.flat_map(|(from, to)| CLASSES.into_iter().map(move |class| (class, from, to)))
    }

    /// The address of a node's pod.
    pub fn address_on(&self, node: &str) -> IpAddr {
        self.ends.iter().find(|end| end.node == node).unwrap().address
    }

    /// Starts every load and returns when all of them flow.
    pub fn traffic(&self) -> Traffic {
        Traffic(self.flows().map(|(class, from, to)| Flowing::start(self, class, from, to)).collect())
    }
}

impl End {
    fn find(cluster: &Cluster, node: &str, number: u16) -> Self {
        let read = |kind: &str, path: &str| {
            let path = format!("jsonpath={path}");
            kubectl(cluster, &["get", kind, &format!("echo-{node}"), "-o", &path]).parse().unwrap()
        };
        Self {
            node: node.to_owned(),
            number,
            address: read("pod", "{.status.podIP}"),
            inside: cluster.pod("default", &format!("echo-{node}")).unwrap(),
            service: read("service", "{.spec.clusterIP}"),
        }
    }
}

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

const CLASSES: [Class; 5] =
    [Class::PodToPod, Class::NodeToPod, Class::ClusterIp, Class::NodePortCluster, Class::NodePortLocal];

impl Class {
    /// Where a load starts, and the address and port that it sends to.
    fn ends<'a>(self, cluster: &'a Cluster, from: &'a End, to: &End) -> (&'a Namespace, (IpAddr, u16)) {
        let place = match self {
            Self::PodToPod | Self::ClusterIp | Self::NodePortLocal => &from.inside,
            Self::NodeToPod => cluster.node(&from.node),
            Self::NodePortCluster => cluster.fabric().existing_outside().unwrap(),
        };
        let target = match self {
            Self::PodToPod | Self::NodeToPod => (to.address, PORT),
            Self::ClusterIp => (to.service, PORT),
            Self::NodePortCluster => (cluster.node(&from.node).address().into(), ANY_NODE + to.number),
            Self::NodePortLocal => (cluster.node(&to.node).address().into(), OWN_NODE + to.number),
        };
        (place, target)
    }

    fn load(self, slower: u32) -> LoadOptions {
        let options = match self {
            Self::PodToPod => MUCH,
            Self::NodeToPod | Self::ClusterIp | Self::NodePortCluster | Self::NodePortLocal => SOME,
        };
        LoadOptions {
            udp_rate: options.udp_rate / slower,
            tcp_interval: options.tcp_interval * slower,
            ..options
        }
    }
}

struct Flowing {
    class: Class,
    name: String,
    /// UDP packets a second.
    rate: u32,
    load: Load,
}

impl Flowing {
    fn start(scene: &Scene<'_>, class: Class, from: &End, to: &End) -> Self {
        let (place, target) = class.ends(scene.cluster, from, to);
        let name = format!("{class:?}-{}-{}", from.node, to.node);
        let options = class.load(scene.slower);
        let load = Load::start(place, &name, target, &options).unwrap();
        Self { class, name, rate: options.udp_rate, load }
    }
}

/// Loads that flow.
pub struct Traffic(Vec<Flowing>);

impl Traffic {
    /// Ends all loads at once, and tells what each of them counted.
    fn end(self) -> impl Iterator<Item = (Flow, Report)> {
        for flowing in &self.0 {
            flowing.load.stop();
        }
        self.0
            .into_iter()
            .map(|Flowing { class, name, rate, load }| (Flow { class, name, rate }, load.finish().unwrap()))
    }

    /// Ends the traffic. Milliseconds.
    fn longest_delay(self) -> u64 {
        self.end().map(|(_, report)| report.max_delay_ms()).max().unwrap()
    }

    /// Ends the traffic, prints what became of each class, and returns the faults: no connection may be lost, and of
    /// no load more packets than it sends within `allowed`.
    pub fn finish(self, title: &str, allowed: Duration) -> Vec<String> {
        let mut sums: BTreeMap<Class, Sum> = BTreeMap::new();
        let mut faults = vec![];
        for (flow, report) in self.end() {
            let sum = sums.entry(flow.class).or_default();
            sum.add(&report);
            let seen = report.flows.iter().all(|flow| flow.received > 0);
            let (packets, connections) = lost(&report);
            let too_many = u128::from(packets) > u128::from(flow.rate) * allowed.as_millis() / 1000;
            if too_many || connections > 0 || !seen {
                faults.push(format!("{title}: {}: {report}", flow.name));
            }
        }
        for (class, sum) in sums {
            println!("   {:16} {sum}", format!("{class:?}"));
        }
        faults
    }
}

/// What a load was.
struct Flow {
    class: Class,
    name: String,
    rate: u32,
}

/// Packets, and connections: those that ended and those that were stuck at the end.
fn lost(report: &Report) -> (u64, u64) {
    let of = |protocol: &'static str| report.flows.iter().filter(move |flow| flow.protocol == protocol);
    (of("udp").map(|flow| flow.lost).sum(), of("tcp").map(|flow| flow.connections_lost + flow.lost).sum())
}

#[derive(Default)]
struct Sum {
    sent: u64,
    packets: u64,
    connections: u64,
    gap: u64,
    worst: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        let (packets, connections) = lost(report);
        self.sent += report.sent();
        self.packets += packets;
        self.connections += connections;
        self.worst = self.worst.max(packets);
        self.gap = self.gap.max(report.max_gap_ms());
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, packets, connections, gap, worst } = self;
        write!(
            f,
            "{sent:7} sent, {packets} packets lost (at most {worst} of one flow), {connections} connections lost, \
             longest gap {gap} ms"
        )
    }
}

/// A pod that pauses, in whose network the echo runs, and its Services.
fn pod(node: &str, number: u16) -> String {
    let name = format!("echo-{node}");
    let mut text = format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{echo: {node}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  tolerations: [{{operator: Exists}}]\n  containers:\n  \
         - {{name: echo, image: \"{}\", imagePullPolicy: Never, args: [pause]}}\n",
        images::TEST_IMAGE
    );
    for (suffix, policy, port) in [("", "Cluster", ANY_NODE), ("-local", "Local", OWN_NODE)] {
        let port = port + number;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{suffix}}}\nspec:\n  type: NodePort\n  \
             externalTrafficPolicy: {policy}\n  selector: {{echo: {node}}}\n  ports:\n  \
             - {{name: udp, protocol: UDP, port: {PORT}, nodePort: {port}}}\n  \
             - {{name: tcp, protocol: TCP, port: {PORT}, nodePort: {port}}}\n"
        );
    }
    text
}
