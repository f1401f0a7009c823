//! [`Stage`]: the ClusterNetwork, as far as it changes.

use super::state::Block;

/// What the administrator has made of the ClusterNetwork so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    First,
    FirstDrained,
    Second,
    SecondDrained,
    FirstAgain,
    /// As the first one, but a block is kept for one node.
    Kept,
    /// Two blocks, and no more.
    Narrow,
}

impl Stage {
    /// The block that is kept, and for which node.
    pub const RESERVED: (Block, usize) = (0, 1);

    pub fn next(self) -> Option<Self> {
        match self {
            Self::First => Some(Self::FirstDrained),
            Self::FirstDrained => Some(Self::Second),
            Self::Second => Some(Self::SecondDrained),
            Self::SecondDrained => Some(Self::FirstAgain),
            Self::FirstAgain | Self::Kept | Self::Narrow => None,
        }
    }

    /// Whether `block` is one of an entry's.
    pub fn cuts(self, block: Block) -> bool {
        match self {
            Self::Narrow => block < 2,
            Self::Second | Self::SecondDrained => block >= 4,
            Self::First | Self::FirstDrained | Self::FirstAgain | Self::Kept => block < 4,
        }
    }

    /// Whether anybody may get it.
    pub fn gives(self, block: Block) -> bool {
        let is_kept = self == Self::Kept && block == Self::RESERVED.0;
        self.cuts(block) && !is_kept && !matches!(self, Self::FirstDrained | Self::SecondDrained)
    }
}
