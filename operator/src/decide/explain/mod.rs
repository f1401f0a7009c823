//! Why a node has what it has: the same decisions as ever, told instead of carried out.
//!
//! It knows no more than the objects say. Why a block was chosen when it was leased can't be seen from the objects of
//! today, so the lease itself tells it ([`crate::world::Choice`]).

mod blocks;
mod reach;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use tartan_crds::{BackendType, Cidr, Family, PodCidrModeInForce, TransitionPhase, conditions::reason};

use super::{
    Problem, deliberate,
    draft::{Draft, Verdict},
    layout::{Layout, Membership},
    mode_in_force, node_networks,
};
use crate::world::{Choice, Node, World};

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
    pub waiting: Option<Problem>,
    /// What else is to be known, as in the condition `Leased`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<Problem>,
    #[serde(rename = "podCIDRMode", skip_serializing_if = "Option::is_none")]
    pub pod_cidr_mode: Option<PodCidrModeInForce>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    pub pool: String,
    /// Every pool, in the order in which they are asked; then those that can't be read.
    pub pools: Vec<PoolAnswer>,
    /// Where its blocks come from, the preferred first.
    pub entries: Vec<EntryAnswer>,
    /// Entries that are there for other nodes.
    pub other_entries: Vec<OtherEntry>,
    pub families: Vec<Family>,
    pub leases: Vec<LeaseAnswer>,
    /// What delays or refuses a further block although addresses run low.
    pub growth: Vec<String>,
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
#[serde(rename_all = "camelCase")]
pub struct PoolAnswer {
    pub name: String,
    /// `None` where the pool can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Nodes can be in it: it can be read, and so can its selector.
    pub in_force: bool,
    pub selects: bool,
    /// The node is in it.
    pub has_it: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// An entry in the node's reach; counts are of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryAnswer {
    pub name: String,
    pub cidr: Cidr,
    pub node_mask_size: u8,
    pub draining: bool,
    pub capacity: u64,
    /// May be leased; none of an entry that is drained.
    pub free: u64,
    pub used: u64,
    pub held: u64,
    /// Kept back and not leased.
    pub reserved: u64,
    /// Meet an address of a Service or a Node, or a lease of another size. Not counted while the entry is drained.
    pub unfit: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherEntry {
    pub name: String,
    /// The pool whose nodes alone get blocks of it; `None`: nodes whose pool claims no entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseAnswer {
    pub subnet: Cidr,
    pub entry: Option<String>,
    pub primary: bool,
    pub backend: BackendType,
    /// Its Node was gone: it is held for its return, and not in force.
    pub released: bool,
    /// Why its block was chosen, where that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Choice>,
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
    /// Of those what is received until others have heard that it ends, and whom that waits for.
    pub ending: Vec<String>,
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
        Some(Verdict::Pending) | None => match told_refused(world, name) {
            Some(problem) => (State::Waiting, Some(problem), None),
            None => (State::Pending, None, None),
        },
    };
    let remark = node_networks::annotation_problem(&draft, node).or(remark);
    Some(Explanation {
        node: name.to_owned(),
        exists: !supposed,
        state,
        waiting,
        remark,
        pod_cidr_mode: Some(mode),
        pod_cidrs: node.pod_cidrs.clone(),
        pool: membership.pool.to_owned(),
        pools: reach::pools(&draft, node, membership),
        entries: reach::entries(&draft, membership),
        other_entries: reach::other_entries(&layout, membership),
        families: layout.wanted_families(membership),
        leases: blocks::leases(&draft, node),
        growth: blocks::growth(&draft, node),
        backend: Some(backend(&draft, membership, node)),
        next: draft.actions().filter_map(|action| blocks::next(&draft, node, action)).collect(),
    })
}

/// What the running operator says of writes that the API server refuses: nothing else tells of them.
fn told_refused(world: &World, name: &str) -> Option<Problem> {
    let told = world.node_networks.get(name)?.leased.as_ref()?;
    (told.reason == reason::LEASE_REFUSED).then(|| Problem::new(reason::LEASE_REFUSED, told.message.clone()))
}

fn nothing(node: &Node, supposed: bool, reason: &'static str, message: String) -> Explanation {
    Explanation {
        node: node.meta.name.clone(),
        exists: !supposed,
        state: State::Waiting,
        waiting: Some(Problem { reason, message }),
        remark: None,
        pod_cidr_mode: None,
        pod_cidrs: node.pod_cidrs.clone(),
        pool: String::new(),
        pools: vec![],
        entries: vec![],
        other_entries: vec![],
        families: vec![],
        leases: vec![],
        growth: vec![],
        backend: None,
        next: vec![],
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
        ending: draft.transitions.remarks(&node.meta.name),
        transition: progress.map(|progress| progress.status.phase),
        why: match progress {
            Some(progress) if resolved.kind != selection.kind => {
                format!("it changes to {}: {}", selection.kind, progress.problem.message)
            }
            _ => whose,
        },
    }
}
