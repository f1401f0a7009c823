//! Packets that came one after the other and are of one flow, as one packet for the kernel: the reverse of
//! [`crate::split`]. It then passes the stack once instead of forty times. No IO.
//!
//! Only neighbours are joined. A datagram batch comes from one peer, which sends the segments of a flow in a row,
//! so a table of flows would find little more. What is joined is what splitting it again gives back: the same
//! headers, payloads of one size but for the last, and checksums that were right.

use tun_rs::{VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_UDP_L4, VirtioNetHdr};

use crate::{
    packet::{self, Header, IP_HEADER, TCP, UDP},
    split::{NEEDS_CHECKSUM, WHOLE},
};

const ACK: u8 = 0x10;
const PUSH: u8 = 0x08;
const TCP_FLAGS: usize = 13;
/// The kernel's limit for one packet.
const LARGEST: usize = 65_535;

/// A packet that others may be joined to.
#[derive(Debug)]
pub struct Run {
    /// Where it begins and ends in the buffer.
    pub start: usize,
    pub end: usize,
    flow: Option<Flow>,
}

/// What is known of one to which more may come.
#[derive(Clone, Copy, Debug)]
struct Flow {
    protocol: u8,
    /// Of all headers.
    headers: usize,
    /// Payload per packet.
    size: usize,
    count: u16,
    id: u16,
    dont_fragment: bool,
    /// The next byte of a TCP stream.
    next: u32,
    /// Nothing may follow: it was shorter, or pushed.
    closed: bool,
    /// The checksum of the first has been looked at.
    verified: bool,
}

impl Run {
    /// A packet at `start..end` of a buffer. `udp`: whether the kernel takes joined UDP.
    pub fn new(packet: &[u8], start: usize, ip: &Header, udp: bool) -> Self {
        Self { start, end: start + packet.len(), flow: flow(packet, ip, udp) }
    }

    /// Joins the packet at `at..at + ip.total` of `buffer` to this one, which ends somewhere before it. False
    /// where it can't be: then nothing has changed.
    pub fn join(&mut self, buffer: &mut [u8], at: usize, ip: &Header) -> bool {
        let Some(mut flow) = self.flow else { return false };
        let (Some(head), Some(next)) = (buffer.get(self.start..self.end), buffer.get(at..at + ip.total))
        else {
            return false;
        };
        let Some(payload) = ip.total.checked_sub(flow.headers).filter(|length| *length > 0) else {
            return false;
        };
        let expected_id = flow.id.wrapping_add(flow.count);
        if flow.closed
            || payload > flow.size
            || head.len() + payload > LARGEST
            || ip.protocol != flow.protocol
            || ip.dont_fragment != flow.dont_fragment
            || !(ip.dont_fragment || ip.id == expected_id)
            || !same_flow(head, next, &flow)
            || (flow.protocol == TCP && packet::read32(next, IP_HEADER + 4) != flow.next)
            || !(flow.verified || is_right(head))
            || !is_right(next)
        {
            return false;
        }
        let pushed =
            flow.protocol == TCP && next.get(IP_HEADER + TCP_FLAGS).is_some_and(|flags| flags & PUSH != 0);
        if pushed && let Some(flags) = buffer.get_mut(self.start + IP_HEADER + TCP_FLAGS) {
            *flags |= PUSH;
        }
        let from = at + flow.headers;
        if self.end + payload > buffer.len() || from + payload > buffer.len() {
            return false;
        }
        buffer.copy_within(from..from + payload, self.end);
        self.end += payload;
        flow.verified = true;
        flow.count += 1;
        flow.next = flow.next.wrapping_add(u32::try_from(payload).unwrap_or(0));
        flow.closed = payload < flow.size || pushed;
        self.flow = Some(flow);
        true
    }

    /// Makes the headers right for the kernel, and says what it must know.
    pub fn finish(&self, buffer: &mut [u8]) -> VirtioNetHdr {
        let Some((flow, packet)) =
            self.flow.filter(|flow| flow.count > 1).zip(buffer.get_mut(self.start..self.end))
        else {
            // Its checksum is in it, for the kernel to check.
            return VirtioNetHdr { gso_type: WHOLE, ..VirtioNetHdr::default() };
        };
        let total = packet.len();
        packet::set_length_and_id(packet, IP_HEADER, total, flow.id);
        let transport = total - IP_HEADER;
        if flow.protocol == UDP {
            packet::write16(packet, IP_HEADER + 4, u16::try_from(transport).unwrap_or(u16::MAX));
        }
        let pseudo = packet::fold(packet::pseudo_header(packet, flow.protocol, transport));
        let (gso_type, csum_offset) = if flow.protocol == TCP {
            (VIRTIO_NET_HDR_GSO_TCPV4, 16)
        } else {
            (VIRTIO_NET_HDR_GSO_UDP_L4, 6)
        };
        packet::write16(packet, IP_HEADER + usize::from(csum_offset), pseudo);
        VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type,
            hdr_len: u16::try_from(flow.headers).unwrap_or(0),
            gso_size: u16::try_from(flow.size).unwrap_or(0),
            csum_start: 20,
            csum_offset,
        }
    }
}

/// `None` for a packet that nothing can be joined to.
fn flow(packet: &[u8], ip: &Header, udp: bool) -> Option<Flow> {
    if ip.length != IP_HEADER || ip.fragment {
        return None;
    }
    let (headers, next, closed) = match ip.protocol {
        TCP => {
            let words = usize::from(packet.get(IP_HEADER + 12)? >> 4);
            let flags = *packet.get(IP_HEADER + TCP_FLAGS)?;
            // Whatever else is said, it is said to the packet of its own.
            if words < 5 || flags & !PUSH != ACK {
                return None;
            }
            (IP_HEADER + words * 4, packet::read32(packet, IP_HEADER + 4), flags & PUSH != 0)
        }
        UDP if udp => {
            let told = usize::from(packet::read16(packet, IP_HEADER + 4));
            let has_checksum = packet::read16(packet, IP_HEADER + 6) != 0;
            if told != ip.total - IP_HEADER || !has_checksum {
                return None;
            }
            (IP_HEADER + 8, 0, false)
        }
        _ => return None,
    };
    let size = ip.total.checked_sub(headers).filter(|size| *size > 0)?;
    Some(Flow {
        protocol: ip.protocol,
        headers,
        size,
        count: 1,
        id: ip.id,
        dont_fragment: ip.dont_fragment,
        next: next.wrapping_add(u32::try_from(size).unwrap_or(0)),
        closed,
        verified: false,
    })
}

/// Whether all is the same that must be: of the IPv4 header all but length, identification and checksum; of TCP all
/// but the sequence number, PSH and checksum; of UDP the ports.
fn same_flow(head: &[u8], next: &[u8], flow: &Flow) -> bool {
    let same = |from: usize, to: usize| match (head.get(from..to), next.get(from..to)) {
        (Some(head), Some(next)) => head == next,
        _ => false,
    };
    if !(same(0, 2) && same(6, 10) && same(12, 24)) {
        return false;
    }
    if flow.protocol == UDP {
        let told = usize::from(packet::read16(next, IP_HEADER + 4));
        return told == next.len() - IP_HEADER && packet::read16(next, IP_HEADER + 6) != 0;
    }
    let flags = |bytes: &[u8]| bytes.get(IP_HEADER + TCP_FLAGS).map_or(0, |flags| flags & !PUSH);
    same(28, 33) && flags(head) == flags(next) && same(34, 36) && same(38, flow.headers)
}

/// Whether the transport's checksum is right. It is lost by joining, so what was damaged must stay by itself.
fn is_right(packet: &[u8]) -> bool {
    let Some(segment) = packet.get(IP_HEADER..) else { return false };
    let protocol = packet.get(9).copied().unwrap_or(0);
    packet::fold(packet::sum(segment) + packet::pseudo_header(packet, protocol, segment.len())) == 0xffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::split::Segments;

    /// Headers and a payload, as an application's kernel makes them.
    fn packet(protocol: u8, payload: &[u8], id: u16, dont_fragment: bool, flags: u8) -> Vec<u8> {
        let mut bytes = vec![0u8; IP_HEADER];
        bytes[0] = 0x45;
        bytes[6] = if dont_fragment { 0x40 } else { 0 };
        bytes[8] = 63;
        bytes[9] = protocol;
        bytes[12..20].copy_from_slice(&[10, 1, 0, 2, 10, 2, 0, 2]);
        let mut segment = if protocol == TCP {
            let mut header = vec![0u8; 32];
            header[..8].copy_from_slice(&[0x10, 0, 0x20, 0, 0xff, 0xff, 0xfe, 0]);
            (header[12], header[13], header[20]) = (8 << 4, flags, 1);
            header
        } else {
            vec![0x10, 0, 0x20, 0, 0, 0, 0, 0]
        };
        let length = segment.len() + payload.len();
        if protocol == UDP {
            packet::write16(&mut segment, 4, length as u16);
        }
        bytes.extend(segment);
        bytes.extend(payload);
        let total = bytes.len();
        packet::set_length_and_id(&mut bytes, IP_HEADER, total, id);
        let at = if protocol == TCP { 16 } else { 6 };
        let sum = packet::sum(&bytes[IP_HEADER..]) + packet::pseudo_header(&bytes, protocol, length);
        packet::write16(&mut bytes, IP_HEADER + at, !packet::fold(sum));
        bytes
    }

    /// As the kernel hands over one that it wants cut.
    fn split(mut whole: Vec<u8>, size: u16) -> Vec<Vec<u8>> {
        let protocol = whole[9];
        let (gso_type, csum_offset) =
            if protocol == TCP { (VIRTIO_NET_HDR_GSO_TCPV4, 16) } else { (VIRTIO_NET_HDR_GSO_UDP_L4, 6) };
        let offload = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type,
            hdr_len: 0,
            gso_size: size,
            csum_start: 20,
            csum_offset,
        };
        let ip = packet::header(&whole).unwrap();
        let mut segments = Segments::new(&mut whole, ip, offload).unwrap();
        let mut packets = vec![];
        while let Some(length) = segments.next_length() {
            let mut packet = vec![0; length];
            segments.write(&mut packet);
            packets.push(packet);
        }
        packets
    }

    /// Packets one after the other in a buffer, as one datagram of several, and what is made of them.
    fn join(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, VirtioNetHdr)> {
        let mut buffer: Vec<u8> = packets.concat();
        let (mut at, mut runs): (usize, Vec<Run>) = (0, vec![]);
        for packet in packets {
            let ip = packet::header(packet).unwrap();
            if !runs.last_mut().is_some_and(|run| run.join(&mut buffer, at, &ip)) {
                runs.push(Run::new(packet, at, &ip, true));
            }
            at += packet.len();
        }
        let finish = |run: &Run| {
            let offload = run.finish(&mut buffer);
            (buffer[run.start..run.end].to_vec(), offload)
        };
        runs.iter().map(finish).collect()
    }

    proptest! {
        #[test]
        fn what_was_split_is_joined_to_what_it_was(
            tcp: bool, dont_fragment: bool, id: u16, push: bool,
            payload in prop::collection::vec(any::<u8>(), 1..6000), size in 100u16..1400,
        ) {
            let protocol = if tcp { TCP } else { UDP };
            let whole = packet(protocol, &payload, id, dont_fragment, if push { ACK | PUSH } else { ACK });
            let parts = split(whole.clone(), size);
            prop_assert_eq!(parts.len(), payload.len().div_ceil(size.into()));
            for part in &parts {
                prop_assert!(is_right(part));
                prop_assert_eq!(packet::fold(packet::sum(&part[..IP_HEADER])), 0xffff);
            }
            let joined = join(&parts);
            prop_assert_eq!(joined.len(), 1);
            let (bytes, offload) = &joined[0];
            // The checksum is for the reader to complete where there were several.
            let at = IP_HEADER + if tcp { 16 } else { 6 };
            prop_assert_eq!(&bytes[..at], &whole[..at]);
            prop_assert_eq!(&bytes[at + 2..], &whole[at + 2..]);
            if parts.len() > 1 {
                prop_assert_eq!(usize::from(offload.gso_size), usize::from(size).min(payload.len()));
                let ip = packet::header(bytes).unwrap();
                let mut again = bytes.clone();
                let mut segments = Segments::new(&mut again, ip, *offload).unwrap();
                for part in &parts {
                    let mut packet = vec![0; segments.next_length().unwrap()];
                    segments.write(&mut packet);
                    prop_assert_eq!(&packet, part);
                }
            } else {
                prop_assert_eq!(offload.gso_type, WHOLE);
                prop_assert_eq!(bytes, &whole);
            }
        }
    }

    #[test]
    fn what_differs_stays_apart() {
        let parts = || split(packet(TCP, &[5; 3000], 7, true, ACK), 1000);
        assert_eq!(join(&parts()).len(), 1);
        let check = |what: &str, change: fn(&mut Vec<Vec<u8>>)| {
            let mut parts = parts();
            change(&mut parts);
            for part in &mut parts {
                // Right again, so that it is the difference that keeps them apart.
                let total = part.len();
                let id = packet::read16(part, 4);
                packet::set_length_and_id(part, IP_HEADER, total, id);
                packet::write16(part, IP_HEADER + 16, 0);
                let sum =
                    packet::sum(&part[IP_HEADER..]) + packet::pseudo_header(part, TCP, total - IP_HEADER);
                packet::write16(part, IP_HEADER + 16, !packet::fold(sum));
            }
            assert!(join(&parts).len() > 1, "{what}");
        };
        check("another time to live", |parts| parts[1][8] = 9);
        check("another type of service", |parts| parts[1][1] = 3);
        check("another sender", |parts| parts[1][15] = 9);
        check("another port", |parts| parts[1][21] = 9);
        check("another window", |parts| parts[1][35] = 9);
        check("another acknowledgement", |parts| parts[1][31] = 9);
        check("other options", |parts| parts[1][41] = 9);
        check("FIN", |parts| parts[2][33] |= 1);
        check("it isn't the next", |parts| parts.swap(1, 2));
        check("something after a push", |parts| parts[0][33] |= PUSH);
        check("a fragment", |parts| parts[1][6] = 0x20);
        check("it may be cut, and is numbered otherwise", |parts| {
            parts.iter_mut().for_each(|part| part[6] = 0);
            packet::write16(&mut parts[1], 4, 77);
        });
    }

    #[test]
    fn a_damaged_packet_stays_damaged() {
        for damaged in 0..3 {
            let mut parts = split(packet(TCP, &[5; 3000], 7, true, ACK), 1000);
            parts[damaged][60] ^= 1;
            let joined = join(&parts);
            assert!(joined.iter().any(|(bytes, _)| *bytes == parts[damaged]), "packet {damaged}");
        }
    }

    #[test]
    fn what_the_kernel_cannot_mean_is_refused() {
        let whole = packet(TCP, &[5; 3000], 7, true, ACK);
        let ip = packet::header(&whole).unwrap();
        for (gso_type, gso_size) in
            [(VIRTIO_NET_HDR_GSO_TCPV4, 0), (VIRTIO_NET_HDR_GSO_UDP_L4, 100), (4, 100)]
        {
            let offload = VirtioNetHdr { gso_type, gso_size, ..VirtioNetHdr::default() };
            assert!(Segments::new(&mut whole.clone(), ip, offload).is_none());
        }
    }
}
