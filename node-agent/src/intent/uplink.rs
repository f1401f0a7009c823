//! How the API asks for an uplink, as the data path understands it. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use regex::Regex;
use tartan_crds::{UplinkSelection, conditions::reason};
use tartan_datapath::uplink::UplinkChoice;

use super::NotReady;

/// The address for which the kernel's route must be asked before [`choice`].
pub fn reach_target(selection: Option<&UplinkSelection>) -> Option<IpAddr> {
    selection.and_then(|selection| selection.can_reach)
}

pub(super) fn choice(
    selection: Option<&UplinkSelection>,
    internal_ips: &[IpAddr],
    reach_link: Option<u32>,
) -> Result<UplinkChoice, NotReady> {
    let Some(selection) = selection else { return Ok(UplinkChoice::DefaultRoute) };
    let bad = |field: &str, text: &str, error: &dyn std::fmt::Display| {
        NotReady::new(reason::NO_UPLINK, format!("uplink.{field} {text:?} is no {field}: {error}"))
    };
    // `default_route` says what holds without any of the others.
    let UplinkSelection { default_route: _, interface, interface_regex, address, can_reach, internal_ip } =
        selection;
    if let Some(name) = interface {
        return Ok(UplinkChoice::Interface(name.clone()));
    }
    if let Some(pattern) = interface_regex {
        return Regex::new(pattern)
            .map(UplinkChoice::InterfaceRegex)
            .map_err(|error| bad("interfaceRegex", pattern, &error));
    }
    if let Some(text) = address {
        return text
            .parse::<IpNetwork>()
            .map(UplinkChoice::Address)
            .map_err(|error| bad("address", text, &error));
    }
    if let Some(target) = can_reach {
        return Ok(UplinkChoice::CanReach { target: *target, link: reach_link });
    }
    if *internal_ip == Some(true) {
        return Ok(UplinkChoice::InternalIp(internal_ips.to_vec()));
    }
    Ok(UplinkChoice::DefaultRoute)
}
