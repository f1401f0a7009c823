//! The objects of one kind, kept up to date from a watch. Pure.

use std::collections::BTreeMap;

/// What a watch delivers, by object name.
#[derive(Clone, Debug)]
pub enum Delta<T> {
    /// A list begins.
    Restart,
    /// An object of a list, or why it can't be read.
    Listed(String, Result<T, String>),
    /// The list is complete.
    Synced,
    Set(String, Result<T, String>),
    Gone(String),
}

#[derive(Debug)]
pub struct Store<T> {
    items: BTreeMap<String, T>,
    unreadable: BTreeMap<String, String>,
    incoming: Option<Incoming<T>>,
    synced: bool,
}

#[derive(Debug)]
struct Incoming<T> {
    items: BTreeMap<String, T>,
    unreadable: BTreeMap<String, String>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), unreadable: BTreeMap::new(), incoming: None, synced: false }
    }
}

impl<T: Clone + PartialEq> Store<T> {
    pub fn items(&self) -> &BTreeMap<String, T> {
        &self.items
    }

    pub fn unreadable(&self) -> &BTreeMap<String, String> {
        &self.unreadable
    }

    pub fn synced(&self) -> bool {
        self.synced
    }

    /// True where something changed.
    pub fn apply(&mut self, delta: Delta<T>) -> bool {
        match delta {
            Delta::Restart => {
                self.incoming = Some(Incoming { items: BTreeMap::new(), unreadable: BTreeMap::new() });
                false
            }
            Delta::Listed(name, object) => {
                let Some(incoming) = &mut self.incoming else { return false };
                match object {
                    Ok(object) => {
                        incoming.items.insert(name, object);
                    }
                    Err(error) => {
                        // What worked goes on: the last version that could be read stays.
                        if let Some(old) = self.items.get(&name) {
                            incoming.items.insert(name.clone(), old.clone());
                        }
                        incoming.unreadable.insert(name, error);
                    }
                }
                false
            }
            Delta::Synced => {
                let Some(Incoming { items, unreadable }) = self.incoming.take() else { return false };
                let changed = !self.synced || items != self.items || unreadable != self.unreadable;
                self.synced = true;
                self.items = items;
                self.unreadable = unreadable;
                changed
            }
            Delta::Set(name, Ok(object)) => {
                let repaired = self.unreadable.remove(&name).is_some();
                if self.items.get(&name) == Some(&object) {
                    return repaired;
                }
                self.items.insert(name, object);
                true
            }
            Delta::Set(name, Err(error)) => {
                let before = self.unreadable.insert(name, error.clone());
                before.as_ref() != Some(&error)
            }
            Delta::Gone(name) => {
                let readable = self.items.remove(&name).is_some();
                self.unreadable.remove(&name).is_some() || readable
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Store<u8> {
        let mut store = Store::default();
        list(&mut store, names);
        store
    }

    fn list(store: &mut Store<u8>, names: &[&str]) -> bool {
        store.apply(Delta::Restart);
        for name in names {
            store.apply(Delta::Listed((*name).to_owned(), Ok(1)));
        }
        store.apply(Delta::Synced)
    }

    #[test]
    fn nothing_vanishes_before_a_list_is_complete() {
        let mut store = listed(&["a", "b"]);
        store.apply(Delta::Restart);
        store.apply(Delta::Listed("a".into(), Ok(1)));
        assert_eq!(store.items().len(), 2);
        assert!(store.apply(Delta::Synced));
        assert_eq!(store.items().len(), 1);
    }

    #[test]
    fn a_list_that_says_the_same_is_no_change() {
        let mut store = listed(&["a"]);
        assert!(!list(&mut store, &["a"]));
        assert!(!store.apply(Delta::Set("a".into(), Ok(1))));
        assert!(store.apply(Delta::Set("a".into(), Ok(2))));
    }

    #[test]
    fn the_first_list_is_a_change_also_when_it_is_empty() {
        let mut store: Store<u8> = Store::default();
        assert!(!store.synced());
        assert!(list(&mut store, &[]));
        assert!(store.synced());
    }

    #[test]
    fn an_object_that_turns_unreadable_keeps_its_last_good_version() {
        let mut store = listed(&["a"]);
        assert!(store.apply(Delta::Set("a".into(), Err("nonsense".into()))));
        assert_eq!(store.items().get("a"), Some(&1));
        assert_eq!(store.unreadable().len(), 1);
        store.apply(Delta::Restart);
        store.apply(Delta::Listed("a".into(), Err("nonsense".into())));
        assert!(!store.apply(Delta::Synced));
        assert_eq!(store.items().get("a"), Some(&1));
        assert!(store.apply(Delta::Gone("a".into())));
        assert!(store.items().is_empty() && store.unreadable().is_empty());
    }
}
