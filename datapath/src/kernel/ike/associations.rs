//! Security associations as the daemon tells them: which should end, and which peers have not answered. No IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Deserialize;

use crate::{
    mark,
    model::{Elements, IkeConnection, Key, Value},
};

/// A second association of a pair is taken away when the newest one is this old, in seconds: by then both ends
/// send by it.
const SETTLED: u64 = 3;

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
    /// Whether it carries packets, also while it is negotiated anew.
    pub(super) fn carries(&self) -> bool {
        let carries = |child: &SeenChildAssociation| {
            matches!(child.state.as_str(), "INSTALLED" | "REKEYING" | "REKEYED")
        };
        matches!(self.state.as_str(), "ESTABLISHED" | "REKEYING") && self.child_sas.values().any(carries)
    }

    /// It is being negotiated: the daemon goes on until the peer answers.
    pub(super) fn begins(&self) -> bool {
        matches!(self.state.as_str(), "CREATED" | "CONNECTING")
    }

    /// Seconds since it carries packets; told of what is not being negotiated anew.
    fn age(&self) -> Option<u64> {
        self.carries().then(|| self.established.as_deref()?.parse().ok()).flatten()
    }
}

/// Associations that should end: those of connections that are not wanted, and of several that carry packets of
/// one pair, all but the newest; that is for the node with the lower identity to decide.
pub(super) fn surplus(seen: &[(String, SeenAssociation)], desired: &Elements) -> BTreeSet<u32> {
    let mut ended = BTreeSet::new();
    let mut pairs: BTreeMap<String, Vec<(u64, u32)>> = BTreeMap::new();
    for (name, association) in seen.iter().filter(|(name, _)| name.starts_with(mark::IKE_PREFIX)) {
        let Ok(number) = association.uniqueid.parse() else { continue };
        match desired.get(&Key::IkeConnection(name.clone())) {
            Some(Value::IkeConnection(wanted)) if is_lower(wanted) => {
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

/// Both ends know both identities, and not each other's addresses where these are translated on the way.
fn is_lower(wanted: &IkeConnection) -> bool {
    let (ours, theirs) = (&wanted.local_id, &wanted.remote_id);
    match (ours.parse::<IpAddr>(), theirs.parse::<IpAddr>()) {
        (Ok(ours), Ok(theirs)) => ours < theirs,
        _ => ours < theirs,
    }
}

/// Peers of wanted connections with which there is no association that carries packets.
pub(super) fn unanswered(seen: &[(String, SeenAssociation)], desired: &Elements) -> BTreeSet<IpAddr> {
    let answered = |name: &str| seen.iter().any(|(other, found)| other == name && found.carries());
    connections(desired).filter(|(name, _)| !answered(name)).map(|(_, wanted)| wanted.remote).collect()
}

/// With their names.
pub(super) fn connections(elements: &Elements) -> impl Iterator<Item = (&String, &IkeConnection)> {
    elements.iter().filter_map(|(key, value)| match (key, value) {
        (Key::IkeConnection(name), Value::IkeConnection(connection)) => Some((name, connection)),
        _ => None,
    })
}

/// Peers of wanted connections with which the daemon negotiates at this time.
pub(super) fn under_way(seen: &[(String, SeenAssociation)], desired: &Elements) -> BTreeSet<IpAddr> {
    let begun = seen.iter().filter(|(_, found)| found.begins());
    let wanted = begun.filter_map(|(name, _)| match desired.get(&Key::IkeConnection(name.clone())) {
        Some(Value::IkeConnection(wanted)) => Some(wanted.remote),
        _ => None,
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::message::tests::wanted, *};

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
        // A translation is on the way: its address is the lower one, and it is known by one that is not.
        let (key, Value::IkeConnection(mut translated)) = wanted("10.0.0.5", "192.0.2.2") else { panic!() };
        translated.local_id = "203.0.113.11".to_owned();
        let translated = Elements::from([(key, Value::IkeConnection(translated))]);
        assert!(ended(&translated, "tartan-192.0.2.2", &two).is_empty());
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
        assert!(of("tartan-192.0.2.2", Some(3600), "REKEYING").is_empty(), "by the keys of before");
        assert_eq!(of("tartan-192.0.2.2", None, ""), silent);
        assert_eq!(of("tartan-192.0.2.2", Some(9), "CREATED"), silent);
        assert_eq!(of("tartan-192.0.2.3", Some(9), "INSTALLED"), silent);
        assert!(unanswered(&[], &Elements::new()).is_empty());
        let begun = |name: &str, age| under_way(&[(name.to_owned(), association(1, age, ""))], &desired);
        assert_eq!(begun("tartan-192.0.2.2", None), silent);
        assert!(begun("tartan-192.0.2.2", Some(9)).is_empty() && begun("tartan-192.0.2.3", None).is_empty());
    }
}
