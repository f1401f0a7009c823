//! Hardware addresses that a node keeps for life: derived from its Node's UID. Pure.

use tartan_datapath::model::Mac;

/// What the address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Vtep,
    Bridge,
}

/// A locally administered unicast address. 46 bits are free: among 5,000 nodes two share one with a
/// chance of one to five million, and then it is reported.
pub fn mac(node_uid: &str, role: Role) -> Mac {
    let salt = match role {
        Role::Vtep => "vtep/",
        Role::Bridge => "bridge/",
    };
    let [first, b, c, d, e, g, ..] = mix(fnv1a(salt.bytes().chain(node_uid.bytes()))).to_be_bytes();
    Mac([(first & 0b1111_1100) | 0b10, b, c, d, e, g])
}

/// FNV-1a, 64 bits: written out, since it must give the same for ever.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of MurmurHash3: FNV leaves the upper bits of short texts alike.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_address_stays_the_same_for_ever() {
        let uid = "6fd1e0e6-3f8a-4c53-a1fb-0d4fd4a1b8d5";
        assert_eq!(mac(uid, Role::Vtep), mac(uid, Role::Vtep));
        assert_ne!(mac(uid, Role::Vtep), mac(uid, Role::Bridge));
        // Written down: a change would cut every node off from its peers during an upgrade.
        assert_eq!(mac("a", Role::Vtep).to_string(), "b6:53:63:ab:cd:7c");
        assert_eq!(mac("a", Role::Bridge).to_string(), "b6:1e:20:e1:e2:68");
    }

    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let all: BTreeSet<Mac> = (0..20_000).map(|n| mac(&format!("node-{n}"), Role::Vtep)).collect();
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().all(|Mac([first, ..])| first & 0b11 == 0b10));
    }
}
