//! Complaints to the senders of packets, put into the TUN device: the kernel knows the way to them, be they pods of
//! this node or, through us, of another.

use std::time::Instant;

use tun_rs::VIRTIO_NET_HDR_LEN;

use super::Queue;
use crate::{
    counters::Counters,
    icmp::{self, Complaint, LONGEST, Limit},
    packet::Header,
    table::Table,
};

pub(super) struct Answers {
    limit: Limit,
}

impl Answers {
    pub(super) fn new() -> Self {
        Self { limit: Limit::new(Instant::now()) }
    }

    pub(super) fn complain(
        &mut self,
        queue: &Queue,
        (table, counters): (&Table, &Counters),
        complaint: Complaint,
        (packet, ip): (&[u8], &Header),
    ) {
        let Some(source) = table.source() else { return };
        if !self.limit.allows(Instant::now()) {
            return;
        }
        let mut message = [0; LONGEST];
        let Some(length) = icmp::complain(complaint, packet, ip, source, &mut message) else { return };
        // Nothing is left to the kernel: a header of zeroes says so.
        let mut buffer = [0; VIRTIO_NET_HDR_LEN + LONGEST];
        if let (Some(to), Some(from)) =
            (buffer.get_mut(VIRTIO_NET_HDR_LEN..VIRTIO_NET_HDR_LEN + length), message.get(..length))
        {
            to.copy_from_slice(from);
        }
        let sent = buffer.get(..VIRTIO_NET_HDR_LEN + length).map(|bytes| queue.device.send(bytes));
        if matches!(sent, Some(Ok(_))) {
            counters.complained();
        }
    }
}
