//! How many addresses of a subnet pods hold, as host-local's store says.
//!
//! host-local keeps one file for each address in use, named after it, in `DATADIR/NETWORK`; a `:` of an
//! IPv6 address is kept as it is on Linux.

use std::{fs, io, net::IpAddr, path::Path};

use ipnetwork::IpNetwork;
use tartan_crds::{AddressUse, Cidr};

/// The use of each subnet, in their order.
pub fn address_use(data_dir: &Path, subnets: &[IpNetwork]) -> io::Result<Vec<AddressUse>> {
    let taken = taken(&data_dir.join("tartan"))?;
    Ok(subnets
        .iter()
        .filter_map(|subnet| {
            let cidr = Cidr::containing(subnet.network(), subnet.prefix())?;
            let used = taken.iter().filter(|address| subnet.contains(**address)).count();
            Some(AddressUse {
                subnet: cidr,
                capacity: capacity(cidr),
                used: i64::try_from(used).unwrap_or(i64::MAX),
            })
        })
        .collect())
}

/// How many addresses are taken at all.
pub fn addresses_in_use(data_dir: &Path) -> io::Result<usize> {
    taken(&data_dir.join("tartan")).map(|taken| taken.len())
}

fn taken(directory: &Path) -> io::Result<Vec<IpAddr>> {
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
    let reserved = if subnet.family() == tartan_crds::Family::V4 { 3 } else { 2 };
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
            let found = address_use(store.path(), &subnets).unwrap();
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
    }
}
