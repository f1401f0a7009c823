//! [`State`]: everything that a moment of the model consists of, small enough to be hashed millions of times.
//!
//! UIDs and versions are numbers that only their order gives a meaning, so [`State::canonical`] counts them
//! anew, and the two operators are told apart by nothing but what they know.

use std::collections::BTreeSet;

pub const NODES: usize = 3;
/// The first four are what the first cut makes of the range, the last two what the second one does.
pub const BLOCKS: usize = 6;
pub const SUBNETS: [&str; BLOCKS] =
    ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.0.0/23", "10.0.2.0/23"];

pub type Block = u8;
/// Hours.
pub type Time = i8;

/// Whether two blocks have addresses in common.
pub fn overlap(one: Block, other: Block) -> bool {
    let parts = |block: Block| if block < 4 { 1u8 << block } else { 3 << ((block - 4) * 2) };
    parts(one) & parts(other) != 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    pub uid: u8,
    /// Has a deletion timestamp; a finalizer holds it.
    pub marked: bool,
    pub pod_cidr: Option<Block>,
}

impl Node {
    /// What changes with every change of the Node.
    pub fn version(self) -> u8 {
        1 + u8::from(self.marked) + 2 * u8::from(self.pod_cidr.is_some())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    pub uid: u8,
    pub version: u8,
    pub node: u8,
    pub node_uid: u8,
    pub primary: bool,
    pub released: Option<Time>,
    pub in_use: bool,
    pub created: Time,
}

pub type Nodes = [Option<Node>; NODES];
pub type Leases = [Option<Lease>; BLOCKS];

/// What the administrator has made of the ClusterNetwork so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    First,
    FirstDrained,
    Second,
    SecondDrained,
    FirstAgain,
}

impl Stage {
    pub fn next(self) -> Option<Self> {
        match self {
            Self::First => Some(Self::FirstDrained),
            Self::FirstDrained => Some(Self::Second),
            Self::Second => Some(Self::SecondDrained),
            Self::SecondDrained => Some(Self::FirstAgain),
            Self::FirstAgain => None,
        }
    }

    /// Whether `block` is one of an entry's.
    pub fn cuts(self, block: Block) -> bool {
        matches!(self, Self::Second | Self::SecondDrained) == (block >= 4)
    }

    pub fn gives(self, block: Block) -> bool {
        self.cuts(block) && !matches!(self, Self::FirstDrained | Self::SecondDrained)
    }
}

/// What an operator knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct View {
    pub nodes: Nodes,
    pub leases: Leases,
    pub stage: Stage,
    pub doubts: BTreeSet<Block>,
    pub wishes: [Option<Block>; NODES],
    pub listed_for: Option<Stage>,
}

/// A lease as a write was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Known {
    pub block: Block,
    pub uid: u8,
    pub version: u8,
}

/// An action of [`tartan_operator::decide`], without what is the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    Reread(Block),
    Update { lease: Known, node: u8, node_uid: u8, primary: bool, returned: bool },
    Release { lease: Known, node: u8, successor: Option<u8> },
    Delete { lease: Known, node: u8, why: u8, successor: Option<u8>, bound: bool },
    Create { block: Block, node: u8, node_uid: u8, primary: bool, cut_by: Stage },
    Mirror { node: u8, uid: u8, version: u8, block: Block },
}

/// What an operator asks of the API server. A guard that is not sent is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    GetNode(u8),
    GetLease(Block),
    GetNetwork,
    ListLeases(Option<u8>),
    Create { block: Block, node: u8, node_uid: u8, primary: bool, cut_by: Option<Stage> },
    Patch { block: Block, uid: Option<u8>, version: Option<u8>, set: Set },
    Delete { block: Block, uid: Option<u8>, version: Option<u8> },
    PatchNode { node: u8, uid: Option<u8>, version: Option<u8>, block: Block },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    Spec { node: u8, node_uid: u8, primary: bool },
    Released(Time),
}

impl Request {
    pub fn writes(self) -> bool {
        !matches!(self, Self::GetNode(_) | Self::GetLease(_) | Self::GetNetwork | Self::ListLeases(_))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    Node(u8, Option<Node>),
    Lease(Block, Option<Lease>),
    Leases(Vec<(Block, Lease)>),
    Network(Stage),
    Deleted,
    Exists,
    Conflict,
    NotFound,
    Refused,
    /// The client gave up waiting.
    Lost,
}

/// A write under way: what was decided, and what the API server has answered so far.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flight {
    pub act: Act,
    pub heard: Vec<Reply>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operator {
    pub view: View,
    pub flights: Vec<Flight>,
    /// How wrong its clock is.
    pub offset: Time,
    pub crashed: bool,
}

/// What may still happen, of each kind and in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Left {
    pub in_all: u8,
    /// Writes that are lost, repeated or delayed.
    pub faults: u8,
    pub crashes: u8,
    pub jumps: u8,
    pub hours: u8,
    pub marks: u8,
    pub removals: u8,
    pub joins: u8,
    pub edits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: Time,
    pub nodes: Nodes,
    pub leases: Leases,
    pub stage: Stage,
    /// Blocks that the agent of each node has taken into use, one bit each.
    pub uses: [u8; NODES],
    /// The highest UID that a Node of this name had.
    pub uids: [u8; NODES],
    pub operators: [Operator; 2],
    /// Requests that nobody waits for any more, and that may arrive yet.
    pub wandering: Vec<Request>,
    pub left: Left,
}

impl Left {
    /// Takes away one of a kind, and one in all.
    pub fn spend(&mut self, kind: fn(&mut Self) -> &mut u8) {
        *kind(self) -= 1;
        self.in_all -= 1;
    }

    /// When nothing more may happen, it does not matter of which kind that would be.
    fn end(&mut self) {
        if self.in_all == 0 {
            *self = Self::default();
        }
    }
}

impl State {
    /// The one of all equivalent states that stands for them.
    pub fn canonical(mut self) -> Self {
        let mut known: [Vec<(u8, u8)>; BLOCKS] = Default::default();
        self.stamps(&mut |block, uid, version| {
            let of_block = &mut known[usize::from(block)];
            if let Err(place) = of_block.binary_search(&(*uid, *version)) {
                of_block.insert(place, (*uid, *version));
            }
        });
        self.stamps(&mut |block, uid, version| {
            let (mut uids, mut versions, mut last) = (1, 1, None);
            for (earlier, its_version) in &known[usize::from(block)] {
                uids += u8::from(earlier < uid && last != Some(*earlier));
                versions += u8::from(earlier == uid && its_version < version);
                last = Some(*earlier);
            }
            (*uid, *version) = (uids, versions);
        });
        self.left.end();
        self.operators.sort();
        self.wandering.sort();
        self
    }

    /// A UID and a version that no lease of the block ever had.
    pub fn fresh(&mut self, block: Block) -> (u8, u8) {
        let (mut uid_before, mut version_before) = (0, 0);
        self.stamps(&mut |of, uid, version| {
            if of == block {
                uid_before = uid_before.max(*uid);
                version_before = version_before.max(*version);
            }
        });
        (uid_before + 1, version_before + 1)
    }

    /// Every mention of a version of a lease.
    fn stamps(&mut self, visit: &mut impl FnMut(Block, &mut u8, &mut u8)) {
        leases(&mut self.leases, visit);
        for operator in &mut self.operators {
            leases(&mut operator.view.leases, visit);
            for Flight { act, heard } in &mut operator.flights {
                match act {
                    Act::Update { lease, .. } | Act::Release { lease, .. } | Act::Delete { lease, .. } => {
                        visit(lease.block, &mut lease.uid, &mut lease.version);
                    }
                    Act::Reread(_) | Act::Create { .. } | Act::Mirror { .. } => {}
                }
                for reply in heard {
                    match reply {
                        Reply::Lease(block, Some(lease)) => visit(*block, &mut lease.uid, &mut lease.version),
                        Reply::Leases(all) => {
                            for (block, lease) in all {
                                visit(*block, &mut lease.uid, &mut lease.version);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        for request in &mut self.wandering {
            if let Request::Patch { block, uid: Some(uid), version: Some(version), .. }
            | Request::Delete { block, uid: Some(uid), version: Some(version) } = request
            {
                visit(*block, uid, version);
            }
        }
    }
}

fn leases(all: &mut Leases, visit: &mut impl FnMut(Block, &mut u8, &mut u8)) {
    for (block, lease) in (0..).zip(all) {
        if let Some(lease) = lease {
            visit(block, &mut lease.uid, &mut lease.version);
        }
    }
}
