//! The queues' threads: started on a device, stopped all together.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
};

use arc_swap::ArcSwap;
use nix::{fcntl::OFlag, net::if_::if_nametoindex, unistd::pipe2};
use tartan_datapath::{kernel::udp::UdpOrders, mark};
use tokio::sync::mpsc;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::{
    counters::Counters,
    queue::{Queue, inward, outward},
    socket,
    table::Table,
};

/// Why forwarding can't begin, by what was tried.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot receive on {local}")]
    Socket {
        local: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    #[error("cannot attach to {}", mark::UDP)]
    Device(#[source] io::Error),
    #[error("{} was replaced meanwhile", mark::UDP)]
    Replaced,
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Counters of one queue: outward, inward.
pub type Pair = [Arc<Counters>; 2];

/// Ends its threads when dropped.
#[derive(Debug)]
pub struct Workers {
    pub index: u32,
    pub local: SocketAddrV4,
    threads: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    stop: Option<OwnedFd>,
}

impl Workers {
    /// As many queues as there are `counters`. Each thread that ends by itself is told of on `ended`.
    pub fn start(
        orders: &UdpOrders,
        table: &Arc<ArcSwap<Table>>,
        counters: &[Pair],
        ended: &mpsc::UnboundedSender<io::Error>,
    ) -> Result<Self, StartError> {
        let local = orders.local;
        // The sockets first: while nobody is attached to the device, it says that nobody forwards.
        let sockets = counters.iter().map(|_| socket::open(local)).collect::<io::Result<Vec<_>>>();
        let sockets = sockets.map_err(|source| StartError::Socket { local, source })?;
        let devices = attach(counters.len()).map_err(StartError::Device)?;
        // Attaching to a device that has gone makes one, which goes with us.
        if if_nametoindex(mark::UDP).ok() != Some(orders.index) {
            return Err(StartError::Replaced);
        }
        let (listen, stop) = pipe2(OFlag::O_CLOEXEC).map_err(|error| StartError::Thread(error.into()))?;
        let mut workers =
            Self { index: orders.index, local, threads: vec![], stopping: Arc::default(), stop: Some(stop) };
        for (number, ((socket, device), [out, into])) in
            sockets.into_iter().zip(devices).zip(counters).enumerate()
        {
            let queue = Arc::new(Queue {
                device,
                socket,
                local,
                table: Arc::clone(table),
                outward: Arc::clone(out),
                inward: Arc::clone(into),
                stopping: Arc::clone(&workers.stopping),
                stop: listen.try_clone().map_err(StartError::Thread)?,
            });
            workers.spawn(format!("outward-{number}"), &queue, outward, ended)?;
            workers.spawn(format!("inward-{number}"), &queue, inward, ended)?;
        }
        Ok(workers)
    }

    fn spawn(
        &mut self,
        name: String,
        queue: &Arc<Queue>,
        work: fn(&Arc<Queue>) -> io::Result<()>,
        ended: &mpsc::UnboundedSender<io::Error>,
    ) -> Result<(), StartError> {
        let (queue, ended) = (Arc::clone(queue), ended.clone());
        let body = move || {
            if let Err(error) = work(&queue) {
                // Nobody listens at the end of the process.
                let _ = ended.send(error);
            }
        };
        self.threads.push(Builder::new().name(name).spawn(body).map_err(StartError::Thread)?);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic has been printed; here it is an end like others.
            let _ = thread.join();
        }
    }
}

fn attach(queues: usize) -> io::Result<Vec<SyncDevice>> {
    let builder = DeviceBuilder::new().name(mark::UDP).with(|device| {
        device.multi_queue(true).offload(true).packet_information(false);
    });
    let first = builder.inherit_enable_state().build_sync()?;
    let mut devices = vec![first];
    while let (Some(first), true) = (devices.first(), devices.len() < queues) {
        devices.push(first.try_clone()?);
    }
    for device in &devices {
        device.set_nonblocking(true)?;
    }
    Ok(devices)
}
