//! Blocks that no lease names and that nobody gets, since a node's agent says that its pods have addresses there.
//!
//! An agent in wrong hands can withhold free blocks so: at most [`MOST`] of a family.

use tartan_crds::{Cidr, conditions::reason};

use super::{Problem, blocks::Taken, draft::Draft, listed_all};
use crate::world::Node;

/// As many blocks as a node can be allowed (`growth.maxBlocksPerNode`).
const MOST: u64 = 16;

/// Why the node whose pods are in a block doesn't get it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has as many blocks as it may.
    Limit,
    /// The block is kept back from it.
    Reserved,
    /// Its pool's nodes get no blocks of the entry.
    OtherPools,
    /// No entry has such a block.
    NoBlock,
    /// A lease that may be its must be settled first.
    Contested,
}

impl Why {
    fn remedy(self) -> &'static str {
        match self {
            Self::Limit => "growth.maxBlocksPerNode allows it no more: raise that, or restart these pods",
            Self::Reserved => "the range is reserved: take it out of reserved, or restart these pods",
            Self::OtherPools => "its pool does not use the entry: restart these pods",
            Self::NoBlock => "it is a block of no entry, or others have a part of it: restart these pods",
            Self::Contested => "another lease of the node must be settled first: see the node's condition",
        }
    }
}

/// Pods of a node in a block without a lease.
#[derive(Clone, Copy, Debug)]
pub struct Withheld<'a> {
    pub block: Cidr,
    pub node: &'a str,
    /// Whether it is kept from others; not what is beyond [`MOST`].
    pub kept: bool,
    why: Why,
}

impl Withheld<'_> {
    fn reason(&self) -> String {
        let kept =
            if self.kept { "" } else { "; others may get it, since 16 blocks are kept on its word already" };
        format!("{}{kept}", self.why.remedy())
    }
}

/// Keeps a block from everybody.
pub fn withhold<'a>(draft: &mut Draft<'a>, node: &'a Node, block: Cidr, why: Why) {
    let name = node.meta.name.as_str();
    let of_node = |of: &&Withheld<'_>| of.kept && of.node == name && of.block.family() == block.family();
    let before: u64 = draft.withheld.iter().filter(of_node).map(|of| blocks_met(draft, of.block)).sum();
    let met = blocks_met(draft, block);
    if met == 0 {
        return;
    }
    let kept = before.saturating_add(met) <= MOST;
    if kept {
        draft.take(block);
    }
    draft.withheld.push(Withheld { block, node: name, kept, why });
}

/// How many blocks of entries meet it.
fn blocks_met(draft: &Draft<'_>, block: Cidr) -> u64 {
    let one: Taken = [block].into_iter().collect();
    let entries = draft.layout.entries.iter();
    entries.map(|entry| one.blocks_met(entry.cidr, entry.block_len)).fold(0, u64::saturating_add)
}

/// For the network's condition.
pub fn problem(draft: &Draft<'_>) -> Option<Problem> {
    let named =
        |of: &Withheld<'_>| format!("{} by the word of {}'s agent ({})", of.block, of.node, of.reason());
    told(draft.withheld.iter(), named)
}

/// For the node's.
pub fn problem_of(draft: &Draft<'_>, node: &Node) -> Option<Problem> {
    let blocks = draft.withheld.iter().filter(|of| of.node == node.meta.name);
    told(blocks, |of| format!("{} ({})", of.block, of.reason()))
}

fn told<'d, 'a: 'd>(
    blocks: impl Iterator<Item = &'d Withheld<'a>> + Clone,
    named: impl Fn(&Withheld<'a>) -> String,
) -> Option<Problem> {
    let names: Vec<String> = blocks.clone().map(named).collect();
    let kept = if blocks.clone().all(|of| of.kept) { "the blocks" } else { "the blocks that are kept" };
    (!names.is_empty()).then(|| {
        Problem::new(
            reason::BLOCK_WITHOUT_LEASE,
            format!(
                "pods have addresses of blocks that no lease names: {}; other nodes don't reach these pods, and \
                 nobody gets {kept} before the pods are gone",
                listed_all(&names)
            ),
        )
    })
}

/// The first node whose pods keep a block from others.
pub fn holder<'a>(draft: &Draft<'a>, block: Cidr) -> Option<&'a str> {
    draft.withheld.iter().find(|of| of.kept && of.block.overlaps(block)).map(|of| of.node)
}

/// The nodes whose pods are in an entry, one for each block that is kept for them.
pub fn in_entry<'a>(draft: &Draft<'a>, entry: Cidr) -> Vec<&'a str> {
    draft.withheld.iter().filter(|of| of.kept && of.block.overlaps(entry)).map(|of| of.node).collect()
}

/// What is kept from everybody.
pub fn kept<'d>(draft: &'d Draft<'_>) -> impl Iterator<Item = Cidr> + use<'d> {
    draft.withheld.iter().filter(|of| of.kept).map(|of| of.block)
}
