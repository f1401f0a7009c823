//! When an agent may take things away. Pure.
//!
//! A watch that lost most objects at once may be right, or the API server may have been restored from an
//! old backup, or someone deleted a CRD. Paths that work are worth more than paths that are tidy: what
//! vanished stays programmed until a list that no cache has touched says the same, and this node's own
//! ground (network, lease) stays for ever; only `cleanup` empties a node.

use std::collections::BTreeSet;

use tartan_datapath::model::Deletions;

use crate::inputs::Snapshot;

/// Fewer than this many leases may always vanish at once.
const FEW: usize = 3;

/// The leases that paths were programmed for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Programmed {
    pub leases: BTreeSet<String>,
}

impl Programmed {
    pub fn of(snapshot: &Snapshot<'_>) -> Self {
        let leases =
            snapshot.leases.iter().filter(|(_, lease)| !lease.released).map(|(name, _)| name.clone());
        Self { leases: leases.collect() }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// Add and replace, delete nothing; ask the API server whether `vanished` are really gone.
    Confirm {
        vanished: BTreeSet<String>,
        message: String,
    },
}

impl Verdict {
    pub fn deletions(&self) -> Deletions {
        match self {
            Self::Go => Deletions::Allowed,
            Self::Confirm { .. } => Deletions::Frozen,
        }
    }
}

/// Whether the step from `last` to `now` may delete. `confirmed` are leases that a direct list has shown to
/// be gone.
pub fn judge(last: Option<&Programmed>, now: &Programmed, confirmed: &BTreeSet<String>) -> Verdict {
    // The first snapshot of this process is itself a fresh list.
    let Some(last) = last else { return Verdict::Go };
    let vanished: BTreeSet<String> = last.leases.difference(&now.leases).cloned().collect();
    let open = vanished.difference(confirmed).count();
    if open == 0 || vanished.len() <= FEW || vanished.len() * 2 <= last.leases.len() {
        return Verdict::Go;
    }
    let message = format!(
        "{} of {} leases vanished at once: nothing is deleted until a direct list confirms it",
        vanished.len(),
        last.leases.len()
    );
    Verdict::Confirm { vanished, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programmed(range: std::ops::Range<u32>) -> Programmed {
        Programmed { leases: range.map(|n| format!("10.244.{n}.0-24")).collect() }
    }

    fn frozen(before: u32, after: u32) -> bool {
        let verdict = judge(Some(&programmed(0..before)), &programmed(0..after), &BTreeSet::new());
        verdict.deletions() == Deletions::Frozen
    }

    #[test]
    fn losing_most_leases_at_once_freezes_deletions() {
        for (before, after, expected) in [
            (100, 100, false),
            (100, 50, false),
            (100, 49, true),
            (100, 0, true),
            (4, 0, true),
            (3, 0, false),
            (4, 1, false),
            (8, 4, false),
            (9, 4, true),
            (0, 10, false),
        ] {
            assert_eq!(frozen(before, after), expected, "{before} to {after}");
        }
    }

    #[test]
    fn the_first_snapshot_is_believed() {
        assert_eq!(judge(None, &programmed(0..0), &BTreeSet::new()), Verdict::Go);
    }

    #[test]
    fn a_direct_list_that_says_the_same_lets_go() {
        let (last, now) = (programmed(0..100), programmed(0..10));
        let Verdict::Confirm { vanished, .. } = judge(Some(&last), &now, &BTreeSet::new()) else {
            panic!("90 of 100 leases vanished unnoticed");
        };
        assert_eq!(vanished.len(), 90);
        assert_eq!(judge(Some(&last), &now, &vanished), Verdict::Go);
        let part: BTreeSet<String> = vanished.into_iter().skip(1).collect();
        assert_eq!(judge(Some(&last), &now, &part).deletions(), Deletions::Frozen);
    }

    #[test]
    fn leases_that_are_replaced_by_others_count_as_vanished() {
        let verdict = judge(Some(&programmed(0..10)), &programmed(10..20), &BTreeSet::new());
        assert_eq!(verdict.deletions(), Deletions::Frozen);
    }
}
