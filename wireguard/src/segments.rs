//! Datagrams to one peer of one length are given to the kernel as one (`UDP_SEGMENT`, udp(7)), which cuts them where it
//! or the card sends them.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gotatun::{
    packet::Packet,
    udp::{UdpSend, socket::UdpSocket},
};
use nix::{
    libc::EIO,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};
use tokio::io::Interest;

/// `UDP_MAX_SEGMENTS` of include/linux/udp.h before Linux 6.9, which has twice as many.
const SEGMENTS: usize = 64;
/// The longest payload that IPv4 carries by UDP.
const LONGEST: usize = 65_535 - 20 - 8;

/// Sends by a socket. A clone is the same.
#[derive(Clone)]
pub struct Sender {
    socket: UdpSocket,
    /// The kernel can't cut for a card that leaves checksums to it, nor on a way that it encrypts: EIO (udp_send_skb in
    /// net/ipv4/udp.c).
    one_by_one: Arc<AtomicBool>,
}

impl Sender {
    pub fn new(socket: UdpSocket) -> Self {
        Self { socket, one_by_one: Arc::default() }
    }

    /// All of `run`, which is to one peer and of one length but for a shorter last.
    async fn send_run(&self, run: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let Some((first, peer)) = run.first() else { return Ok(()) };
        let size = u16::try_from(first.len()).map_err(io::Error::other)?;
        let mut slices = [IoSlice::new(&[]); SEGMENTS];
        slices.iter_mut().zip(run).for_each(|(slice, (packet, _))| *slice = IoSlice::new(packet));
        let slices = slices.get(..run.len()).unwrap_or_default();
        let (socket, address) = (self.socket.socket(), SockaddrStorage::from(*peer));
        let cut = [ControlMessage::UdpGsoSegments(&size)];
        let send = || {
            sendmsg(socket.as_raw_fd(), slices, &cut, MsgFlags::MSG_DONTWAIT, Some(&address))
                .map_err(io::Error::from)
        };
        socket.async_io(Interest::WRITABLE, send).await.map(drop)
    }
}

impl Sender {
    /// Each as a datagram of its own, as many as may be by one system call. What one peer can't be sent is no reason to
    /// keep back what is for others.
    async fn send_alone(&self, buffer: &mut Buffer, packets: &mut Vec<(Packet, SocketAddr)>) {
        if let Err(error) = self.socket.send_many_to(buffer, packets).await {
            tracing::debug!(%error, "cannot send to a peer");
            // Some have gone by now: a peer throws away what it has had.
            for (packet, peer) in packets.drain(..) {
                let _ = self.socket.send_to(packet, peer).await;
            }
        }
    }

    /// How many of these, from the first on, go together, and whether as one.
    fn next(&self, packets: &[(Packet, SocketAddr)]) -> (usize, bool) {
        if self.one_by_one.load(Ordering::Relaxed) {
            return (packets.len(), false);
        }
        let mut alone = 0;
        while let Some(rest) = packets.get(alone..).filter(|rest| !rest.is_empty()) {
            match run(rest.iter().map(|(packet, peer)| (packet.len(), *peer))) {
                count if count > 1 && alone == 0 => return (count, true),
                count if count > 1 => break,
                count => alone += count,
            }
        }
        (alone, false)
    }
}

type Buffer = <UdpSocket as UdpSend>::SendManyBuf;

impl UdpSend for Sender {
    type SendManyBuf = Buffer;

    async fn send_to(&self, packet: Packet, peer: SocketAddr) -> io::Result<()> {
        self.socket.send_to(packet, peer).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        self.socket.max_number_of_packets_to_send()
    }

    async fn send_many_to(
        &self,
        buffer: &mut Buffer,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        while !packets.is_empty() {
            let (count, together) = self.next(packets);
            let rest = packets.split_off(count);
            if together {
                match self.send_run(packets).await {
                    Ok(()) => packets.clear(),
                    Err(error) if error.raw_os_error() == Some(EIO) => {
                        tracing::warn!(%error, "the kernel cuts no datagrams here: each is sent alone from now on");
                        self.one_by_one.store(true, Ordering::Relaxed);
                    }
                    // Longer than the path's MTU, too, which goes in fragments where it is sent alone.
                    Err(error) => tracing::debug!(%error, "the kernel does not cut what goes to a peer"),
                }
            }
            self.send_alone(buffer, packets).await;
            *packets = rest;
        }
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSend::local_addr(&self.socket)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// How many of these, from the first on, the kernel can cut one datagram into: to one peer, of one length but for a
/// shorter last.
fn run(mut packets: impl Iterator<Item = (usize, SocketAddr)>) -> usize {
    let Some((size, peer)) = packets.next() else { return 0 };
    let (mut count, mut bytes) = (1, size);
    for (length, to) in packets.take(SEGMENTS - 1) {
        bytes += length;
        if to != peer || length > size || length == 0 || bytes > LONGEST {
            break;
        }
        count += 1;
        if length < size {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gotatun::{
        packet::PacketBufPool,
        udp::{UdpRecv as _, UdpTransportFactory as _, UdpTransportFactoryParams, socket::SockOpt},
    };
    use tokio::time::timeout;

    use super::*;
    use crate::socket::Sockets;

    #[test]
    fn a_run_is_to_one_peer_and_of_one_length_but_for_its_last() {
        let [one, two] = ["192.0.2.1:51820", "192.0.2.2:51820"].map(|text| text.parse().unwrap());
        let long = vec![(1452, one); 100];
        for (packets, expected) in [
            (&[][..], 0),
            (&[(1452, one)], 1),
            (&[(1452, one), (1452, one), (100, one), (1452, one)], 3),
            (&[(100, one), (1452, one)], 1),
            (&[(1452, one), (1452, two)], 1),
            (&[(1452, one), (1452, one), (0, one)], 2),
            (&long, 45),
            (&[(148, one); 100], 64),
        ] {
            assert_eq!(run(packets.iter().copied()), expected, "{packets:?}");
        }
    }

    fn packet(length: usize) -> Packet {
        Packet::copy_from(&vec![length as u8; length][..])
    }

    /// By the engine's own sockets, which are of both families.
    #[tokio::test]
    async fn what_is_sent_together_arrives_one_by_one_and_a_lost_peer_costs_no_other() {
        let params = UdpTransportFactoryParams { addr: None, port: 0, fwmark: None };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (sender, _) = Sockets::default().bind(&params).await.unwrap();
            let mut receiver = UdpSocket::bind(address.parse().unwrap(), SockOpt::default()).unwrap();
            let to = receiver.local_addr().unwrap();
            // A class of addresses that is nobody's: the kernel refuses it.
            let lost = if to.is_ipv4() { "255.255.255.255:9" } else { "[ff02::1]:0" }.parse().unwrap();
            let lengths = [1200, 1200, 1200, 700, 90, 80, 1200];
            let mut packets: Vec<_> = lengths.map(|length| (packet(length), to)).into();
            assert_eq!(sender.next(&packets), (4, true));
            sender.send_run(&packets[..4]).await.unwrap();
            packets.drain(..4);
            assert_eq!(sender.next(&packets), (2, true));
            packets.insert(0, (packet(1200), lost));
            packets.insert(0, (packet(1200), lost));
            packets.push((packet(7), lost));
            sender.send_many_to(&mut Buffer::default(), &mut packets).await.unwrap();
            assert!(packets.is_empty() && !sender.one_by_one.load(Ordering::Relaxed));
            let mut pool = PacketBufPool::new(1);
            for length in lengths {
                let received = receiver.recv_from(&mut pool);
                let (packet, _) = timeout(Duration::from_secs(5), received).await.expect(address).unwrap();
                assert_eq!((packet.len(), packet[0]), (length, length as u8), "{address}");
            }
        }
    }

    #[tokio::test]
    async fn who_cannot_cut_sends_all_by_one_call() {
        let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SockOpt::default()).unwrap();
        let (sender, mut receiver) = (Sender::new(bind()), bind());
        let to = receiver.local_addr().unwrap();
        sender.one_by_one.store(true, Ordering::Relaxed);
        let mut packets: Vec<_> = [100, 100, 50].map(|length| (packet(length), to)).into();
        assert_eq!(sender.next(&packets), (3, false));
        sender.send_many_to(&mut Buffer::default(), &mut packets).await.unwrap();
        let mut pool = PacketBufPool::new(1);
        for length in [100, 100, 50] {
            let received = receiver.recv_from(&mut pool);
            assert_eq!(timeout(Duration::from_secs(5), received).await.unwrap().unwrap().0.len(), length);
        }
    }
}
