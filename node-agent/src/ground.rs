//! What a round stands on: a fresh intent, the one that was programmed before, or none.

use std::{net::IpAddr, time::Instant};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tartan_crds::{
    conditions::reason,
    wellknown::{PRESHARED_KEY, WIREGUARD_SECRET},
};
use tartan_daemon::chain;
use tartan_datapath::{
    kernel::Kernel,
    model::{Backend, Deletions, Facts, Present, Preshared},
};

use crate::{
    brakes::{Programmed, Verdict, judge},
    inputs::Snapshot,
    intent::{self, Built, NotReady, Sources, WireguardKey, WireguardKeys},
    round::Memory,
};

/// What to program.
#[derive(Debug)]
pub enum Ground {
    /// The inputs say.
    Fresh { facts: Facts, built: Built, now: Programmed, verdict: Verdict },
    /// The inputs lost what they stood on: what was programmed stays.
    Held { facts: Facts, built: Built, why: NotReady },
    /// Nothing can be programmed, and nothing was by this process.
    /// `again`: the host could not be looked at, so no event will tell that it is better.
    None { facts: Facts, why: NotReady, again: bool },
}

/// Looks at the host and makes up the intent.
pub async fn find(
    node: &str,
    api_server: &[IpAddr],
    snapshot: Snapshot<'_>,
    kernel: &mut Kernel,
    memory: &mut Memory,
) -> Ground {
    let facts = match kernel.facts().await {
        Ok(facts) => facts,
        Err(error) => {
            let message = format!("cannot look at the host: {}", chain(&error));
            let why = NotReady::new(reason::APPLY_FAILED, message);
            // What is not known is taken as good: judging must not add causes of its own.
            let facts = Facts { nft: true, net_admin: true, ..Facts::default() };
            return Ground::None { facts, why, again: true };
        }
    };
    let target = snapshot.node_net.and_then(|own| intent::reach_target(own.spec.uplink.as_ref()));
    let reach_link = match target {
        Some(target) => kernel.route_get(target).await.ok().flatten(),
        None => None,
    };
    let wireguard = wireguard_keys(node, &snapshot, kernel).await;
    let present = present(node, &snapshot, kernel).await;
    let now = Instant::now();
    memory.companions.begin(node, &snapshot, now);
    let forwarder = memory.companions.forwards(&facts, now);
    let sources = Sources {
        node,
        snapshot,
        facts: &facts,
        api_server,
        reach_link,
        lost: &memory.lost,
        lost_links: &memory.lost_links,
        wireguard: &wireguard,
        present: &present,
        forwarder,
    };
    match (intent::build(&sources), &memory.held) {
        (Ok(built), None) if memory.other_family.is_awaited(&built.intent.local.subnets, &snapshot, now) => {
            let message = "this node has a SubnetLease of one family, and the network has two: waiting for the operator";
            let why = NotReady::new(reason::NO_LEASE, message.to_owned());
            Ground::None { facts, why, again: true }
        }
        (Ok(built), _) => {
            let now = Programmed::of(&snapshot);
            let verdict = judge(memory.programmed.as_ref(), &now, &memory.confirmed_gone);
            Ground::Fresh { facts, built, now, verdict }
        }
        (Err(why), Some(built)) => Ground::Held { facts, built: built.clone(), why },
        (Err(why), None) => Ground::None { facts, why, again: false },
    }
}

/// How long nodes may take for new keys before that is worth a word.
const ROTATION: SignedDuration = SignedDuration::from_mins(2);

/// Where a node may have to wait for another. Unreadable, nothing is known of it.
async fn present(node: &str, snapshot: &Snapshot<'_>, kernel: &mut Kernel) -> Present {
    let asked = |backend| intent::is_asked_for(backend, node, snapshot);
    let [wireguard, ipsec] = [Backend::Wireguard, Backend::Ipsec].map(asked);
    let mut found = Present::default();
    if wireguard || ipsec {
        found.ways = kernel.ways().await.unwrap_or_default();
    }
    if ipsec {
        found.associations = kernel.associations().unwrap_or_default();
    }
    found
}

async fn wireguard_keys(node: &str, snapshot: &Snapshot<'_>, kernel: &mut Kernel) -> WireguardKeys {
    let mut found = WireguardKeys::default();
    let wanted = intent::wanted_keys(node, snapshot);
    for generation in &wanted {
        found.keys.insert(*generation, wireguard_key(kernel, *generation).await);
    }
    let Some(network) = snapshot.network.filter(|_| !wanted.is_empty()) else { return found };
    // Unreadable, it is as the kernel's: programming meets the same and tells it.
    found.user_space = kernel.wireguard_in_user_space().await.unwrap_or(false);
    // Unreadable, none is known: then packets go by the keys or the backend of before.
    found.sessions = kernel.wireguard_sessions().unwrap_or_default();
    if wanted.len() > 1 {
        let since = network.keys.as_ref().map(|keys| keys.since);
        found.late = since.is_some_and(|since| Timestamp::now().duration_since(since) > ROTATION);
    }
    if network.wireguard.preshared_key {
        (found.preshared, found.no_preshared) = match kernel.preshared_key() {
            Ok(key) => (Preshared::Key(key), None),
            Err(error) => {
                let remedy =
                    format!("put one into the entry {PRESHARED_KEY} of the Secret {WIREGUARD_SECRET}");
                let message = format!("{}: {remedy}, as `wg genpsk` makes them", chain(&error));
                (Preshared::Missing, Some(message))
            }
        };
    }
    found
}

/// From its file, else of the link that is there: what works goes on, and the trouble is told.
async fn wireguard_key(kernel: &mut Kernel, generation: u32) -> WireguardKey {
    match kernel.wireguard_key(generation) {
        Ok(key) => WireguardKey { key: Some(key), problem: None },
        Err(error) => WireguardKey {
            key: kernel.wireguard_key_in_use(generation).await,
            problem: Some(format!("no WireGuard key: {}", chain(&error))),
        },
    }
}

impl Ground {
    pub fn built(&self) -> Option<&Built> {
        match self {
            Self::Fresh { built, .. } | Self::Held { built, .. } => Some(built),
            Self::None { .. } => None,
        }
    }

    pub fn facts(&self) -> &Facts {
        match self {
            Self::Fresh { facts, .. } | Self::Held { facts, .. } | Self::None { facts, .. } => facts,
        }
    }

    pub fn deletions(&self) -> Deletions {
        match self {
            Self::Fresh { verdict, .. } => verdict.deletions(),
            Self::Held { .. } | Self::None { .. } => Deletions::Frozen,
        }
    }

    /// Why nothing is deleted, for a condition.
    pub fn frozen(&self) -> Option<String> {
        match self {
            Self::Fresh { verdict: Verdict::Confirm { message, .. }, .. } => Some(message.clone()),
            Self::Held { why, .. } => {
                Some(format!("what was set up stays as it is, though its ground is gone: {}", why.message))
            }
            Self::Fresh { verdict: Verdict::Go, .. } | Self::None { .. } => None,
        }
    }

    /// Why this node's network is not to be called ready. A ground that was deleted under a node that works
    /// is no such reason: pods go on.
    pub fn missing(&self) -> Option<&NotReady> {
        match self {
            Self::Fresh { .. } => None,
            Self::Held { why, .. } => {
                let deleted = [reason::NO_CLUSTER_NETWORK, reason::NO_LEASE, reason::INPUTS_INCOMPLETE];
                (!deleted.contains(&why.reason)).then_some(why)
            }
            Self::None { why, .. } => Some(why),
        }
    }
}
