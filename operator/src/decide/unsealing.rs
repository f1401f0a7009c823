//! [`Unsealing`]: when nodes whose pairs are sealed may send in clear again.
//!
//! A lease that is unsealed since its node is to leave encryption says so (`unsealed:GENERATION:TIME` in its `ending`).
//! When no such lease is sealed any more every lease names all that have been unsealed (`sealed:NAME`, which is that of
//! the leases that say `ends:NAME`), and they leave encryption when every agent has heard that ([`Endings`]). With one
//! that is unsealed later they get another name, of which all have to hear anew; those that have left say of which they
//! had heard, if they had (`left:NAME`), until the last one has. It is leases that say all this: which
//! pools their nodes belong to, and whether these still exist, makes no difference.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use tartan_crds::BackendType;

use super::{
    ending::{Endings, name_of, one_of},
    transition::{Member, name},
};

const ENDS: &str = "ends:";
const ENTERED: &str = "entered:";
const LEFT: &str = "left:";
const UNSEALED: &str = "unsealed:";

#[derive(Debug, Default)]
pub struct Unsealing<'a> {
    marks: BTreeMap<&'a str, Marks>,
    /// Names all that have been unsealed, while one of them still encrypts.
    end: Option<String>,
    /// Those that are to be unsealed first or, where there is none, have not heard of it.
    awaited: BTreeSet<&'a str>,
}

/// What a lease should say of its own node, until it is sealed.
#[derive(Clone, Debug, Default)]
struct Marks {
    entered: Option<String>,
    unsealed: Option<String>,
    ends: Option<String>,
    left: Option<String>,
}

impl<'a> Unsealing<'a> {
    pub(super) fn plan(members: &[Member<'a>], endings: &Endings<'a>, now: Timestamp) -> Self {
        let is_to_go =
            members.iter().any(|member| leaves(member) && (member.sealed || ended_seal(member).is_some()));
        let is_one = |member: &&Member<'_>| {
            ended_seal(member).is_some() && (leaves(member) || !member.now.0.encrypts())
        };
        let facts = |member: &Member<'_>| format!("{} {:?}", member.uid, ended_seal(member));
        let sealed = members.iter().filter(|member| member.sealed && leaves(member));
        let awaited: BTreeSet<&str> = sealed.filter(|member| endings.can_be_told(member)).map(name).collect();
        // Not before the last one is: each more would make another name.
        let end =
            (is_to_go && awaited.is_empty()).then(|| name_of(members.iter().filter(is_one), ENDS, facts));
        let marks = members.iter().map(|member| {
            let ends = end.as_ref().filter(|_| is_one(&member)).map(|end| format!("{ENDS}{end}"));
            (name(member), Marks { ends, ..Marks::of(member, is_to_go, now) })
        });
        let mut unsealing = Self { marks: marks.collect(), end, awaited };
        if let Some(end) = unsealing.told() {
            let has_heard = |member: &&Member<'_>| unsealing.had_heard(member);
            let heard: BTreeSet<&str> = members.iter().filter(has_heard).map(name).collect();
            unsealing.awaited = &endings.unaware(&end) - &heard;
        }
        unsealing
    }

    /// What all leases should name as about to end.
    pub fn told(&self) -> Option<String> {
        self.end.as_ref().map(|end| format!("sealed:{end}"))
    }

    /// What the lease of a node that is to send by this should say of itself, if it is not sealed.
    pub fn own(&self, node: &str, kind: BackendType) -> impl Iterator<Item = String> {
        let marks = self.marks.get(node).cloned().unwrap_or_default();
        let entered = marks.entered.filter(|_| kind.encrypts());
        let heard = self.end.as_ref().filter(|_| !self.awaited.contains(node));
        let left = || marks.left.or_else(|| heard.map(|end| format!("{LEFT}{end}")));
        let left = marks.unsealed.as_ref().filter(|_| !kind.encrypts()).and_then(|_| left());
        [entered, marks.unsealed, marks.ends, left].into_iter().flatten()
    }

    /// For whom those wait that have been unsealed.
    pub fn awaited(&self) -> &BTreeSet<&'a str> {
        &self.awaited
    }

    /// Whether the node left encryption when it had heard of all that is told of now.
    fn had_heard(&self, member: &Member<'_>) -> bool {
        let left = one_of(member.ending, LEFT).and_then(|left| left.strip_prefix(LEFT));
        left.is_some() && left == self.end.as_deref()
    }
}

impl Marks {
    /// `is_to_go`: a node that is or was sealed has to leave encryption.
    fn of(member: &Member<'_>, is_to_go: bool, now: Timestamp) -> Self {
        let encrypts = member.now.0.encrypts();
        let generation = member.generation;
        Self {
            unsealed: if member.sealed && leaves(member) {
                Some(format!("{UNSEALED}{generation}:{now:.0}"))
            } else {
                ended_seal(member).filter(|_| encrypts || is_to_go).map(str::to_owned)
            },
            entered: if encrypts {
                entry(member).map(str::to_owned)
            } else {
                Some(format!("{ENTERED}{generation}"))
            },
            left: one_of(member.ending, LEFT).map(str::to_owned),
            ends: None,
        }
    }
}

/// What the lease says where it was sealed, and is no more.
pub(super) fn ended_seal<'m>(member: &'m Member<'_>) -> Option<&'m str> {
    one_of(member.ending, UNSEALED).filter(|_| !member.sealed)
}

/// Since when it is no more.
pub(super) fn unsealed_at(member: &Member<'_>) -> Option<Timestamp> {
    ended_seal(member)?.strip_prefix(UNSEALED)?.split_once(':')?.1.parse().ok()
}

/// What it says where it came to encrypt, and has not been sealed since.
pub(super) fn entry<'m>(member: &'m Member<'_>) -> Option<&'m str> {
    one_of(member.ending, ENTERED)
}

fn leaves(member: &Member<'_>) -> bool {
    member.now.0.encrypts() && !member.wanted.kind.encrypts()
}
