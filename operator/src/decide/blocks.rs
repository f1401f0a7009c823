//! Which addresses are taken, and the search for a free block.
//!
//! A new block is checked against every lease there is, of whatever size and wherever it lies, not only
//! against its own entry: entries may have been changed by force.

use std::{collections::BTreeMap, net::IpAddr};

use tartan_crds::{Cidr, Family};

/// A set of addresses, kept as disjoint ranges from first to last address.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    v4: BTreeMap<u128, u128>,
    v6: BTreeMap<u128, u128>,
}

impl Taken {
    pub fn insert(&mut self, cidr: Cidr) {
        let (first, last) = bounds(cidr);
        let ranges = self.ranges_mut(cidr.family());
        // Prefixes are nested or disjoint, so a range that is met is either covered or covers.
        if ranges.range(..=first).next_back().is_some_and(|(_, end)| *end >= last) {
            return;
        }
        let inner: Vec<u128> = ranges.range(first..=last).map(|(start, _)| *start).collect();
        for start in inner {
            ranges.remove(&start);
        }
        ranges.insert(first, last);
    }

    /// The last address of a taken range that meets `cidr`.
    fn meets(&self, cidr: Cidr) -> Option<u128> {
        let (first, last) = bounds(cidr);
        let (_, end) = self.ranges(cidr.family()).range(..=last).next_back()?;
        (*end >= first).then_some(*end)
    }

    pub fn overlaps(&self, cidr: Cidr) -> bool {
        self.meets(cidr).is_some()
    }

    /// Whether one range that is taken has all of `cidr`.
    pub fn covers(&self, cidr: Cidr) -> bool {
        let (first, last) = bounds(cidr);
        self.ranges(cidr.family()).range(..=first).next_back().is_some_and(|(_, end)| *end >= last)
    }

    /// How many blocks of `entry` meet something that is taken.
    pub fn blocks_met(&self, entry: Cidr, block_len: u8) -> u64 {
        let (first, last) = bounds(entry);
        let Some(bits) = entry.family().bits().checked_sub(block_len) else { return 0 };
        let index = |address: u128| (address - first).checked_shr(bits.into()).unwrap_or(0);
        let ranges = self.ranges(entry.family());
        let before = ranges.range(..first).next_back().filter(|(_, end)| **end >= first);
        let (mut met, mut next) = (0, 0);
        for (start, end) in before.into_iter().chain(ranges.range(first..=last)) {
            let from = index((*start).max(first)).max(next);
            let beyond = index((*end).min(last)) + 1;
            met += beyond.saturating_sub(from);
            next = next.max(beyond);
        }
        u64::try_from(met).unwrap_or(u64::MAX)
    }

    fn ranges(&self, family: Family) -> &BTreeMap<u128, u128> {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn ranges_mut(&mut self, family: Family) -> &mut BTreeMap<u128, u128> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl FromIterator<Cidr> for Taken {
    fn from_iter<I: IntoIterator<Item = Cidr>>(cidrs: I) -> Self {
        let mut taken = Self::default();
        cidrs.into_iter().for_each(|cidr| taken.insert(cidr));
        taken
    }
}

/// A search through the blocks of one entry that never looks at a block twice: during one decision blocks
/// are only taken, never freed.
#[derive(Clone, Debug)]
pub struct Search {
    entry: Cidr,
    block_len: u8,
    next: u64,
}

impl Search {
    pub fn new(entry: Cidr, block_len: u8) -> Self {
        Self { entry, block_len, next: 0 }
    }

    /// The lowest block that meets nothing in `taken`. Ends after at most one look at each block.
    pub fn lowest_free(&mut self, taken: &Taken) -> Option<Cidr> {
        while let Some(block) = self.entry.block(self.block_len, self.next) {
            let Some(end) = taken.meets(block) else { return Some(block) };
            // Behind the range that is in the way, but always at least one block further.
            let (first, _) = bounds(self.entry);
            let shift = u32::from(self.entry.family().bits() - self.block_len);
            let beyond = end.saturating_sub(first).checked_shr(shift).unwrap_or(0);
            self.next = u64::try_from(beyond).unwrap_or(u64::MAX).max(self.next).saturating_add(1);
        }
        None
    }
}

fn bounds(cidr: Cidr) -> (u128, u128) {
    (number(cidr.address()), number(cidr.last()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn taken(texts: &[&str]) -> Taken {
        texts.iter().map(|text| cidr(text)).collect()
    }

    #[track_caller]
    fn check(entry: &str, block_len: u8, in_use: &[&str], free: Option<&str>) {
        let found = Search::new(cidr(entry), block_len).lowest_free(&taken(in_use));
        assert_eq!(found, free.map(cidr), "{entry} in blocks of /{block_len} with {in_use:?}");
    }

    #[test]
    fn the_lowest_free_block_is_found_around_leases_of_any_size() {
        check("10.0.0.0/22", 24, &[], Some("10.0.0.0/24"));
        check("10.0.0.0/22", 24, &["10.0.0.0/24", "10.0.2.0/24"], Some("10.0.1.0/24"));
        check("10.0.0.0/22", 24, &["10.0.0.128/25", "10.0.1.0/30"], Some("10.0.2.0/24"));
        check("10.0.0.0/22", 24, &["10.0.0.0/23"], Some("10.0.2.0/24"));
        check("10.0.0.0/22", 24, &["10.0.0.0/8"], None);
        check("10.0.0.0/22", 24, &["10.0.0.0/23", "10.0.0.64/26", "10.0.2.0/23"], None);
        check("10.0.0.0/24", 24, &["10.0.1.0/24"], Some("10.0.0.0/24"));
        check("0.0.0.0/0", 12, &["0.0.0.0/1"], Some("128.0.0.0/12"));
        check(
            "255.255.255.252/30",
            32,
            &["255.255.255.252/31", "255.255.255.255/32"],
            Some("255.255.255.254/32"),
        );
        check("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64"));
        check("fd00::/48", 64, &["10.0.0.0/8"], Some("fd00::/64"));
        check("::/0", 64, &["::/1"], Some("8000::/64"));
    }

    /// An allocator of this class once looped for ever on a range that was full and of an odd size.
    #[test]
    fn a_search_in_a_full_or_odd_range_ends() {
        check("10.0.0.0/30", 30, &["10.0.0.0/32"], None);
        check("10.0.0.0/32", 32, &["10.0.0.0/32"], None);
        check("255.255.255.255/32", 32, &["255.255.255.255/32"], None);
        check("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0/112", 126, &["ffff::/16"], None);
        let full: Vec<String> = (0..256).map(|third| format!("10.9.{third}.0/24")).collect();
        check("10.9.0.0/16", 24, &full.iter().map(String::as_str).collect::<Vec<_>>(), None);
    }

    proptest! {
        #[test]
        fn what_is_found_is_free_and_nothing_below_it_is(
            blocks in prop::collection::vec((0u32..4096, 20u8..=32), 0..40), block_len in 22u8..=30
        ) {
            let entry = cidr("10.1.0.0/20");
            let in_use: Vec<Cidr> = blocks
                .iter()
                .filter_map(|(offset, length)| Cidr::containing(entry.nth(u64::from(*offset))?, *length))
                .collect();
            let taken: Taken = in_use.iter().copied().collect();
            let free = |block: Cidr| !in_use.iter().any(|used| used.overlaps(block));
            let expected = (0..entry.block_count(block_len))
                .filter_map(|index| entry.block(block_len, index))
                .find(|block| free(*block));
            prop_assert_eq!(Search::new(entry, block_len).lowest_free(&taken), expected);
            let met = (0..entry.block_count(block_len))
                .filter_map(|index| entry.block(block_len, index))
                .filter(|block| !free(*block))
                .count() as u64;
            prop_assert_eq!(taken.blocks_met(entry, block_len), met);
        }
    }
}
