//! The processes beside the agent: the forwarder of the udp path, the user-space WireGuard, and the IKE daemon.
//!
//! One that is replaced is away for some milliseconds, or for some seconds when its container is started anew: peers
//! need not hear of that, also when the agent itself is started anew in the same moment.

use std::time::{Duration, Instant};

use tartan_crds::BackendType;
use tartan_datapath::{mark, model::Facts};

use crate::{inputs::Snapshot, presence::Presence};

/// What is known of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Companions {
    begun: bool,
    forwarder: Presence,
    /// The process of the user-space WireGuard, on a node that has it.
    wireguard: Presence,
    /// The agent before this one published that peers reach this node by IPsec.
    daemon_awaited_until: Option<Instant>,
}

/// How long the IKE daemon's container may start beside the agent's own.
const START: Duration = Duration::from_secs(30);

impl Companions {
    /// At the beginning of a round. The first one learns what the agent before this one published.
    pub fn begin(&mut self, node: &str, snapshot: &Snapshot<'_>, now: Instant) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let published = |kind: BackendType| {
            let own = snapshot.leases.values().filter(|lease| lease.node == node && !lease.released);
            let mut endpoints = own.filter_map(|lease| lease.status.as_ref()).flat_map(|s| &s.endpoints);
            endpoints.any(|endpoint| endpoint.kind == kind)
        };
        for (process, kind) in
            [(&mut self.forwarder, BackendType::Udp), (&mut self.wireguard, BackendType::Wireguard)]
        {
            if published(kind) {
                process.saw(true, now);
            }
        }
        self.daemon_awaited_until = published(BackendType::Ipsec).then_some(now + START);
    }

    /// Whether the forwarder counts as running. The kernel tells: a TUN device has a carrier while a process holds it.
    pub fn forwards(&mut self, facts: &Facts, now: Instant) -> bool {
        let runs = facts.links.iter().any(|link| link.ours && link.name == mark::UDP && link.carrier);
        self.forwarder.saw(runs, now)
    }

    /// Whether the process of the user-space WireGuard counts as running.
    pub fn user_wireguard(&mut self, runs: bool, now: Instant) -> bool {
        self.wireguard.saw(runs, now)
    }

    /// A process is away and still counts: look again soon, since nothing tells when it has been away for too long.
    pub fn is_missing(&self) -> bool {
        self.forwarder.is_missing() || self.wireguard.is_missing()
    }

    /// An IKE daemon that doesn't answer yet is no reason to tell peers of it.
    pub fn daemon_is_awaited(&self, now: Instant) -> bool {
        self.daemon_awaited_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use tartan_crds::Endpoint;

    use super::*;
    use crate::testing::{known, status};

    #[test]
    fn an_agent_that_starts_anew_waits_for_what_the_one_before_had() {
        let (start, facts) = (Instant::now(), Facts::default());
        let begun = |endpoints: Vec<Endpoint>| {
            let mut known = known();
            let own = known.leases.values_mut().find(|lease| lease.node == "node1").unwrap();
            own.status = Some(tartan_crds::SubnetLeaseStatus { endpoints, ..status(1) });
            let mut companions = Companions::default();
            companions.begin("node1", &known.snapshot(), start);
            // What is published later is this agent's own word.
            companions.begin("node1", &known.snapshot(), start + START);
            companions
        };
        let mut none = begun(vec![Endpoint::plain(BackendType::Vxlan)]);
        assert!(!none.forwards(&facts, start) && !none.daemon_is_awaited(start));
        let mut both = begun(vec![Endpoint::plain(BackendType::Udp), Endpoint::plain(BackendType::Ipsec)]);
        assert!(both.forwards(&facts, start) && both.is_missing());
        assert!(both.daemon_is_awaited(start));
        assert!(!both.forwards(&facts, start + START) && !both.daemon_is_awaited(start + START));
    }
}
