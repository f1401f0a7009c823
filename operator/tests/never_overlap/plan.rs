//! What an administrator does to the ClusterNetwork.

use serde_json::{Value, json};

use super::store::entry;

/// The ClusterNetwork as its administrator edits it, within what admission allows.
pub struct Plan {
    pub entries: Vec<Value>,
    pub appended: usize,
    pub mode: &'static str,
}

/// What is appended, in turn: also ranges of entries that were removed, cut otherwise.
const APPENDS: [(&str, u8); 6] = [
    ("10.1.0.0/23", 24),
    ("fd00::/62", 64),
    ("10.0.0.0/22", 25),
    ("10.0.0.0/22", 23),
    ("10.1.0.0/23", 26),
    ("10.2.0.0/24", 24),
];

impl Plan {
    pub fn spec(&self) -> Value {
        json!({ "cidrs": self.entries, "podCIDRMode": self.mode })
    }

    pub fn append(&mut self) {
        let (cidr, mask) = APPENDS[self.appended % APPENDS.len()];
        let overlaps = |other: &Value| {
            let other: tartan_crds::Cidr = other["cidr"].as_str().unwrap().parse().unwrap();
            other.overlaps(cidr.parse().unwrap())
        };
        if !self.entries.iter().any(overlaps) {
            self.entries.push(entry(&format!("e{}", self.appended), cidr, mask));
        }
        self.appended += 1;
    }

    pub fn drain(&mut self) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.get("drain").is_none()) {
            entry["drain"] = json!(true);
        }
    }

    pub fn recut(&mut self) -> [Value; 3] {
        self.entries[0]["drain"] = json!(true);
        let drained = self.spec();
        let old = self.entries.remove(0);
        let placeholder =
            entry(&format!("p{}", self.appended), &format!("10.77.{}.0/24", self.appended % 256), 24);
        self.entries.push(placeholder);
        let removed = self.spec();
        let cidr = old["cidr"].as_str().unwrap();
        let masks: &[u8] = if cidr.contains(':') { &[63, 65, 64] } else { &[25, 26, 24] };
        let mask = masks[self.appended % masks.len()];
        self.entries.insert(0, entry(&format!("r{}", self.appended), cidr, mask));
        self.appended += 1;
        [drained, removed, self.spec()]
    }

    pub fn remove_drained(&mut self) {
        if self.entries.len() > 1 {
            self.entries.retain(|entry| entry.get("drain").is_none());
        }
        if self.entries.is_empty() {
            self.append();
            if self.entries.is_empty() {
                self.entries.push(entry("last", "10.99.0.0/22", 24));
            }
        }
    }
}
