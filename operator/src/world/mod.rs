//! [`World`]: everything that decisions are made from, in memory.
//!
//! The allocator task owns it and feeds it with what the watches and its own writes tell. Deciding reads it
//! and nothing else.

mod chart;
mod choice;
mod node_net;
mod objects;
mod table;
mod vanished;

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::{Cidr, Family, wellknown};

pub use chart::{ChartValues, PoolValues};
pub use choice::Choice;
pub use node_net::{NodeNet, Report, UsedAddresses};
pub use objects::{Lease, Network, Node, Pool, ServiceRange, Traces, Unreadable};
pub use table::{Change, Meta, Record, Table};
pub use vanished::Vanished;

use crate::chart_values::ChartOutcome;

/// News of any kind.
#[expect(clippy::large_enum_variant, reason = "the largest is the ClusterNetwork, of which there is one")]
#[derive(Clone, Debug)]
pub enum Delta {
    Nodes(Change<Node>),
    Networks(Change<Network>),
    Pools(Change<Pool>),
    Leases(Change<Lease>),
    NodeNetworks(Change<NodeNet>),
    ServiceRanges(Change<ServiceRange>),
    Charts(Change<ChartValues>),
    /// The store was put back to an older state, and lists of it are about to come.
    WentBack,
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub nodes: Table<Node>,
    pub networks: Table<Network>,
    pub pools: Table<Pool>,
    pub leases: Table<Lease>,
    pub node_networks: Table<NodeNet>,
    pub service_ranges: Table<ServiceRange>,
    pub charts: Table<ChartValues>,
    /// What came of the chart's values, by object: `ClusterNetwork/default`, `NetworkPool/gpu`.
    pub chart_outcomes: BTreeMap<String, ChartOutcome>,
    /// The block that a node last had or was about to get, and why it is to get that. A wish, for retries of a create
    /// whose answer was lost and for leases that somebody deleted; nothing rests on it.
    pub wishes: BTreeMap<(String, Family), (Cidr, Choice)>,
    pub vanished: Vanished,
    /// Nodes of which leases could not be written several times in a row, and what the API server said last.
    pub refused: BTreeMap<String, String>,
}

impl World {
    /// Takes in news. `true` where something changed that decisions may depend on.
    pub fn apply(&mut self, delta: Delta) -> bool {
        match delta {
            Delta::Nodes(change) => {
                let may_lose = !matches!(change, Change::Seen(_));
                let changed = self.nodes.apply(change);
                if changed && may_lose {
                    let nodes = &self.nodes;
                    self.wishes.retain(|(node, _), _| nodes.contains(node));
                    self.refused.retain(|node, _| nodes.contains(node));
                }
                changed
            }
            Delta::Leases(change) => {
                match &change {
                    Change::Seen(lease) => self.wish_again(lease),
                    Change::Listed { objects, .. } => objects.iter().for_each(|lease| self.wish_again(lease)),
                    Change::Gone(_) => {}
                }
                self.leases.apply(change)
            }
            Delta::WentBack => {
                self.vanished.notice(&self.leases);
                false
            }
            Delta::Networks(change) => self.networks.apply(change),
            Delta::Pools(change) => self.pools.apply(change),
            Delta::NodeNetworks(change) => self.node_networks.apply(change),
            Delta::ServiceRanges(change) => self.service_ranges.apply(change),
            Delta::Charts(change) => self.charts.apply(change),
        }
    }

    /// Takes in a lease as the API server answered it.
    pub fn learn_lease(&mut self, lease: Lease, at: Instant) {
        self.wish_again(&lease);
        self.leases.learn(lease, at);
    }

    /// The network, if there is one.
    pub fn network(&self) -> Option<&Network> {
        self.networks.get(wellknown::CLUSTER_NETWORK)
    }

    /// Whether every watch that decisions rest on has completed its first list. Before, nothing is written.
    pub fn is_complete(&self) -> bool {
        self.incomplete().is_empty()
    }

    /// Kinds whose first list is awaited. The chart's values are not waited for: without a chart there are none.
    pub fn incomplete(&self) -> Vec<&'static str> {
        [
            ("nodes", self.nodes.is_complete()),
            ("clusternetworks", self.networks.is_complete()),
            ("networkpools", self.pools.is_complete()),
            ("subnetleases", self.leases.is_complete()),
            ("nodenetworks", self.node_networks.is_complete()),
            ("servicecidrs", self.service_ranges.is_complete()),
        ]
        .into_iter()
        .filter_map(|(kind, complete)| (!complete).then_some(kind))
        .collect()
    }

    /// Takes in what time it is.
    pub fn tell_time(&mut self, now: Timestamp) {
        let spec = self.network().and_then(|network| network.spec.as_ref().ok());
        if let Some(hold) = spec.map(|spec| spec.reclaim_after) {
            self.vanished.age(now, hold.into());
        }
    }

    fn wish_again(&mut self, lease: &Lease) {
        self.vanished.is_there(lease);
        let Ok(spec) = &lease.spec else { return };
        if !spec.primary || spec.released_at.is_some() {
            return;
        }
        let wish = (lease.subnet, Choice::HadBefore);
        self.wishes.insert((spec.node_name.clone(), lease.subnet.family()), wish);
    }
}
