//! Nodes as network namespaces on one or more segments, joined by a router: the network below the pod network.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tartan_lab::{Fabric, FabricOptions};
//!
//! let fabric = Fabric::start(FabricOptions::with_segments(&[2, 1]))?; // node1 and node2, then node3 behind a router
//! let (one, three) = (fabric.node("node1"), fabric.node("node3"));
//! one.exec(&["ping", "-c1", "-W1", &three.address().to_string()])?.ok()?;
//! let agent = one.spawn("agent", &["/path/of/tartan-node-agent", "run"])?;
//! let pod = one.pod("a")?; // wired by the plugins in /etc/cni/net.d of that node
//! pod.exec(&["ping", "-c1", "-W1", "10.244.1.1"])?.ok()?;
//! # let _ = agent;
//! # Ok(())
//! # }
//! ```
//!
//! Segments are bridges inside the router's namespace; the host has nothing of it, except one veth end when a control
//! plane is attached. Segment *s* is `198.18.s.0/24` and `fd18:s::/64`, the router is its `.1`, nodes count from `.11`.
//! Without IPv4 (`options.without_v4`) neither nodes nor the host outside have an address of it.
//! The router knows no pod address, so that only a pod network that works can carry a pod's packet across it.

mod control;
mod node;
mod pod;
mod tap;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

pub use node::Node;
pub use pod::{Pod, PodOptions};
pub use tap::Tapped;

use crate::apiserver::{ApiServer, ApiServerOptions};
use crate::home::{Home, Lifetime};
use crate::namespace::Namespace;
use crate::prerequisites::{Tool, require};
use crate::process::Process;
use crate::vm;
use control::{Control, lead_to_host_by_v6};

/// One L2 network.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Segment {
    pub nodes: usize,
    pub mtu: u32,
}

/// What a fabric looks like at first.
#[derive(Debug, Clone, Default)]
pub struct FabricOptions {
    pub segments: Vec<Segment>,
    /// Nobody has an IPv4 address; in a virtual machine, none but for the way to its host ([`Fabric::host_api_server`]).
    pub without_v4: bool,
}

impl FabricOptions {
    /// Segments with this many nodes each and an MTU of 1500.
    pub fn with_segments(nodes: &[usize]) -> Self {
        let segments = nodes.iter().map(|nodes| Segment { nodes: *nodes, mtu: 1500 }).collect();
        Self { segments, without_v4: false }
    }
}

/// A running fabric. Dropping it removes all of it.
#[derive(Debug)]
pub struct Fabric {
    nodes: Vec<Node>,
    outside: Option<Namespace>,
    control: Option<Control>,
    router: Namespace,
    segments: Vec<Segment>,
    without_v4: bool,
    home: Arc<Home>,
}

impl Fabric {
    pub fn start(options: FabricOptions) -> Result<Self> {
        Self::start_in(Arc::new(Home::create_unique("fabric")?), options)
    }

    /// The same, but under a name, and kept until somebody takes it down.
    pub fn start_named(name: &str, lifetime: Lifetime, options: FabricOptions) -> Result<Self> {
        Self::start_in(Arc::new(Home::create(name, lifetime)?), options)
    }

    pub(crate) fn start_in(home: Arc<Home>, options: FabricOptions) -> Result<Self> {
        require(&[Tool::Network])?;
        let router = Namespace::create(&home, "router", None)?;
        router.script(
            "for name in all default; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done
             echo 1 > /proc/sys/net/ipv4/ip_forward
             echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad",
        )?;
        let FabricOptions { segments, without_v4 } = options;
        if without_v4 {
            fs::write(home.join("without-v4"), "")?;
        }
        let (nodes, own_segments) = (Vec::new(), Vec::new());
        let mut fabric =
            Self { nodes, outside: None, control: None, router, segments: own_segments, without_v4, home };
        for segment in segments {
            let index = fabric.add_segment(segment.mtu)?;
            for _ in 0..segment.nodes {
                fabric.add_node(index)?;
            }
        }
        Ok(fabric)
    }

    /// The fabric of a kept lab.
    pub(crate) fn attach(home: Arc<Home>) -> Result<Self> {
        let router = Namespace::find(&home, "router").context("the router of this lab has died")?;
        let mut nodes = Vec::new();
        for entry in fs::read_dir(home.path())? {
            nodes.extend(Node::attach(&home, &entry?.path())?);
        }
        nodes.sort_by_key(Node::number);
        let text = fs::read_to_string(home.join("segments.json")).unwrap_or_else(|_| "[]".to_owned());
        Ok(Self {
            nodes,
            outside: Namespace::find(&home, "outside"),
            control: Control::attach(&home)?,
            router,
            segments: serde_json::from_str(&text)?,
            without_v4: home.join("without-v4").exists(),
            home,
        })
    }

    /// An empty segment. The answer is its number.
    pub fn add_segment(&mut self, mtu: u32) -> Result<usize> {
        let index = self.segments.len();
        // A bridge that was told its MTU and its hardware address does not take those of its ports: a node that goes would
        // change the router's address under its neighbours.
        self.router.script(&format!(
            "ip link add seg{index} address 02:18:00:01:{index:02x}:01 type bridge forward_delay 0 mcast_snooping 0
             ip link set seg{index} mtu {mtu} up
             ip address add 198.18.{index}.1/24 dev seg{index}
             ip address add fd18:{index}::1/64 dev seg{index} nodad",
        ))?;
        self.segments.push(Segment { nodes: 0, mtu });
        fs::write(self.home.join("segments.json"), serde_json::to_string(&self.segments)?)?;
        Ok(index)
    }

    /// One more node, named after its number. Names are not used twice.
    pub fn add_node(&mut self, segment: usize) -> Result<&Node> {
        let mtu = self.segments.get(segment).context("there is no such segment")?.mtu;
        let number = self.nodes.iter().map(Node::number).max().unwrap_or(0) + 1;
        let node = Node::create(&self.home, &self.router, (number, segment), mtu, self.without_v4)?;
        self.nodes.push(node);
        self.nodes.last().context("a node was pushed")
    }

    /// Takes a node away with everything in it, its disk included.
    pub fn remove_node(&mut self, name: &str) -> Result<()> {
        let index =
            self.nodes.iter().position(|node| node.name() == name).context("there is no such node")?;
        let mut node = self.nodes.remove(index);
        node.power_off()?;
        fs::remove_dir_all(node.disk())?;
        Ok(())
    }

    /// Stops a node hard and starts it again: an empty `/run`, no process, fresh devices, the same disk.
    pub fn reboot_node(&mut self, name: &str) -> Result<()> {
        self.power_off_node(name)?;
        self.power_on_node(name)
    }

    /// Stops a node hard. Until it is started again nothing can be asked of it.
    pub fn power_off_node(&mut self, name: &str) -> Result<()> {
        self.nodes.iter_mut().find(|node| node.name() == name).context("there is no such node")?.power_off()
    }

    pub fn power_on_node(&mut self, name: &str) -> Result<()> {
        let Self { nodes, router, .. } = self;
        let node = nodes.iter_mut().find(|node| node.name() == name).context("there is no such node")?;
        node.power_on(router)
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    ///
    /// # Panics
    /// If there is none: that is a mistake in the test.
    #[expect(
        clippy::panic,
        reason = "a wrong name is a mistake in the test, and every caller would have to unwrap"
    )]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// The router between the segments, for firewalls, captures and failures in the middle.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// A host that is not of the cluster, `203.0.113.10` and `2001:db8:113::10`, behind the router. It can answer nodes,
    /// but no pod address.
    pub fn outside(&mut self) -> Result<&Namespace> {
        if self.outside.is_none() {
            let outside = Namespace::create(&self.home, "outside", None)?;
            self.router.script(&format!(
                "ip link add outside type veth peer name eth0 netns {}
                 ip address add 203.0.113.1/24 dev outside
                 ip address add 2001:db8:113::1/64 dev outside nodad
                 ip link set outside up",
                outside.pid()
            ))?;
            outside.script(
                "ip address add 2001:db8:113::10/64 dev eth0 nodad
                 ip link set eth0 up
                 ip -6 route add default via 2001:db8:113::1",
            )?;
            if !self.without_v4 {
                outside.script(
                    "ip address add 203.0.113.10/24 dev eth0
                     ip route add default via 203.0.113.1",
                )?;
            }
            outside.wait_up(&["eth0"])?;
            self.router.wait_up(&["outside"])?;
            self.outside = Some(outside);
        }
        self.outside.as_ref().context("it was made above")
    }

    /// The namespace of [`Fabric::outside`], once there is one.
    pub fn existing_outside(&self) -> Option<&Namespace> {
        self.outside.as_ref()
    }

    /// The address of [`Fabric::outside`].
    pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);

    /// An API server that all nodes reach, and the host too. It lives in a namespace of its own behind the router.
    pub fn api_server(&mut self, mut options: ApiServerOptions) -> Result<ApiServer> {
        if self.control.is_none() {
            self.control = Some(Control::create(&self.home, &self.router, self.without_v4)?);
        }
        let control = self.control.as_ref().context("it was made above")?;
        options.place = Some(control.place());
        ApiServer::start_in(Arc::clone(&self.home), options)
    }

    /// In a virtual machine that reaches an API server of its host's: leads everybody to it. The answer is the
    /// administrator's kubeconfig, for the nodes and for the machine itself.
    ///
    /// Machines reach their hosts by IPv4. Nodes without it get an address for this way alone, on their loopback
    /// device, and packets to it and from it go by IPv6 next hops; a reboot takes it from them.
    pub fn host_api_server(&mut self) -> Result<PathBuf> {
        ensure!(vm::is_inside(), "only a virtual machine has a host");
        let control = Control::create(&self.home, &self.router, false)?;
        control.lead_to_host(&self.router)?;
        if self.without_v4 {
            for node in &self.nodes {
                lead_to_host_by_v6(&self.router, node)?;
            }
        }
        self.control = Some(control);
        Ok(vm::kubeconfig())
    }

    /// Takes the control plane away from every node: connections are reset, answers are lost. Whoever is on no node
    /// still reaches it.
    pub fn cut_control(&self) -> Result<()> {
        self.router.script(
            "nft 'table inet cut { chain forward {
                 type filter hook forward priority 0;
                 oifname control meta l4proto tcp reject with tcp reset;
                 iifname control drop;
             }; }'",
        )?;
        Ok(())
    }

    pub fn restore_control(&self) -> Result<()> {
        self.router.script("nft delete table inet cut")?;
        Ok(())
    }

    /// Runs kube-proxy on a node.
    pub fn start_proxy(&self, kubeconfig: &std::path::Path, node: &str) -> Result<Process> {
        crate::proxy::start(kubeconfig, self.node(node))
    }

    /// Counts what comes from each node's cable from now on, with pod addresses in `pods`.
    pub fn tap(&self, pods: &str) -> Result<()> {
        tap::place(&self.router, &self.nodes, pods)
    }

    /// What came from this node's cable since [`Fabric::tap`].
    pub fn tapped(&self, node: &str) -> Result<Tapped> {
        tap::read(&self.router, node)
    }

    /// The namespace of the control plane, once there is one.
    pub fn control(&self) -> Option<&Namespace> {
        self.control.as_ref().map(Control::namespace)
    }

    /// The address of that namespace, reached from every node and from the host.
    pub fn control_address(&self) -> Option<IpAddr> {
        self.control.as_ref().map(|control| control.place().address)
    }

    /// Drops every packet of this node at the switch, without its link going down.
    pub fn disconnect(&self, node: &str) -> Result<()> {
        self.router.script(&format!("ip link set {} nomaster", self.node(node).port()))?;
        Ok(())
    }

    pub fn reconnect(&self, node: &str) -> Result<()> {
        let node = self.node(node);
        self.router.script(&format!("ip link set {} master seg{}", node.port(), node.segment()))?;
        self.router.wait_up(&[&node.port()])
    }

    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }
}
