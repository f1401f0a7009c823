//! The socket that encrypted packets come by and go by.

use std::io;

use gotatun::udp::{
    UdpTransportFactory, UdpTransportFactoryParams,
    socket::{UdpSocket, UdpSocketFactory},
};
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, SndBufForce},
};

use crate::segments::Sender;

/// Holds what comes in while the process waits for a processor: the kernel's own 208 KiB are some 270 small packets, a
/// few milliseconds of a busy node.
const BUFFER: usize = 4 << 20;

/// The engine's sockets with room for more, which send what goes to one peer together.
#[derive(Debug, Default)]
pub struct Sockets(UdpSocketFactory);

impl UdpTransportFactory for Sockets {
    type Send = Sender;
    type Recv = UdpSocket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Sender, UdpSocket)> {
        let (send, receive) = self.0.bind(params).await?;
        // These take NET_ADMIN, which who makes TUN devices has. Without it the defaults have to do.
        let _ = setsockopt(receive.socket(), RcvBufForce, &BUFFER);
        let _ = setsockopt(send.socket(), SndBufForce, &BUFFER);
        Ok((Sender::new(send), receive))
    }
}
