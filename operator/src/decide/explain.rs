//! Why a node has what it has: the same decisions as ever, told instead of carried out.
//!
//! It knows no more than the objects say. Why a block was chosen when it was leased can't be seen from them any
//! more, except where a Node's podCIDRs name it; what will be chosen next can.

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tartan_crds::{BackendType, Cidr, Family, PodCidrModeInForce, TransitionPhase, conditions::reason};

use super::{
    Action, Problem, deliberate,
    draft::{Draft, Verdict},
    forecast::coarse_age,
    layout::{Layout, Membership},
    mode_in_force, node_networks, usage,
};
use crate::world::{Lease, Node, World};

/// What is known of a node, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub node: String,
    /// The Node exists, and was not only supposed.
    pub exists: bool,
    pub state: State,
    /// For `waiting`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// What else is to be known, as in the condition `Leased`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<Waiting>,
    #[serde(rename = "podCIDRMode", skip_serializing_if = "Option::is_none")]
    pub pod_cidr_mode: Option<PodCidrModeInForce>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    pub pool: String,
    /// Every pool, in the order in which they are asked.
    pub pools: Vec<PoolAnswer>,
    /// Where its blocks come from, the preferred first.
    pub entries: Vec<EntryAnswer>,
    pub families: Vec<Family>,
    pub leases: Vec<LeaseAnswer>,
    pub backend: Option<BackendAnswer>,
    /// What the operator is about to do for it.
    pub next: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It holds what it needs.
    Leased,
    /// It is about to get a lease, or to have one changed.
    Pending,
    /// It gets none.
    Waiting,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolAnswer {
    pub name: String,
    pub priority: i32,
    pub selects: bool,
    /// The node is in it.
    pub has_it: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryAnswer {
    pub name: String,
    pub cidr: Cidr,
    pub node_mask_size: u8,
    pub draining: bool,
    pub capacity: u64,
    pub free: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseAnswer {
    pub subnet: Cidr,
    pub entry: Option<String>,
    pub primary: bool,
    pub backend: BackendType,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendAnswer {
    /// What its pool, or the network's default, asks for.
    #[serde(rename = "type")]
    pub kind: BackendType,
    pub direct_routing: bool,
    /// What it shall send by now.
    pub now: BackendType,
    pub accepts: Vec<BackendType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition: Option<TransitionPhase>,
    /// Why `now` is what it is.
    pub why: String,
}

/// Explains a node of the world; `None` where there is no such Node. `supposed`: it was put there to ask.
pub fn explain(world: &World, name: &str, supposed: bool, now: Timestamp) -> Option<Explanation> {
    let node = world.nodes.get(name)?;
    let (network, spec) = match world.network().map(|network| (network, network.spec.as_ref())) {
        Some((network, Ok(spec))) => (network, spec),
        Some((_, Err(error))) => {
            return Some(nothing(node, supposed, reason::INVALID_VALUES, format!("ClusterNetwork: {error}")));
        }
        None => {
            let text = "there is no ClusterNetwork named default: no node gets a lease";
            return Some(nothing(node, supposed, reason::NO_CLUSTER_NETWORK, text.to_owned()));
        }
    };
    let layout = Layout::resolve(world, network, spec);
    let mode = mode_in_force(spec.pod_cidr_mode, network.status.pod_cidr_mode, world);
    let draft = deliberate(world, &layout, mode, now);
    let membership = layout.membership(node);
    let verdict = draft.verdicts.get(name).map(|(_, verdict)| verdict.clone());
    let (state, waiting, remark) = match verdict {
        Some(Verdict::Leased { remark, .. }) => (State::Leased, None, remark),
        Some(Verdict::Waiting(problem)) => (State::Waiting, Some(problem), None),
        Some(Verdict::Pending) | None => (State::Pending, None, None),
    };
    let remark = node_networks::annotation_problem(&draft, node).or(remark);
    let told = |Problem { reason, message }| Waiting { reason, message };
    Some(Explanation {
        node: name.to_owned(),
        exists: !supposed,
        state,
        waiting: waiting.map(told),
        remark: remark.map(told),
        pod_cidr_mode: Some(mode),
        pod_cidrs: node.pod_cidrs.clone(),
        pool: membership.pool.to_owned(),
        pools: pools(&layout, node, membership),
        entries: entries(&draft, membership),
        families: layout.wanted_families(membership),
        leases: leases(&draft, node),
        backend: Some(backend(&draft, membership, node)),
        next: draft.actions().filter_map(|action| next(&draft, node, action)).collect(),
    })
}

fn nothing(node: &Node, supposed: bool, reason: &'static str, message: String) -> Explanation {
    Explanation {
        node: node.meta.name.clone(),
        exists: !supposed,
        state: State::Waiting,
        waiting: Some(Waiting { reason, message }),
        remark: None,
        pod_cidr_mode: None,
        pod_cidrs: node.pod_cidrs.clone(),
        pool: String::new(),
        pools: vec![],
        entries: vec![],
        families: vec![],
        leases: vec![],
        backend: None,
        next: vec![],
    }
}

fn pools(layout: &Layout<'_>, node: &Node, membership: Membership<'_>) -> Vec<PoolAnswer> {
    let answer = |(place, plan): (usize, &super::layout::PoolPlan<'_>)| PoolAnswer {
        name: plan.pool.meta.name.clone(),
        priority: plan.spec.priority,
        selects: plan.selects(node),
        has_it: membership.place == Some(place),
    };
    layout.pools.iter().enumerate().map(answer).collect()
}

fn entries(draft: &Draft<'_>, membership: Membership<'_>) -> Vec<EntryAnswer> {
    let usage = usage::count(draft);
    let answer = |(place, entry): (usize, super::layout::Entry<'_>)| {
        let figures = usage.entries.get(place);
        EntryAnswer {
            name: entry.name.to_owned(),
            cidr: entry.cidr,
            node_mask_size: entry.block_len,
            draining: entry.drain,
            capacity: figures.map_or(0, |figures| figures.capacity),
            free: figures.map_or(0, |figures| figures.free),
        }
    };
    draft.layout.reachable(membership).map(answer).collect()
}

fn leases(draft: &Draft<'_>, node: &Node) -> Vec<LeaseAnswer> {
    let answer = |lease: &Lease| {
        let spec = lease.spec.as_ref().ok()?;
        Some(LeaseAnswer {
            subnet: lease.subnet,
            entry: draft.layout.entry_of(lease.subnet).map(|(_, entry)| entry.name.to_owned()),
            primary: spec.primary,
            backend: spec.backend.kind,
            why: why(draft, node, lease),
        })
    };
    draft.leases_of(&node.meta.name).into_iter().filter_map(answer).collect()
}

fn why(draft: &Draft<'_>, node: &Node, lease: &Lease) -> String {
    let age = coarse_age(draft.now, lease.created);
    let is_named = node.pod_cidrs.iter().any(|text| text.parse::<Cidr>() == Ok(lease.subnet));
    if let Some(released) = lease.released_at() {
        return format!("held for the node, whose Node went {}", coarse_age(draft.now, released));
    }
    if lease.spec.as_ref().is_ok_and(|spec| !spec.primary) {
        return match lease.spec.as_ref().ok().and_then(|spec| spec.returning.as_ref()) {
            Some(since) => format!("a further block, asked back {}", coarse_age(draft.now, since.0)),
            None => format!("a further block, leased {age}"),
        };
    }
    let follows = draft.mode != PodCidrModeInForce::Ignore && is_named;
    match (follows, node.has_foreign_pod_cidrs()) {
        (true, true) => format!("leased {age}: another IPAM wrote it into the Node's podCIDRs"),
        (true, false) => format!("leased {age}, and then written into the Node's podCIDRs"),
        (false, _) => format!("leased {age}"),
    }
}

fn backend(draft: &Draft<'_>, membership: Membership<'_>, node: &Node) -> BackendAnswer {
    let layout = draft.layout;
    let selection = layout.selection(membership);
    let resolved = draft.transitions.backend(layout, membership, &node.meta.name);
    let progress = draft.transitions.progress.get(&membership.place);
    let whose = match membership.place {
        Some(_) => format!("pool {} asks for it", membership.pool),
        None => "the network's defaultBackend: the node is in no pool".to_owned(),
    };
    BackendAnswer {
        kind: selection.kind,
        direct_routing: resolved.direct_routing,
        now: resolved.kind,
        accepts: resolved.accepts,
        transition: progress.map(|progress| progress.status.phase),
        why: match progress {
            Some(progress) if resolved.kind != selection.kind => {
                format!("it changes to {}: {}", selection.kind, progress.problem.message)
            }
            _ => whose,
        },
    }
}

/// What an action means for this node.
fn next(draft: &Draft<'_>, node: &Node, action: &Action) -> Option<String> {
    let name = &node.meta.name;
    match action {
        Action::CreateLease { spec, .. } if spec.node_name == *name => {
            let entry = draft.layout.entry_of(spec.subnet).map_or("?", |(_, entry)| entry.name);
            let kept = draft.layout.kept_for(name, draft.layout.membership(node), spec.subnet.family());
            let wish = draft.world.wishes.get(&(name.clone(), spec.subnet.family()));
            let why = if node.pod_cidrs.iter().any(|text| text.parse::<Cidr>() == Ok(spec.subnet)) {
                "which the Node's podCIDRs name".to_owned()
            } else if kept == Some(spec.subnet) {
                format!("which entry {entry} reserves for it")
            } else if wish == Some(&spec.subnet) {
                "which it had before".to_owned()
            } else {
                format!("the lowest free block of entry {entry}")
            };
            Some(format!("lease {}: {why}", spec.subnet))
        }
        Action::UpdateLease { spec, why, .. } if spec.node_name == *name => {
            Some(format!("write lease {} again: {}", spec.subnet, why.as_str()))
        }
        Action::ReleaseLease { subnet, node, .. } if node == name => {
            Some(format!("release {subnet}: it was another machine's under this name"))
        }
        Action::DeleteLease { subnet, node, grounds, .. } if node == name => {
            Some(format!("delete lease {subnet}: {}", grounds.why.as_str()))
        }
        Action::DeleteLease { lease, subnet, node: holder, .. }
            if draft.taken_for.get(lease.name.as_str()) == Some(&name.as_str()) =>
        {
            Some(format!("take {subnet} back early, which is held for {holder}: no block is free"))
        }
        Action::MirrorPodCidrs { node: told, cidrs } if told.name == *name => {
            let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            Some(format!("write {} into the Node's podCIDRs", cidrs.join(", ")))
        }
        _ => None,
    }
}
