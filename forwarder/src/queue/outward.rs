//! From the TUN device to the peers.

use std::{io, os::fd::AsFd as _, sync::Arc};

use arc_swap::Cache;
use nix::libc;
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::{Queue, answer::Answers};
use crate::{
    batch::{Message, Outbox},
    counters::Drop,
    icmp::Complaint,
    packet, socket,
    split::Segments,
    table::Table,
};

/// Messages that leave by one system call.
const MESSAGES: usize = 16;
/// The kernel's header and the largest packet.
const LARGEST: usize = VIRTIO_NET_HDR_LEN + 65_535;
/// IPv4 and UDP headers.
const OVERHEAD: u16 = 28;

/// Runs until the queue is stopped, or with an error when the device has gone.
pub fn outward(queue: &Arc<Queue>) -> io::Result<()> {
    let mut table = Cache::new(Arc::clone(&queue.table));
    let mut buffer = vec![0; LARGEST];
    let mut outbox = Outbox::new(MESSAGES);
    let mut answers = Answers::new();
    loop {
        let table: &Table = table.load();
        let mut more = true;
        while more && outbox.has_room() {
            match queue.device.recv(&mut buffer) {
                Ok(length) => {
                    let packet = buffer.get_mut(..length).unwrap_or_default();
                    take(queue, table, &mut answers, &mut outbox, packet);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => more = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel has no header for a packet, and has dropped it (tun_put_user in drivers/net/tun.c).
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    queue.outward.dropped(Drop::Malformed, 1);
                }
                Err(error) => return Err(error),
            }
        }
        flush(queue, table, &mut answers, &mut outbox);
        if queue.is_stopping() || (!more && !queue.wait(queue.device.as_fd())?) {
            return Ok(());
        }
    }
}

/// Puts a packet, as many packets as it is, into the outbox.
fn take(queue: &Queue, table: &Table, answers: &mut Answers, outbox: &mut Outbox, bytes: &mut [u8]) {
    let counters = &*queue.outward;
    let Some((Ok(offload), packet)) = bytes
        .split_at_mut_checked(VIRTIO_NET_HDR_LEN)
        .map(|(header, packet)| (VirtioNetHdr::decode(header), packet))
    else {
        return counters.dropped(Drop::Malformed, 1);
    };
    let Some(ip) = packet::header(packet) else { return counters.dropped(Drop::Malformed, 1) };
    let Some(peer) = table.look_up(ip.destination).and_then(|number| table.peer(number)) else {
        counters.dropped(Drop::NoRoute, 1);
        return answers.complain(queue, (table, counters), Complaint::NetUnreachable, (packet, &ip));
    };
    if ip.ttl <= 1 {
        counters.dropped(Drop::Expired, 1);
        return answers.complain(queue, (table, counters), Complaint::TimeExceeded, (packet, &ip));
    }
    packet::decrement_ttl(packet);
    let Some(mut segments) = Segments::new(packet, ip, offload) else {
        return counters.dropped(Drop::Malformed, 1);
    };
    while let Some(length) = segments.next_length() {
        if let Some(place) = outbox.place(peer.address, length) {
            segments.write(place);
            continue;
        }
        if outbox.is_empty() {
            return counters.dropped(Drop::TooBig, 1);
        }
        flush(queue, table, answers, outbox);
    }
}

fn flush(queue: &Queue, table: &Table, answers: &mut Answers, outbox: &mut Outbox) {
    if outbox.is_empty() {
        return;
    }
    let counters = &*queue.outward;
    counters.batch();
    outbox.send(queue.socket.as_fd(), queue.local.port(), |outbox, message, result| match result {
        Ok(packets) => counters.moved(packets, message.bytes()),
        Err(error) => match error.raw_os_error() {
            // Before Linux 6.10 segments that don't fit are an invalid argument.
            Some(libc::EMSGSIZE | libc::EINVAL) => send_each(queue, table, answers, outbox, message),
            _ => counters.dropped(Drop::Refused, outbox.packets(&message).count()),
        },
    });
}

/// What the path has become too narrow for: each packet is sent alone, in pieces where it may be cut, and where it
/// may not, its sender is told what fits.
fn send_each(queue: &Queue, table: &Table, answers: &mut Answers, outbox: &Outbox, message: Message) {
    let counters = &*queue.outward;
    let peer = queue.at(message.peer());
    let mtu = socket::path_mtu(*queue.local.ip(), peer).unwrap_or(u16::MAX).saturating_sub(OVERHEAD);
    for packet in outbox.packets(&message) {
        let Some(ip) = packet::header(packet) else { continue };
        if ip.dont_fragment && packet.len() > usize::from(mtu) {
            counters.dropped(Drop::TooBig, 1);
            answers.complain(queue, (table, counters), Complaint::TooBig { mtu }, (packet, &ip));
        } else if socket::send_cut(&queue.socket, peer, packet).is_ok() {
            counters.moved(1, packet.len());
        } else {
            counters.dropped(Drop::Refused, 1);
        }
    }
}
