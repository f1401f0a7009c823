//! A pool changes its backend: by one edit, watched until everything that the change is made of has happened.

use std::time::{Duration, Instant};

use tartan_crds::{BackendType, NetworkPool, TransitionPhase, conditions::kind};
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
    /// Every node of the only pool sends by `to`, and receives what it did no more. Where `to` encrypts, no node puts
    /// anything clear on the wire from when the pool is said to be sealed, or from before the change if it was.
    pub fn change(&self, pool: &str, from: BackendType, to: BackendType) -> Changed {
        let begin = Instant::now();
        self.api.phases(pool);
        if from.encrypts() && to.encrypts() {
            self.fabric.tap(self.pods).unwrap();
        }
        self.api.merge(&scene::backend(pool, to));
        if !from.encrypts() && to.encrypts() {
            self.wait_until_sealed(pool);
            self.fabric.tap(self.pods).unwrap();
        }
        self.wait_until_settled(pool, from, to);
        let changed = Changed { phases: self.api.phases(pool), took: begin.elapsed() };
        if to.encrypts() {
            let_flow(Duration::from_millis(500));
            for name in self.names() {
                let seen = self.fabric.tapped(&name).unwrap();
                println!("   {name}, sealed: {seen}");
                assert_eq!(seen.clear(), 0, "{from} to {to}, sealed: {name} put on the wire: {seen}");
            }
        }
        changed
    }

    fn wait_until_sealed(&self, pool: &str) {
        wait_for(&format!("{pool} to be sealed"), || {
            let status = self.api.get::<NetworkPool>(pool).unwrap().status.unwrap_or_default();
            let sealed = status.conditions.iter().find(|condition| condition.type_ == kind::SEALED);
            anyhow::ensure!(sealed.is_some_and(|sealed| sealed.status == "True"), "{sealed:?}");
            Ok(())
        });
    }

    /// The operator has nothing left to do, every node says that it sends by `to` and, where that encrypts, takes nothing
    /// else from any other, and no node receives by `from` any more, unless that is the fallback.
    pub fn wait_until_settled(&self, pool: &str, from: BackendType, to: BackendType) {
        wait_for(&format!("{pool} to be through with {from} to {to}"), || {
            let object: NetworkPool = self.api.get(pool).unwrap();
            let status = object.status.unwrap_or_default();
            anyhow::ensure!(status.observed_generation == object.metadata.generation, "not seen yet");
            anyhow::ensure!(status.transition.is_none(), "{:?}", status.transition);
            let left =
                |kinds: &[BackendType]| from != to && from != BackendType::Vxlan && kinds.contains(&from);
            let sealed = if to.encrypts() { self.names().len() - 1 } else { 0 };
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
                anyhow::ensure!(usize::try_from(status.sealed_peers) == Ok(sealed), "{name}: {status:?}");
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
        self.faults_by(nodes, kind, BackendType::Vxlan)
    }

    /// Where plain routes join the nodes of one link, and the overlay all others.
    pub fn wire_faults_direct(&self, overlay: BackendType) -> Vec<String> {
        self.faults_by(&self.names(), BackendType::HostGw, overlay)
    }

    fn faults_by(&self, nodes: &[String], kind: BackendType, fallback: BackendType) -> Vec<String> {
        let faulty = |(name, seen): &(String, Tapped)| {
            let own = self.fabric.node(name).segment();
            let others = self.fabric.nodes().iter().filter(|node| node.name() != name);
            let (near, far): (Vec<_>, Vec<_>) = others.partition(|node| node.segment() == own);
            let mut used = vec![kind];
            if kind == BackendType::HostGw {
                used.retain(|_| !near.is_empty());
                used.extend((!far.is_empty()).then_some(fallback));
            }
            let (mut rest, mut missing) = (*seen, false);
            for kind in used {
                if let Some(count) = count_of(&mut rest, kind) {
                    missing |= *count == 0;
                    *count = 0;
                }
            }
            missing || rest != Tapped::default()
        };
        let seen = self.on_the_wire();
        let faulty = seen.iter().filter(|one| nodes.contains(&one.0) && faulty(one));
        faulty.map(|(name, seen)| format!("{name}, sending by {kind}, put on the wire: {seen}")).collect()
    }
}

/// What was seen of this backend's packets.
fn count_of(seen: &mut Tapped, kind: BackendType) -> Option<&mut u64> {
    match kind {
        BackendType::HostGw => Some(&mut seen.plain),
        BackendType::Vxlan => Some(&mut seen.vxlan),
        BackendType::Ipip => Some(&mut seen.ipip),
        BackendType::Udp => Some(&mut seen.udp),
        BackendType::Wireguard => Some(&mut seen.wireguard),
        BackendType::Ipsec => Some(&mut seen.esp),
        BackendType::Alloc | BackendType::Extension => None,
    }
}
