//! What the agent writes for others: the CNI configuration for the container runtime, and `subnet.env`
//! for tools that know flannel. The text is made here, purely; [`files`] keeps it on disk.

pub mod files;
mod usage;
pub mod vacate;

use std::{fmt::Write as _, path::Path};

use ipnetwork::IpNetwork;
use serde_json::json;
use tartan_datapath::{desired::host::gateway, mark, model::Intent};

pub use usage::{Counted, addresses_in_use, differ_coarsely};

/// Name of the configuration file: sorts before what other networks usually install.
pub const CONFLIST: &str = "05-tartan.conflist";
/// The network's name, by which host-local keeps its store too.
const NETWORK: &str = "tartan";
/// First line of a `subnet.env` of ours. Readers of the format skip it.
pub const SUBNET_ENV_MARK: &str = "# Written by tartan-node-agent.";

/// The network configuration list, CNI specification 1.0.
///
/// `isGateway` is false since the bridge and its addresses are ours: the plugin would refuse a second
/// subnet of a family. Pods get their default route from the IPAM result, by the range's gateway. New pods get no
/// address of a subnet that is `returning`; pods that have one keep it, since all else of the subnet stays.
pub fn conflist(intent: &Intent, returning: &[vacate::Request], data_dir: &Path) -> String {
    let mut subnets = intent.local.subnets.clone();
    subnets.retain(|subnet| !returning.iter().any(|request| request.subnet == subnet.prefix));
    subnets.sort_by_key(|subnet| (!subnet.primary, subnet.prefix));
    let of = |v4: bool| subnets.iter().map(|subnet| subnet.prefix).filter(move |p| p.is_ipv4() == v4);
    let mut ranges = Vec::new();
    let mut routes = Vec::new();
    for (v4, everything) in [(true, "0.0.0.0/0"), (false, "::/0")] {
        // One list for each family: host-local takes one address from each list.
        let list: Vec<_> = of(v4)
            .filter_map(|prefix| Some((prefix, gateway(prefix)?.ip())))
            .map(|(prefix, gateway)| json!({ "subnet": prefix.to_string(), "gateway": gateway }))
            .collect();
        if !list.is_empty() {
            ranges.push(list);
            routes.push(json!({ "dst": everything }));
        }
    }
    let list = json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": mark::BRIDGE,
                "isGateway": false,
                "ipMasq": false,
                "hairpinMode": true,
                "mtu": intent.local.mtu,
                "ipam": { "type": "host-local", "dataDir": data_dir, "ranges": ranges, "routes": routes },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    });
    format!("{list:#}\n")
}

/// `subnet.env` in flannel's format.
pub fn subnet_env(intent: &Intent) -> String {
    let mut text = format!("{SUBNET_ENV_MARK}\n");
    for (v4, infix) in [(true, ""), (false, "IPV6_")] {
        let primary = intent.local.subnets.iter().find(|s| s.primary && s.prefix.is_ipv4() == v4);
        let Some((primary, gateway)) = primary.and_then(|s| Some((s.prefix, gateway(s.prefix)?))) else {
            continue;
        };
        let networks: Vec<String> =
            intent.entries.iter().filter(|entry| entry.is_ipv4() == v4).map(ToString::to_string).collect();
        let networks = if networks.is_empty() { primary.to_string() } else { networks.join(",") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "FLANNEL_{infix}NETWORK={networks}");
        let _ = writeln!(text, "FLANNEL_{infix}SUBNET={}", with_length(gateway));
    }
    // True whether or not we translate: it tells flannel's plugin to keep its hands off.
    let _ = writeln!(text, "FLANNEL_MTU={}\nFLANNEL_IPMASQ=true", intent.local.mtu);
    text
}

fn with_length(address: IpNetwork) -> String {
    format!("{}/{}", address.ip(), address.prefix())
}

#[cfg(test)]
mod tests;
