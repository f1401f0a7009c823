//! The backend `extension`: the administrator's own programs make the paths, and are told of leases.
//!
//! Which programs, and with which words, the ClusterNetwork says; which there are to choose from, the node: only
//! files in the directory that its agent was started with, and none without. So whoever may write the ClusterNetwork
//! chooses among programs that were made for this, and gets no shell. What other nodes publish comes to a program in
//! its environment, written anew from parsed values, and on its standard input, never on its command line.
//!
//! [`wanted`] says, purely, what programs should know; [`task`] tells them, apart from the loop, and remembers in a
//! file in `/run` what they were told: an agent that is started anew tells them only what is new, and takes back what
//! is no more.

mod command;
pub mod task;

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use tartan_crds::{BackendType, Endpoint, ExtensionParameters, conditions::reason};
use tartan_datapath::{
    desired::PeerPath,
    model::{Backend, Intent},
    pair::Reason,
};

use crate::{
    inputs::{Network, Snapshot},
    intent::{NotReady, backend_type},
};

/// What a node publishes at most, in bytes.
pub const MOST_DATA: usize = 1024;

/// Environment of a program, by name.
pub type Environment = BTreeMap<String, String>;

/// What the programs should have been told.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Wanted {
    pub commands: ExtensionParameters,
    /// This node's own; `None` where its backend is another.
    pub own: Option<Environment>,
    /// By subnet.
    pub peers: BTreeMap<String, Told>,
}

/// What a program is told of a peer's subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub environment: Environment,
    /// What the peer's own program printed, for standard input.
    pub data: String,
}

/// What came of telling.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// For peers: what `preStartup` printed.
    pub data: Option<String>,
    /// What failed, in sentences.
    pub failed: Vec<String>,
}

impl Report {
    pub fn troubles(&self) -> Vec<NotReady> {
        let named = self.failed.iter().take(4).map(String::as_str).collect::<Vec<_>>().join("; ");
        let more = self.failed.len().saturating_sub(4);
        let text = if more > 0 { format!("{named}; and {more} more") } else { named };
        if text.is_empty() { vec![] } else { vec![NotReady::new(reason::EXTENSION_FAILED, text)] }
    }

    /// The end point that peers find in the lease.
    pub fn end_point(&self, intent: &Intent) -> Option<Endpoint> {
        let data = self.data.clone().filter(|_| intent.local.side.backend == Backend::Extension)?;
        Some(Endpoint { data: Some(data), ..Endpoint::plain(BackendType::Extension) })
    }
}

/// What the programs of this node should know.
pub fn wanted(network: &Network, snapshot: &Snapshot<'_>, intent: &Intent, paths: &[PeerPath]) -> Wanted {
    let commands = network.extension.clone();
    if intent.local.side.backend != Backend::Extension {
        return Wanted { commands, ..Wanted::default() };
    }
    let mut own = Environment::new();
    let entries = |v4: bool| -> Vec<String> {
        intent.entries.iter().filter(|entry| entry.is_ipv4() == v4).map(ToString::to_string).collect()
    };
    for (name, v4) in [("NETWORK", true), ("IPV6_NETWORK", false)] {
        set(&mut own, name, entries(v4).join(","));
    }
    for subnet in intent.local.subnets.iter().filter(|subnet| subnet.primary) {
        set_subnet(&mut own, &subnet.prefix);
    }
    set_addresses(&mut own, &intent.local.side.public_ips);
    set(&mut own, "NODE", intent.local.node.clone());
    let mut peers = BTreeMap::new();
    for path in paths.iter().filter(|path| path.pairing.reason == Reason::Unmanaged) {
        let peer = intent.peers.iter().find(|peer| peer.node == path.node);
        // Nothing can be told of a node that has not said yet where it is.
        let Some(peer) = peer.filter(|peer| !peer.side.public_ips.is_empty()) else { continue };
        for subnet in &path.subnets {
            let mut environment = Environment::new();
            set_subnet(&mut environment, subnet);
            set_addresses(&mut environment, &peer.side.public_ips);
            set(&mut environment, "NODE", peer.node.clone());
            set(&mut environment, "BACKEND", backend_type(peer.side.backend).to_string());
            let told = Told { environment, data: data_of(snapshot, &peer.node) };
            peers.insert(subnet.to_string(), told);
        }
    }
    Wanted { commands, own: Some(own), peers }
}

fn data_of(snapshot: &Snapshot<'_>, node: &str) -> String {
    let leases = snapshot.leases.values().filter(|lease| lease.node == node && !lease.released);
    let mut endpoints = leases.filter_map(|lease| lease.status.as_ref()).flat_map(|status| &status.endpoints);
    let data = endpoints.find_map(|endpoint| endpoint.data.clone());
    data.filter(|data| data.len() <= MOST_DATA).unwrap_or_default()
}

fn set(environment: &mut Environment, name: &str, value: String) {
    if !value.is_empty() {
        environment.insert(name.to_owned(), value);
    }
}

fn set_subnet(environment: &mut Environment, subnet: &IpNetwork) {
    set(environment, if subnet.is_ipv4() { "SUBNET" } else { "IPV6SUBNET" }, subnet.to_string());
}

fn set_addresses(environment: &mut Environment, addresses: &[IpAddr]) {
    for address in addresses {
        set(environment, if address.is_ipv4() { "PUBLIC_IP" } else { "PUBLIC_IPV6" }, address.to_string());
    }
}

#[cfg(test)]
mod tests;
