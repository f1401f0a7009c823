//! What the udp path is compared with: one packet at a time, as flannel's proxy forwards them.
//!
//! One thread that polls, one system call to read a packet and one to send it, no offloads. Not a part of the
//! product, and no more correct than a comparison needs.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, setns},
};
use tartan_lab::Namespace;
use tun_rs::{DeviceBuilder, SyncDevice};

const PORT: u16 = 8285;
/// Milliseconds between looks at whether to end.
const BEAT: u16 = 100;

/// Ends when dropped.
pub(super) struct Plain {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Plain {
    /// On the device of the node `host`, which receives at `local`, with one peer.
    pub(super) fn start(host: &Namespace, local: Ipv4Addr, peer: Ipv4Addr) -> Result<Self> {
        let namespace = File::open(host.netns()).context("open the namespace")?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let builder = DeviceBuilder::new().name("tartan-udp").with(|device| {
                device.multi_queue(true).offload(false).packet_information(false);
            });
            let device = builder.inherit_enable_state().build_sync()?;
            device.set_nonblocking(true)?;
            let socket = UdpSocket::bind((local, PORT))?;
            socket.set_nonblocking(true)?;
            forward(&device, &socket, peer, &told)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it and tells what went wrong meanwhile.
    pub(super) fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!("the plain forwarder panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn forward(device: &SyncDevice, socket: &UdpSocket, peer: Ipv4Addr, stop: &AtomicBool) -> Result<()> {
    let peer = SocketAddrV4::new(peer, PORT);
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        let mut both =
            [PollFd::new(device.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut both, BEAT)?;
        if let Some(packet) = one(device.recv(&mut buffer), &mut buffer)? {
            // A full buffer loses the packet, as a full queue would.
            let _ = socket.send_to(packet, peer);
        }
        if let Some(packet) = one(socket.recv(&mut buffer), &mut buffer)? {
            let _ = device.send(packet);
        }
    }
    Ok(())
}

/// A packet with a hop less to live.
fn one(received: io::Result<usize>, buffer: &mut [u8]) -> Result<Option<&[u8]>> {
    let length = match received {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let packet = buffer.get_mut(..length).unwrap_or_default();
    // IPv4 alone: the kernel says a word of IPv6 on every new link.
    if packet.first().is_none_or(|first| first >> 4 != 4) {
        return Ok(None);
    }
    if let Some([ttl, _, sum_a, sum_b]) = packet.get_mut(8..12) {
        *ttl = ttl.saturating_sub(1);
        let (sum, carry) = u16::from_be_bytes([*sum_a, *sum_b]).overflowing_add(0x0100);
        [*sum_a, *sum_b] = (sum + u16::from(carry)).to_be_bytes();
    }
    Ok(Some(packet))
}
