//! One generic netlink socket, for messages that carry secrets: the library's connection writes each message into
//! the log at its finest level, private keys included. Requests are answered in microseconds, so they block.

use std::{io, time::Duration};

use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};
use rtnetlink::{
    packet_core::{
        Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, ParseableParametrized,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC},
};

use super::socket::RequestError;

const PATIENCE: Duration = Duration::from_secs(10);

/// Opens a socket in the network namespace of the calling thread, for one conversation.
pub(super) struct Generic {
    socket: Socket,
    family: u16,
}

impl Generic {
    /// `None` where the kernel has no such family: its module is not loaded.
    pub(super) fn open(name: &str) -> Result<Option<Self>, RequestError> {
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(RequestError::Open)?;
        socket.bind_auto().map_err(RequestError::Open)?;
        let patience = TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)
            .map_err(|error| RequestError::Open(error.into()))?;
        let mut generic = Self { socket, family: 0 };
        let request =
            GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())] };
        let answers = match generic.ask(request, NLM_F_ACK) {
            Ok(answers) => answers,
            // ENOENT.
            Err(error) if error.errno() == Some(2) => return Ok(None),
            Err(error) => return Err(error),
        };
        let id = answers.iter().flat_map(|answer| &answer.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        Ok(id.map(|family| {
            generic.family = family;
            generic
        }))
    }

    /// A request that is answered by an acknowledgement alone.
    pub(super) fn set<F>(&self, request: F) -> Result<(), RequestError>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug + Eq,
    {
        self.ask(request, NLM_F_ACK).map(drop)
    }

    /// All that matches the request.
    pub(super) fn dump<F>(&self, request: F) -> Result<Vec<F>, RequestError>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug + Eq,
    {
        self.ask(request, NLM_F_DUMP)
    }

    fn ask<F>(&self, request: F, flags: u16) -> Result<Vec<F>, RequestError>
    where
        F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug + Eq,
    {
        let mut message = GenlMessage::from_payload(request);
        if self.family != 0 {
            message.set_resolved_family_id(self.family);
        }
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).map_err(RequestError::Open)?;
        let mut found = vec![];
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => RequestError::Timeout,
                _ => RequestError::Open(error),
            })?;
            let mut rest = datagram.as_slice();
            while rest.len() >= 16 {
                let message = NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(|error| {
                    RequestError::Refused { errno: 0, text: format!("an answer that can't be read: {error}") }
                })?;
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length.max(16)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message.payload),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        super::socket::verdict(&error)?;
                        return Ok(found);
                    }
                    _ => {}
                }
            }
        }
    }
}
