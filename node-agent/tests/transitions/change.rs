//! A pool changes its backend: by one edit, watched until everything that the change is made of has happened.

use std::time::{Duration, Instant};

use tartan_crds::{BackendType, NetworkPool, TransitionPhase};
use tartan_lab::Tapped;

use super::{
    scene::{self, Scene},
    standing::let_flow,
    wait_for,
};

/// How a change went.
#[derive(Debug)]
pub struct Changed {
    pub phases: Vec<TransitionPhase>,
    pub took: Duration,
}

impl Scene {
    /// Every node of the only pool sends by `to`, and receives what it did no more.
    pub fn change(&self, pool: &str, from: BackendType, to: BackendType) -> Changed {
        let begin = Instant::now();
        self.api.phases(pool);
        self.api.merge(&scene::backend(pool, to));
        self.wait_until_settled(pool, from, to);
        Changed { phases: self.api.phases(pool), took: begin.elapsed() }
    }

    /// The operator has nothing left to do, every node says that it sends by `to`, and no node receives by `from`
    /// any more, unless that is the fallback.
    pub fn wait_until_settled(&self, pool: &str, from: BackendType, to: BackendType) {
        wait_for(&format!("{pool} to be through with {from} to {to}"), || {
            let object: NetworkPool = self.api.get(pool).unwrap();
            let status = object.status.unwrap_or_default();
            anyhow::ensure!(status.observed_generation == object.metadata.generation, "not seen yet");
            anyhow::ensure!(status.transition.is_none(), "{:?}", status.transition);
            let left =
                |kinds: &[BackendType]| from != to && from != BackendType::Vxlan && kinds.contains(&from);
            for lease in self.leases() {
                let (spec, name) = (lease.spec, lease.metadata.name);
                anyhow::ensure!(
                    spec.backend.kind == to && !left(&spec.backend.accepts),
                    "{name:?}: {spec:?}"
                );
            }
            for name in self.names() {
                let status = self.node_network(&name).status.unwrap_or_default();
                anyhow::ensure!(status.backend == Some(to) && !left(&status.receives), "{name}: {status:?}");
                anyhow::ensure!(status.receives.contains(&to), "{name}: {status:?}");
                anyhow::ensure!(status.peers_without_path_count == 0, "{name}: {status:?}");
            }
            Ok(())
        });
    }

    /// What each node puts on the wire in a second, in which all pods send to each other.
    pub fn on_the_wire(&self) -> Vec<(String, Tapped)> {
        self.fabric.tap(self.pods).unwrap();
        let_flow(Duration::from_secs(1));
        self.names().into_iter().map(|name| (name.clone(), self.fabric.tapped(&name).unwrap())).collect()
    }

    /// Faults of what is on the wire, where every node sends by `kind`.
    pub fn wire_faults(&self, kind: BackendType) -> Vec<String> {
        self.wire_faults_of(&self.names(), kind)
    }

    /// The same of these nodes alone.
    pub fn wire_faults_of(&self, nodes: &[String], kind: BackendType) -> Vec<String> {
        let faulty = |(name, seen): &(String, Tapped)| {
            let Tapped { plain, vxlan, ipip, udp, wireguard, esp } = *seen;
            let mut expected = Tapped::default();
            match kind {
                BackendType::Vxlan => expected.vxlan = vxlan.max(1),
                BackendType::Ipip => expected.ipip = ipip.max(1),
                BackendType::Udp => expected.udp = udp.max(1),
                BackendType::Wireguard => expected.wireguard = wireguard.max(1),
                BackendType::Ipsec => expected.esp = esp.max(1),
                // Plain routes on one link, and the fallback to all others.
                BackendType::HostGw => {
                    let own = self.fabric.node(name).segment();
                    let others = self.fabric.nodes().iter().filter(|node| node.name() != name);
                    let (near, far): (Vec<_>, Vec<_>) = others.partition(|node| node.segment() == own);
                    expected.plain = if near.is_empty() { 0 } else { plain.max(1) };
                    expected.vxlan = if far.is_empty() { 0 } else { vxlan.max(1) };
                }
                BackendType::Alloc | BackendType::Extension => {}
            }
            *seen != expected
        };
        let seen = self.on_the_wire();
        let faulty = seen.iter().filter(|one| nodes.contains(&one.0) && faulty(one));
        faulty.map(|(name, seen)| format!("{name}, sending by {kind}, put on the wire: {seen}")).collect()
    }
}
