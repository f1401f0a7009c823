//! What the agent of a node does, and what its pods do: blocks come into use, fill, and are given back.

use super::{
    server::change,
    state::{Block, Lease, Node, Pods, Report, State},
    steps::Step,
};

/// The node of which pods are modelled, and that gets further blocks.
pub const GROWS: usize = 0;

/// How far that has come when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Its only block is full.
    Full,
    /// It has a further one, and neither is used any more.
    Over,
}

pub fn begin(state: &mut State, growth: Growth) {
    let (first, further) = (0, 1);
    state.pods[GROWS] = match growth {
        Growth::Full => Pods { there: bit(first), offered: bit(first), empty_since: 8 },
        Growth::Over => {
            let node = u8::try_from(GROWS).unwrap();
            state.leases[usize::from(further)] = Some(Lease::new((1, 1), (node, 1), false, 8));
            Pods { there: 0, offered: bit(first) | bit(further), empty_since: 8 }
        }
    };
    report(state, GROWS);
}

/// What its pods and its agent may do.
pub fn actions(state: &State, steps: &mut Vec<Step>) {
    if state.nodes[GROWS].is_none() {
        return;
    }
    steps.extend([Step::Report(GROWS), Step::Answer(GROWS)]);
    if state.left.pods == 0 {
        return;
    }
    let pods = state.pods[GROWS];
    for block in 0..8 {
        if pods.there & bit(block) != 0 {
            steps.push(Step::PodEnds(GROWS, block));
        } else if pods.offered & bit(block) != 0 {
            steps.push(Step::PodStarts(GROWS, block));
        }
    }
    let answered =
        (0..).zip(&state.leases).filter(|(_, lease)| lease.is_some_and(|lease| has_answered(state, lease)));
    steps.extend(answered.map(|(block, _)| Step::TakeBack(GROWS, block)));
}

/// Whether an answer stands that [`take_back`] could take back.
fn has_answered(state: &State, lease: Lease) -> bool {
    lease.emptied.is_some() && state.nodes[GROWS].is_some_and(|node| lease.is_of(GROWS, node))
}

/// The agent takes the primary lease of its Node into use, and says so in it.
pub fn take_into_use(state: &mut State, name: usize) {
    let Some(node) = state.nodes[name] else { return };
    for (block, lease) in own_leases(state, name, node) {
        // podCIDRs that say something else: the agent does not begin.
        if lease.primary && node.pod_cidr.is_none_or(|set| set == block) {
            state.uses[name] |= bit(block);
            change(state, block, lease, Lease { in_use: true, ..lease });
        }
    }
}

/// New pods get addresses of all blocks of the Node but those that are asked back.
pub fn offer(state: &mut State, name: usize) {
    let Some(node) = state.nodes[name] else { return };
    let own = own_leases(state, name, node);
    if !own.iter().any(|(_, lease)| lease.primary) {
        // Not ready: the CNI configuration stays as it is.
        return;
    }
    let stay = own.iter().filter(|(_, lease)| lease.returning.is_none());
    state.pods[name].offered = stay.fold(0, |blocks, (block, _)| blocks | bit(*block));
}

/// A pod gets the address of a block.
pub fn pod_starts(state: &mut State, name: usize, block: Block) {
    state.pods[name].there |= bit(block);
}

pub fn pod_ends(state: &mut State, name: usize, block: Block) {
    let pods = &mut state.pods[name];
    pods.there &= !bit(block);
    if state.leases[usize::from(block)].is_some_and(|lease| !lease.primary) {
        pods.empty_since = state.now;
    }
}

/// The agent says how many addresses of its node's blocks are in use.
pub fn report(state: &mut State, name: usize) {
    let Some(node) = state.nodes[name] else { return };
    let Pods { there, empty_since, .. } = state.pods[name];
    let mut report = Report { owner: node.uid, blocks: there, used: there, empty_since };
    for (block, lease) in own_leases(state, name, node) {
        report.blocks |= bit(block);
        if !lease.primary {
            report.empty_since = report.empty_since.max(lease.created);
        }
    }
    state.reports[name] = Some(report);
}

/// The agent looks which of the blocks that are asked back no pod uses, and says so; every other answer it takes back.
/// It has waited for longer than any start of a pod takes.
pub fn answer(state: &mut State, name: usize) {
    let Some(node) = state.nodes[name] else { return };
    for (block, lease) in own_leases(state, name, node) {
        let pods = state.pods[name];
        let emptied = lease.returning.filter(|_| (pods.offered | pods.there) & bit(block) == 0);
        if !lease.primary && emptied != lease.emptied {
            // It was the primary one, perhaps.
            state.uses[name] &= !bit(block);
            change(state, block, lease, Lease { emptied, ..lease });
        }
    }
}

/// A pod's start took longer than any does, and the agent takes its answer back. One that outlasts the answer as well
/// is nothing that the operator could know of (ARCHITECTURE.md, "A block goes back").
pub fn take_back(state: &mut State, name: usize, block: Block) {
    pod_starts(state, name, block);
    if let Some(lease) = state.leases[usize::from(block)] {
        change(state, block, lease, Lease { emptied: None, ..lease });
    }
}

fn own_leases(state: &State, name: usize, node: Node) -> Vec<(Block, Lease)> {
    let all = (0..).zip(state.leases).filter_map(|(block, lease)| Some((block, lease?)));
    all.filter(|(_, lease)| lease.is_of(name, node)).collect()
}

pub fn bit(block: Block) -> u8 {
    1 << block
}
