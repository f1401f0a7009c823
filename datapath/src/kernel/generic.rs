//! One conversation with a family of generic netlink.

use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::{
    packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, ParseableParametrized},
    sys::protocols::NETLINK_GENERIC,
};

use super::{quiet::Quiet, socket::RequestError};

/// Opens a socket in the network namespace of the calling thread, for one conversation.
pub(super) struct Generic {
    socket: Quiet,
    family: u16,
}

impl Generic {
    /// `None` where the kernel has no such family: its module is not loaded.
    pub(super) fn open(name: &str) -> Result<Option<Self>, RequestError> {
        let socket = Quiet::open(NETLINK_GENERIC)?;
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
        let answers = self.socket.ask(message, flags)?;
        Ok(answers.into_iter().map(|answer| answer.payload).collect())
    }
}
