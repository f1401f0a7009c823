//! What a round stands on: a fresh intent, the one that was programmed before, or none.

use std::net::IpAddr;

use tartan_crds::conditions::reason;
use tartan_daemon::chain;
use tartan_datapath::{
    kernel::Kernel,
    model::{Deletions, Facts},
};

use crate::{
    brakes::{Programmed, Verdict, judge},
    inputs::Snapshot,
    intent::{self, Built, NotReady, Sources, WireguardKey},
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
    memory: &Memory,
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
    let wireguard_key = match intent::wants_key(node, &snapshot) {
        true => Some(wireguard_key(kernel).await),
        false => None,
    };
    let sources = Sources {
        node,
        snapshot,
        facts: &facts,
        api_server,
        reach_link,
        lost: &memory.lost,
        wireguard_key: wireguard_key.as_ref(),
    };
    match (intent::build(&sources), &memory.held) {
        (Ok(built), _) => {
            let now = Programmed::of(&snapshot);
            let verdict = judge(memory.programmed.as_ref(), &now, &memory.confirmed_gone);
            Ground::Fresh { facts, built, now, verdict }
        }
        (Err(why), Some(built)) => Ground::Held { facts, built: built.clone(), why },
        (Err(why), None) => Ground::None { facts, why, again: false },
    }
}

/// From its file, else of the link that is there: what works goes on, and the trouble is told.
async fn wireguard_key(kernel: &mut Kernel) -> WireguardKey {
    match kernel.wireguard_key() {
        Ok(key) => WireguardKey { key: Some(key), problem: None },
        Err(error) => WireguardKey {
            key: kernel.wireguard_key_in_use().await,
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
