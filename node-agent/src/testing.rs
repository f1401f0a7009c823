//! Small inputs for this crate's own tests.

use std::collections::{BTreeMap, BTreeSet};

use tartan_crds::{
    BackendType, Endpoint, ExtensionParameters, IpsecParameters, LeaseBackend, Masquerade, NodeNetworkSpec,
    SubnetLeaseStatus, UdpParameters, VxlanParameters, WireguardParameters,
};
use tartan_datapath::model::{
    AddressFacts, Backend, DefaultRoute, Facts, Intent, LinkFacts, Present, Subnet,
};

use crate::{
    inputs::{Entry, Lease, Network, Node, NodeNet, Snapshot},
    intent::{Built, NotReady, Sources, WireguardKeys, build},
};

pub const UID: &str = "uid-of-node1";

/// What an agent on `node1` knows: `node1` with 10.244.1.0/24 on 192.0.2.11/24, and whoever is added.
#[derive(Clone, Debug)]
pub struct Known {
    pub network: Option<Network>,
    pub leases: BTreeMap<String, Lease>,
    pub node_net: Option<NodeNet>,
    pub node: Option<Node>,
    pub facts: Facts,
    pub unreadable: BTreeMap<String, String>,
    pub reach_link: Option<u32>,
    pub lost: BTreeSet<Backend>,
    pub wireguard: WireguardKeys,
    pub present: Present,
    pub forwarder: bool,
}

pub fn known() -> Known {
    let network = Network {
        entries: vec![entry("10.244.0.0/16", 24)],
        vxlan: VxlanParameters::default(),
        wireguard: WireguardParameters::default(),
        extension: ExtensionParameters::default(),
        ipsec: IpsecParameters::default(),
        udp: UdpParameters::default(),
        fallback: BackendType::Vxlan,
        masquerade: Masquerade::default(),
        mtu: None,
        keys: None,
        pod_cidrs_ignored: false,
    };
    let node = Node {
        uid: UID.into(),
        pod_cidrs: vec!["10.244.1.0/24".into()],
        internal_ips: vec!["192.0.2.11".parse().unwrap()],
        network_unavailable: None,
    };
    let mut known = Known {
        network: Some(network),
        leases: BTreeMap::new(),
        node_net: Some(NodeNet { generation: Some(1), spec: NodeNetworkSpec::default(), status: None }),
        node: Some(node),
        facts: facts(),
        unreadable: BTreeMap::new(),
        reach_link: None,
        lost: BTreeSet::new(),
        wireguard: WireguardKeys::default(),
        present: Present::default(),
        forwarder: false,
    };
    known.add(lease(1, "node1"));
    known
}

impl Known {
    pub fn add(&mut self, lease: Lease) -> &mut Lease {
        self.leases.entry(lease.subnet.object_name()).or_insert(lease)
    }

    pub fn own(&mut self) -> &mut Lease {
        self.leases.get_mut("10.244.1.0-24").unwrap()
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            network: self.network.as_ref(),
            leases: &self.leases,
            node_net: self.node_net.as_ref(),
            node: self.node.as_ref(),
            unreadable: &self.unreadable,
        }
    }

    pub fn build(&self) -> Result<Built, NotReady> {
        build(&Sources {
            node: "node1",
            snapshot: self.snapshot(),
            facts: &self.facts,
            api_server: &["198.51.100.1".parse().unwrap()],
            reach_link: self.reach_link,
            lost: &self.lost,
            lost_links: &BTreeSet::new(),
            wireguard: &self.wireguard,
            present: &self.present,
            forwarder: self.forwarder,
        })
    }
}

/// A primary lease of 10.244.N.0/24, without status.
pub fn lease(n: u8, node: &str) -> Lease {
    Lease {
        uid: format!("uid-of-lease-{n}"),
        generation: 1,
        node: node.into(),
        node_uid: format!("uid-of-{node}"),
        subnet: format!("10.244.{n}.0/24").parse().unwrap(),
        primary: true,
        backend: LeaseBackend {
            kind: BackendType::Vxlan,
            accepts: vec![BackendType::Vxlan],
            direct_routing: false,
            sealed: false,
            ending: vec![],
        },
        node_addresses: vec![],
        wireguard_keys: vec![],
        mtu: None,
        returning: None,
        released: false,
        created: i64::from(n),
        status: None,
    }
}

/// What the agent of node N publishes: 192.0.2.(10+N), one vxlan end point.
pub fn status(n: u8) -> SubnetLeaseStatus {
    SubnetLeaseStatus {
        public_ips: vec![format!("192.0.2.{}", 10 + n).parse().unwrap()],
        tunnel_sources: vec![],
        uplink_prefixes: vec!["192.0.2.0/24".parse().unwrap()],
        endpoints: vec![Endpoint {
            vtep_mac: Some(format!("02:00:00:00:00:{n:02x}")),
            ..Endpoint::plain(BackendType::Vxlan)
        }],
        mtu: Some(1450),
        pairing_version: 1,
        emptied: None,
    }
}

/// A lease of another node whose agent has answered.
pub fn answered(n: u8, node: &str) -> Lease {
    Lease { status: Some(status(n)), ..lease(n, node) }
}

fn facts() -> Facts {
    let address = |text: &str| AddressFacts {
        address: text.parse().unwrap(),
        global: true,
        secondary: false,
        deprecated: false,
    };
    let link = |name: &str, index: u32, addresses: Vec<AddressFacts>| LinkFacts {
        name: name.into(),
        index,
        mtu: 1500,
        up: true,
        carrier: true,
        ours: false,
        kind: String::new(),
        addresses,
        rp_filter: 0,
    };
    Facts {
        links: vec![
            link("eth0", 2, vec![address("192.0.2.11/24")]),
            link("eth1", 3, vec![address("203.0.113.11/24")]),
        ],
        default_routes: vec![DefaultRoute {
            v4: true,
            metric: 0,
            links: vec![2],
            gateways: vec!["192.0.2.1".parse().unwrap()],
        }],
        resolvers: vec!["192.0.2.53".parse().unwrap()],
        nft: true,
        net_admin: true,
        kernel_version: "6.1.0".into(),
        ..Facts::default()
    }
}

pub fn intent() -> Intent {
    known().build().unwrap().intent
}

pub fn entry(range: &str, block_len: u8) -> Entry {
    Entry { range: range.parse().unwrap(), block_len }
}

pub fn subnet(prefix: &str, primary: bool) -> Subnet {
    Subnet { prefix: prefix.parse().unwrap(), primary, regular: true }
}
