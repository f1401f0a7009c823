//! Making the TUN devices of the udp path and of the user-space WireGuard: netlink can't, only who opens `/dev/net/tun`.
//!
//! The kernel's queues of 500 packets are made longer: a process that waits for a processor is not there for a hundred
//! milliseconds where other programs are many, and what does not fit is lost.

use std::io;

use tun_rs::DeviceBuilder;

/// As of a card. Of super-packets, which may be 64 KiB each, and of each queue.
const SUPER_PACKETS: u32 = 1000;
/// 4 MiB or so.
const PACKETS: u32 = 2048;

/// A device that stays, with as many queues as are asked for later, on which whole super-packets pass with the
/// kernel's header before them. Nobody is attached to it when this returns.
pub(super) fn create(name: &str) -> io::Result<()> {
    let builder = DeviceBuilder::new().name(name).with(|device| {
        device.multi_queue(true).offload(true).packet_information(false).tx_queue_len(SUPER_PACKETS);
    });
    builder.inherit_enable_state().build_sync()?.persist()
}

/// A device that stays, for one process at a time, on which packets pass one by one. Nobody is attached to it when this
/// returns.
pub(super) fn create_plain(name: &str) -> io::Result<()> {
    let builder = DeviceBuilder::new().name(name).with(|device| {
        device.multi_queue(false).offload(false).packet_information(false).tx_queue_len(PACKETS);
    });
    builder.inherit_enable_state().build_sync()?.persist()
}
