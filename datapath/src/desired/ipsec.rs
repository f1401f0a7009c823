//! What IPsec needs for one peer: policies of the kernel, and a connection of the IKE daemon. Pure.
//!
//! Whatever path leads to the peer now: so both ends can change in any order, and find the associations negotiated.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::{containment::Allowed, receives};
use crate::{
    mark,
    model::{
        Backend, Direction, Elements, Family, IkeAuthentication, IkeConnection, Intent, Key, Peer, Value,
        XfrmPolicy, request,
    },
    pair,
};

pub(super) fn add_peer(intent: &Intent, peer: &Peer, allowed: &Allowed, elements: &mut Elements) {
    if !receives(intent, Backend::Ipsec) || !peer.side.endpoints.ipsec {
        return;
    }
    let Some(remote) = pair::outer_address(&intent.local.side, &peer.side) else { return };
    let Some(local) = own_address(intent, Family::of_address(remote)) else { return };
    // Without what swanctl takes for a separator of sections.
    let name = format!("{}{}", mark::IKE_PREFIX, remote.to_string().replace(['.', ':'], "-"));
    let (local_id, remote_id) = match intent.ipsec.authentication {
        // As the peer knows us, which is by another address than we send from where one is translated on the way.
        IkeAuthentication::PresharedKey => {
            let published = intent.local.side.public_ips.iter().find(|ip| ip.is_ipv4() == local.is_ipv4());
            (published.unwrap_or(&local).to_string(), remote.to_string())
        }
        IkeAuthentication::Certificate => (format!("@{}", intent.local.node), format!("@{}", peer.node)),
    };
    let settings = intent.ipsec.clone();
    let connection = IkeConnection { local, remote, local_id, remote_id, request: request(remote), settings };
    elements.insert(Key::IkeConnection(name), Value::IkeConnection(connection));
    for subnet in &allowed.subnets {
        add_policies(*subnet, local, remote, elements);
    }
}

/// Of the uplink: what the node publishes may be another, which a translation on the way leads here.
fn own_address(intent: &Intent, family: Family) -> Option<IpAddr> {
    let mut addresses = intent.local.uplink.addresses.iter().map(IpNetwork::ip);
    addresses.find(|address| Family::of_address(*address) == family)
}

/// What goes to the subnet by our device is wrapped for this peer alone, and what claims to come from the subnet must
/// have been wrapped by this peer.
fn add_policies(subnet: IpNetwork, local: IpAddr, remote: IpAddr, elements: &mut Elements) {
    let all = if subnet.is_ipv4() {
        IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 0)
    } else {
        IpNetwork::new(Ipv6Addr::UNSPECIFIED.into(), 0)
    };
    let Ok(all) = all else { return };
    for direction in Direction::ALL {
        let ((source, destination), (outer_source, outer_destination)) = match direction {
            Direction::Out => ((all, subnet), (local, remote)),
            Direction::In | Direction::Forward => ((subnet, all), (remote, local)),
        };
        elements.insert(
            Key::XfrmPolicy { direction, source, destination },
            Value::XfrmPolicy(XfrmPolicy {
                source: outer_source,
                destination: outer_destination,
                request: request(remote),
            }),
        );
    }
}
