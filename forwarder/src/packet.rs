//! Bytes of IPv4 packets: what is read of them and changed in them. No IO.
//!
//! RFC 791 (IPv4), RFC 9293 (TCP), RFC 768 (UDP), RFC 1071 and 1624 (checksums).

use std::net::Ipv4Addr;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
/// A header without options.
pub const IP_HEADER: usize = 20;
/// Don't fragment, among flags and offset.
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, and the offset of this one.
const FRAGMENT: u16 = 0x3fff;

/// Where things are in one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the header with its options.
    pub length: usize,
    /// Of the whole packet, which may be less than the bytes that came.
    pub total: usize,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub dont_fragment: bool,
    /// Of a packet that was cut, also the first.
    pub fragment: bool,
    pub id: u16,
}

/// `None` for what is no whole IPv4 packet.
pub fn header(packet: &[u8]) -> Option<Header> {
    let fixed: &[u8; IP_HEADER] = packet.first_chunk()?;
    let [first, _, total_a, total_b, id_a, id_b, flags_a, flags_b, ttl, protocol, ..] = *fixed;
    let length = usize::from(first & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([total_a, total_b]));
    if first >> 4 != 4 || length < IP_HEADER || total < length || total > packet.len() {
        return None;
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    let flags = u16::from_be_bytes([flags_a, flags_b]);
    Some(Header {
        length,
        total,
        ttl,
        protocol,
        source: Ipv4Addr::new(s0, s1, s2, s3),
        destination: Ipv4Addr::new(d0, d1, d2, d3),
        dont_fragment: flags & DONT_FRAGMENT != 0,
        fragment: flags & FRAGMENT != 0,
        id: u16::from_be_bytes([id_a, id_b]),
    })
}

/// One hop less to live, with the checksum mended (RFC 1624).
pub fn decrement_ttl(packet: &mut [u8]) {
    if let Some([ttl, _, sum_a, sum_b]) = packet.get_mut(8..12) {
        *ttl = ttl.wrapping_sub(1);
        // The word's value went down by 0x0100, so the sum of the others' complement goes up by as much.
        let sum = u32::from(u16::from_be_bytes([*sum_a, *sum_b])) + 0x0100;
        [*sum_a, *sum_b] = fold(u64::from(sum)).to_be_bytes();
    }
}

/// Sets the length of the whole packet and its identification, and the checksum to what they ask for.
pub fn set_length_and_id(packet: &mut [u8], length: usize, total: usize, id: u16) {
    write16(packet, 2, u16::try_from(total).unwrap_or(u16::MAX));
    write16(packet, 4, id);
    write16(packet, 10, 0);
    let sum = !fold(sum(packet.get(..length).unwrap_or_default()));
    write16(packet, 10, sum);
}

/// Sum of the pseudo header of TCP and UDP (RFC 9293 section 3.1), not folded.
pub fn pseudo_header(packet: &[u8], protocol: u8, length: usize) -> u64 {
    sum(packet.get(12..20).unwrap_or_default()) + u64::from(protocol) + length as u64
}

/// Sum of 16-bit words in network order, not folded. Bytes of up to 4 GB can't overflow it.
pub fn sum(bytes: &[u8]) -> u64 {
    // The sum is the same in either byte order but for a swap at the end (RFC 1071), so machine words will do:
    // 32 bits at a time, four in a row, which compilers make vectors of.
    let mut lanes = [0u64; 4];
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u64::from(u16::from_be(fold(total)))
}

pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // It fits: nothing is above 16 bits.
    (sum & 0xffff) as u16
}

pub fn read16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes)
}

pub fn read32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

pub fn write16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(to) = bytes.get_mut(at..at + 2) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

pub fn write32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..at + 4) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Straight from RFC 1071.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Two forms of zero are the same number.
            prop_assert_eq!(fold(sum(&bytes)) % 0xffff, slow_sum(&bytes) % 0xffff);
        }

        #[test]
        fn a_hop_less_leaves_a_right_checksum(ttl in 1u8.., id: u16, source: u32) {
            let mut packet = [0u8; 20];
            packet[0] = 0x45;
            packet[8] = ttl;
            packet[9] = UDP;
            packet[12..16].copy_from_slice(&source.to_be_bytes());
            set_length_and_id(&mut packet, 20, 20, id);
            decrement_ttl(&mut packet);
            prop_assert_eq!(fold(sum(&packet)), 0xffff);
            prop_assert_eq!(header(&packet).unwrap().ttl, ttl - 1);
        }
    }

    #[test]
    fn what_is_no_whole_packet_is_refused() {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        write16(&mut packet, 2, 40);
        assert_eq!(header(&packet).map(|header| (header.length, header.total)), Some((20, 40)));
        for (at, value) in [(0, 0x65), (0, 0x44), (3, 41), (3, 19)] {
            let mut broken = packet.clone();
            broken[at] = value;
            assert_eq!(header(&broken), None, "byte {at} is {value}");
        }
        assert_eq!(header(&packet[..19]), None);
        packet.push(0);
        assert_eq!(
            header(&packet).map(|header| header.total),
            Some(40),
            "what follows a packet is not of it"
        );
    }
}
