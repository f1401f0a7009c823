//! Carrying out a plan.
//!
//! Steps run in their order. Runs of steps of one kind that need no answer in between (neighbours,
//! forwarding entries, routes) go to the kernel in batches, each with its own acknowledgement: one bad
//! peer costs the others nothing.

use std::collections::BTreeMap;

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
    packet_route::RouteNetlinkMessage,
};

use super::{
    Kernel,
    encode::{self, Indexes},
    error::{ApplyError, WIREGUARD_PROCESS_ABSENT, errno},
    offload,
    socket::RequestError,
    tun,
    wireguard::{self, WireguardLink},
};
use crate::{
    mark,
    model::{Action, Key, LinkKind, Plan, Preshared, Step, Value},
};

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps that succeeded, by kind of object and action.
    pub applied: BTreeMap<(&'static str, Action), usize>,
    pub failures: Vec<Failure>,
}

/// A step that failed. Those after it were tried all the same.
#[derive(Debug)]
pub struct Failure {
    pub step: Step,
    pub error: ApplyError,
}

impl Outcome {
    fn note(&mut self, step: &Step, result: Result<(), ApplyError>) {
        match result {
            Ok(()) => {
                *self.applied.entry((step.key.kind(), step.action)).or_default() += 1;
                fail_point();
            }
            Err(error) => self.failures.push(Failure { step: step.clone(), error }),
        }
    }
}

impl Outcome {
    fn note_all(&mut self, steps: &[Step], results: impl IntoIterator<Item = Result<(), ApplyError>>) {
        for (step, result) in steps.iter().zip(results) {
            self.note(step, gone_is_deleted(step, result));
        }
    }
}

impl Kernel {
    /// Carries out the steps of `plan` in their order.
    pub async fn apply(&mut self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        let mut links = self.indexes().await;
        let mut rest = plan.steps.as_slice();
        while let Some((step, after)) = rest.split_first() {
            let way = way(&step.key);
            if way != Way::Single {
                let length = rest.iter().take_while(|other| self::way(&other.key) == way).count();
                let (batch, after) = rest.split_at(if may_die() { 1 } else { length });
                match way {
                    Way::Policies => outcome.note_all(batch, self.apply_policies(batch).await),
                    Way::Ike => {
                        let results = self.ike.apply(batch).await;
                        let results = results.into_iter().map(|result| result.map_err(ApplyError::Ike));
                        outcome.note_all(batch, results);
                    }
                    Way::Routes | Way::Single => self.apply_batch(batch, &links, &mut outcome).await,
                }
                rest = after;
                continue;
            }
            let result = self.apply_one(step, &links).await;
            outcome.note(step, result);
            if matches!(step.key, Key::Link(_)) {
                links = self.indexes().await;
            }
            rest = after;
        }
        outcome
    }

    /// Empty where the links can't be listed: the steps that need one then fail by name.
    async fn indexes(&mut self) -> Indexes {
        let links = self.links().await.unwrap_or_default();
        self.learn_user_space(&links);
        links.into_values().map(|link| (link.name, link.index)).collect()
    }

    async fn apply_batch(&self, steps: &[Step], links: &Indexes, outcome: &mut Outcome) {
        let (mut sent, mut messages) = (vec![], vec![]);
        for step in steps {
            match message(step, links) {
                Ok(message) => {
                    sent.push(step);
                    messages.push(message);
                }
                Err(error) => outcome.note(step, gone_is_deleted(step, Err(error))),
            }
        }
        for (step, result) in sent.into_iter().zip(self.socket.send(messages).await) {
            outcome.note(step, gone_is_deleted(step, result.map_err(ApplyError::Netlink)));
        }
    }

    async fn apply_one(&mut self, step: &Step, links: &Indexes) -> Result<(), ApplyError> {
        match (&step.key, &step.value, step.action) {
            (Key::Link(_), ..) => self.apply_link(step, links).await,
            (Key::Port(_), ..) => self.apply_port(step, links).await,
            (Key::Sysctl(name), Value::Sysctl(sysctl), _) => {
                let path = self.sysctls.path(name);
                self.sysctls.write(name, &sysctl.value).map_err(|source| ApplyError::Sysctl { path, source })
            }
            (Key::WireguardDevice(link), Value::WireguardDevice(device), _) => {
                let link = self.known_wireguard_link(link)?;
                let key =
                    self.keys.values().find(|key| key.public() == device.key).ok_or(ApplyError::NoKey)?;
                let result = wireguard::set_device(&link, device, key);
                // Its peers need not be tried where this is not answered; it may have come meanwhile.
                if matches!(&result, Err(error) if error.reason() == WIREGUARD_PROCESS_ABSENT) {
                    self.silent.insert(link.name.to_owned());
                } else {
                    self.silent.remove(link.name);
                }
                result.map_err(ApplyError::Wireguard)
            }
            (Key::WireguardPeer { .. }, Value::WireguardPeer(peer), Action::Create)
                if peer.preshared == Preshared::Missing =>
            {
                Err(ApplyError::NoPresharedKey)
            }
            (Key::WireguardPeer { link, key }, Value::WireguardPeer(peer), action) => {
                let before = match &step.before {
                    Some(Value::WireguardPeer(before)) => Some(before),
                    _ => None,
                };
                if self.silent.contains(link) && action != Action::Delete {
                    return Err(ApplyError::WireguardSilent { link: link.clone() });
                }
                let link = self.known_wireguard_link(link)?;
                let result = wireguard::set_peer(&link, *key, (action, peer), before);
                if result.is_ok() && action != Action::Delete {
                    self.told.tell(link.name, *key, peer.endpoint);
                }
                gone_is_deleted(step, result.map_err(ApplyError::Wireguard))
            }
            (Key::Offload(link), Value::Offload(wanted), _) => {
                offload::set_tx_checksum(link, wanted.tx_checksum)
                    .map_err(|source| ApplyError::Offload { link: link.clone(), source })
            }
            (Key::NftTable, _, Action::Delete) => self.nft.delete().await.map_err(ApplyError::Nft),
            (Key::NftTable, Value::NftTable(wanted), _) => {
                let before = match &step.before {
                    Some(Value::NftTable(before)) => Some(before),
                    _ => None,
                };
                self.nft.apply(wanted, before).await.map_err(ApplyError::Nft)
            }
            (Key::ForwardException(chain), _, Action::Delete) => {
                self.nft.delete_forward(*chain).await.map_err(ApplyError::Nft)
            }
            (Key::ForwardException(chain), ..) => self.nft.set_forward(*chain).await.map_err(ApplyError::Nft),
            _ => Err(ApplyError::Mismatch),
        }
    }

    async fn apply_link(&mut self, step: &Step, links: &Indexes) -> Result<(), ApplyError> {
        let (Key::Link(name), Value::Link(link)) = (&step.key, &step.value) else {
            return Err(ApplyError::Mismatch);
        };
        match step.action {
            Action::Delete => {
                let Some(index) = links.get(name) else { return Ok(()) };
                self.request(encode::delete_link(*index), 0).await
            }
            Action::Replace => self.request(encode::set_link(name, link), 0).await,
            Action::Create => {
                let failed = |source| ApplyError::Tun { link: name.clone(), source };
                match encode::new_link(name, link, links)? {
                    None => tun::create(name, true).map_err(failed)?,
                    Some(message) => match self.request(message, NLM_F_CREATE | NLM_F_EXCL).await {
                        Err(ApplyError::Netlink(error))
                            if link.kind == LinkKind::Wireguard
                                && error.errno() == Some(errno::EOPNOTSUPP)
                                && self.options.user_wireguard.is_some() =>
                        {
                            tun::create(name, false).map_err(failed)?;
                        }
                        result => result?,
                    },
                }
                // Killed here, the link has no mark yet: observing knows it by name, kind and hardware address.
                self.request(encode::set_link(name, link), 0).await
            }
        }
    }

    fn known_wireguard_link(&self, name: &str) -> Result<WireguardLink, ApplyError> {
        let known = mark::WIREGUARD.into_iter().find(|known| *known == name);
        known.map(|name| self.wireguard_link(name)).ok_or(ApplyError::Mismatch)
    }

    /// A link that has gone needs nothing: its pod ended.
    async fn apply_port(&self, step: &Step, links: &Indexes) -> Result<(), ApplyError> {
        let (Key::Port(name), Value::Port(wanted)) = (&step.key, &step.value) else {
            return Err(ApplyError::Mismatch);
        };
        let Some(port) = links.get(name).copied() else { return Ok(()) };
        let messages = if step.action == Action::Delete {
            vec![encode::forget_port(port)]
        } else {
            let bridge = encode::index(links, mark::BRIDGE)?;
            vec![encode::set_port(port, bridge), encode::set_hairpin(port, wanted.hairpin)]
        };
        for message in messages {
            match self.request(message, 0).await {
                Err(ApplyError::Netlink(error)) if error.errno() == Some(errno::ENODEV) => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    async fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<(), ApplyError> {
        let mut results = self.socket.send(vec![(message, flags)]).await;
        results.pop().unwrap_or(Err(RequestError::Closed)).map_err(ApplyError::Netlink)
    }
}

/// To whom a step goes, and whether with others of its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Single,
    Routes,
    Policies,
    Ike,
}

fn way(key: &Key) -> Way {
    match key {
        Key::Address { .. }
        | Key::Neighbour { .. }
        | Key::Fdb { .. }
        | Key::UdpPeer(_)
        | Key::Route { .. } => Way::Routes,
        Key::XfrmPolicy { .. } => Way::Policies,
        Key::IkeCredentials | Key::IkeConnection(_) | Key::IkeAssociation(_) => Way::Ike,
        Key::Link(_)
        | Key::Port(_)
        | Key::Offload(_)
        | Key::Sysctl(_)
        | Key::NftTable
        | Key::WireguardDevice(_)
        | Key::WireguardPeer { .. }
        | Key::ForwardException(_) => Way::Single,
    }
}

/// The message of a step with its flags.
fn message(step: &Step, links: &Indexes) -> Result<(RouteNetlinkMessage, u16), ApplyError> {
    let delete = step.action == Action::Delete;
    let flags = match step.action {
        Action::Delete => 0,
        // Never replace what somebody else made in the meantime.
        Action::Create => NLM_F_CREATE | NLM_F_EXCL,
        Action::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    };
    let message = match (&step.key, &step.value) {
        (Key::Address { link, address }, Value::Address(_)) => {
            let message = encode::address(encode::index(links, link)?, *address);
            if delete {
                RouteNetlinkMessage::DelAddress(message)
            } else {
                RouteNetlinkMessage::NewAddress(message)
            }
        }
        (Key::Neighbour { link, address }, Value::Neighbour(value)) => {
            let index = encode::index(links, link)?;
            // A neighbour that the kernel learned may be there already: ours overrules it.
            let flags = if delete { 0 } else { NLM_F_CREATE | NLM_F_REPLACE };
            let message = encode::neighbour(index, *address, (!delete).then_some(value));
            let message = if delete {
                RouteNetlinkMessage::DelNeighbour(message)
            } else {
                RouteNetlinkMessage::NewNeighbour(message)
            };
            return Ok((message, flags));
        }
        (Key::Fdb { link, mac }, Value::Fdb(value)) => {
            let message = encode::fdb(encode::index(links, link)?, *mac, value);
            if delete {
                RouteNetlinkMessage::DelNeighbour(message)
            } else {
                RouteNetlinkMessage::NewNeighbour(message)
            }
        }
        (Key::UdpPeer(subnet), Value::UdpPeer(value)) => {
            let message = encode::udp_peer(*subnet, value, links)?;
            if delete {
                RouteNetlinkMessage::DelRoute(message)
            } else {
                RouteNetlinkMessage::NewRoute(message)
            }
        }
        (Key::Route { destination, metric }, Value::Route(value)) => {
            let message = encode::route(*destination, *metric, value, links)?;
            if delete {
                RouteNetlinkMessage::DelRoute(message)
            } else {
                RouteNetlinkMessage::NewRoute(message)
            }
        }
        _ => return Err(ApplyError::Mismatch),
    };
    Ok((message, flags))
}

/// Deleting what is gone has succeeded.
fn gone_is_deleted(step: &Step, result: Result<(), ApplyError>) -> Result<(), ApplyError> {
    match result {
        Err(ApplyError::NoLink(_)) if step.action == Action::Delete => Ok(()),
        Err(ApplyError::Wireguard(error)) if step.action == Action::Delete && error.is_gone() => Ok(()),
        Err(ApplyError::Netlink(error))
            if step.action == Action::Delete
                && matches!(
                    error.errno(),
                    Some(errno::ENOENT | errno::ESRCH | errno::ENODEV | errno::EADDRNOTAVAIL)
                ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Set in crash tests, to how many steps are survived.
#[cfg(feature = "failpoints")]
const ABORT_AFTER_STEPS: &str = "TARTAN_TEST_ABORT_AFTER_STEPS";

/// Whether this process is to die between two steps, which therefore go one by one.
fn may_die() -> bool {
    #[cfg(feature = "failpoints")]
    return std::env::var_os(ABORT_AFTER_STEPS).is_some();
    #[cfg(not(feature = "failpoints"))]
    false
}

/// For crash tests: dies after as many steps as `TARTAN_TEST_ABORT_AFTER_STEPS` says.
#[cfg(feature = "failpoints")]
fn fail_point() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    let done = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    let limit = std::env::var(ABORT_AFTER_STEPS).ok().and_then(|text| text.parse::<usize>().ok());
    if limit == Some(done) {
        std::process::abort();
    }
}

#[cfg(not(feature = "failpoints"))]
fn fail_point() {}
