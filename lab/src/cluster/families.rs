//! Which families a cluster's nodes, Services and pods have.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::fabric::Node;

/// The families of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Families {
    /// Nodes have addresses of both, and Kubernetes knows those of IPv4.
    #[default]
    V4,
    /// IPv4 first.
    Dual,
    /// Nobody has an IPv4 address.
    V6,
}

impl Families {
    /// The node's addresses that Kubernetes knows.
    pub(super) fn of(self, node: &Node) -> Vec<IpAddr> {
        let mut addresses = node.addresses();
        addresses.retain(|address| match self {
            Self::V4 => address.is_ipv4(),
            Self::Dual => true,
            Self::V6 => address.is_ipv6(),
        });
        addresses
    }

    pub(super) fn service_ranges(self) -> &'static str {
        match self {
            Self::V4 => "10.96.0.0/16",
            Self::Dual => "10.96.0.0/16,fd00:10:96::/112",
            Self::V6 => "fd00:10:96::/112",
        }
    }

    pub(super) fn cluster_dns(self) -> &'static str {
        match self {
            Self::V4 | Self::Dual => "10.96.0.10",
            Self::V6 => "fd00:10:96::a",
        }
    }
}
