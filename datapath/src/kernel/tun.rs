//! Making the TUN devices of the udp path and of the user-space WireGuard: netlink can't, only who opens `/dev/net/tun`.
//!
//! The kernel's queues of 500 packets are made longer: a process that waits for a processor is not there for a hundred
//! milliseconds where other programs are many, and what does not fit is lost.

use std::io;

use tun_rs::DeviceBuilder;

/// As of a card, of each queue. A super-packet may have 64 KiB.
const PACKETS: u32 = 1000;

/// A device that stays, on which whole super-packets pass with the kernel's header before them. Nobody is attached to
/// it when this returns. With `queues`, as many processes or threads may be as will ask for one; else one process at a
/// time.
pub(super) fn create(name: &str, queues: bool) -> io::Result<()> {
    let builder = DeviceBuilder::new().name(name).with(|device| {
        device.multi_queue(queues).offload(true).packet_information(false).tx_queue_len(PACKETS);
    });
    builder.inherit_enable_state().build_sync()?.persist()
}
