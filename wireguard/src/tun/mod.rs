//! The end of a TUN device at which packets are read and written, many by one system call.
//!
//! The kernel passes what a pod sends as it comes from the pod's TCP or UDP, up to 64 KiB by one read, and takes packets
//! joined likewise (`IFF_VNET_HDR`, include/uapi/linux/if_tun.h and virtio_net.h).

mod read;
mod write;

use std::{io, sync::Arc};

use tokio::sync::watch;
use tun_rs::DeviceBuilder;

pub use read::Reader;
pub use write::Writer;

/// Attaches to the device, which the agent made as `datapath` says; fails while another process is attached.
///
/// What is written goes on as long as the future is polled. It ends when the writer has gone, or with an error after
/// which nothing can be written, and has the device until it is dropped.
pub fn attach(
    name: &str,
    mtu: watch::Receiver<u16>,
) -> io::Result<(Writer, Reader, impl Future<Output = ()> + Send + use<>)> {
    let builder = DeviceBuilder::new().name(name).with(|device| {
        device.multi_queue(false).offload(true).packet_information(false);
    });
    let device = Arc::new(builder.inherit_enable_state().build_async()?);
    let (writer, queue) = Writer::new();
    Ok((writer, Reader::new(Arc::clone(&device), mtu), write::write(device, queue)))
}
