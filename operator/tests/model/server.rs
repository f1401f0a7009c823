//! The API server of the model: names, UIDs, versions, preconditions, and one admission policy.

use super::state::{Block, Lease, Reply, Request, Set, State};

/// Whether the API server asks the policy for leases: a block of an entry, cut by the ClusterNetwork that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Absent,
    /// With the ClusterNetwork as it is. In truth an API server has it from a cache, which is late by the
    /// time that a watch takes: nothing is claimed about creates that are delayed for less.
    Exact,
}

/// Answers a request that changes nothing.
pub fn look(state: &State, request: Request) -> Reply {
    match request {
        Request::GetNode(node) => Reply::Node(node, state.nodes[usize::from(node)]),
        Request::GetReport(node) => Reply::Report(node, state.reports[usize::from(node)]),
        Request::GetLease(block) => Reply::Lease(block, state.leases[usize::from(block)]),
        Request::GetNetwork => Reply::Network(state.stage),
        Request::ListLeases(node) => {
            let all = (0..).zip(state.leases).filter_map(|(block, lease)| Some((block, lease?)));
            Reply::Leases(all.filter(|(_, lease)| node.is_none_or(|node| lease.node == node)).collect())
        }
        _ => panic!("{request:?} is a write"),
    }
}

/// Carries out one request.
pub fn serve(state: &mut State, admission: Admission, request: Request) -> Reply {
    match request {
        Request::Create { block, node, node_uid, primary, cut_by } => {
            let place = usize::from(block);
            let as_decided = cut_by.is_none_or(|stage| stage == state.stage);
            if admission == Admission::Exact && !(as_decided && state.stage.cuts(block)) {
                return Reply::Refused;
            }
            if state.leases[place].is_some() {
                return Reply::Exists;
            }
            let lease = Lease::new(state.fresh(block), (node, node_uid), primary, state.now);
            state.leases[place] = Some(lease);
            Reply::Lease(block, Some(lease))
        }
        Request::Patch { block, uid, version, set } => match guarded(state, block, uid, version) {
            Err(refusal) => refusal,
            Ok(before) => {
                let mut after = before;
                match set {
                    Set::Spec { node, node_uid, primary, returning } => {
                        (after.node, after.node_uid, after.primary) = (node, node_uid, primary);
                        (after.released, after.returning) = (None, returning);
                    }
                    Set::Released(at) => after.released = Some(at),
                }
                change(state, block, before, after)
            }
        },
        Request::Delete { block, uid, version } => match guarded(state, block, uid, version) {
            Err(refusal) => refusal,
            Ok(_) => {
                state.leases[usize::from(block)] = None;
                Reply::Deleted
            }
        },
        Request::PatchNode { node, uid, version, block } => {
            let Some(live) = &mut state.nodes[usize::from(node)] else { return Reply::NotFound };
            let other = |guard: Option<u8>, live: u8| guard.is_some_and(|guard| guard != live);
            if other(uid, live.uid) || other(version, live.version()) {
                return Reply::Conflict;
            }
            if live.pod_cidr.is_some_and(|set| set != block) {
                return Reply::Refused;
            }
            live.pod_cidr = Some(block);
            Reply::Node(node, Some(*live))
        }
        _ => look(state, request),
    }
}

fn guarded(state: &State, block: Block, uid: Option<u8>, version: Option<u8>) -> Result<Lease, Reply> {
    let live = state.leases[usize::from(block)].ok_or(Reply::NotFound)?;
    let same = uid.is_none_or(|uid| uid == live.uid) && version.is_none_or(|version| version == live.version);
    if same { Ok(live) } else { Err(Reply::Conflict) }
}

/// A write that changes nothing makes no new version.
pub fn change(state: &mut State, block: Block, before: Lease, mut after: Lease) -> Reply {
    if after != before {
        after.version = state.fresh(block).1;
    }
    state.leases[usize::from(block)] = Some(after);
    Reply::Lease(block, Some(after))
}
