//! The end of a TUN device at which packets are read and written, one by one.

use std::{io, iter, sync::Arc, time::Duration};

use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
};
use nix::libc::EIO;
use tokio::{sync::watch, time::sleep};
use tun_rs::{AsyncDevice, DeviceBuilder};

/// Between tries to read from a device that is down.
const DOWN: Duration = Duration::from_millis(50);

/// A clone is the same end.
#[derive(Clone)]
pub struct Tun {
    device: Arc<AsyncDevice>,
    mtu: watch::Receiver<u16>,
}

impl Tun {
    /// Attaches to the device, which the agent made as `datapath` says; fails while another process is attached.
    pub fn attach(name: &str, mtu: watch::Receiver<u16>) -> io::Result<Self> {
        let builder = DeviceBuilder::new().name(name).with(|device| {
            device.multi_queue(false).offload(false).packet_information(false);
        });
        Ok(Self { device: Arc::new(builder.inherit_enable_state().build_async()?), mtu })
    }
}

impl IpSend for Tun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        match self.device.send(&packet.into_bytes()).await {
            // The device is down: packets to it are lost, as on a card.
            Err(error) if error.raw_os_error() == Some(EIO) => Ok(()),
            other => other.map(drop),
        }
    }
}

impl IpRecv for Tun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        loop {
            let mut packet = pool.get();
            let length = match self.device.recv(&mut packet).await {
                Err(error) if error.raw_os_error() == Some(EIO) => {
                    sleep(DOWN).await;
                    continue;
                }
                other => other?,
            };
            packet.truncate(length);
            // Whatever else is put into it is nobody's.
            if let Ok(packet) = packet.try_into_ip() {
                return Ok(iter::once(packet));
            }
        }
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}
