//! A packet as the kernel hands it over, with what it left for a network card to do, into packets for the wire.
//!
//! The TUN device promises checksums and segmentation, so the kernel passes up to 64 KB of one TCP or UDP flow as
//! one packet (`struct virtio_net_hdr`, linux/virtio_net.h). What a card would do is done here. No IO.

use tun_rs::{VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_UDP_L4, VirtioNetHdr};

use crate::packet::{self, Header, TCP, UDP};

/// Of `struct virtio_net_hdr`: the checksum is left to the reader.
pub(crate) const NEEDS_CHECKSUM: u8 = 1;
/// Nothing is to be cut.
pub(crate) const WHOLE: u8 = 0;
/// Beside a kind of cutting: ECN is in use.
const ECN: u8 = 0x80;

/// TCP flags by their bits in the fourteenth byte.
const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const REDUCED: u8 = 0x80;
const TCP_FLAGS: usize = 13;

/// The packets that one packet of the kernel is, one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    ip: Header,
    /// Of all headers together, which each segment gets.
    headers: usize,
    /// Payload per segment; 0: one packet as it is.
    size: usize,
    /// How much payload is behind us.
    at: usize,
    count: u16,
    done: bool,
}

impl<'a> Segments<'a> {
    /// `packet` begins with the IPv4 header `ip`. Its checksum is completed where the kernel left that to us.
    /// `None` for what the kernel's own header doesn't allow.
    pub fn new(packet: &'a mut [u8], ip: Header, offload: VirtioNetHdr) -> Option<Self> {
        let whole = offload.gso_type & !ECN;
        let packet = packet.get_mut(..ip.total)?;
        let transport = match whole {
            WHOLE => {
                if offload.flags & NEEDS_CHECKSUM != 0 {
                    complete_checksum(packet, offload.csum_start.into(), offload.csum_offset.into());
                }
                return Some(Self { packet, ip, headers: 0, size: 0, at: 0, count: 0, done: false });
            }
            VIRTIO_NET_HDR_GSO_TCPV4 if ip.protocol == TCP => {
                usize::from(packet.get(ip.length + 12)? >> 4).checked_mul(4).filter(|length| *length >= 20)?
            }
            VIRTIO_NET_HDR_GSO_UDP_L4 if ip.protocol == UDP => 8,
            _ => return None,
        };
        let (headers, size) = (ip.length + transport, usize::from(offload.gso_size));
        (size > 0 && ip.total > headers).then_some(Self {
            packet,
            ip,
            headers,
            size,
            at: 0,
            count: 0,
            done: false,
        })
    }

    /// The length of the next packet, while there is one.
    pub fn next_length(&self) -> Option<usize> {
        if self.done {
            return None;
        }
        Some(if self.size == 0 { self.packet.len() } else { self.headers + self.next_payload().len() })
    }

    /// Writes the next packet into `to`, which is as long as `next_length` said.
    pub fn write(&mut self, to: &mut [u8]) {
        if self.size == 0 {
            copy(to, self.packet);
            self.done = true;
            return;
        }
        let payload = self.next_payload();
        let first = self.at == 0;
        let last = self.at + payload.len() == self.packet.len() - self.headers;
        copy(to, self.packet.get(..self.headers).unwrap_or_default());
        copy(to.get_mut(self.headers..).unwrap_or_default(), payload);
        let id = self.ip.id.wrapping_add(self.count);
        packet::set_length_and_id(to, self.ip.length, to.len(), id);
        let transport = to.len() - self.ip.length;
        let pseudo = packet::pseudo_header(to, self.ip.protocol, transport);
        if let Some(segment) = to.get_mut(self.ip.length..) {
            if self.ip.protocol == TCP {
                let sequence = packet::read32(segment, 4);
                let offset = u32::try_from(self.at).unwrap_or(0);
                packet::write32(segment, 4, sequence.wrapping_add(offset));
                if let Some(flags) = segment.get_mut(TCP_FLAGS) {
                    *flags &= if last { !0 } else { !(FIN | PUSH) };
                    *flags &= if first { !0 } else { !REDUCED };
                }
                finish(segment, 16, pseudo);
            } else {
                packet::write16(segment, 4, u16::try_from(transport).unwrap_or(u16::MAX));
                finish(segment, 6, pseudo);
            }
        }
        self.at += payload.len();
        self.count = self.count.wrapping_add(1);
        self.done = last;
    }

    fn next_payload(&self) -> &'a [u8] {
        let payload = self.packet.get(self.headers..).unwrap_or_default();
        payload.get(self.at..payload.len().min(self.at + self.size)).unwrap_or_default()
    }
}

/// Both have what is copied.
fn copy(to: &mut [u8], from: &[u8]) {
    if let Some(to) = to.get_mut(..from.len()) {
        to.copy_from_slice(from);
    }
}

/// The checksum over `segment`, at `at`.
fn finish(segment: &mut [u8], at: usize, pseudo: u64) {
    packet::write16(segment, at, 0);
    let sum = !packet::fold(packet::sum(segment) + pseudo);
    // For UDP zero means that there is none (RFC 768); for TCP both forms of zero are the same.
    packet::write16(segment, at, if sum == 0 { 0xffff } else { sum });
}

/// The kernel has put the pseudo header's sum in the checksum's place.
fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) {
    if let Some(segment) = packet.get_mut(start..) {
        let sum = !packet::fold(packet::sum(segment));
        packet::write16(segment, offset, if sum == 0 { 0xffff } else { sum });
    }
}
