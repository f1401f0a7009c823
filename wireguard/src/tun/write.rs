//! To the pods: packets that came together are joined, where they are of one connection, and written as one.

use std::{io, sync::Arc};

use gotatun::{
    packet::{Ip, Packet},
    tun::IpSend,
};
use nix::libc::{EBADF, EBADFD, EINVAL, EIO, ENODEV};
use tokio::sync::mpsc;
use tun_rs::{AsyncDevice, GROTable, VIRTIO_NET_HDR_LEN};

/// How many packets are taken together at most: more than a joined one can have of full length.
const BURST: usize = 64;
/// What a joined packet can have, and what `GROTable` wants as room beside it.
const ROOM: usize = 65_535 + 2 * VIRTIO_NET_HDR_LEN;

/// The one who writes: a queue, so that what comes while the kernel takes a burst is the next burst.
pub struct Writer(mpsc::Sender<Packet<Ip>>);

impl Writer {
    pub(super) fn new() -> (Self, mpsc::Receiver<Packet<Ip>>) {
        let (sender, queue) = mpsc::channel(4 * BURST);
        (Self(sender), queue)
    }
}

impl IpSend for Writer {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody writes to the device any more");
        self.0.send(packet).await.map_err(gone)
    }
}

/// Writes what comes by the queue, until its other end or the device has gone.
pub(super) async fn write(device: Arc<AsyncDevice>, mut queue: mpsc::Receiver<Packet<Ip>>) {
    let mut table = GROTable::new();
    let mut burst = Vec::with_capacity(BURST);
    let mut buffers: Vec<Vec<u8>> = vec![];
    let mut joins = true;
    loop {
        let count = queue.recv_many(&mut burst, BURST).await;
        if count == 0 {
            return;
        }
        if buffers.len() < count {
            buffers.resize_with(count, || Vec::with_capacity(ROOM));
        }
        for (buffer, packet) in buffers.iter_mut().zip(burst.drain(..)) {
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(&packet.into_bytes());
        }
        let full = buffers.get_mut(..count).unwrap_or_default();
        let written = if joins {
            device.send_multiple(&mut table, full, VIRTIO_NET_HDR_LEN).await.map(drop)
        } else {
            write_each(&device, full).await
        };
        let Err(error) = written else { continue };
        match error.raw_os_error() {
            // The device is down: packets to it are lost, as on a card.
            Some(EIO) => {}
            Some(EBADF | EBADFD | ENODEV) => {
                tracing::error!(%error, "cannot write to the device any more");
                return;
            }
            // Linux 6.6.44, and others of that summer, refuse what is joined unless all of it is of one length.
            Some(EINVAL) if joins => {
                tracing::warn!(%error, "the kernel takes no joined packets: each is written alone from now on");
                joins = false;
            }
            _ => tracing::debug!(%error, "the kernel did not take a packet"),
        }
    }
}

/// The last error, if any, when all have been tried.
async fn write_each(device: &AsyncDevice, packets: &[Vec<u8>]) -> io::Result<()> {
    let mut outcome = Ok(());
    for packet in packets {
        // The header of zeros before it says that it is whole.
        outcome = device.send(packet).await.map(drop).and(outcome);
    }
    outcome
}
