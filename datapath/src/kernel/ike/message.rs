//! Messages of VICI (strongSwan, src/libcharon/plugins/vici/README.md), as far as we speak it. No IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};

use crate::{
    mark,
    model::{Elements, IkeAuthentication, IkeConnection, IkeSettings, Key, Value},
};

/// A second association of a pair is taken away when the newest one is this old, in seconds: by then both ends
/// send by it.
const SETTLED: u64 = 3;

#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(default = "yes")]
    pub(super) success: bool,
    #[serde(default)]
    pub(super) errmsg: String,
    /// Of a private key that was loaded: the SHA-1 of its public key, in hexadecimal.
    #[serde(default)]
    pub(super) id: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Serialize)]
pub(super) struct Id<'a> {
    pub(super) id: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct Name<'a> {
    pub(super) name: &'a str,
}

#[derive(Debug, Deserialize)]
pub(super) struct Shared {
    #[serde(default)]
    pub(super) keys: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct LoadShared<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    data: &'a str,
    owners: &'a [&'a str],
}

impl<'a> LoadShared<'a> {
    /// A key without owners is for every peer.
    pub(super) fn preshared_key(id: &'a str, data: &'a str) -> Self {
        Self { id, kind: "IKE", data, owners: &[] }
    }

    /// Names what was loaded, and proves nothing: of a kind that no connection of ours asks for, and a name that nobody
    /// has (RFC 2606).
    pub(super) fn note(id: &'a str) -> Self {
        Self { id, kind: "EAP", data: "tartan", owners: &["tartan.invalid"] }
    }
}

/// Certificates, in PEM.
#[derive(Serialize)]
pub(super) struct LoadCertificate<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    flag: &'static str,
    data: &'a str,
}

impl<'a> LoadCertificate<'a> {
    /// One that what it signed is believed for.
    pub(super) fn trusted(data: &'a str) -> Self {
        Self { kind: "X509", flag: "CA", data }
    }

    pub(super) fn own(data: &'a str) -> Self {
        Self { kind: "X509", flag: "NONE", data }
    }
}

/// A private key, in PEM.
#[derive(Serialize)]
pub(super) struct LoadKey<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    data: &'a str,
}

impl<'a> LoadKey<'a> {
    pub(super) fn of(data: &'a str) -> Self {
        Self { kind: "any", data }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Terminate {
    ike_id: String,
    /// In milliseconds; -1: not waited for.
    timeout: String,
}

impl Terminate {
    pub(super) fn of(number: u32) -> Self {
        Self { ike_id: number.to_string(), timeout: "-1".to_owned() }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Connection {
    version: &'static str,
    local_addrs: [String; 1],
    remote_addrs: [String; 1],
    proposals: [String; 1],
    encap: bool,
    mobike: bool,
    /// Both ends may begin at once. Of two associations neither is refused, or cuts the other off; one of the
    /// nodes takes the older away.
    unique: &'static str,
    keyingtries: &'static str,
    dpd_delay: &'static str,
    local: Authentication,
    remote: Authentication,
    children: BTreeMap<String, Child>,
}

#[derive(Debug, Serialize)]
struct Authentication {
    auth: &'static str,
    id: String,
}

#[derive(Debug, Serialize)]
struct Child {
    local_ts: [&'static str; 2],
    remote_ts: [&'static str; 2],
    esp_proposals: [String; 1],
    mode: &'static str,
    /// They are ours, and are there before and after the daemon.
    policies: bool,
    reqid: String,
    if_id_in: String,
    if_id_out: String,
    start_action: &'static str,
    dpd_action: &'static str,
}

/// The selectors are all there is: which packets go to a peer, and which may come from it, is in the policies, so
/// that a node can be given another block without a word between the daemons.
const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];

pub(super) fn connection(wanted: &IkeConnection) -> Connection {
    let IkeConnection { local, remote, local_id, remote_id, request, settings } = wanted;
    let IkeSettings { authentication, esp_proposal, ike_proposal, udp_encapsulation } = settings;
    let number = mark::XFRM_INTERFACE.to_string();
    let child = Child {
        local_ts: ALL,
        remote_ts: ALL,
        esp_proposals: [esp_proposal.clone()],
        mode: "tunnel",
        policies: false,
        reqid: request.to_string(),
        if_id_in: number.clone(),
        if_id_out: number,
        // At once, and again when a packet finds none.
        start_action: "trap|start",
        dpd_action: "restart",
    };
    let auth = match authentication {
        IkeAuthentication::PresharedKey => "psk",
        IkeAuthentication::Certificate => "pubkey",
    };
    let authentication = |id: &String| Authentication { auth, id: id.clone() };
    Connection {
        version: "2",
        local_addrs: [local.to_string()],
        remote_addrs: [remote.to_string()],
        proposals: [ike_proposal.clone()],
        encap: *udp_encapsulation,
        mobike: false,
        unique: "never",
        keyingtries: "0",
        dpd_delay: "30s",
        local: authentication(local_id),
        remote: authentication(remote_id),
        children: BTreeMap::from([(child_name(wanted), child)]),
    }
}

/// The daemon does not tell all of a connection's settings, so its child is named by a digest of them (FNV-1a: only
/// accidents matter here).
fn child_name(wanted: &IkeConnection) -> String {
    let IkeConnection { local, remote, local_id, remote_id, request, settings } = wanted;
    let IkeSettings { authentication, esp_proposal, ike_proposal, udp_encapsulation } = settings;
    let mut text = format!("{local} {remote} {request} {esp_proposal} {ike_proposal} {udp_encapsulation}");
    // The digest of a connection by preshared key must not change: a new agent would negotiate it anew.
    if *authentication == IkeAuthentication::Certificate {
        text.push_str(&format!(" {local_id} {remote_id}"));
    }
    let digest = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("pods-{digest:016x}")
}

/// Of `list-conns`.
#[derive(Debug, Deserialize)]
pub(super) struct SeenConnection {
    #[serde(default)]
    children: BTreeMap<String, SeenChild>,
}

#[derive(Debug, Deserialize)]
struct SeenChild {}

impl SeenConnection {
    /// The wanted value, if this is it; else one that nothing asks for.
    pub(super) fn value(&self, wanted: Option<&Value>) -> IkeConnection {
        match wanted {
            Some(Value::IkeConnection(wanted)) if self.children.contains_key(&child_name(wanted)) => {
                wanted.clone()
            }
            _ => unlike_any(),
        }
    }
}

/// A connection that nothing asks for.
pub(super) fn unlike_any() -> IkeConnection {
    IkeConnection {
        local: Ipv4Addr::UNSPECIFIED.into(),
        remote: Ipv4Addr::UNSPECIFIED.into(),
        local_id: String::new(),
        remote_id: String::new(),
        request: 0,
        settings: IkeSettings {
            authentication: IkeAuthentication::PresharedKey,
            esp_proposal: "other".to_owned(),
            ike_proposal: "other".to_owned(),
            udp_encapsulation: false,
        },
    }
}

/// Of `list-sas`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SeenAssociation {
    uniqueid: String,
    state: String,
    /// In seconds.
    #[serde(default)]
    established: Option<String>,
    #[serde(default)]
    child_sas: BTreeMap<String, SeenChildAssociation>,
}

#[derive(Debug, Deserialize)]
struct SeenChildAssociation {
    state: String,
}

impl SeenAssociation {
    /// Seconds since it carries packets.
    fn age(&self) -> Option<u64> {
        let carries = self.state == "ESTABLISHED"
            && self.child_sas.values().any(|child| matches!(child.state.as_str(), "INSTALLED" | "REKEYED"));
        carries.then(|| self.established.as_deref()?.parse().ok()).flatten()
    }
}

/// Associations that should end: those of connections that are not wanted, and of several that carry packets of
/// one pair, all but the newest; that is for the node with the lower address to decide.
pub(super) fn surplus(seen: &[(String, SeenAssociation)], desired: &Elements) -> BTreeSet<u32> {
    let mut ended = BTreeSet::new();
    let mut pairs: BTreeMap<String, Vec<(u64, u32)>> = BTreeMap::new();
    for (name, association) in seen.iter().filter(|(name, _)| name.starts_with(mark::IKE_PREFIX)) {
        let Ok(number) = association.uniqueid.parse() else { continue };
        match desired.get(&Key::IkeConnection(name.clone())) {
            Some(Value::IkeConnection(wanted)) if wanted.local < wanted.remote => {
                if let Some(age) = association.age() {
                    pairs.entry(name.clone()).or_default().push((age, number));
                }
            }
            Some(_) => {}
            None => _ = ended.insert(number),
        }
    }
    for mut associations in pairs.into_values() {
        // The newest first; of two of one age, the one that has the greater number.
        associations.sort_by_key(|(age, number)| (*age, std::cmp::Reverse(*number)));
        if associations.first().is_some_and(|(age, _)| *age >= SETTLED) {
            ended.extend(associations.iter().skip(1).map(|(_, number)| *number));
        }
    }
    ended
}

/// Peers of wanted connections with which there is no association that carries packets.
pub(super) fn unanswered(seen: &[(String, SeenAssociation)], desired: &Elements) -> BTreeSet<IpAddr> {
    let answered = |name: &str| seen.iter().any(|(other, found)| other == name && found.age().is_some());
    let wanted = desired.iter().filter_map(|(key, value)| match (key, value) {
        (Key::IkeConnection(name), Value::IkeConnection(wanted)) => Some((name, wanted)),
        _ => None,
    });
    wanted.filter(|(name, _)| !answered(name)).map(|(_, wanted)| wanted.remote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(local: &str, remote: &str) -> (Key, Value) {
        let settings = IkeSettings {
            authentication: IkeAuthentication::PresharedKey,
            esp_proposal: "aes128gcm16".to_owned(),
            ike_proposal: "aes256-sha256-modp4096".to_owned(),
            udp_encapsulation: false,
        };
        let connection = IkeConnection {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            local_id: local.to_owned(),
            remote_id: remote.to_owned(),
            request: 7,
            settings,
        };
        (Key::IkeConnection(format!("tartan-{remote}")), Value::IkeConnection(connection))
    }

    fn association(number: u32, established: Option<u64>, child: &str) -> SeenAssociation {
        SeenAssociation {
            uniqueid: number.to_string(),
            state: if established.is_some() { "ESTABLISHED" } else { "CONNECTING" }.to_owned(),
            established: established.map(|age| age.to_string()),
            child_sas: BTreeMap::from([(
                "pods-1".to_owned(),
                SeenChildAssociation { state: child.to_owned() },
            )]),
        }
    }

    #[test]
    fn a_changed_setting_is_another_child() {
        let (_, Value::IkeConnection(first)) = wanted("192.0.2.1", "192.0.2.2") else { panic!() };
        let mut second = first.clone();
        second.settings.udp_encapsulation = true;
        let mut third = first.clone();
        third.settings.authentication = IkeAuthentication::Certificate;
        let seen = SeenConnection { children: BTreeMap::from([(child_name(&first), SeenChild {})]) };
        assert_eq!(seen.value(Some(&Value::IkeConnection(first.clone()))), first);
        for other in [second, third] {
            assert_ne!(seen.value(Some(&Value::IkeConnection(other.clone()))), other);
        }
    }

    #[test]
    fn of_two_associations_the_lower_node_ends_the_older_when_the_newer_is_settled() {
        let lower = Elements::from([wanted("192.0.2.1", "192.0.2.2")]);
        let upper = Elements::from([wanted("192.0.2.2", "192.0.2.1")]);
        let ended = |desired: &Elements, name: &str, ages: &[(u32, Option<u64>, &str)]| {
            let seen: Vec<_> = ages
                .iter()
                .map(|(number, age, child)| (name.to_owned(), association(*number, *age, child)))
                .collect();
            surplus(&seen, desired).into_iter().collect::<Vec<_>>()
        };
        let two = [(1, Some(9), "INSTALLED"), (2, Some(5), "INSTALLED")];
        assert_eq!(ended(&lower, "tartan-192.0.2.2", &two), [1]);
        assert!(ended(&upper, "tartan-192.0.2.1", &two).is_empty());
        let fresh = [(1, Some(9), "INSTALLED"), (2, Some(1), "INSTALLED")];
        assert!(ended(&lower, "tartan-192.0.2.2", &fresh).is_empty());
        let beginning = [(1, Some(9), "INSTALLED"), (2, None, ""), (3, Some(9), "CREATED")];
        assert!(ended(&lower, "tartan-192.0.2.2", &beginning).is_empty());
        let same_age = [(2, Some(4), "INSTALLED"), (1, Some(4), "INSTALLED")];
        assert_eq!(ended(&lower, "tartan-192.0.2.2", &same_age), [1]);
        // Of a connection that is not wanted, all of them; another program's are its own.
        assert_eq!(ended(&lower, "tartan-192.0.2.9", &beginning), [1, 2, 3]);
        assert!(ended(&lower, "office", &two).is_empty());
    }

    #[test]
    fn a_peer_has_answered_when_something_carries_packets_to_it() {
        let desired = Elements::from([wanted("192.0.2.1", "192.0.2.2")]);
        let of =
            |name: &str, age, child| unanswered(&[(name.to_owned(), association(1, age, child))], &desired);
        let silent = BTreeSet::from(["192.0.2.2".parse().unwrap()]);
        assert!(of("tartan-192.0.2.2", Some(0), "INSTALLED").is_empty());
        assert_eq!(of("tartan-192.0.2.2", None, ""), silent);
        assert_eq!(of("tartan-192.0.2.2", Some(9), "CREATED"), silent);
        assert_eq!(of("tartan-192.0.2.3", Some(9), "INSTALLED"), silent);
        assert!(unanswered(&[], &Elements::new()).is_empty());
    }
}
