//! How many addresses of a subnet pods hold, as host-local's store says.
//!
//! host-local keeps one file for each address in use, named after it, in `DATADIR/NETWORK`; a `:` of an
//! IPv6 address is kept as it is on Linux.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use tartan_crds::{AddressUse, Cidr, Family, conditions::reason};
use tartan_datapath::model::Intent;

use super::NETWORK;
use crate::intent::NotReady;

/// The figures change with every pod, and every change is a write to the API.
const AGE: Duration = Duration::from_secs(30);

/// The figures that are told, and since when.
#[derive(Debug, Default)]
pub struct Counted {
    figures: Vec<AddressUse>,
    since: Option<Instant>,
    /// Addresses that pods have, in none of the subnets.
    outside: Vec<IpAddr>,
}

impl Counted {
    /// Counts, and takes the figures over where the old ones are old or differ by much. A process that has none
    /// goes on from what the last one `said`. `named`: blocks of leases that name this node, in force or not. Without an
    /// intent only what pods still use is known.
    pub fn count(
        &mut self,
        data_dir: &Path,
        intent: Option<&Intent>,
        named: impl IntoIterator<Item = Cidr>,
        said: &[AddressUse],
    ) {
        let subnets = intent.map_or(&[][..], |intent| &intent.local.subnets);
        let subnets: Vec<_> = subnets.iter().map(|subnet| subnet.prefix).collect();
        let taken = match taken(&data_dir.join(NETWORK)) {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "cannot count the addresses in use");
                if self.since.is_none() {
                    self.figures = said.to_vec();
                }
                return;
            }
        };
        let mut found = address_use(&taken, &subnets);
        let before = if self.since.is_some() { &self.figures } else { said };
        let blocks = before.iter().map(|figures| figures.subnet).chain(named);
        found.extend(still_used(&taken, &subnets, blocks));
        if intent.is_some() {
            self.outside = outside(taken, &subnets);
        }
        let now = Timestamp::now();
        // As exact as the API keeps it.
        let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        date_empty(&mut found, before, &now);
        let stale = self.since.is_none_or(|since| since.elapsed() > AGE);
        if stale || differ_coarsely(&found, &self.figures) {
            (self.figures, self.since) = (found, Some(Instant::now()));
        }
    }

    pub fn figures(&self) -> &[AddressUse] {
        &self.figures
    }

    /// Pods that nobody can reach: their block is not the node's any more.
    pub fn trouble(&self) -> Option<NotReady> {
        let first = self.outside.first()?;
        Some(NotReady::new(
            reason::ADDRESS_OUTSIDE_LEASES,
            format!(
                "{} of this node's pods have addresses in none of its leases, such as {first}, and no other node has \
                 a path to them: restart these pods",
                self.outside.len()
            ),
        ))
    }

    /// By family: all addresses of the node's blocks, and those in use.
    pub fn by_family(&self) -> BTreeMap<&'static str, (i64, i64)> {
        let mut families: BTreeMap<&'static str, (i64, i64)> = BTreeMap::new();
        for figures in &self.figures {
            let family = if figures.subnet.family() == Family::V4 { "IPv4" } else { "IPv6" };
            let (all, used) = families.entry(family).or_default();
            (*all, *used) = (all.saturating_add(figures.capacity), used.saturating_add(figures.used));
        }
        families
    }
}

/// The use of each subnet, in their order.
fn address_use(taken: &[IpAddr], subnets: &[IpNetwork]) -> Vec<AddressUse> {
    subnets
        .iter()
        .filter_map(|subnet| {
            let cidr = Cidr::containing(subnet.network(), subnet.prefix())?;
            let used = taken.iter().filter(|address| subnet.contains(**address)).count();
            Some(AddressUse {
                subnet: cidr,
                capacity: capacity(cidr),
                used: i64::try_from(used).unwrap_or(i64::MAX),
                empty_since: None,
            })
        })
        .collect()
}

/// Blocks that were told of before, or that a lease names, and that are none of `subnets`, though pods have addresses
/// there: told of as long as they do, so that the operator can give them back, or keep them from others.
fn still_used(
    taken: &[IpAddr],
    subnets: &[IpNetwork],
    blocks: impl Iterator<Item = Cidr>,
) -> Vec<AddressUse> {
    let lost: BTreeSet<Cidr> = blocks
        .filter(|block| {
            let block = block.network();
            let meets =
                |subnet: &IpNetwork| subnet.contains(block.network()) || block.contains(subnet.network());
            !subnets.iter().any(meets)
        })
        .collect();
    let lost: Vec<IpNetwork> = lost.into_iter().map(Cidr::network).collect();
    let mut found = address_use(taken, &lost);
    found.retain(|figures| figures.used > 0);
    found
}

fn outside(mut taken: Vec<IpAddr>, subnets: &[IpNetwork]) -> Vec<IpAddr> {
    taken.retain(|address| !subnets.iter().any(|subnet| subnet.contains(*address)));
    taken.sort_unstable();
    taken
}

/// Dates subnets that no pod uses: as before, where it was empty already, else `now`.
fn date_empty(found: &mut [AddressUse], before: &[AddressUse], now: &Time) {
    for figures in found.iter_mut().filter(|figures| figures.used == 0) {
        let known = before.iter().find(|old| old.subnet == figures.subnet && old.used == 0);
        figures.empty_since =
            Some(known.and_then(|old| old.empty_since.clone()).unwrap_or_else(|| now.clone()));
    }
}

/// Whether two reports differ by more than single addresses: these can wait, a subnet that fills up can't.
pub fn differ_coarsely(one: &[AddressUse], other: &[AddressUse]) -> bool {
    let coarse = |figures: &AddressUse| {
        // The fuller a subnet is, the more each address counts: a new block must be there before the last one goes.
        let free = figures.capacity.saturating_sub(figures.used);
        (figures.subnet, free.checked_ilog2(), figures.used == 0)
    };
    one.iter().map(coarse).ne(other.iter().map(coarse))
}

/// How many addresses are taken at all.
pub fn addresses_in_use(data_dir: &Path) -> io::Result<usize> {
    taken(&data_dir.join(NETWORK)).map(|taken| taken.len())
}

pub(super) fn taken(directory: &Path) -> io::Result<Vec<IpAddr>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    // Other files there (lock, last_reserved_ip.0) are no addresses.
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Addresses for pods: all but network, gateway and broadcast.
fn capacity(subnet: Cidr) -> i64 {
    let all = i64::try_from(subnet.block_count(subnet.family().bits())).unwrap_or(i64::MAX);
    let reserved = if subnet.family() == Family::V4 { 3 } else { 2 };
    (all - reserved).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_the_store_are_counted_by_subnet() {
        let store = tempfile::tempdir().unwrap();
        let subnets = ["10.244.1.0/24".parse().unwrap(), "10.244.9.0/24".parse().unwrap()];
        let used = |expected: [i64; 2]| {
            let found = address_use(&taken(&store.path().join(NETWORK)).unwrap(), &subnets);
            assert_eq!(found.iter().map(|use_| use_.used).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|use_| use_.capacity == 253));
        };
        used([0, 0]);
        let directory = store.path().join("tartan");
        fs::create_dir(&directory).unwrap();
        for file in ["10.244.1.2", "10.244.1.3", "10.244.9.2", "10.1.1.1", "lock", "last_reserved_ip.0"] {
            fs::write(directory.join(file), "").unwrap();
        }
        used([2, 1]);
        let left = outside(taken(&directory).unwrap(), &subnets);
        assert_eq!(left, ["10.1.1.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_block_whose_lease_is_gone_is_told_of_as_long_as_pods_use_it() {
        let subnets = ["10.244.1.0/24".parse().unwrap()];
        let said = ["10.244.1.0/24", "10.244.9.0/24", "10.244.8.0/24"].map(|subnet| AddressUse {
            subnet: subnet.parse().unwrap(),
            capacity: 253,
            used: 2,
            empty_since: None,
        });
        let taken = ["10.244.1.2", "10.244.9.7", "10.1.1.1"].map(|address| address.parse().unwrap());
        let blocks = |said: &[AddressUse]| said.iter().map(|of| of.subnet).collect::<Vec<_>>().into_iter();
        let found = still_used(&taken, &subnets, blocks(&said));
        assert_eq!(found, [AddressUse { used: 1, ..said[1].clone() }]);
        assert_eq!(still_used(&taken, &subnets, blocks(&found)), found, "a process that goes on from that");
    }

    #[test]
    fn a_process_without_a_lease_goes_on_to_tell_of_pods() {
        let store = tempfile::tempdir().unwrap();
        let directory = store.path().join(NETWORK);
        fs::create_dir(&directory).unwrap();
        for address in ["10.244.9.7", "10.244.8.5", "10.244.8.6"] {
            fs::write(directory.join(address), "").unwrap();
        }
        let said = ["10.244.9.0/24", "10.244.7.0/24"].map(|subnet| AddressUse {
            subnet: subnet.parse().unwrap(),
            capacity: 253,
            used: 2,
            empty_since: None,
        });
        let mut counted = Counted::default();
        let used = |counted: &Counted| -> Vec<(String, i64)> {
            counted.figures().iter().map(|of| (of.subnet.to_string(), of.used)).collect()
        };
        counted.count(store.path(), None, ["10.244.8.0/24".parse().unwrap()], &said);
        assert_eq!(used(&counted), [("10.244.8.0/24".to_owned(), 2), ("10.244.9.0/24".to_owned(), 1)]);
        assert_eq!(counted.trouble(), None, "nobody knows what its leases are");

        // The store can't be read: what was said is neither more nor less true.
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        let mut counted = Counted::default();
        counted.count(store.path(), None, [], &said);
        assert_eq!(counted.figures(), said);
    }

    #[test]
    fn a_subnet_is_empty_since_it_was_first_seen_so() {
        let time = |text: &str| Time(text.parse().unwrap());
        let figures = |used: i64, empty_since: Option<Time>| AddressUse {
            subnet: "10.244.9.0/24".parse().unwrap(),
            capacity: 253,
            used,
            empty_since,
        };
        let dated = |used: i64, before: &[AddressUse]| {
            let mut found = [figures(used, None)];
            date_empty(&mut found, before, &time("2026-01-02T00:00:00Z"));
            found[0].empty_since.clone()
        };
        let first = time("2026-01-01T00:00:00Z");
        assert_eq!(dated(1, &[]), None);
        assert_eq!(dated(0, &[]), Some(time("2026-01-02T00:00:00Z")));
        assert_eq!(dated(0, &[figures(0, Some(first.clone()))]), Some(first));
        assert_eq!(dated(0, &[figures(3, None)]), Some(time("2026-01-02T00:00:00Z")));
    }

    #[test]
    fn single_addresses_are_a_difference_where_few_are_left() {
        let figures = |used: i64| {
            [AddressUse { subnet: "10.244.9.0/24".parse().unwrap(), capacity: 253, used, empty_since: None }]
        };
        for (one, other, expected) in [
            (5, 5, false),
            (5, 6, false),
            (0, 1, true),
            (125, 126, true),
            (200, 201, false),
            (237, 238, true),
            (249, 250, true),
            (252, 253, true),
        ] {
            assert_eq!(differ_coarsely(&figures(one), &figures(other)), expected, "{one} {other}");
        }
    }
}
