//! [`State`]: everything that a moment of the model consists of, small enough to be hashed millions of times.
//!
//! UIDs and versions are numbers that only their order gives a meaning, so [`State::canonical`] counts them
//! anew, and the two operators are told apart by nothing but what they know.

use std::collections::BTreeSet;

pub use super::stage::Stage;

pub const NODES: usize = 3;
/// The first four are what the first cut makes of the range, the last two what the second one does.
pub const BLOCKS: usize = 6;
pub const SUBNETS: [&str; BLOCKS] =
    ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.0.0/23", "10.0.2.0/23"];

pub type Block = u8;
/// Hours.
pub type Time = i8;
/// The number of a request for a block's return. Of one block no two are the same, as no two are of the same second.
pub type Asked = u8;

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
    /// The request for its return that stands, and the one that its agent has met.
    pub returning: Option<Asked>,
    pub emptied: Option<Asked>,
}

impl Lease {
    /// As it is created.
    pub fn new((uid, version): (u8, u8), (node, node_uid): (u8, u8), primary: bool, created: Time) -> Self {
        let (released, returning, emptied) = (None, None, None);
        Self { uid, version, node, node_uid, primary, released, in_use: false, created, returning, emptied }
    }

    /// Whether it is this Node's, and in force.
    pub fn is_of(&self, name: usize, node: Node) -> bool {
        usize::from(self.node) == name && self.node_uid == node.uid && self.released.is_none()
    }
}

/// What an agent has reported of its node's blocks. A pod fills a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Report {
    /// UID of the Node that it was said of.
    pub owner: u8,
    /// Which blocks it is about, one bit each.
    pub blocks: u8,
    /// Of which a pod has an address.
    pub used: u8,
    /// Since when the further one has been without pods.
    pub empty_since: Time,
}

pub type Reports = [Option<Report>; NODES];
pub type Nodes = [Option<Node>; NODES];
pub type Leases = [Option<Lease>; BLOCKS];

/// What an operator knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct View {
    pub nodes: Nodes,
    pub leases: Leases,
    pub reports: Reports,
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
    Update { lease: Known, node: u8, node_uid: u8, primary: bool, returning: Option<Asked>, returned: bool },
    Release { lease: Known, node: u8, successor: Option<u8> },
    Delete { lease: Known, node: u8, why: u8, successor: Option<u8>, bound: bool },
    Create { block: Block, node: u8, node_uid: u8, primary: bool, cut_by: Stage },
    Mirror { node: u8, uid: u8, version: u8, block: Block },
}

/// What an operator asks of the API server. A guard that is not sent is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    GetNode(u8),
    GetReport(u8),
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
    Spec { node: u8, node_uid: u8, primary: bool, returning: Option<Asked> },
    Released(Time),
}

impl Request {
    pub fn writes(self) -> bool {
        !matches!(
            self,
            Self::GetNode(_)
                | Self::GetReport(_)
                | Self::GetLease(_)
                | Self::GetNetwork
                | Self::ListLeases(_)
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reply {
    Node(u8, Option<Node>),
    Report(u8, Option<Report>),
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
    pub reservations: u8,
    /// Pods that start or end.
    pub pods: u8,
}

/// Where a node's pods are, and where its new ones go: one bit for each block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pods {
    /// Blocks of which a pod has an address.
    pub there: u8,
    /// Blocks that the CNI configuration offers.
    pub offered: u8,
    /// Since when the further block has been without pods.
    pub empty_since: Time,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: Time,
    pub nodes: Nodes,
    pub leases: Leases,
    pub stage: Stage,
    /// Blocks that the agent of each node has taken into use, one bit each.
    pub uses: [u8; NODES],
    pub pods: [Pods; NODES],
    pub reports: Reports,
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

/// UIDs and versions of a block's leases, and requests for its return, that anything speaks of.
type Told = (Vec<(u8, u8)>, Vec<Asked>);

impl State {
    /// The one of all equivalent states that stands for them.
    pub fn canonical(mut self) -> Self {
        let mut known: [Told; BLOCKS] = Default::default();
        self.mentions(&mut |block, mention| {
            let (versions, requests) = &mut known[usize::from(block)];
            match mention {
                Mention::Version(uid, version) => note(versions, (*uid, *version)),
                Mention::Request(number) => note(requests, *number),
            }
        });
        self.mentions(&mut |block, mention| {
            let (all, requests) = &known[usize::from(block)];
            match mention {
                Mention::Version(uid, version) => {
                    let (mut uids, mut versions, mut last) = (1, 1, None);
                    for (earlier, its_version) in all {
                        uids += u8::from(earlier < uid && last != Some(*earlier));
                        versions += u8::from(earlier == uid && its_version < version);
                        last = Some(*earlier);
                    }
                    (*uid, *version) = (uids, versions);
                }
                Mention::Request(number) => {
                    *number = 1 + u8::try_from(requests.partition_point(|earlier| earlier < number)).unwrap();
                }
            }
        });
        self.left.end();
        self.operators.sort();
        self.wandering.sort();
        self
    }

    /// A UID and a version that no lease of the block ever had.
    pub fn fresh(&mut self, block: Block) -> (u8, u8) {
        let (mut uid_before, mut version_before) = (0, 0);
        self.mentions(&mut |of, mention| {
            if let Mention::Version(uid, version) = mention
                && of == block
            {
                uid_before = uid_before.max(*uid);
                version_before = version_before.max(*version);
            }
        });
        (uid_before + 1, version_before + 1)
    }

    /// A request that nobody has made yet.
    pub fn fresh_request(&mut self, block: Block) -> Asked {
        let mut before = 0;
        self.mentions(&mut |of, mention| {
            if let Mention::Request(number) = mention
                && of == block
            {
                before = before.max(*number);
            }
        });
        before + 1
    }

    /// Every mention of a version of a lease, or of a request for its return.
    fn mentions(&mut self, visit: &mut impl FnMut(Block, Mention<'_>)) {
        leases(&mut self.leases, visit);
        for operator in &mut self.operators {
            leases(&mut operator.view.leases, visit);
            for Flight { act, heard } in &mut operator.flights {
                match act {
                    Act::Update { lease, returning, .. } => {
                        visit(lease.block, Mention::Version(&mut lease.uid, &mut lease.version));
                        request(lease.block, returning, visit);
                    }
                    Act::Release { lease, .. } | Act::Delete { lease, .. } => {
                        visit(lease.block, Mention::Version(&mut lease.uid, &mut lease.version));
                    }
                    Act::Reread(_) | Act::Create { .. } | Act::Mirror { .. } => {}
                }
                for reply in heard {
                    match reply {
                        Reply::Lease(block, Some(known)) => lease(*block, known, visit),
                        Reply::Leases(all) => {
                            for (block, known) in all {
                                lease(*block, known, visit);
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
        for wandering in &mut self.wandering {
            if let Request::Patch { block, uid: Some(uid), version: Some(version), .. }
            | Request::Delete { block, uid: Some(uid), version: Some(version) } = wandering
            {
                visit(*block, Mention::Version(uid, version));
            }
            if let Request::Patch { block, set: Set::Spec { returning, .. }, .. } = wandering {
                request(*block, returning, visit);
            }
        }
    }
}

/// A number that only its order among others gives a meaning.
enum Mention<'a> {
    Version(&'a mut u8, &'a mut u8),
    Request(&'a mut Asked),
}

fn note<T: Ord>(known: &mut Vec<T>, new: T) {
    if let Err(place) = known.binary_search(&new) {
        known.insert(place, new);
    }
}

fn leases(all: &mut Leases, visit: &mut impl FnMut(Block, Mention<'_>)) {
    for (block, known) in (0..).zip(all) {
        if let Some(known) = known {
            lease(block, known, visit);
        }
    }
}

fn lease(block: Block, lease: &mut Lease, visit: &mut impl FnMut(Block, Mention<'_>)) {
    visit(block, Mention::Version(&mut lease.uid, &mut lease.version));
    request(block, &mut lease.returning, visit);
    request(block, &mut lease.emptied, visit);
}

fn request(block: Block, number: &mut Option<Asked>, visit: &mut impl FnMut(Block, Mention<'_>)) {
    if let Some(number) = number {
        visit(block, Mention::Request(number));
    }
}
