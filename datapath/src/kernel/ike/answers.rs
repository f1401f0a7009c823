//! Which peers the daemon has associations with, and asking again those that it has none with. No IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::message::unlike_any;
use crate::model::{Elements, Value};

/// A peer that is up answers within a second or two; one that was just told of us by its agent, somewhat later.
const SILENCE: Duration = Duration::from_secs(20);

/// Peers that the daemon has no association with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// By their outer addresses, for longer than any needs that can answer.
    pub late: BTreeSet<IpAddr>,
    /// There are others, of which it is too early to tell.
    pub more: bool,
}

/// What is known of it.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Answers {
    /// Peers that were asked and did not answer, since when.
    unanswered: BTreeMap<IpAddr, Instant>,
    /// When the connection of such a peer was last told to the daemon again.
    told_again: BTreeMap<IpAddr, Instant>,
    /// Those of this look.
    telling: BTreeSet<IpAddr>,
}

impl Answers {
    /// The peers that have no association now.
    pub(super) fn learn(&mut self, silent: BTreeSet<IpAddr>) {
        let now = Instant::now();
        let since = |peer: IpAddr| (peer, self.unanswered.get(&peer).copied().unwrap_or(now));
        self.unanswered = silent.into_iter().map(since).collect();
        let late = self.unanswered().late;
        self.told_again.retain(|peer, _| late.contains(peer));
        self.telling.clear();
    }

    /// Peers that don't answer, though they have been asked for so long that any that could would have.
    pub(in crate::kernel) fn unanswered(&self) -> Unanswered {
        let now = Instant::now();
        let (late, young) = self
            .unanswered
            .iter()
            .partition::<BTreeMap<IpAddr, Instant>, _>(|(_, since)| now.duration_since(**since) >= SILENCE);
        Unanswered { late: late.into_keys().collect(), more: !young.is_empty() }
    }

    /// Makes connections of late peers look unlike what is wanted, so that they are told to the daemon anew.
    ///
    /// A daemon that was refused once does not begin again by itself, and the kernel asks it to only where no association
    /// is left, also none of a daemon that was killed. With those that are `under_way` it goes on by itself: begun anew,
    /// each time would leave it one thing more to do when they answer.
    pub(super) fn ask_again(&mut self, seen: &mut Elements, under_way: &BTreeSet<IpAddr>) {
        let now = Instant::now();
        let late = self.unanswered().late;
        for value in seen.values_mut() {
            let Value::IkeConnection(connection) = value else { continue };
            let peer = connection.remote;
            let told = self.told_again.get(&peer);
            if late.contains(&peer)
                && !under_way.contains(&peer)
                && told.is_none_or(|told| now.duration_since(*told) >= SILENCE)
            {
                self.told_again.insert(peer, now);
                self.telling.insert(peer);
                *connection = unlike_any();
            }
        }
    }

    /// Whether the peer has no association.
    pub(super) fn waits_for(&self, peer: IpAddr) -> bool {
        self.unanswered.contains_key(&peer)
    }

    /// Whether the peer's connection is to begin anew, though it is as it was.
    pub(super) fn begins_anew(&self, peer: IpAddr) -> bool {
        self.telling.contains(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{IkeConnection, Key};

    #[test]
    fn a_peer_that_is_late_is_asked_again_from_time_to_time() {
        let peer: IpAddr = "192.0.2.2".parse().unwrap();
        let silent = BTreeSet::from([peer]);
        let asked_but = |answers: &mut Answers, under_way: &BTreeSet<IpAddr>| {
            let connection = IkeConnection { remote: peer, ..unlike_any() };
            let key = Key::IkeConnection("tartan-192-0-2-2".to_owned());
            let mut seen = Elements::from([(key, Value::IkeConnection(connection.clone()))]);
            answers.ask_again(&mut seen, under_way);
            seen.into_values().next() != Some(Value::IkeConnection(connection))
        };
        let asked = |answers: &mut Answers| asked_but(answers, &BTreeSet::new());
        let mut answers = Answers::default();
        answers.learn(silent.clone());
        assert!(!asked(&mut answers), "at once");
        assert!(answers.waits_for(peer));
        assert_eq!(answers.unanswered(), Unanswered { late: BTreeSet::new(), more: true });
        answers.unanswered.insert(peer, Instant::now() - SILENCE);
        answers.learn(silent.clone());
        assert!(!asked_but(&mut answers, &silent) && !answers.begins_anew(peer), "that is being asked");
        assert!(asked(&mut answers) && answers.begins_anew(peer));
        answers.learn(silent.clone());
        assert!(!asked(&mut answers) && !answers.begins_anew(peer), "in every round");
        assert_eq!(answers.unanswered(), Unanswered { late: silent.clone(), more: false });
        answers.told_again.insert(peer, Instant::now() - SILENCE);
        answers.learn(silent);
        assert!(asked(&mut answers));
        answers.learn(BTreeSet::new());
        assert!(!asked(&mut answers) && !answers.waits_for(peer), "that has answered");
    }
}
