//! [`Cidr`]: a network prefix in its one canonical spelling, and the names made from it.
//!
//! Every prefix that crosses the API goes through this type, so that two spellings of one prefix can
//! never be taken for two blocks. It refuses what the API server's own `isCIDR` lets pass (host bits)
//! and what `ipnetwork` lets pass (a bare address, a netmask).

use std::{fmt, net::IpAddr, str::FromStr};

use ipnetwork::IpNetwork;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A prefix without host bits, ordered by family, address, length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNetwork);

/// Ranges of which no host has an address that others send to, so that no pod can have one: this network, loopback,
/// link-local and multicast (RFC 6890, RFC 4291 2.4), and what stands for IPv4 in IPv6.
pub const NO_PODS: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::/8", "fe80::/10", "ff00::/8"];

/// Why a text is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("{text:?} is not a CIDR: write ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10:244::/48")]
    Malformed { text: String },
    #[error("{text} has host bits set: the prefix is {canonical}")]
    HostBits { text: String, canonical: String },
    #[error("{text} is not in canonical form: write {canonical}")]
    NotCanonical { text: String, canonical: String },
}

impl Cidr {
    /// The prefix of `length` bits that contains `address`. `None` where the family has fewer bits.
    pub fn containing(address: IpAddr, length: u8) -> Option<Self> {
        let network = IpNetwork::new(address, length).ok()?;
        IpNetwork::new(network.network(), length).ok().map(Self)
    }

    /// The first address, which is the prefix itself.
    pub fn address(self) -> IpAddr {
        self.0.network()
    }

    /// The last address: the broadcast address of an IPv4 subnet.
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    pub fn prefix_len(self) -> u8 {
        self.0.prefix()
    }

    pub fn family(self) -> Family {
        Family::of(self.address())
    }

    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether every address of `other` lies in `self`.
    pub fn covers(self, other: Self) -> bool {
        self.family() == other.family()
            && self.prefix_len() <= other.prefix_len()
            && self.contains(other.address())
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    pub fn network(self) -> IpNetwork {
        self.0
    }

    /// How many blocks of `block_len` bits fit. 0 where `block_len` is shorter than the prefix;
    /// saturates at `u64::MAX`.
    pub fn block_count(self, block_len: u8) -> u64 {
        match block_len.checked_sub(self.prefix_len()) {
            Some(bits) if block_len <= self.family().bits() => {
                1u64.checked_shl(bits.into()).unwrap_or(u64::MAX)
            }
            _ => 0,
        }
    }

    /// The `index`-th block of `block_len` bits, counted from 0. `None` past the end.
    pub fn block(self, block_len: u8, index: u64) -> Option<Self> {
        if index >= self.block_count(block_len) {
            return None;
        }
        let shift = u32::from(self.family().bits() - block_len);
        let offset = u128::from(index).checked_shl(shift).unwrap_or(0);
        self.nth_wide(offset).and_then(|address| Self::containing(address, block_len))
    }

    /// Which block of `block_len` bits `block` is. `None` where it isn't exactly one.
    pub fn block_index(self, block_len: u8, block: Self) -> Option<u64> {
        if block.prefix_len() != block_len || !self.covers(block) {
            return None;
        }
        let shift = u32::from(self.family().bits() - block_len);
        let distance = to_bits(block.address()) - to_bits(self.address());
        u64::try_from(distance.checked_shr(shift).unwrap_or(0)).ok()
    }

    /// The address `offset` places after the first. `None` outside of the prefix.
    pub fn nth(self, offset: u64) -> Option<IpAddr> {
        self.nth_wide(u128::from(offset))
    }

    fn nth_wide(self, offset: u128) -> Option<IpAddr> {
        let bits = to_bits(self.address()).checked_add(offset)?;
        let address = match self.family() {
            Family::V4 => IpAddr::V4(u32::try_from(bits).ok()?.into()),
            Family::V6 => IpAddr::V6(bits.into()),
        };
        self.contains(address).then_some(address)
    }

    /// The range of [`NO_PODS`] that it meets.
    pub fn meets_no_pods(self) -> Option<&'static str> {
        NO_PODS.into_iter().find(|range| range.parse().is_ok_and(|range| self.overlaps(range)))
    }

    /// The object name of a lease of this block: `10.244.3.0-24`, `fd00-10-244-3---64`.
    ///
    /// `:` and `/` become `-`. At most 43 characters, a DNS subdomain and a label value.
    pub fn object_name(self) -> String {
        self.to_string().replace([':', '/'], "-")
    }

    /// The inverse of [`Cidr::object_name`].
    pub fn from_object_name(name: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed { text: name.to_owned() };
        let (address, length) = name.rsplit_once('-').ok_or_else(malformed)?;
        let address = if address.contains('.') { address.to_owned() } else { address.replace('-', ":") };
        format!("{address}/{length}").parse()
    }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed { text: text.to_owned() };
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let length: u8 = length.parse().map_err(|_| malformed())?;
        let network = IpNetwork::new(address, length).map_err(|_| malformed())?;
        let cidr = Self::containing(address, length).ok_or_else(malformed)?;
        if network.ip() != network.network() {
            return Err(CidrError::HostBits { text: text.to_owned(), canonical: cidr.to_string() });
        }
        if cidr.to_string() != text {
            return Err(CidrError::NotCanonical { text: text.to_owned(), canonical: cidr.to_string() });
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix_len())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The rule repeats [`Cidr::from_str`] for the API server. `maxLength` bounds the rule's cost.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 43,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self) && string(cidr(self).masked()) == self",
                "message": "must be a CIDR in canonical form (no host bits, lower case, RFC 5952)",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_canonical_spelling_is_taken() {
        for good in ["10.244.0.0/16", "0.0.0.0/0", "10.0.0.1/32", "fd00:10:244::/48", "fd00::1:0:0:0/80"] {
            assert_eq!(cidr(good).to_string(), good);
        }
        for bad in [
            "",
            "10.244.0.0",
            "10.244.0.0/33",
            "10.244.0.1/16",
            "10.244.0.0/016",
            "010.0.0.0/8",
            "10.0.0.0/255.0.0.0",
            "FD00::/64",
            "fd00:0:0:0:1:0:0:0/80",
            "fd00::/129",
            "fd00::%eth0/64",
            "10.0.0.0/+8",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?} was taken");
        }
        assert_eq!(
            "10.244.3.7/24".parse::<Cidr>().unwrap_err().to_string(),
            "10.244.3.7/24 has host bits set: the prefix is 10.244.3.0/24"
        );
    }

    #[test]
    fn a_lease_is_named_after_its_block() {
        assert_eq!(cidr("10.244.3.0/24").object_name(), "10.244.3.0-24");
        assert_eq!(cidr("fd00:10:244:3::/64").object_name(), "fd00-10-244-3---64");
        assert_eq!(cidr("fd00::1:0:0:0/80").object_name(), "fd00--1-0-0-0-80");
    }

    #[test]
    fn ranges_that_no_pod_can_have_an_address_of_are_known() {
        for range in NO_PODS {
            assert_eq!(cidr(range).meets_no_pods(), Some(range));
        }
        assert_eq!(cidr("0.0.0.0/0").meets_no_pods(), Some("0.0.0.0/8"));
        assert_eq!(cidr("127.1.2.0/24").meets_no_pods(), Some("127.0.0.0/8"));
        for good in ["10.0.0.0/8", "100.64.0.0/10", "240.0.0.0/4", "fd00::/8", "2001:db8::/32"] {
            assert_eq!(cidr(good).meets_no_pods(), None, "{good}");
        }
    }

    #[test]
    fn blocks_are_counted_and_found() {
        let entry = cidr("10.244.0.0/16");
        assert_eq!(entry.block_count(24), 256);
        assert_eq!(entry.block(24, 3), Some(cidr("10.244.3.0/24")));
        assert_eq!(entry.block(24, 256), None);
        assert_eq!(entry.block_index(24, cidr("10.244.3.0/24")), Some(3));
        assert_eq!(entry.block_index(24, cidr("10.244.3.0/25")), None);
        assert_eq!(entry.block_index(24, cidr("10.245.3.0/24")), None);
        assert_eq!(entry.block_count(8), 0);
        assert_eq!(cidr("0.0.0.0/0").block_count(32), 1 << 32);
        assert_eq!(cidr("fd00::/8").block_count(128), u64::MAX);
        assert_eq!(cidr("fd00::/48").block(64, 0xffff), Some(cidr("fd00:0:0:ffff::/64")));
        assert_eq!(entry.nth(1), Some("10.244.0.1".parse().unwrap()));
        assert_eq!(entry.nth(1 << 16), None);
    }

    fn any_cidr() -> impl Strategy<Value = Cidr> {
        prop_oneof![
            (any::<u32>(), 0u8..=32).prop_map(|(a, l)| Cidr::containing(IpAddr::V4(a.into()), l).unwrap()),
            (any::<u128>(), 8u8..=128).prop_map(|(a, l)| {
                // A pod block never starts with `::`, which would be no object name.
                let a = (a & (u128::MAX >> 8)) | (0xfd << 120);
                Cidr::containing(IpAddr::V6(a.into()), l).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn text_and_name_lead_back_to_the_prefix(prefix in any_cidr()) {
            prop_assert_eq!(prefix.to_string().parse::<Cidr>().unwrap(), prefix);
            prop_assert_eq!(Cidr::from_object_name(&prefix.object_name()).unwrap(), prefix);
            prop_assert!(prefix.object_name().len() <= 43);
        }

        #[test]
        fn a_block_is_found_again_by_its_index(prefix in any_cidr(), more in 0u8..=20, at in any::<u64>()) {
            let length = (prefix.prefix_len() + more).min(prefix.family().bits());
            let index = at % prefix.block_count(length);
            let block = prefix.block(length, index).unwrap();
            prop_assert!(prefix.covers(block));
            prop_assert_eq!(prefix.block_index(length, block), Some(index));
        }
    }
}
