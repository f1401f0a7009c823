//! A netlink socket for messages that carry secrets: the library's connection writes each message into the log at its
//! finest level, keys included. Requests are answered in microseconds, so they block.

use std::{io, time::Duration};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};
use rtnetlink::{
    packet_core::{
        NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    sys::{Socket, SocketAddr},
};

use super::socket::{RequestError, verdict};

const PATIENCE: Duration = Duration::from_secs(10);

/// In the network namespace of the thread that opened it, for one conversation.
pub(super) struct Quiet(Socket);

impl Quiet {
    pub(super) fn open(protocol: isize) -> Result<Self, RequestError> {
        let mut socket = Socket::new(protocol).map_err(RequestError::Open)?;
        socket.bind_auto().map_err(RequestError::Open)?;
        let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)
            .map_err(|error| RequestError::Open(error.into()))?;
        Ok(Self(socket))
    }

    /// All answers to a request.
    pub(super) fn ask<T>(&self, request: T, flags: u16) -> Result<Vec<T>, RequestError>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
        NetlinkPayload<T>: From<T>,
    {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(RequestError::Open)?;
        let mut found = vec![];
        loop {
            let (datagram, _) = self.0.recv_from_full().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => RequestError::Timeout,
                _ => RequestError::Open(error),
            })?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 16 {
                let message = NetlinkMessage::<T>::deserialize(rest).map_err(|error| {
                    RequestError::Refused { errno: 0, text: format!("an answer that can't be read: {error}") }
                })?;
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length.max(16)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        verdict(&error)?;
                        return Ok(found);
                    }
                    _ => {}
                }
            }
        }
    }
}
