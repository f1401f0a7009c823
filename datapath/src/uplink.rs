//! Which interface of a node carries traffic between nodes. Pure: the caller has asked the kernel.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use regex::Regex;

use crate::model::{AddressFacts, Facts, LinkFacts, Uplink};

/// How an administrator wants the uplink found.
#[derive(Clone, Debug)]
pub enum UplinkChoice {
    DefaultRoute,
    Interface(String),
    InterfaceRegex(Regex),
    /// An address or a prefix that the interface has an address in.
    Address(IpNetwork),
    /// The interface by which the kernel sends to `target`: `link` is the kernel's answer, if any.
    CanReach {
        target: IpAddr,
        link: Option<u32>,
    },
    /// The Node's InternalIPs.
    InternalIp(Vec<IpAddr>),
}

/// Why no interface fits. The text names the field and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    #[error("uplink.defaultRoute: the host has no default route; set uplink.interface or uplink.canReach")]
    NoDefaultRoute,
    #[error("uplink.{field} {wanted}: no such interface; the host has {found}")]
    NoMatch { field: &'static str, wanted: String, found: String },
    #[error("uplink.canReach {target}: the kernel has no route to it")]
    Unreachable { target: IpAddr },
    #[error("uplink.{field}: interface {name} is down")]
    Down { field: &'static str, name: String },
    #[error("uplink.{field}: interface {name} has no global address")]
    NoAddress { field: &'static str, name: String },
    #[error(
        "uplink.internalIP: the Node has no InternalIP; give it one, or select the uplink in another way"
    )]
    NoInternalIp,
}

/// The interface that `choice` asks for, with one preferred address per family.
///
/// Links of ours are never chosen. Among several candidates the lowest route metric, then the order of
/// the next hops, then the name decides, so that the answer stays the same while the host does.
pub fn select_uplink(facts: &Facts, choice: &UplinkChoice) -> Result<Uplink, UplinkError> {
    let links = || facts.links.iter().filter(|link| !link.ours && link.name != "lo");
    let (field, link) = match choice {
        UplinkChoice::DefaultRoute => {
            let mut routes: Vec<_> = facts.default_routes.iter().collect();
            routes.sort_by_key(|route| (!route.v4, route.metric));
            let link = routes
                .iter()
                .flat_map(|route| &route.links)
                .find_map(|index| links().find(|link| link.index == *index));
            ("defaultRoute", link.ok_or(UplinkError::NoDefaultRoute)?)
        }
        UplinkChoice::Interface(name) => {
            let link = links().find(|link| link.name == *name);
            ("interface", link.ok_or_else(|| no_match("interface", name.clone(), links()))?)
        }
        UplinkChoice::InterfaceRegex(regex) => {
            let mut candidates: Vec<_> = links().filter(|link| regex.is_match(&link.name)).collect();
            candidates.sort_by(|a, b| a.name.cmp(&b.name));
            let usable = candidates.iter().find(|link| link.up && link.addresses.iter().any(usable_address));
            let link = usable.or(candidates.first()).copied();
            ("interfaceRegex", link.ok_or_else(|| no_match("interfaceRegex", regex.to_string(), links()))?)
        }
        UplinkChoice::Address(prefix) => {
            let link = links()
                .find(|link| link.addresses.iter().any(|address| prefix.contains(address.address.ip())));
            ("address", link.ok_or_else(|| no_match("address", prefix.to_string(), links()))?)
        }
        UplinkChoice::CanReach { target, link } => {
            let found = link.and_then(|index| links().find(|link| link.index == index));
            ("canReach", found.ok_or(UplinkError::Unreachable { target: *target })?)
        }
        UplinkChoice::InternalIp(addresses) => {
            if addresses.is_empty() {
                return Err(UplinkError::NoInternalIp);
            }
            let link =
                links().find(|link| link.addresses.iter().any(|a| addresses.contains(&a.address.ip())));
            let wanted = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            ("internalIP", link.ok_or_else(|| no_match("internalIP", wanted, links()))?)
        }
    };
    if !link.up {
        return Err(UplinkError::Down { field, name: link.name.clone() });
    }
    let preferred = match choice {
        UplinkChoice::Address(prefix) => Some(*prefix),
        _ => None,
    };
    let internal: &[IpAddr] = match choice {
        UplinkChoice::InternalIp(addresses) => addresses,
        _ => &[],
    };
    let addresses: Vec<IpNetwork> =
        [true, false].into_iter().filter_map(|v4| preferred_address(link, v4, preferred, internal)).collect();
    if addresses.is_empty() {
        return Err(UplinkError::NoAddress { field, name: link.name.clone() });
    }
    let mut prefixes: Vec<IpNetwork> = link
        .addresses
        .iter()
        .filter(|address| address.global)
        .filter_map(|a| IpNetwork::new(a.address.network(), a.address.prefix()).ok())
        // A host prefix says nothing about who else is on the link.
        .filter(|prefix| prefix.prefix() < if prefix.is_ipv4() { 32 } else { 128 })
        .collect();
    prefixes.sort();
    prefixes.dedup();
    Ok(Uplink { name: link.name.clone(), index: link.index, mtu: link.mtu, addresses, prefixes })
}

fn usable_address(address: &AddressFacts) -> bool {
    address.global && !address.deprecated
}

/// The address of a family that was asked for by value, else the first primary one, else any.
fn preferred_address(
    link: &LinkFacts,
    v4: bool,
    wanted: Option<IpNetwork>,
    internal: &[IpAddr],
) -> Option<IpNetwork> {
    let candidates = || link.addresses.iter().filter(|a| a.address.is_ipv4() == v4 && usable_address(a));
    candidates()
        .find(|a| {
            wanted.is_some_and(|wanted| wanted.contains(a.address.ip())) || internal.contains(&a.address.ip())
        })
        .or_else(|| candidates().find(|a| !a.secondary))
        .or_else(|| candidates().next())
        .map(|a| a.address)
}

fn no_match<'a>(
    field: &'static str,
    wanted: String,
    links: impl Iterator<Item = &'a LinkFacts>,
) -> UplinkError {
    let names: Vec<String> = links
        .map(|link| {
            let addresses: Vec<String> = link.addresses.iter().map(|a| a.address.to_string()).collect();
            format!("{} ({})", link.name, addresses.join(", "))
        })
        .take(16)
        .collect();
    UplinkError::NoMatch { field, wanted, found: names.join("; ") }
}
