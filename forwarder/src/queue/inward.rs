//! From the peers to the TUN device.

use std::{io, os::fd::AsFd as _, sync::Arc};

use arc_swap::Cache;
use nix::libc;
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr};

use super::{Queue, answer::Answers};
use crate::{
    batch::{Datagram, HEADROOM, Inbox},
    counters::Drop,
    icmp::Complaint,
    join::Run,
    packet,
    split::{Segments, WHOLE},
    table::Table,
};

/// Datagrams that are taken by one system call. The kernel joins up to 64 into each.
const DATAGRAMS: usize = 16;

/// Runs until the queue is stopped, or with an error when the socket can't be read.
pub fn inward(queue: &Arc<Queue>) -> io::Result<()> {
    let mut table = Cache::new(Arc::clone(&queue.table));
    let mut inbox = Inbox::new(DATAGRAMS);
    let mut answers = Answers::new();
    while !queue.is_stopping() {
        match inbox.receive(queue.socket.as_fd()) {
            Ok(count) => {
                let table: &Table = table.load();
                queue.inward.batch();
                for number in 0..count {
                    if let Some(datagram) = inbox.datagram(number) {
                        pass_on(queue, table, &mut answers, datagram);
                    }
                }
                if count == DATAGRAMS {
                    continue;
                }
            }
            // A peer's node has said that nobody receives there: its business.
            Err(error)
                if [io::ErrorKind::Interrupted, io::ErrorKind::ConnectionRefused].contains(&error.kind()) =>
            {
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if !queue.wait(queue.socket.as_fd())? {
            break;
        }
    }
    Ok(())
}

/// Hands the packets of one datagram, or of several of one sender, to the kernel, joined where they can be.
fn pass_on(queue: &Queue, table: &Table, answers: &mut Answers, datagram: Datagram<'_>) {
    let counters = &*queue.inward;
    let Datagram { from, buffer, segment } = datagram;
    let end = buffer.len();
    let Some(peer) = table.peer_at(from) else {
        return counters.dropped(Drop::ForeignPeer, (end - HEADROOM).div_ceil(segment.max(1)));
    };
    let mut run: Option<Run> = None;
    let mut at = HEADROOM;
    while at < end {
        let next = end.min(at + segment.max(1));
        let packet = buffer.get_mut(at..next).unwrap_or_default();
        let start = std::mem::replace(&mut at, next);
        let Some(ip) = packet::header(packet) else {
            counters.dropped(Drop::Malformed, 1);
            continue;
        };
        if table.look_up(ip.source) != Some(peer) {
            counters.dropped(Drop::ForeignSource, 1);
            continue;
        }
        if ip.ttl <= 1 {
            counters.dropped(Drop::Expired, 1);
            answers.complain(queue, (table, counters), Complaint::TimeExceeded, (packet, &ip));
            continue;
        }
        packet::decrement_ttl(packet);
        counters.moved(1, ip.total);
        if run.as_mut().is_some_and(|run| run.join(buffer, start, &ip)) {
            continue;
        }
        // It begins a run of its own, and what was before it can go.
        let packet = buffer.get(start..start + ip.total).unwrap_or_default();
        let begun = Run::new(packet, start, &ip, queue.device.udp_gso());
        if let Some(run) = run.replace(begun) {
            write(queue, buffer, &run);
        }
    }
    if let Some(run) = run {
        write(queue, buffer, &run);
    }
}

/// Writes a packet with the kernel's header before it. What is there goes: it is the headroom, or of a packet that
/// has gone already.
fn write(queue: &Queue, buffer: &mut [u8], run: &Run) {
    let offload: VirtioNetHdr = run.finish(buffer);
    let begin = run.start.saturating_sub(VIRTIO_NET_HDR_LEN);
    let sent = match buffer.get_mut(begin..run.end) {
        Some(bytes) => {
            let encoded = offload.encode(bytes.get_mut(..VIRTIO_NET_HDR_LEN).unwrap_or_default());
            encoded.and_then(|()| queue.device.send(bytes))
        }
        None => Err(io::ErrorKind::InvalidInput.into()),
    };
    let Err(error) = sent else { return };
    let packet = buffer.get_mut(run.start..run.end).unwrap_or_default();
    if error.raw_os_error() == Some(libc::EINVAL) && offload.gso_type != WHOLE {
        return write_each(queue, packet, offload);
    }
    queue.inward.dropped(Drop::Refused, 1);
}

/// Writes a joined packet as those that it was joined of. Linux 6.6.44, and others of that summer, refuse what is joined
/// unless all of it is of one length.
fn write_each(queue: &Queue, packet: &mut [u8], offload: VirtioNetHdr) {
    let segments = packet::header(packet).and_then(|ip| Segments::new(packet, ip, offload));
    let Some(mut segments) = segments else { return queue.inward.dropped(Drop::Refused, 1) };
    let mut alone = vec![];
    while let Some(length) = segments.next_length() {
        alone.clear();
        // The header of zeros says that it is whole.
        alone.resize(VIRTIO_NET_HDR_LEN + length, 0);
        segments.write(alone.get_mut(VIRTIO_NET_HDR_LEN..).unwrap_or_default());
        if queue.device.send(&alone).is_err() {
            queue.inward.dropped(Drop::Refused, 1);
        }
    }
}
