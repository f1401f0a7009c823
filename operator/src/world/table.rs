//! [`Table`]: the objects of one kind as far as the watch has told, kept right against its races.
//!
//! Three sources meet here: complete lists, single watch events, and the answers to our own writes. An
//! answer is newer than the watch, so an event that is older than it must not undo it, and a list that was
//! asked for before a write must not lose what was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

/// What identifies an object and one version of it.
///
/// Two are equal when they are of the same object: a new version alone is no news.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    pub name: String,
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
}

impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.uid == other.uid
    }
}

impl Meta {
    /// Whether this is an earlier version of the same object than `other`.
    fn is_older_than(&self, other: &Self) -> bool {
        // Resource versions are decimal numbers that grow, and may be compared (Kubernetes 1.35 says so,
        // etcd always did). Where one is not a number nothing is older.
        match (self.version.parse::<u64>(), other.version.parse::<u64>()) {
            (Ok(mine), Ok(others)) => self.uid == other.uid && mine < others,
            _ => false,
        }
    }
}

/// An object that a [`Table`] holds. Its `PartialEq` compares what decisions depend on.
pub trait Record: PartialEq {
    fn meta(&self) -> &Meta;
}

/// News of one kind.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// All objects, by a list that was asked for after `since`.
    Listed { objects: Vec<T>, since: Instant },
    /// An object was created or changed.
    Seen(T),
    /// An object was deleted; its last version.
    Gone(T),
}

/// The objects of one kind, by name.
#[derive(Clone, Debug)]
pub struct Table<T> {
    objects: BTreeMap<String, T>,
    /// When the API server had answered our write of an object; what a running list may miss.
    written: BTreeMap<String, Instant>,
    doubtful: BTreeSet<String>,
    complete: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            written: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            complete: false,
        }
    }
}

impl<T: Record> Table<T> {
    /// Takes in news. `true` where something changed that decisions may depend on.
    pub fn apply(&mut self, change: Change<T>) -> bool {
        match change {
            Change::Listed { objects, since } => self.replace(objects, since),
            Change::Seen(object) => self.see(object),
            Change::Gone(object) => self.remove(object.meta()),
        }
    }

    /// Takes in the answer to a write or a read of our own, which came at `at`.
    pub fn learn(&mut self, object: T, at: Instant) {
        let name = object.meta().name.clone();
        self.doubtful.remove(&name);
        self.see(object);
        self.written.insert(name, at);
    }

    /// The API server said that there is no such object.
    pub fn forget(&mut self, name: &str) -> bool {
        self.doubtful.remove(name);
        self.written.remove(name);
        self.objects.remove(name).is_some()
    }

    /// Marks an object whose true state is unknown: a write's outcome is not known, or it conflicted.
    pub fn doubt(&mut self, name: &str) {
        self.doubtful.insert(name.to_owned());
    }

    /// Objects to be read again before they are relied on.
    pub fn doubtful(&self) -> impl Iterator<Item = &str> {
        self.doubtful.iter().map(String::as_str)
    }

    /// Whether a complete list has been seen since the start.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.objects.get(name)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.objects.contains_key(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    fn replace(&mut self, objects: Vec<T>, since: Instant) -> bool {
        self.written.retain(|_, at| *at > since);
        let mut old = std::mem::take(&mut self.objects);
        let mut changed = !self.complete;
        self.complete = true;
        for object in objects {
            let name = object.meta().name.clone();
            match old.remove(&name) {
                // Only an answer to a write can be newer than a list that was asked for later; where nothing was written,
                // the store has gone back to an older state, which is the truth now.
                Some(known)
                    if self.written.contains_key(&name) && object.meta().is_older_than(known.meta()) =>
                {
                    self.objects.insert(name, known);
                }
                known => {
                    changed |= known.as_ref() != Some(&object);
                    self.objects.insert(name, object);
                }
            }
        }
        for (name, object) in old {
            if self.written.contains_key(&name) {
                // Written while the list was on its way. Whether it still exists is asked.
                self.doubtful.insert(name.clone());
                self.objects.insert(name, object);
            }
            changed = true;
        }
        changed
    }

    fn see(&mut self, object: T) -> bool {
        match self.objects.get(&object.meta().name) {
            Some(known) if object.meta().is_older_than(known.meta()) => false,
            known => {
                let changed = known != Some(&object);
                self.objects.insert(object.meta().name.clone(), object);
                changed
            }
        }
    }

    fn remove(&mut self, gone: &Meta) -> bool {
        // The deletion of an object whose successor of the same name is known already is old news.
        match self.objects.get(&gone.name) {
            Some(known) if known.meta().uid == gone.uid => self.forget(&gone.name),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Thing {
        meta: Meta,
        value: u8,
    }

    impl Record for Thing {
        fn meta(&self) -> &Meta {
            &self.meta
        }
    }

    fn thing(name: &str, uid: &str, version: u32, value: u8) -> Thing {
        Thing { meta: Meta { name: name.into(), uid: uid.into(), version: version.to_string() }, value }
    }

    fn values(table: &Table<Thing>) -> Vec<(&str, u8)> {
        table.iter().map(|thing| (thing.meta.name.as_str(), thing.value)).collect()
    }

    #[test]
    fn an_event_older_than_our_own_write_does_not_undo_it() {
        let mut table = Table::default();
        table.learn(thing("a", "1", 12, 2), Instant::now());
        assert!(!table.apply(Change::Seen(thing("a", "1", 9, 1))));
        assert_eq!(values(&table), [("a", 2)]);
        assert!(table.apply(Change::Seen(thing("a", "1", 100, 3))), "versions are numbers, not text");
        assert_eq!(values(&table), [("a", 3)]);
    }

    #[test]
    fn the_late_deletion_of_a_predecessor_does_not_remove_its_successor() {
        let mut table = Table::default();
        table.learn(thing("a", "2", 20, 2), Instant::now());
        assert!(!table.apply(Change::Gone(thing("a", "1", 10, 1))));
        assert_eq!(values(&table), [("a", 2)]);
        assert!(table.apply(Change::Gone(thing("a", "2", 30, 2))));
        assert!(table.is_empty());
    }

    #[test]
    fn a_list_that_was_asked_for_before_a_write_does_not_lose_what_was_written() {
        let before = Instant::now();
        let after = before + Duration::from_secs(1);
        let mut table = Table::default();
        table.apply(Change::Listed { objects: vec![thing("old", "1", 1, 1)], since: before });
        table.learn(thing("new", "2", 5, 2), after);
        assert!(table.apply(Change::Listed { objects: vec![], since: before }));
        assert_eq!(values(&table), [("new", 2)]);
        assert_eq!(table.doubtful().collect::<Vec<_>>(), ["new"], "and it is asked for");
        table.apply(Change::Listed { objects: vec![], since: after });
        assert!(table.is_empty(), "a list that was asked for afterwards is the truth");
    }

    #[test]
    fn a_list_of_a_store_that_has_gone_back_is_the_truth() {
        let start = Instant::now();
        let mut table = Table::default();
        table.apply(Change::Listed { objects: vec![thing("a", "1", 50, 5)], since: start });
        table.apply(Change::Seen(thing("a", "1", 60, 6)));
        assert!(table.apply(Change::Listed { objects: vec![thing("a", "1", 10, 1)], since: start }));
        assert!(table.apply(Change::Seen(thing("a", "1", 20, 2))));
        assert_eq!(values(&table), [("a", 2)]);
        // While an answer to a write that came during the list is newer.
        table.learn(thing("a", "1", 30, 3), start + Duration::from_secs(2));
        let since = start + Duration::from_secs(1);
        assert!(!table.apply(Change::Listed { objects: vec![thing("a", "1", 20, 2)], since }));
        assert_eq!(values(&table), [("a", 3)]);
    }

    #[test]
    fn a_new_version_without_news_is_no_change() {
        let mut table = Table::default();
        assert!(table.apply(Change::Seen(thing("a", "1", 1, 1))));
        assert!(!table.apply(Change::Seen(thing("a", "1", 2, 1))));
        assert_eq!(table.get("a").unwrap().meta.version, "2");
        assert!(!table.is_complete());
        assert!(table.apply(Change::Listed { objects: vec![], since: Instant::now() }));
        assert!(table.is_complete());
    }
}
