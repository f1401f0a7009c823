//! Messages of VICI (strongSwan, src/libcharon/plugins/vici/README.md), as far as we speak it. No IO.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{
    mark,
    model::{IkeAuthentication, IkeConnection, IkeSettings, Value},
};

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

/// Of `list-sas`: those of one connection.
#[derive(Debug, Serialize)]
pub(super) struct Association<'a> {
    pub(super) ike: &'a str,
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
    let IkeSettings { authentication: _, esp_proposal, ike_proposal, udp_encapsulation } = settings;
    let mut text = format!("{local} {remote} {request} {esp_proposal} {ike_proposal} {udp_encapsulation}");
    // The digest of a usual connection by preshared key must not change: a new agent would negotiate it anew.
    if wanted.is_named() {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::Key;

    pub(in super::super) fn wanted(local: &str, remote: &str) -> (Key, Value) {
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

    #[test]
    fn a_changed_setting_is_another_child() {
        let (_, Value::IkeConnection(first)) = wanted("192.0.2.1", "192.0.2.2") else { panic!() };
        let mut second = first.clone();
        second.settings.udp_encapsulation = true;
        let mut third = first.clone();
        third.settings.authentication = IkeAuthentication::Certificate;
        let seen = SeenConnection { children: BTreeMap::from([(child_name(&first), SeenChild {})]) };
        assert_eq!(seen.value(Some(&Value::IkeConnection(first.clone()))), first);
        let fourth = IkeConnection { local_id: "203.0.113.1".to_owned(), ..first.clone() };
        for other in [second, third, fourth] {
            assert_ne!(seen.value(Some(&Value::IkeConnection(other.clone()))), other);
        }
    }
}
