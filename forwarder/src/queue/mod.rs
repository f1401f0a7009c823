//! One queue: a descriptor of the TUN device and a socket, and a thread for each direction between them.
//!
//! The threads share nothing that changes but the table, which they look at once per batch. They allocate nothing
//! and wait for nobody but the kernel.

mod answer;
mod inward;
mod outward;

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_rs::SyncDevice;

use crate::{counters::Counters, table::Table};

pub use inward::inward;
pub use outward::outward;

/// What both threads of a queue have.
pub struct Queue {
    pub device: SyncDevice,
    pub socket: OwnedFd,
    pub local: SocketAddrV4,
    pub table: Arc<ArcSwap<Table>>,
    /// From the device to the peers.
    pub outward: Arc<Counters>,
    /// From the peers to the device.
    pub inward: Arc<Counters>,
    /// The threads shall end.
    pub stopping: Arc<AtomicBool>,
    /// Its other end is closed then, which wakes those that wait.
    pub stop: OwnedFd,
}

impl Queue {
    /// The port is one for all: the network's.
    fn at(&self, peer: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(peer, self.local.port())
    }

    /// To be asked once per batch: in a flood nobody ever waits.
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits until there is something to read. False: the threads shall end.
    fn wait(&self, source: BorrowedFd<'_>) -> io::Result<bool> {
        let mut both =
            [PollFd::new(source, PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut both, PollTimeout::NONE) {
                Ok(_) => {
                    let [_, stop] = &both;
                    return Ok(!stop.any().unwrap_or(true));
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
