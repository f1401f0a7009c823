//! Many datagrams by one system call each way, into and out of memory that is never allocated anew.
//!
//! `nix` wraps both calls, but gives all messages of a batch the same control message, and leaves the length of the
//! control buffers as the last call had set it, after which no segment size arrives. So they are made here.

#![allow(unsafe_code, reason = "sendmmsg and recvmmsg with a control message for each of their messages")]

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::libc;

/// `UDP_MAX_SEGMENTS` (linux/udp.h) was 64 until Linux 6.9.
const SEGMENTS: usize = 64;
/// What fits into an IPv4 datagram.
const DATAGRAM: usize = 65_507;
/// Room for one control message with an integer, aligned as the kernel wants it.
type Control = [u64; 4];

/// Equal packets to one peer, the last of which may be shorter: they leave as one message, and the kernel, or the
/// card, cuts it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message {
    pub to: [u8; 4],
    start: usize,
    length: usize,
    segment: usize,
    count: usize,
    closed: bool,
}

/// What is to be sent.
pub struct Outbox {
    bytes: Vec<u8>,
    used: usize,
    messages: Vec<Message>,
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in>,
    controls: Vec<Control>,
}

impl Outbox {
    /// Room for so many messages of a whole datagram.
    pub fn new(messages: usize) -> Self {
        Self {
            bytes: vec![0; messages * DATAGRAM],
            used: 0,
            messages: Vec::with_capacity(messages),
            // SAFETY: these are plain old data, for which all zeroes is a value.
            headers: (0..messages).map(|_| unsafe { std::mem::zeroed() }).collect(),
            iovecs: (0..messages).map(|_| unsafe { std::mem::zeroed() }).collect(),
            names: (0..messages).map(|_| unsafe { std::mem::zeroed() }).collect(),
            controls: vec![Control::default(); messages],
        }
    }

    /// Where a packet of this length to a peer is to be written. `None` when it must be sent first.
    pub fn place(&mut self, to: Ipv4Addr, length: usize) -> Option<&mut [u8]> {
        let start = self.used;
        let end = start.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let full = self.messages.len() == self.headers.len();
        match self.messages.last_mut().filter(|last| last.takes(to, length)) {
            Some(last) => {
                last.length += length;
                last.count += 1;
                last.closed = length < last.segment;
            }
            None if full => return None,
            None => self.messages.push(Message {
                to: to.octets(),
                start,
                length,
                segment: length,
                count: 1,
                closed: false,
            }),
        }
        self.used = end;
        self.bytes.get_mut(start..end)
    }

    /// Whether it is worth taking another packet. One whose segments find no room after all goes in two rounds.
    pub fn has_room(&self) -> bool {
        self.bytes.len() - self.used >= 2 * DATAGRAM && self.headers.len() - self.messages.len() >= 4
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The packets of a message.
    pub fn packets(&self, message: &Message) -> impl Iterator<Item = &[u8]> {
        let bytes = self.bytes.get(message.start..message.start + message.length).unwrap_or_default();
        bytes.chunks(message.segment.max(1))
    }

    /// Sends everything, and tells what became of each message: the number of its packets, or the error.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        port: u16,
        mut told: impl FnMut(&Self, Message, io::Result<usize>),
    ) {
        self.fill_headers(port);
        let mut at = 0;
        while let Some(rest) = self.headers.get_mut(at..self.messages.len()).filter(|rest| !rest.is_empty()) {
            // SAFETY: the first `messages.len()` headers point into vectors of `self` that are not touched until
            // the call returns; each has a name, one iovec and, where it is cut, one control message.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    u32::try_from(rest.len()).unwrap_or(0),
                    0,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => {
                    for message in self.messages.iter().skip(at).take(sent) {
                        told(self, *message, Ok(message.count));
                    }
                    at += sent.max(1);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() == io::ErrorKind::Interrupted {
                        continue;
                    }
                    // The first one is at fault: the others are tried without it.
                    if let Some(message) = self.messages.get(at) {
                        told(self, *message, Err(error));
                    }
                    at += 1;
                }
            }
        }
        self.messages.clear();
        self.used = 0;
    }

    fn fill_headers(&mut self, port: u16) {
        let slots =
            self.headers.iter_mut().zip(&mut self.iovecs).zip(&mut self.names).zip(&mut self.controls);
        for (message, (((header, iovec), name), control)) in self.messages.iter().zip(slots) {
            let bytes = self.bytes.get_mut(message.start..message.start + message.length).unwrap_or_default();
            *iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            *name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(message.to) },
                sin_zero: [0; 8],
            };
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut *iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = std::ptr::null_mut();
            header.msg_hdr.msg_controllen = 0;
            if message.count > 1 {
                let segment = u16::try_from(message.segment).unwrap_or(0);
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                // SAFETY: computes a size from a size.
                header.msg_hdr.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as _;
                // SAFETY: the control buffer is larger than CMSG_SPACE(2) and aligned to 8 bytes, so the first
                // header and two bytes of data lie in it.
                unsafe {
                    let first = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
                    (*first).cmsg_level = libc::SOL_UDP;
                    (*first).cmsg_type = libc::UDP_SEGMENT;
                    (*first).cmsg_len = libc::CMSG_LEN(2) as _;
                    libc::CMSG_DATA(first).cast::<u16>().write_unaligned(segment);
                }
            }
        }
    }
}

impl Message {
    fn takes(&self, to: Ipv4Addr, length: usize) -> bool {
        !self.closed
            && self.to == to.octets()
            && length <= self.segment
            && self.count < SEGMENTS
            && self.length + length <= DATAGRAM
    }

    pub fn peer(&self) -> Ipv4Addr {
        self.to.into()
    }

    pub fn bytes(&self) -> usize {
        self.length
    }
}

/// Datagrams that came, each with room before it.
pub struct Inbox {
    bytes: Vec<u8>,
    headers: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in>,
    controls: Vec<Control>,
}

/// One of them, or several of one length from one sender that the kernel has joined.
#[derive(Debug)]
pub struct Datagram<'a> {
    pub from: Ipv4Addr,
    /// [`HEADROOM`] bytes of no meaning, and then the packets.
    pub buffer: &'a mut [u8],
    /// The length of each packet but the last.
    pub segment: usize,
}

/// Room for what is put before a packet, so that it need not be moved.
pub const HEADROOM: usize = 16;
const SLOT: usize = HEADROOM + 65_536;

impl Inbox {
    /// For so many datagrams at once.
    pub fn new(datagrams: usize) -> Self {
        Self {
            bytes: vec![0; datagrams * SLOT],
            // SAFETY: these are plain old data, for which all zeroes is a value.
            headers: (0..datagrams).map(|_| unsafe { std::mem::zeroed() }).collect(),
            iovecs: (0..datagrams).map(|_| unsafe { std::mem::zeroed() }).collect(),
            names: (0..datagrams).map(|_| unsafe { std::mem::zeroed() }).collect(),
            controls: vec![Control::default(); datagrams],
        }
    }

    /// Takes what is there, without waiting, and returns how many.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let slots =
            self.headers.iter_mut().zip(&mut self.iovecs).zip(&mut self.names).zip(&mut self.controls);
        for (slot, (((header, iovec), name), control)) in self.bytes.chunks_mut(SLOT).zip(slots) {
            let room = slot.get_mut(HEADROOM..).unwrap_or_default();
            *iovec = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut *iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut *control).cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
        }
        let count = u32::try_from(self.headers.len()).unwrap_or(0);
        // SAFETY: every header points into vectors of `self` that are not touched until the call returns, with
        // the lengths that these have.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// The one with this number, of those that the last call took.
    pub fn datagram(&mut self, number: usize) -> Option<Datagram<'_>> {
        let header = self.headers.get(number)?;
        let length = usize::try_from(header.msg_len).ok()?;
        let from = Ipv4Addr::from(self.names.get(number)?.sin_addr.s_addr.to_ne_bytes());
        let segment = segment(&header.msg_hdr).filter(|segment| *segment > 0).unwrap_or(length);
        let start = number.checked_mul(SLOT)?;
        let buffer = self.bytes.get_mut(start..start + HEADROOM + length)?;
        Some(Datagram { from, buffer, segment })
    }
}

/// The control message `UDP_GRO` (linux/udp.h): an integer.
fn segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the header is as recvmmsg left it: its control buffer is one of ours, of which it has filled
    // `msg_controllen` bytes with whole messages, and CMSG_FIRSTHDR and CMSG_NXTHDR stay within them.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = control.as_ref() {
            if (message.cmsg_level, message.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                return usize::try_from(libc::CMSG_DATA(control).cast::<i32>().read_unaligned()).ok();
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{
        net::UdpSocket,
        os::fd::AsFd as _,
        time::{Duration, Instant},
    };

    use nix::sys::socket::{setsockopt, sockopt::UdpGroSegment};

    use super::*;

    fn put(outbox: &mut Outbox, to: Ipv4Addr, length: usize, fill: u8) -> bool {
        outbox.place(to, length).map(|place| place.fill(fill)).is_some()
    }

    #[test]
    fn equal_packets_to_one_peer_are_one_message() {
        let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let mut outbox = Outbox::new(8);
        for (to, length) in [(a, 100), (a, 100), (a, 60), (a, 60), (b, 60), (b, 61)] {
            assert!(put(&mut outbox, to, length, 1));
        }
        let seen: Vec<_> =
            outbox.messages.iter().map(|message| (message.peer(), message.length, message.count)).collect();
        assert_eq!(seen, [(a, 260, 3), (a, 60, 1), (b, 60, 1), (b, 61, 1)]);
    }

    #[test]
    fn a_message_ends_where_the_kernel_would_refuse_it() {
        let to = Ipv4Addr::LOCALHOST;
        let mut outbox = Outbox::new(3);
        (0..65).for_each(|_| assert!(put(&mut outbox, to, 10, 1)));
        (0..43).for_each(|_| assert!(put(&mut outbox, to, 1500, 1)));
        assert!(!put(&mut outbox, to, 1500, 1), "there is no message left");
        let counts: Vec<_> = outbox.messages.iter().map(|message| message.count).collect();
        assert_eq!(counts, [64, 1, 43]);
    }

    /// On loopback, also past an error, and with what other messages need left alone.
    #[test]
    fn what_is_put_in_comes_out_packet_by_packet() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&receiver, UdpGroSegment, &true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut outbox = Outbox::new(8);
        let there = Ipv4Addr::LOCALHOST;
        for fill in 0..10 {
            assert!(put(&mut outbox, there, 1000, fill));
        }
        assert!(put(&mut outbox, Ipv4Addr::BROADCAST, 50, 77), "which the kernel refuses");
        assert!(put(&mut outbox, there, 20, 10));
        let mut results = vec![];
        let port = receiver.local_addr().unwrap().port();
        outbox.send(sender.as_fd(), port, |_, message, result| results.push((message.count, result.ok())));
        assert_eq!(results, [(10, Some(10)), (1, None), (1, Some(1))]);
        assert!(outbox.is_empty());
        let (mut inbox, mut got) = (Inbox::new(4), vec![]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while got.len() < 11 && Instant::now() < deadline {
            let Ok(count) = inbox.receive(receiver.as_fd()) else { continue };
            for number in 0..count {
                let Datagram { from, buffer, segment } = inbox.datagram(number).unwrap();
                assert_eq!(from, there);
                got.extend(buffer[HEADROOM..].chunks(segment).map(|packet| (packet.len(), packet[0])));
            }
        }
        let expected: Vec<_> = (0..10).map(|fill| (1000, fill)).chain([(20, 10)]).collect();
        assert_eq!(got, expected);
    }
}
