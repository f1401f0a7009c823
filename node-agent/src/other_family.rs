//! A node of a network of two families is given a lease of each, one after the other. Pods that start between the two would
//! have an address of one family for as long as they live.

use std::time::{Duration, Instant};

use tartan_crds::{Family, conditions::kind};
use tartan_datapath::model::Subnet;

use crate::inputs::Snapshot;

/// By then the operator has said of all nodes that join at once what it says. One whose other family is exhausted serves
/// its pods with what it has.
const PATIENCE: Duration = Duration::from_secs(15);

/// Since when a node that serves no pods yet has a lease of one family alone.
#[derive(Debug, Default)]
pub struct OtherFamily(Option<Instant>);

impl OtherFamily {
    /// Whether the node should serve no pods yet by what was built of its leases.
    pub fn is_awaited(&mut self, subnets: &[Subnet], snapshot: &Snapshot<'_>, now: Instant) -> bool {
        if !lacks_one(subnets, snapshot) || is_told(snapshot) {
            self.0 = None;
            return false;
        }
        now.duration_since(*self.0.get_or_insert(now)) < PATIENCE
    }
}

/// The network has an entry of a family that these subnets have none of.
fn lacks_one(subnets: &[Subnet], snapshot: &Snapshot<'_>) -> bool {
    let entries = snapshot.network.map_or(&[][..], |network| &network.entries);
    let has = |v4: bool| subnets.iter().any(|subnet| subnet.primary && subnet.prefix.is_ipv4() == v4);
    entries.iter().any(|entry| !has(entry.range.family() == Family::V4))
}

/// The operator has said that the node has all that it is to have.
fn is_told(snapshot: &Snapshot<'_>) -> bool {
    let status = snapshot.node_net.and_then(|own| own.status.as_deref());
    let conditions = status.map_or(&[][..], |status| &status.conditions);
    conditions.iter().any(|condition| condition.type_ == kind::LEASED && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inputs::Lease,
        testing::{entry, known},
    };

    #[test]
    fn a_node_of_a_network_of_two_families_waits_for_both_leases_but_not_for_long() {
        let mut known = known();
        let now = Instant::now();
        let awaited = |family: &mut OtherFamily, known: &crate::testing::Known, after: Duration| {
            let built = known.build().unwrap();
            family.is_awaited(&built.intent.local.subnets, &known.snapshot(), now + after)
        };
        let mut family = OtherFamily::default();
        assert!(!awaited(&mut family, &known, Duration::ZERO), "one family, one lease");
        known.network.as_mut().unwrap().entries.push(entry("fd00:10::/48", 64));
        assert!(awaited(&mut family, &known, Duration::ZERO));
        assert!(awaited(&mut family, &known, PATIENCE / 2));
        assert!(!awaited(&mut family, &known, PATIENCE), "it serves with what it has");
        let lease = known.leases.values().next().unwrap().clone();
        let six = known.add(Lease { subnet: "fd00:10:0:1::/64".parse().unwrap(), ..lease });
        six.node_uid = "another".into();
        assert!(awaited(&mut OtherFamily::default(), &known, Duration::ZERO), "of a Node of before");
        known.leases.retain(|_, lease| lease.node_uid != "another");
        let lease = known.own().clone();
        known.add(Lease { subnet: "fd00:10:0:1::/64".parse().unwrap(), ..lease });
        assert!(!awaited(&mut OtherFamily::default(), &known, Duration::ZERO), "both are there");
    }
}
