//! From the pods: what the kernel gives as one is cut into packets again.

use std::{io, sync::Arc, time::Duration};

use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, MtuWatcher},
};
use nix::libc::{EINVAL, EIO};
use tokio::{sync::watch, time::sleep};
use tun_rs::{AsyncDevice, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum, gso_split};

/// Between tries to read from a device that is down.
const DOWN: Duration = Duration::from_millis(50);
/// The longest that there is without jumbograms: an IPv6 header, which its length does not count, and what follows.
const LONGEST: usize = 40 + 65_535;
/// A byte more, which says that there was more.
const ROOM: usize = VIRTIO_NET_HDR_LEN + LONGEST + 1;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of include/uapi/linux/virtio_net.h: the checksum is of the pseudo-header alone.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`: a packet as it goes over the wire.
const WHOLE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams of one length.
const DATAGRAMS: u8 = 5;
const UDP_HEADER: u16 = 8;
/// Of a TCP header, with its length in the upper half.
const DATA_OFFSET: usize = 12;
/// Of the pool's buffers.
const POOLED: usize = 4096;

/// The one who reads.
pub struct Reader {
    device: Arc<AsyncDevice>,
    mtu: watch::Receiver<u16>,
    raw: Box<[u8]>,
    packets: Vec<Packet<Ip>>,
}

impl Reader {
    pub(super) fn new(device: Arc<AsyncDevice>, mtu: watch::Receiver<u16>) -> Self {
        Self { device, mtu, raw: vec![0; ROOM].into(), packets: vec![] }
    }
}

impl IpRecv for Reader {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        while self.packets.is_empty() {
            let length = match self.device.recv(&mut self.raw).await {
                Err(error) if error.raw_os_error() == Some(EIO) => {
                    sleep(DOWN).await;
                    continue;
                }
                // The kernel has no header for a packet, and has dropped it (tun_put_user in drivers/net/tun.c). The
                // engine would take it for the end of the device.
                Err(error) if error.raw_os_error() == Some(EINVAL) => continue,
                other => other?,
            };
            // More than there is room for: the rest is lost.
            let whole = self.raw.get_mut(..length).filter(|bytes| bytes.len() < ROOM);
            let cut = whole.and_then(|bytes| cut(bytes, pool));
            // Whatever else is put into it is nobody's.
            self.packets.extend(cut.into_iter().flatten().filter_map(|packet| packet.try_into_ip().ok()));
        }
        Ok(self.packets.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}

/// The packets of one read, with all checksums; `None` where the kernel's header does not fit what follows it.
fn cut(bytes: &mut [u8], pool: &PacketBufPool<POOLED>) -> Option<Vec<Packet>> {
    let (header, bytes) = bytes.split_at_mut_checked(VIRTIO_NET_HDR_LEN)?;
    let mut header = VirtioNetHdr::decode(header).ok()?;
    if header.gso_type == WHOLE {
        if header.flags & NEEDS_CHECKSUM != 0 {
            complete(bytes, header.csum_start, header.csum_offset)?;
        }
        let mut packet = pool.get();
        packet.buf_mut().clear();
        packet.buf_mut().extend_from_slice(bytes);
        return Some(vec![packet]);
    }
    // What the kernel says of the headers' length is the length of a whole packet where it forwards one.
    header.hdr_len = header.csum_start.checked_add(if header.gso_type == DATAGRAMS {
        UDP_HEADER
    } else {
        u16::from(*bytes.get(usize::from(header.csum_start) + DATA_OFFSET)? >> 4) * 4
    })?;
    let payload = bytes.len().checked_sub(header.hdr_len.into())?;
    let count = payload.checked_div(header.gso_size.into())? + 1;
    let longest = usize::from(header.hdr_len) + payload.min(header.gso_size.into());
    let mut packets: Vec<Packet> = (0..count).map(|_| buffer(longest, pool)).collect();
    let mut lengths = vec![0; count];
    let is_v6 = bytes.first()? >> 4 == 6;
    let mut buffers: Vec<_> = packets.iter_mut().map(Packet::buf_mut).collect();
    let count = gso_split(bytes, header, &mut buffers, &mut lengths, 0, is_v6)
        .inspect_err(|error| tracing::debug!(%error, "cannot cut what was read"))
        .ok()?;
    packets.truncate(count);
    packets.iter_mut().zip(lengths).for_each(|(packet, length)| packet.truncate(length));
    Some(packets)
}

/// At least so long, whatever the MTU.
fn buffer(length: usize, pool: &PacketBufPool<POOLED>) -> Packet {
    let mut packet = pool.get();
    if length > POOLED {
        packet.buf_mut().resize(length, 0);
    }
    packet
}

/// Completes a checksum that is of the pseudo-header alone (skbuff.h, `CHECKSUM_PARTIAL`).
fn complete(packet: &mut [u8], start: u16, offset: u16) -> Option<()> {
    let covered = packet.get_mut(start.into()..)?;
    let field = usize::from(offset)..usize::from(offset) + 2;
    let begun = u16::from_be_bytes(covered.get(field.clone())?.try_into().ok()?);
    covered.get_mut(field.clone())?.fill(0);
    // Zero would say that there is none; its other form is as good (skb_checksum_help).
    let sum = Some(!checksum(covered, begun.into())).filter(|sum| *sum != 0).unwrap_or(u16::MAX);
    covered.get_mut(field)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: u8 = 0x10;
    const PUSH: u8 = 0x08;

    /// Headers of the kernel and of an IPv4 or IPv6 packet without a sum, then a TCP or UDP one and its payload.
    fn joined(version: u8, protocol: u8, gso_size: u16, payload: usize) -> Vec<u8> {
        let (ip, transport) = (if version == 4 { 20 } else { 40 }, if protocol == 6 { 20 } else { 8 });
        let whole = ip + transport + payload;
        let mut packet = vec![0; ip];
        packet[0] = version << 4 | if version == 4 { 5 } else { 0 };
        if version == 4 {
            packet[2..4].copy_from_slice(&(whole as u16).to_be_bytes());
            (packet[8], packet[9]) = (64, protocol);
            packet[12..20].copy_from_slice(&[10, 244, 1, 2, 10, 244, 2, 3]);
        } else {
            packet[4..6].copy_from_slice(&((transport + payload) as u16).to_be_bytes());
            (packet[6], packet[7]) = (protocol, 64);
            (packet[8], packet[24], packet[39]) = (0xfd, 0xfd, 1);
        }
        packet.extend([0x9c, 0x40, 0x14, 0x51]);
        packet.resize(ip + transport, 0);
        if protocol == 6 {
            (packet[ip + 12], packet[ip + 13]) = (5 << 4, ACK | PUSH);
        } else {
            packet[ip + 4..ip + 6].copy_from_slice(&((transport + payload) as u16).to_be_bytes());
        }
        packet.extend((0..payload).map(|at| at as u8));
        let gso_type = match (gso_size, protocol, version) {
            (0, ..) => WHOLE,
            (_, 17, _) => DATAGRAMS,
            (_, _, 4) => tun_rs::VIRTIO_NET_HDR_GSO_TCPV4,
            _ => tun_rs::VIRTIO_NET_HDR_GSO_TCPV6,
        };
        let csum_offset = if protocol == 6 { 16 } else { 6 };
        let header = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type,
            hdr_len: whole as u16,
            gso_size,
            csum_start: ip as u16,
            csum_offset,
        };
        // As the kernel leaves it: the sum of the pseudo-header, not inverted.
        let begun = checksum(&pseudo_header(&packet, ip, protocol), 0);
        packet[ip + usize::from(csum_offset)..][..2].copy_from_slice(&begun.to_be_bytes());
        let mut bytes = vec![0; VIRTIO_NET_HDR_LEN];
        header.encode(&mut bytes).unwrap();
        bytes.extend(packet);
        bytes
    }

    fn pseudo_header(packet: &[u8], ip: usize, protocol: u8) -> Vec<u8> {
        let addresses = if ip == 20 { &packet[12..20] } else { &packet[8..40] };
        let length = ((packet.len() - ip) as u32).to_be_bytes();
        [addresses, &length, &[0, 0, 0, protocol]].concat()
    }

    #[test]
    fn what_the_kernel_gives_as_one_is_cut_into_packets_that_are_each_right() {
        let pool = PacketBufPool::new(1);
        for (version, protocol, gso_size, payload, lengths) in [
            (4, 6, 1400, 4000, vec![1440, 1440, 1240]),
            (6, 6, 1400, 2800, vec![1460, 1460]),
            (4, 17, 1000, 2001, vec![1028, 1028, 29]),
            (6, 17, 100, 150, vec![148, 98]),
            // Longer than the pool's buffers, and so many that a batch of usual size has no room for them.
            (4, 6, 8900, 20_000, vec![8940, 8940, 2240]),
            (4, 6, 48, 48 * 1300, vec![88; 1300]),
            (4, 6, 0, 700, vec![740]),
            (6, 17, 0, 6000, vec![6048]),
        ] {
            let what = format!("version {version}, protocol {protocol}, {payload} bytes by {gso_size}");
            let packets = cut(&mut joined(version, protocol, gso_size, payload), &pool).expect(&what);
            let found: Vec<usize> = packets.iter().map(|packet| packet.len()).collect();
            assert_eq!(found, lengths, "{what}");
            let ip = if version == 4 { 20 } else { 40 };
            let mut data: Vec<u8> = vec![];
            for (place, packet) in packets.iter().enumerate() {
                let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
                let told = if version == 4 { usize::from(word(2)) } else { 40 + usize::from(word(4)) };
                assert_eq!(told, packet.len(), "{what}");
                if version == 4 && gso_size > 0 {
                    assert_eq!((checksum(&packet[..20], 0), usize::from(word(4))), (0xffff, place), "{what}");
                }
                if protocol == 17 {
                    assert_eq!(usize::from(word(ip + 4)), packet.len() - ip, "{what}");
                } else if gso_size > 0 {
                    let sequence = u32::from_be_bytes(packet[ip + 4..ip + 8].try_into().unwrap());
                    assert_eq!(sequence as usize, place * usize::from(gso_size), "{what}");
                    // It is pushed with its last.
                    assert_eq!(packet[ip + 13] == ACK | PUSH, place + 1 == packets.len(), "{what}");
                }
                let sum = checksum(&[&pseudo_header(packet, ip, protocol), &packet[ip..]].concat(), 0);
                assert_eq!(sum, 0xffff, "{what}");
                data.extend(&packet[ip + if protocol == 6 { 20 } else { 8 }..]);
            }
            assert!(data.iter().zip(0..payload).all(|(byte, at)| *byte == at as u8), "{what}");
        }
    }

    #[test]
    fn a_header_that_does_not_fit_costs_the_packet_and_no_more() {
        let pool = PacketBufPool::new(1);
        let good = joined(4, 6, 1400, 4000);
        for (place, value) in [(6, 0xff), (7, 0xff), (8, 0xff), (4, 0), (1, 4), (1, 77), (10, 0x75)] {
            let mut bytes = good.clone();
            bytes[place] = value;
            // Whatever comes of it, it does not end the process.
            let _ = cut(&mut bytes, &pool);
        }
        for length in 0..VIRTIO_NET_HDR_LEN + 40 {
            assert!(
                cut(&mut good.clone()[..length], &pool).is_none_or(|packets| packets.is_empty()),
                "{length}"
            );
        }
    }
}
