//! From desired and observed to steps. Pure.
//!
//! The plan is a difference of two maps. What is added or changed comes first, in the order of [`Key`]: a
//! link before what hangs on it, a neighbour before the route that needs it. What goes comes last, in the
//! opposite order. So a peer whose path moves from one device to another has its route replaced in place
//! before anything that the old path needed goes.
//!
//! Any prefix of a plan may be all that happens: the next round plans again from what is there.

mod guard;
mod text;

use std::collections::BTreeSet;

use crate::mark;
use crate::model::{
    Action, Conflict, Deletions, Elements, Key, Link, Observed, Plan, RouteKind, Step, Value,
};

/// The steps that lead from `observed` to `desired`.
///
/// A key that a foreign object holds becomes a conflict, and so do objects that hang on a foreign link:
/// nothing is done about them. A link whose kind the kernel can't change is deleted and made anew, with
/// all that hung on it, also when deletions are frozen: it is a replacement.
pub fn plan(desired: &Elements, observed: &Observed, deletions: Deletions) -> Plan {
    let mut plan = Plan::default();
    let blocked: BTreeSet<&str> =
        desired.keys().filter(|key| observed.foreign.contains_key(key)).filter_map(link_of_link).collect();
    let rebuilt = rebuilt_links(desired, observed);
    for link in &rebuilt {
        let key = Key::Link((*link).to_owned());
        if let Some(value) = observed.ours.get(&key) {
            plan.steps.push(Step { action: Action::Delete, key, value: value.clone(), before: None });
        }
    }
    for (key, value) in in_order(desired) {
        if let Some(found) = observed.foreign.get(key) {
            plan.conflicts.push(Conflict { key: key.clone(), found: found.clone() });
            continue;
        }
        if link_under(key, value).is_some_and(|link| blocked.contains(link)) {
            continue;
        }
        let before = observed.ours.get(key).filter(|before| is_there(key, before, &rebuilt, observed));
        let value = match value {
            Value::NftTable(wanted) => &Value::NftTable(guard::widened(wanted, before)),
            other => other,
        };
        let action = match before {
            None => Action::Create,
            Some(before) if before == value => continue,
            Some(_) => Action::Replace,
        };
        plan.steps.push(Step { action, key: key.clone(), value: value.clone(), before: before.cloned() });
    }
    for (key, value) in observed.ours.iter().rev() {
        if desired.contains_key(key) || !is_deletable(key) || !is_there(key, value, &rebuilt, observed) {
            continue;
        }
        match deletions {
            Deletions::Allowed => {
                plan.steps.push(Step {
                    action: Action::Delete,
                    key: key.clone(),
                    value: value.clone(),
                    before: None,
                });
            }
            Deletions::Frozen => plan.held_back += 1,
        }
    }
    guard::narrow(desired, observed, deletions, &mut plan);
    plan
}

/// The order of [`Key`], with three exceptions. A setting that the kernel changes when a link comes up is ours before,
/// for otherwise nobody would know what it was. A link gets IPv6 before it gets addresses. And when IPv6 forwarding goes
/// on, the kernel forgets the default routes that routers advertised on every link whose `accept_ra` is not 2 yet
/// (`rt6_purge_dflt_routers`, net/ipv6/route.c), so that comes last.
fn in_order(desired: &Elements) -> impl Iterator<Item = (&Key, &Value)> {
    let rank = |key: &Key| match key {
        Key::Sysctl(path) if path == "ipv4/conf/all/send_redirects" => 0,
        Key::Link(_) => 1,
        Key::Sysctl(path) if path.ends_with("/disable_ipv6") => 2,
        Key::Sysctl(path) if path == "ipv6/conf/all/forwarding" => 4,
        _ => 3,
    };
    (0..=4).flat_map(move |wanted| desired.iter().filter(move |(key, _)| rank(key) == wanted))
}

/// The steps that leave nothing of ours. Settings are put back apart, from their saved values.
pub fn plan_cleanup(observed: &Observed) -> Plan {
    let steps = observed
        .ours
        .iter()
        .rev()
        .filter(|(key, _)| is_deletable(key) || matches!(key, Key::NftTable | Key::Port(_)))
        .map(|(key, value)| Step {
            action: Action::Delete,
            key: key.clone(),
            value: value.clone(),
            before: None,
        })
        .collect();
    Plan { steps, conflicts: vec![], held_back: 0 }
}

/// Links that are there with a kind that can't be changed into the desired one.
fn rebuilt_links<'a>(desired: &'a Elements, observed: &Observed) -> BTreeSet<&'a str> {
    let mut links = BTreeSet::new();
    for (key, value) in desired {
        let (Key::Link(name), Value::Link(wanted)) = (key, value) else { continue };
        if let Some(Value::Link(Link { kind, .. })) = observed.ours.get(key)
            && *kind != wanted.kind
        {
            links.insert(name.as_str());
        }
    }
    links
}

/// Whether an observed object will still be there when its turn comes: it goes with a link that is made
/// anew, and one on a link that isn't there any more went with it.
fn is_there(key: &Key, value: &Value, rebuilt: &BTreeSet<&str>, observed: &Observed) -> bool {
    match key {
        Key::Link(name) => !rebuilt.contains(name.as_str()),
        _ => match link_under(key, value) {
            Some(link) if is_link_of_ours(link, observed) => !rebuilt.contains(link),
            _ => true,
        },
    }
}

fn is_link_of_ours(link: &str, observed: &Observed) -> bool {
    observed.ours.contains_key(&Key::Link(link.to_owned()))
}

fn link_of_link(key: &Key) -> Option<&str> {
    match key {
        Key::Link(name) => Some(name),
        _ => None,
    }
}

/// The link that an object hangs on.
fn link_under<'a>(key: &'a Key, value: &'a Value) -> Option<&'a str> {
    match key {
        Key::Address { link, .. }
        | Key::Neighbour { link, .. }
        | Key::Fdb { link, .. }
        | Key::WireguardPeer { link, .. }
        | Key::WireguardDevice(link)
        | Key::Offload(link) => Some(link),
        Key::Route { .. } => match value {
            Value::Route(route) => match &route.kind {
                RouteKind::Via { link, .. } | RouteKind::Device { link } => Some(link),
                RouteKind::Unreachable => None,
            },
            _ => None,
        },
        Key::Port(_) => Some(mark::BRIDGE),
        Key::UdpPeer(_) => Some(mark::UDP),
        // ipv4/conf/LINK/rp_filter and the like.
        Key::Sysctl(path) => {
            let mut parts = path.split('/').skip(1);
            (parts.next() == Some("conf")).then(|| parts.next()).flatten()
        }
        Key::Link(_)
        | Key::NftTable
        | Key::ForwardException(_)
        | Key::XfrmPolicy { .. }
        | Key::IkeCredentials
        | Key::IkeConnection(_)
        | Key::IkeAssociation(_) => None,
    }
}

/// Settings are never "deleted", the table stays as long as the agent has a say, and a pod's link is the
/// runtime's to delete.
fn is_deletable(key: &Key) -> bool {
    match key {
        Key::Sysctl(_) | Key::Offload(_) | Key::WireguardDevice(_) | Key::NftTable | Key::Port(_) => false,
        Key::Link(_)
        | Key::Address { .. }
        | Key::ForwardException(_)
        | Key::Neighbour { .. }
        | Key::Fdb { .. }
        | Key::WireguardPeer { .. }
        | Key::XfrmPolicy { .. }
        | Key::IkeCredentials
        | Key::IkeConnection(_)
        | Key::IkeAssociation(_)
        | Key::UdpPeer(_)
        | Key::Route { .. } => true,
    }
}
