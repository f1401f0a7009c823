//! One NodeNetwork for each Node: what concerns this node alone, resolved from its pool and annotations.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use tartan_crds::{
    Cidr, Family, NodeNetworkSpec, UplinkSelection,
    conditions::{kind, reason},
    wellknown::{NO_POOL, annotation},
};

use super::{
    Action, Problem,
    draft::{Draft, Verdict},
};
use crate::world::{Node, NodeNet};

pub fn decide_all(draft: &mut Draft<'_>) {
    let world = draft.world;
    for node in world.nodes.iter() {
        let (spec, annotation_problem) = wanted_spec(draft, node);
        let existing = world.node_networks.get(&node.meta.name);
        if let Some(existing) = existing.filter(|existing| is_of_another(existing, node)) {
            // It goes with all that another machine said in it, and the next round makes the node's own.
            draft.add(delete(existing));
            continue;
        }
        let up_to_date = existing.is_some_and(|existing| {
            existing.spec.as_ref() == Ok(&spec) && existing.owner.as_deref() == Some(&node.meta.uid)
        });
        if !up_to_date {
            draft.add(Action::ApplyNodeNetwork { node: node.meta.clone(), spec: Box::new(spec) });
        }
        if let Some(existing) = existing {
            report(draft, node, existing, annotation_problem);
        }
    }
    for orphan in world.node_networks.iter().filter(|orphan| !world.nodes.contains(&orphan.meta.name)) {
        draft.add(delete(orphan));
    }
}

/// Whether it is that of an earlier Node of this name.
fn is_of_another(object: &NodeNet, node: &Node) -> bool {
    object.owner.as_ref().is_some_and(|owner| *owner != node.meta.uid)
}

fn delete(object: &NodeNet) -> Action {
    Action::DeleteNodeNetwork { node_network: object.meta.clone(), owner: object.owner.clone() }
}

/// What is wrong with the annotations of a node.
pub fn annotation_problem(draft: &Draft<'_>, node: &Node) -> Option<Problem> {
    wanted_spec(draft, node).1
}

fn wanted_spec(draft: &Draft<'_>, node: &Node) -> (NodeNetworkSpec, Option<Problem>) {
    let membership = draft.layout.membership(node);
    let pool = draft.layout.pool_spec(membership);
    let mut problem = None;
    let mut note = |name: &str, error: String| {
        let text = format!("annotation {name} is ignored: {error}");
        problem.get_or_insert_with(|| Problem::new(reason::INVALID_ANNOTATION, text));
    };
    let uplink = node
        .uplink
        .as_deref()
        .and_then(|text| parse_uplink(text).map_err(|error| note(annotation::UPLINK, error)).ok());
    let public_ips = node
        .public_ips
        .as_deref()
        .and_then(|text| parse_addresses(text).map_err(|error| note(annotation::PUBLIC_IPS, error)).ok());
    let spec = NodeNetworkSpec {
        pool: if membership.place.is_some() { membership.pool.to_owned() } else { NO_POOL.to_owned() },
        uplink: uplink.or_else(|| pool.and_then(|pool| pool.uplink.clone())),
        public_ips: public_ips.unwrap_or_default(),
        masquerade: pool.and_then(|pool| pool.masquerade),
    };
    (spec, problem)
}

fn parse_uplink(text: &str) -> Result<UplinkSelection, String> {
    let mut uplink = UplinkSelection::default();
    let bounded = |value: &str, longest: usize| {
        if (1..=longest).contains(&value.len()) {
            Ok(Some(value.to_owned()))
        } else {
            Err(format!("{value:?} must have 1 to {longest} characters"))
        }
    };
    match text.trim().split_once('=').map_or((text.trim(), None), |(key, value)| (key, Some(value))) {
        ("default-route", None) => uplink.default_route = Some(true),
        ("internal-ip", None) => uplink.internal_ip = Some(true),
        ("interface", Some(name)) => uplink.interface = bounded(name, 15)?,
        ("regex", Some(pattern)) => uplink.interface_regex = bounded(pattern, 253)?,
        ("address", Some(address)) => uplink.address = bounded(address, 43)?,
        ("can-reach", Some(address)) => {
            let parsed = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
            uplink.can_reach = Some(parsed);
        }
        _ => {
            return Err(format!(
                "{text:?} is none of default-route, internal-ip, interface=…, regex=…, address=… and can-reach=…"
            ));
        }
    }
    Ok(uplink)
}

pub(super) fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses: Vec<IpAddr> = vec![];
    for part in text.split(',').map(str::trim) {
        let address: IpAddr = part.parse().map_err(|_| format!("{part:?} is not an IP address"))?;
        if addresses.iter().any(|other| Family::of(*other) == Family::of(address)) {
            return Err(format!("{text:?} has two addresses of one family"));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Writes the condition where it differs from what is written. Timestamps are no difference.
fn report(draft: &mut Draft<'_>, node: &Node, existing: &NodeNet, annotation_problem: Option<Problem>) {
    let Some((_, verdict)) = draft.verdicts.get(node.meta.name.as_str()) else { return };
    let (status, problem) = match verdict {
        // The outcome is known in the next round.
        Verdict::Pending => return,
        Verdict::Waiting(problem) => ("False", problem.clone()),
        Verdict::Leased { subnets, remark } => {
            let held = Problem::new(reason::OK, what_it_holds(draft, node, subnets));
            ("True", annotation_problem.or(remark.clone()).unwrap_or(held))
        }
    };
    let before = existing.leased.as_ref();
    let same = before.is_some_and(|before| {
        before.status == status && before.reason == problem.reason && before.message == problem.message
    });
    if same {
        return;
    }
    let since = before.filter(|before| before.status == status);
    let condition = Condition {
        type_: kind::LEASED.to_owned(),
        status: status.to_owned(),
        reason: problem.reason.to_owned(),
        message: problem.message,
        last_transition_time: since.map_or(Time(draft.now), |before| before.last_transition_time.clone()),
        observed_generation: existing.generation,
    };
    draft.add(Action::ReportLeased {
        node: node.meta.clone(),
        condition: Box::new(condition),
        before: existing.leased.clone().map(Box::new),
    });
}

/// Such as `holds 10.244.1.0/24 of entry main; pool rack; sends by host-gw`.
fn what_it_holds(draft: &Draft<'_>, node: &Node, subnets: &[Cidr]) -> String {
    let membership = draft.layout.membership(node);
    let of_entry = |subnet: &Cidr| match draft.layout.entry_of(*subnet) {
        Some((_, entry)) => format!("{subnet} of entry {}", entry.name),
        None => format!("{subnet} of no entry"),
    };
    let held: Vec<String> = subnets.iter().map(of_entry).collect();
    let pool = membership.place.map_or("no pool".to_owned(), |_| format!("pool {}", membership.pool));
    let backend = draft.transitions.backend(draft.layout, membership, &node.meta.name).kind;
    format!("holds {}; {pool}; sends by {backend}", held.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_read_or_refused_with_what_is_wrong() {
        let uplink = |set: fn(&mut UplinkSelection)| {
            let mut uplink = UplinkSelection::default();
            set(&mut uplink);
            Ok(uplink)
        };
        assert_eq!(parse_uplink("default-route"), uplink(|u| u.default_route = Some(true)));
        assert_eq!(parse_uplink(" internal-ip "), uplink(|u| u.internal_ip = Some(true)));
        assert_eq!(parse_uplink("interface=eth1"), uplink(|u| u.interface = Some("eth1".into())));
        assert_eq!(parse_uplink("regex=^en=?s"), uplink(|u| u.interface_regex = Some("^en=?s".into())));
        assert_eq!(parse_uplink("address=192.0.2.0/24"), uplink(|u| u.address = Some("192.0.2.0/24".into())));
        assert_eq!(
            parse_uplink("can-reach=192.0.2.1"),
            uplink(|u| u.can_reach = Some("192.0.2.1".parse().unwrap()))
        );
        for bad in ["", "eth0", "interface", "interface=", "interface=abcdefghijklmnop", "can-reach=router"] {
            assert!(parse_uplink(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(parse_addresses("192.0.2.1, fd00::1").unwrap().len(), 2);
        for bad in ["", "192.0.2.1,", "192.0.2.1,192.0.2.2", "host"] {
            assert!(parse_addresses(bad).is_err(), "{bad:?} was taken");
        }
    }
}
