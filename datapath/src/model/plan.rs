//! What was seen, what is to be done, and what came of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Elements, Key, Value};

/// The kernel as one pass of observing saw it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Observed {
    /// Objects that carry our mark, and those settings (sysctl, offload) that were asked for.
    pub ours: Elements,
    /// Objects without our mark that stand where an object of ours would: what they are, for a message.
    pub foreign: BTreeMap<Key, String>,
}

/// Whether a plan may remove what is ours and no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletions {
    Allowed,
    /// The inputs are incomplete or lost too much at once: only add and replace.
    Frozen,
}

/// Steps in the order in which they are applied. Any prefix of it may fail or never run: the next round
/// plans again from what is there.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub conflicts: Vec<Conflict>,
    /// Deletions that were held back by [`Deletions::Frozen`].
    pub held_back: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub action: Action,
    pub key: Key,
    /// What is to be there; for a deletion, what was.
    pub value: Value,
    /// For a replacement, what was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Create,
    /// In place, without a moment in between.
    Replace,
    Delete,
}

/// A foreign object stands in our way. It is reported and left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    pub key: Key,
    pub found: String,
}
