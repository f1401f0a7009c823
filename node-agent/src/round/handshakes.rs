//! Nodes to which packets are to go encrypted, and that have not answered yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use tartan_datapath::{
    desired::PeerPath,
    kernel::Kernel,
    model::{Intent, PublicKey},
    pair::Reason,
};

/// How long a node may take before that is worth a word: it is asked every five seconds.
const LATE: Duration = Duration::from_secs(20);

/// Since when each is waited for.
#[derive(Debug, Default)]
pub struct Handshakes {
    since: BTreeMap<String, Instant>,
    /// Others have no IPsec association, of which the daemon's silence tells.
    more: bool,
}

/// Who has answered.
#[derive(Debug)]
pub struct Answered {
    sessions: BTreeSet<PublicKey>,
    associations: Option<BTreeSet<IpAddr>>,
}

impl Answered {
    pub(super) fn of(intent: &Intent) -> Self {
        let ipsec = intent.local.side.endpoints.ipsec;
        Self {
            sessions: intent.wireguard.sessions.clone(),
            associations: ipsec.then(|| intent.present.associations.clone()),
        }
    }

    /// Whether others have since then. What can't be read tells nothing new.
    pub fn is_outdated(&self, kernel: &Kernel) -> bool {
        if kernel.wireguard_sessions().is_ok_and(|now| !now.is_subset(&self.sessions)) {
            return true;
        }
        let Some(seen) = &self.associations else { return false };
        kernel.associations().is_ok_and(|now| !now.is_subset(seen))
    }
}

impl Handshakes {
    /// The paths of a round.
    pub(super) fn learn(&mut self, paths: &[PeerPath], now: Instant) {
        let silent = paths.iter().filter(|path| path.pairing.reason == Reason::NoHandshake);
        let since = |node: &String| self.since.get(node).copied().unwrap_or(now);
        self.since = silent.map(|path| (path.node.clone(), since(&path.node))).collect();
        self.more = paths.iter().any(|path| path.pairing.reason == Reason::NoAssociation);
    }

    pub(super) fn are_awaited(&self) -> bool {
        self.more || !self.since.is_empty()
    }

    /// Nodes that should have answered WireGuard by now.
    pub(super) fn late(&self, now: Instant) -> Vec<&str> {
        let late = self.since.iter().filter(|(_, since)| now.duration_since(**since) >= LATE);
        late.map(|(node, _)| node.as_str()).collect()
    }

    /// Until the next one is late.
    pub(super) fn again(&self, now: Instant) -> Option<Duration> {
        let left = self.since.values().filter_map(|since| LATE.checked_sub(now.duration_since(*since)));
        left.filter(|left| !left.is_zero()).min()
    }
}

#[cfg(test)]
mod tests {
    use tartan_datapath::{
        model::Family,
        pair::{Pairing, Path},
    };

    use super::*;

    fn path(node: &str, path: Path, reason: Reason) -> PeerPath {
        let pairing = Pairing { path, reason };
        PeerPath { node: node.into(), family: Family::V4, subnets: vec![], pairing, sealed: false, mtu: 1450 }
    }

    #[test]
    fn each_node_has_a_time_of_its_own() {
        let by = Path::Ipip { destination: "192.0.2.2".parse().unwrap() };
        let silent = |node: &str| path(node, by, Reason::NoHandshake);
        let begin = Instant::now();
        let mut handshakes = Handshakes::default();
        handshakes.learn(&[silent("a"), path("c", by, Reason::SameBackend)], begin);
        handshakes.learn(&[silent("a"), silent("b")], begin + LATE / 2);
        assert!(handshakes.are_awaited() && handshakes.late(begin + LATE / 2).is_empty());
        assert_eq!(handshakes.again(begin + LATE / 2), Some(LATE / 2));
        assert_eq!(handshakes.late(begin + LATE), ["a"]);
        assert_eq!(handshakes.again(begin + LATE), Some(LATE / 2));
        handshakes.learn(&[silent("b")], begin + LATE);
        assert_eq!(handshakes.late(begin + LATE * 2), ["b"]);
        assert_eq!(handshakes.again(begin + LATE * 2), None);
    }
}
