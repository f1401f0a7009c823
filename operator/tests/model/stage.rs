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
    /// Two blocks, and no more.
    Narrow,
}

impl Stage {
    pub fn next(self) -> Option<Self> {
        match self {
            Self::First => Some(Self::FirstDrained),
            Self::FirstDrained => Some(Self::Second),
            Self::Second => Some(Self::SecondDrained),
            Self::SecondDrained => Some(Self::FirstAgain),
            Self::FirstAgain | Self::Narrow => None,
        }
    }

    /// Whether `block` is one of an entry's.
    pub fn cuts(self, block: Block) -> bool {
        match self {
            Self::Narrow => block < 2,
            Self::Second | Self::SecondDrained => block >= 4,
            Self::First | Self::FirstDrained | Self::FirstAgain => block < 4,
        }
    }

    pub fn gives(self, block: Block) -> bool {
        self.cuts(block) && !matches!(self, Self::FirstDrained | Self::SecondDrained)
    }
}
