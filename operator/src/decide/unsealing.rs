//! [`Unsealing`]: when nodes whose pairs are sealed may send in clear again.
//!
//! A lease that is unsealed since its node is to leave encryption says so (`unsealed:GENERATION` in its `ending`). From
//! then on every lease names all that have been unsealed by one digest (`sealed:DIGEST`), and they leave encryption
//! when every agent has heard that ([`Endings`]). A node that is unsealed meanwhile makes
//! another digest of it, and all have to hear anew; those that have left stay a part of it until the last one has, and
//! say of which they had heard, if they had (`left:DIGEST`). It is leases that say all this: which pools their nodes belong to, and
//! whether these still exist, makes no difference.

use std::collections::{BTreeMap, BTreeSet};

use tartan_crds::BackendType;

use super::{
    ending::{Endings, digest, one_of},
    transition::{Member, name},
};

const UNSEALED: &str = "unsealed:";
const LEFT: &str = "left:";

#[derive(Debug, Default)]
pub struct Unsealing<'a> {
    /// By node: what its lease should say of its own seal, and what it says of having left.
    marks: BTreeMap<&'a str, (String, Option<String>)>,
    /// Names all that have been unsealed, while one of them still encrypts.
    digest: Option<String>,
    /// Those that have not heard of it.
    unaware: BTreeSet<&'a str>,
}

impl<'a> Unsealing<'a> {
    pub(super) fn plan(members: &[Member<'a>], endings: &Endings<'a>) -> Self {
        let is_to_go = members.iter().any(|member| leaves(member) && is_unsealed(member));
        let mark = |member: &Member<'a>| {
            let own = if member.sealed && leaves(member) {
                format!("{UNSEALED}{}", member.generation)
            } else {
                seal(member).filter(|_| member.now.0.encrypts() || is_to_go)?.to_owned()
            };
            Some((name(member), (own, one_of(member.ending, LEFT).map(str::to_owned))))
        };
        let is_one = |member: &&Member<'_>| leaves(member) || !member.now.0.encrypts();
        let unsealed = members.iter().filter(is_one).filter_map(|member| {
            let seal = seal(member)?;
            Some(format!("{} {seal}", member.uid))
        });
        let digest = is_to_go.then(|| digest(unsealed));
        let marks = members.iter().filter_map(mark).collect();
        let mut unsealing = Self { marks, digest, unaware: BTreeSet::new() };
        if let Some(end) = unsealing.told() {
            let has_heard =
                |name: &str| members.iter().any(|m| m.node.meta.name == name && unsealing.had_heard(m));
            unsealing.unaware = endings.unaware(&end).into_iter().filter(|name| !has_heard(name)).collect();
        }
        unsealing
    }

    /// What all leases should name as about to end.
    pub fn told(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("sealed:{digest}"))
    }

    /// What the lease of a node that is to send by this should say of itself, if it is not sealed.
    pub fn own(&self, node: &str, kind: BackendType) -> impl Iterator<Item = String> {
        let (seal, left) = self.marks.get(node).cloned().unzip();
        let digest = self.digest.as_ref().filter(|_| !self.unaware.contains(node));
        let now = || digest.map(|digest| format!("{LEFT}{digest}"));
        let left = seal.as_ref().filter(|_| !kind.encrypts()).and_then(|_| left.flatten().or_else(now));
        seal.into_iter().chain(left)
    }

    /// Who has not heard of all that have been unsealed.
    pub fn unaware(&self) -> &BTreeSet<&'a str> {
        &self.unaware
    }

    /// Whether the node left encryption when it had heard of all that is told of now.
    fn had_heard(&self, member: &Member<'_>) -> bool {
        let left = one_of(member.ending, LEFT).and_then(|left| left.strip_prefix(LEFT));
        left.is_some() && left == self.digest.as_deref()
    }
}

/// Its lease was sealed, and says that it is no more.
pub(super) fn is_unsealed(member: &Member<'_>) -> bool {
    seal(member).is_some()
}

fn seal<'m>(member: &'m Member<'_>) -> Option<&'m str> {
    one_of(member.ending, UNSEALED).filter(|_| !member.sealed)
}

fn leaves(member: &Member<'_>) -> bool {
    member.now.0.encrypts() && !member.wanted.kind.encrypts()
}
