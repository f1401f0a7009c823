//! How WireGuard keys are rotated without a lost packet. Pure.
//!
//! WireGuard takes a packet only from the peer among whose allowed addresses its source is, and on one link an address
//! is one peer's. So a pair can't change keys on one link: there would be a moment in which one end's packets are
//! refused by the other. While keys are rotated, a node has two links, two ports and two keys. A key of one
//! *generation* is only ever used with the peer's key of the same; even generations have the first link, odd ones the
//! second. So the generation alone tells both ends which link of theirs and which of the other's they mean.
//!
//! 1. The network's generation rises by one. Each node opens the other link with a new key, and publishes both.
//! 2. Each pair makes a handshake there, which succeeds only where both ends have set each other up as peers, with the
//!    other's addresses. An end that has seen it sends by the new link; either end takes packets from both. Before
//!    that nothing changes, so a node that lags or a port that is closed on the way costs no packet.
//! 3. A node that sends nothing by its old link any more stops publishing it, which tells just that.
//! 4. When no peer publishes its own, nobody sends by the old links: this node's goes, and its key with it.
//!
//! Nothing of it is remembered: end points are in the API, keys in files, handshakes in the kernel.

use std::collections::BTreeSet;

use crate::model::{PublicKey, WireguardEndpoint};

/// Their end points of generations that both have, the newest first.
pub fn common(ours: &[WireguardEndpoint], theirs: &[WireguardEndpoint]) -> Vec<WireguardEndpoint> {
    let mut common: Vec<WireguardEndpoint> = theirs
        .iter()
        .filter(|theirs| ours.iter().any(|ours| ours.generation == theirs.generation))
        .copied()
        .collect();
    common.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.generation));
    common
}

/// Their end point that we send to: the newest, once it has answered; before that, the one of before.
pub fn sends_to(
    ours: &[WireguardEndpoint],
    theirs: &[WireguardEndpoint],
    sessions: &BTreeSet<PublicKey>,
) -> Option<WireguardEndpoint> {
    let common = common(ours, theirs);
    let newest = common.first().copied()?;
    if sessions.contains(&newest.key) { Some(newest) } else { common.get(1).copied().or(Some(newest)) }
}

/// Generations of which a node has a link: the network's, and the one before as long as anybody publishes it, this
/// node included.
pub fn open(current: u32, published: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    let before = current.checked_sub(1);
    let mut open: BTreeSet<u32> =
        published.into_iter().filter(|generation| Some(*generation) == before).collect();
    open.insert(current);
    open
}

/// Whether the generation before `current` is not needed for a peer with these end points.
pub fn has_moved(current: u32, theirs: &[WireguardEndpoint], sessions: &BTreeSet<PublicKey>) -> bool {
    let before = current.checked_sub(1);
    !theirs.iter().any(|endpoint| Some(endpoint.generation) == before)
        || theirs.iter().any(|endpoint| endpoint.generation == current && sessions.contains(&endpoint.key))
}

/// This node's end points: those that it publishes, and those that it has left. `moved`: all peers have.
pub fn publishes(
    current: u32,
    own: Vec<WireguardEndpoint>,
    moved: bool,
) -> (Vec<WireguardEndpoint>, Vec<WireguardEndpoint>) {
    let has_current = own.iter().any(|endpoint| endpoint.generation == current);
    own.into_iter().partition(|endpoint| endpoint.generation == current || !(moved && has_current))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(generation: u32, node: u8) -> WireguardEndpoint {
        let key = PublicKey([node * 16 + u8::try_from(generation).unwrap(); 32]);
        WireguardEndpoint { generation, key, port: 51820 + u16::try_from(generation % 2).unwrap() }
    }

    fn endpoints(generations: &[u32], node: u8) -> Vec<WireguardEndpoint> {
        generations.iter().map(|generation| endpoint(*generation, node)).collect()
    }

    #[test]
    fn a_sender_takes_the_newest_that_has_answered_and_any_rather_than_none() {
        // Ours, theirs, generations with a handshake, what is sent to.
        type Row = (&'static [u32], &'static [u32], &'static [u32], Option<u32>);
        let table: [Row; 12] = [
            (&[0], &[0], &[], Some(0)),
            (&[0], &[0], &[0], Some(0)),
            (&[0], &[1], &[], None),
            (&[], &[0], &[], None),
            (&[0, 1], &[0], &[0], Some(0)),
            (&[0], &[0, 1], &[0], Some(0)),
            (&[0, 1], &[0, 1], &[0], Some(0)),
            (&[0, 1], &[1, 0], &[], Some(0)),
            (&[1, 0], &[0, 1], &[0, 1], Some(1)),
            (&[0, 1], &[1], &[], Some(1)),
            (&[1], &[0, 1], &[], Some(1)),
            (&[1, 2], &[1, 2], &[2], Some(2)),
        ];
        for (ours, theirs, answered, expected) in table {
            let sessions = answered.iter().map(|generation| endpoint(*generation, 2).key).collect();
            let found = sends_to(&endpoints(ours, 1), &endpoints(theirs, 2), &sessions);
            assert_eq!(
                found,
                expected.map(|generation| endpoint(generation, 2)),
                "{ours:?} {theirs:?} {answered:?}"
            );
        }
    }

    #[test]
    fn a_link_is_kept_while_anybody_publishes_its_generation() {
        let check = |current, published: &[u32], expected: &[u32]| {
            let open: Vec<u32> = open(current, published.iter().copied()).into_iter().collect();
            assert_eq!(open, expected, "{current} {published:?}");
        };
        check(0, &[], &[0]);
        check(0, &[0], &[0]);
        check(1, &[0], &[0, 1]);
        check(1, &[0, 1], &[0, 1]);
        check(1, &[1], &[1]);
        // What nobody can mean any more, or yet, takes no link.
        check(5, &[1, 3, 7, 4_000_000_000], &[5]);
        check(6, &[5, 4], &[5, 6]);
    }

    #[test]
    fn the_old_end_point_is_published_until_every_peer_has_answered_on_the_new_one() {
        let sessions: BTreeSet<PublicKey> = [endpoint(1, 2).key].into();
        assert!(has_moved(1, &endpoints(&[1], 2), &sessions));
        assert!(has_moved(1, &endpoints(&[0, 1], 2), &sessions));
        assert!(!has_moved(1, &endpoints(&[0, 1], 3), &sessions), "another's handshake");
        assert!(!has_moved(1, &endpoints(&[0], 2), &sessions), "it has none yet");
        assert!(has_moved(1, &[], &sessions), "it has no part in it");
        assert!(has_moved(5, &endpoints(&[0], 2), &sessions), "what it has is of no use to it");
        let own = endpoints(&[0, 1], 1);
        let (published, left) = publishes(1, own.clone(), false);
        assert_eq!((published, left), (own.clone(), vec![]));
        assert_eq!(publishes(1, own, true), (endpoints(&[1], 1), endpoints(&[0], 1)));
        assert_eq!(
            publishes(1, endpoints(&[0], 1), true),
            (endpoints(&[0], 1), vec![]),
            "no new key: keep the old"
        );
    }
}
