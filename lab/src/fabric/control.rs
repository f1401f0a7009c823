//! The namespace of the control plane: behind the router for the nodes, one veth away for the host.
//!
//! In a virtual machine the control plane is the host's, and the namespace has the machine's network device instead.
//!
//! This veth is the only thing of a lab in the host's network namespace. The kernel removes it with the namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};

use super::Node;
use crate::apiserver::Place;
use crate::home::Home;
use crate::namespace::{Namespace, on_host};
use crate::run::{command, run};
use crate::vm::{HOST, NIC, OWN_ADDRESS};

#[derive(Debug)]
pub(super) struct Control {
    namespace: Namespace,
    address: IpAddr,
}

impl Control {
    /// Without IPv4 everybody reaches it by its IPv6 address, which the host then must have IPv6 for.
    pub(super) fn create(home: &Arc<Home>, router: &Namespace, without_v4: bool) -> Result<Self> {
        // Two fabrics of one process must not find the same addresses free.
        static FINDING: Mutex<()> = Mutex::new(());
        let namespace = Namespace::create(home, "control", None)?;
        let finding = FINDING.lock().unwrap_or_else(PoisonError::into_inner);
        let (host, address) = free_addresses()?;
        let number = u16::try_from(u32::from(address) & 0xffff)?;
        let host_end = format!("tartan{number}");
        home.note_link(&host_end)?;
        on_host(&format!(
            "ip link add {host_end} type veth peer name host netns {}
             ip link set {host_end} addrgenmode none up
             ip address add {host}/30 dev {host_end}",
            namespace.pid()
        ))?;
        drop(finding);
        router.script(&format!(
            "ip link add control type veth peer name fabric netns {}
             ip address add 198.18.255.1/30 dev control
             ip link set control up
             ip route add {address}/32 via 198.18.255.2",
            namespace.pid()
        ))?;
        namespace.script(&format!(
            "echo 1 > /proc/sys/net/ipv4/tcp_orphan_retries
             ip address add {address}/30 dev host
             ip link set host up
             ip address add 198.18.255.2/30 dev fabric
             ip link set fabric up
             ip route add default via 198.18.255.1"
        ))?;
        let address = if without_v4 {
            let six = |end| Ipv6Addr::new(0xfd19, 0, 0, number, 0, 0, 0, end);
            let address = six(2);
            on_host(&format!("ip address add {}/126 dev {host_end} nodad", six(1)))?;
            router.script(&format!(
                "ip address add fd18:ff::1/126 dev control nodad
                 ip -6 route add {address}/128 via fd18:ff::2"
            ))?;
            namespace.script(&format!(
                "ip address add {address}/126 dev host nodad
                 ip address add fd18:ff::2/126 dev fabric nodad
                 ip -6 route add default via fd18:ff::1"
            ))?;
            IpAddr::V6(address)
        } else {
            IpAddr::V4(address)
        };
        namespace.wait_up(&["host", "fabric"])?;
        router.wait_up(&["control"])?;
        std::fs::write(home.join("control"), address.to_string())?;
        Ok(Self { namespace, address })
    }

    pub(super) fn attach(home: &Arc<Home>) -> Result<Option<Self>> {
        let Some(namespace) = Namespace::find(home, "control") else { return Ok(None) };
        let address = std::fs::read_to_string(home.join("control"))?.parse()?;
        Ok(Some(Self { namespace, address }))
    }

    /// In a virtual machine: takes the machine's network device, and leads the nodes and the machine to the host by it.
    pub(super) fn lead_to_host(&self, router: &Namespace) -> Result<()> {
        let Self { namespace, address } = self;
        on_host(&format!("ip link set {NIC} netns {}", namespace.pid()))?;
        namespace.script(&format!(
            "echo 1 > /proc/sys/net/ipv4/ip_forward
             ip address add {OWN_ADDRESS} dev {NIC}
             ip link set {NIC} up
             nft 'table ip host {{ chain out {{ type nat hook postrouting priority srcnat; oifname {NIC} masquerade; }}; }}'"
        ))?;
        namespace.wait_up(&[NIC])?;
        router.script(&format!("ip route add {HOST}/32 via 198.18.255.2"))?;
        on_host(&format!("ip route add {HOST}/32 via {address}"))
    }

    pub(super) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(super) fn place(&self) -> Place {
        Place { enter: self.namespace.enter(), address: self.address }
    }
}

/// The part of [`Control::lead_to_host`] for a node that has no IPv4 on its uplink.
pub(super) fn lead_to_host_by_v6(router: &Namespace, node: &Node) -> Result<()> {
    let (address, via, segment) = (node.address(), node.address_v6(), node.segment());
    router.script(&format!("ip route add {address}/32 via inet6 {via} dev seg{segment}"))?;
    node.script(&format!(
        "ip address add {address}/32 dev lo
         ip route add {HOST}/32 via inet6 fd18:{segment}::1 dev eth0 src {address}"
    ))?;
    Ok(())
}

/// Two addresses of a /30 in 198.19.0.0/16 (set aside for tests of network devices) that the host does not have yet.
/// The process id spreads labs of several processes that start at the same moment.
fn free_addresses() -> Result<(Ipv4Addr, Ipv4Addr)> {
    let used = run(&mut command(&["ip", "-4", "-oneline", "address"]))?.ok()?.stdout;
    let base = u32::from(Ipv4Addr::new(198, 19, 0, 0));
    let start = std::process::id() % 16_384;
    for step in 0..16_384 {
        let network = base + (start + step) % 16_384 * 4;
        let host = Ipv4Addr::from(network + 1);
        if !used.contains(&format!(" {host}/")) {
            return Ok((host, Ipv4Addr::from(network + 2)));
        }
    }
    bail!("198.19.0.0/16 is in use on this host: no address is left for the control plane")
}
