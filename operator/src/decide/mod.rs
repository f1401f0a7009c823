//! Deciding: from all objects and the time to what is to be written. Pure: no clock, no log, no IO.
//!
//! [`decide`] reads the whole [`World`] each time and says what differs from what should be; there are no
//! events and no memory. Running it again after a crash, on another replica or twice in a row is harmless:
//! every [`Action`] carries the identity and version of what it was decided on, and the API server refuses
//! what is out of date.

mod allocation;
mod blocks;
mod contested;
mod draft;
mod drain;
mod ending;
mod explain;
mod forecast;
mod growth;
mod held;
mod invariants;
mod keys;
mod layout;
mod mode;
mod node;
mod node_addresses;
mod node_keys;
mod node_networks;
mod reclaim;
mod remarks;
mod reservations;
mod restore;
mod room;
mod sealing;
mod selector;
mod status;
mod takeover;
mod transition;
mod unsealing;
mod usage;
mod withheld;

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde::Serialize;
use tartan_crds::{
    Cidr, ClusterNetworkStatus, NetworkPoolStatus, NodeNetworkSpec, PodCidrModeInForce, SubnetLeaseSpec,
    conditions::reason,
};

pub use explain::{
    BackendAnswer, EntryAnswer, Explanation, LeaseAnswer, OtherEntry, PoolAnswer, State, explain,
};
pub use forecast::Outlook;
pub use mode::mode_in_force;
pub use reclaim::{LastLook, is_still_free_to_take, is_still_gone};
pub use usage::{EntryFigures, FamilyFigures, Figures, PoolFigures};

use crate::world::{Choice, Meta, World};
use draft::Draft;
use layout::Layout;

/// One thing to write. In the order of their variants: leases first, status last.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create a lease. The name is the lock.
    CreateLease { spec: Box<SubnetLeaseSpec>, labels: BTreeMap<String, String>, chosen: Choice },
    /// Replace a lease's spec, if it is still the version that was decided on.
    UpdateLease {
        lease: Meta,
        spec: Box<SubnetLeaseSpec>,
        labels: BTreeMap<String, String>,
        why: UpdateReason,
    },
    /// Note that the node of a lease is gone, after the API server confirmed that it is, and that no other
    /// Node has its name than the one that is known.
    ReleaseLease { lease: Meta, subnet: Cidr, node: String, node_uid: String, successor: Option<String> },
    /// Delete a lease, after the API server confirmed that nobody may claim it.
    DeleteLease {
        lease: Meta,
        subnet: Cidr,
        node: String,
        grounds: DeleteGrounds,
        /// The other node that is to have the block.
        wanted_by: Option<String>,
    },
    /// Read a lease again whose state is not known.
    RereadLease { name: String },
    /// Write a Node's podCIDRs, if it still has none.
    MirrorPodCidrs { node: Meta, cidrs: Vec<Cidr> },
    /// Server-side apply of a NodeNetwork's spec.
    ApplyNodeNetwork { node: Meta, spec: Box<NodeNetworkSpec> },
    /// Delete a NodeNetwork, after the API server confirmed that its Node, of that UID, is gone.
    DeleteNodeNetwork { node_network: Meta, owner: Option<String> },
    /// Server-side apply of the operator's condition of a NodeNetwork.
    ReportLeased { node: Meta, condition: Box<Condition>, before: Option<Box<Condition>> },
}

impl Action {
    /// Whether it writes or reads a lease, which nodes wait for, and is no report.
    pub fn is_about_a_lease(&self) -> bool {
        match self {
            Self::CreateLease { .. }
            | Self::UpdateLease { .. }
            | Self::ReleaseLease { .. }
            | Self::DeleteLease { .. }
            | Self::RereadLease { .. } => true,
            Self::MirrorPodCidrs { .. }
            | Self::ApplyNodeNetwork { .. }
            | Self::DeleteNodeNetwork { .. }
            | Self::ReportLeased { .. } => false,
        }
    }
}

/// On what a lease's deletion was decided; asked again with what the API server says then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteGrounds {
    pub why: DeleteReason,
    /// UID of the Node that was known under the holder's name.
    pub successor: Option<String>,
    /// Whether the podCIDRs of Nodes say which blocks are theirs.
    pub pod_cidrs_bind: bool,
}

/// Why a lease's spec changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateReason {
    /// The pool, or what the pool says, changed.
    Pool,
    /// A Node of the holder's name is back, or is there again under a new UID.
    Returned,
    /// The node has another primary lease.
    Demoted,
    /// Somebody changed what the operator had written.
    Edited,
    /// A further block is asked back, or no longer.
    Growth,
}

/// Why a lease is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteReason {
    /// `reclaimAfter` has passed since its node went.
    Expired,
    /// Its block is needed before that.
    TakenEarly,
    /// The same, because another Node's podCIDRs name it.
    Reassigned,
    /// The Node has other podCIDRs, and nothing used the lease yet.
    BackedOut,
    /// The node has another lease of the family, and nothing used this one yet.
    Duplicate,
    /// A further block was asked back, and its agent said that no pod has an address of it.
    Emptied,
}

impl UpdateReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Returned => "returned",
            Self::Demoted => "demoted",
            Self::Edited => "edited",
            Self::Growth => "growth",
        }
    }
}

impl DeleteReason {
    /// Whether pods in the block, of which the agent tells, are against it.
    pub fn asks_for_pods(self) -> bool {
        match self {
            Self::Expired | Self::TakenEarly | Self::BackedOut | Self::Duplicate => true,
            // Whoever gives podCIDRs decides; and the agent's answer to the request is newer than what it tells of pods.
            Self::Reassigned | Self::Emptied => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TakenEarly => "taken-early",
            Self::Reassigned => "reassigned",
            Self::BackedOut => "backed-out",
            Self::Duplicate => "duplicate",
            Self::Emptied => "emptied",
        }
    }
}

/// A fact for a condition: a reason of the fixed vocabulary and a text for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub reason: &'static str,
    pub message: String,
}

impl Problem {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// How many names a message lists.
const LISTED: usize = 5;

pub(crate) fn listed(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED).copied().collect();
    match names.len().saturating_sub(LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn listed_all(texts: &[String]) -> String {
    listed(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// What is to be written, and what is worth knowing.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    pub actions: Vec<Action>,
    /// The network's status, where it differs from what is written.
    pub network_status: Option<ClusterNetworkStatus>,
    /// Likewise by pool.
    pub pool_statuses: BTreeMap<String, NetworkPoolStatus>,
    pub mode: Option<PodCidrModeInForce>,
    pub figures: Figures,
    /// Why nothing is decided about leases, where that is so.
    pub idle: Option<Problem>,
    /// When time alone changes the answer.
    pub wake_at: Option<Timestamp>,
}

/// Decides what is to be written. Nothing, before every input is complete.
pub fn decide(world: &World, now: Timestamp) -> Decisions {
    let mut decisions = Decisions { figures: Figures::of_world(world), ..Decisions::default() };
    if !world.is_complete() {
        return decisions;
    }
    let Some(network) = world.network() else {
        decisions.idle = Some(Problem::new(
            reason::NO_CLUSTER_NETWORK,
            "there is no ClusterNetwork named default: leases stay as they are, and no node gets a new one",
        ));
        return decisions;
    };
    let spec = match &network.spec {
        Ok(spec) => spec,
        Err(error) => {
            decisions.network_status = status::unreadable_network(network, error, now);
            decisions.idle = Some(Problem::new(reason::INVALID_VALUES, format!("ClusterNetwork: {error}")));
            return decisions;
        }
    };
    let layout = Layout::resolve(world, network, spec);
    let mode = mode_in_force(spec.pod_cidr_mode, network.status.pod_cidr_mode, world);
    let mut draft = deliberate(world, &layout, mode, now);

    let usage = usage::count(&draft);
    let keys = keys::decide(world, network, spec, now);
    draft.wake_at = [draft.wake_at, keys.wake_at].into_iter().flatten().min();
    decisions.network_status = status::network(&draft, network, &usage, keys);
    decisions.pool_statuses = status::pools(&draft, &usage);
    decisions.figures.add_usage(&usage);
    decisions.figures.violations = invariants::violations(&draft, &usage);
    decisions.mode = Some(mode);
    decisions.wake_at = draft.wake_at;
    decisions.actions = draft.into_actions();
    decisions
}

/// Decides over every node, and over what belongs to none.
fn deliberate<'a>(
    world: &'a World,
    layout: &'a Layout<'a>,
    mode: PodCidrModeInForce,
    now: Timestamp,
) -> Draft<'a> {
    let mut draft = Draft::new(world, layout, mode, now);
    draft.reread_doubtful();
    restore::restore(&mut draft);
    for node in world.nodes.iter() {
        node::decide_node(&mut draft, node);
    }
    for node in world.nodes.iter() {
        node::complete(&mut draft, node);
    }
    reclaim::decide_unclaimed(&mut draft);
    node_networks::decide_all(&mut draft);
    draft
}
