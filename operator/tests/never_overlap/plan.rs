//! What an administrator does to the ClusterNetwork.

use serde_json::{Value, json};
use tartan_crds::Cidr;

use super::store::entry;

/// The ClusterNetwork as its administrator edits it, within what admission allows.
pub struct Plan {
    pub entries: Vec<Value>,
    /// Blocks of the first range that are kept back, for a node or for nobody.
    pub reserved: Vec<(String, Option<String>)>,
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
    pub fn new(entries: Vec<Value>, mode: &'static str) -> Self {
        Self { entries, reserved: vec![], appended: 0, mode }
    }

    pub fn spec(&self) -> Value {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            let range: Cidr = entry["cidr"].as_str().unwrap().parse().unwrap();
            let inside = self.reserved.iter().filter(|(block, _)| range.covers(block.parse().unwrap()));
            let reserved: Vec<Value> = inside
                .map(|(block, node)| match node {
                    Some(node) => json!({ "cidr": block, "nodeName": node }),
                    None => json!({ "cidr": block }),
                })
                .collect();
            if !reserved.is_empty() {
                entry["reserved"] = json!(reserved);
            }
        }
        json!({ "cidrs": entries, "podCIDRMode": self.mode })
    }

    /// Keeps a block back, or gives it free again.
    pub fn reserve(&mut self, block: u8, node: Option<u16>) {
        let block = format!("10.0.{block}.0/24");
        let before = self.reserved.len();
        self.reserved.retain(|(other, _)| *other != block);
        if self.reserved.len() == before {
            self.reserved.push((block, node.map(|number| format!("n{number}"))));
        }
    }

    /// Whether what `node` would get meets what is kept from it.
    pub fn is_kept_from(&self, node: &str, subnet: Cidr) -> bool {
        let kept = |(block, of): &(String, Option<String>)| {
            let block: Cidr = block.parse().unwrap();
            let ranges = self.entries.iter().map(|entry| entry["cidr"].as_str().unwrap().parse::<Cidr>());
            ranges.flatten().any(|range| range.covers(block))
                && block.overlaps(subnet)
                && of.as_deref() != Some(node)
        };
        self.reserved.iter().any(kept)
    }

    pub fn append(&mut self) {
        let (cidr, mask) = APPENDS[self.appended % APPENDS.len()];
        let overlaps = |other: &Value| {
            let other: Cidr = other["cidr"].as_str().unwrap().parse().unwrap();
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
