//! One netlink socket with what the library leaves open: acknowledgements in batches, the kernel's own
//! error texts, interrupted dumps asked again, and a time limit on everything.

use std::{fmt::Debug, time::Duration};

use futures::StreamExt as _;
use rtnetlink::{
    packet_core::{
        ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
        NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    proto::{self, ConnectionHandle, ReplyExpectation},
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::{task::JoinHandle, time::timeout};

/// Acknowledgements of more messages than these could overrun the default receive buffer of 208 KiB.
const BATCH: usize = 256;
/// The kernel answers in microseconds; a reply that can't be decoded never comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// `NLM_F_DUMP_INTR` (linux/netlink.h): the table changed during the dump, which may lack entries.
const DUMP_INTERRUPTED: u16 = 0x10;
const DUMP_TRIES: usize = 10;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h).
const ATTRIBUTE_MESSAGE: u16 = 1;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the kernel refused: {text} (errno {errno})")]
    Refused { errno: i32, text: String },
    #[error("no answer from the kernel within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("the table changed during each of {DUMP_TRIES} dumps")]
    Interrupted,
    #[error("the netlink socket is closed")]
    Closed,
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
}

impl RequestError {
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Timeout | Self::Interrupted | Self::Closed | Self::Open(_) => None,
        }
    }
}

/// What a protocol of netlink talks in.
pub(super) trait Message:
    NetlinkSerializable + NetlinkDeserializable + Clone + Debug + Send + Unpin + 'static
{
}

impl<M: NetlinkSerializable + NetlinkDeserializable + Clone + Debug + Send + Unpin + 'static> Message for M {}

/// A request socket and the task that drives it.
#[derive(Debug)]
pub(super) struct Socket<M: Message> {
    handle: ConnectionHandle<M>,
    driver: JoinHandle<()>,
}

impl<M: Message> Drop for Socket<M> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl<M: Message> Socket<M> {
    /// In the network namespace of the calling thread. `protocol` is one of `NETLINK_*` (linux/netlink.h).
    pub(super) fn open(protocol: isize) -> Result<Self, RequestError> {
        let (mut connection, handle, _) = proto::new_connection::<M>(protocol).map_err(RequestError::Open)?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).map_err(RequestError::Open)?;
        // Best effort: capped by net.core.rmem_max, and batches are small enough without it.
        let _ = socket.set_rx_buf_sz(4 << 20);
        connection.set_forward_ack(true);
        let driver = tokio::spawn(connection);
        Ok(Self { handle, driver })
    }

    /// Sends `messages`, each with its `NLM_F_*` flags, and returns the answer to each in their order.
    pub(super) async fn send(&self, messages: Vec<(M, u16)>) -> Vec<Result<(), RequestError>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut rest = messages.into_iter().peekable();
        while rest.peek().is_some() {
            let batch: Vec<_> = rest
                .by_ref()
                .take(BATCH)
                .map(|(message, flags)| {
                    let mut header = NetlinkHeader::default();
                    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
                    (
                        NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message)),
                        ReplyExpectation::Expected,
                    )
                })
                .collect();
            let count = batch.len();
            let end = results.len() + count;
            match self.handle.request_batch_with_expectation(batch, SocketAddr::new(0, 0)) {
                Err(_) => results.extend((0..count).map(|_| Err(RequestError::Closed))),
                // The kernel works through a batch in order and answers each message once.
                Ok(mut answers) => {
                    while results.len() < end {
                        match timeout(PATIENCE, answers.next()).await {
                            Ok(Some(answer)) => {
                                if let NetlinkPayload::Error(error) = answer.payload {
                                    results.push(verdict(&error));
                                }
                            }
                            Ok(None) => results.push(Err(RequestError::Closed)),
                            Err(_) => results.push(Err(RequestError::Timeout)),
                        }
                    }
                }
            }
        }
        results
    }

    /// All objects that match `message`. Asked again while the kernel says that the answer is torn.
    pub(super) async fn dump(&self, message: &M) -> Result<Vec<M>, RequestError> {
        for _ in 0..DUMP_TRIES {
            let (found, interrupted) = self.ask(message.clone(), NLM_F_DUMP).await?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(RequestError::Interrupted)
    }

    /// One object.
    pub(super) async fn get(&self, message: M) -> Result<Option<M>, RequestError> {
        Ok(self.ask(message, NLM_F_ACK).await?.0.into_iter().next())
    }

    async fn ask(&self, message: M, flags: u16) -> Result<(Vec<M>, bool), RequestError> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        let mut answers =
            self.handle.request(request, SocketAddr::new(0, 0)).map_err(|_| RequestError::Closed)?;
        let (mut found, mut interrupted) = (vec![], false);
        loop {
            let Some(answer) = timeout(PATIENCE, answers.next()).await.map_err(|_| RequestError::Timeout)?
            else {
                return Ok((found, interrupted));
            };
            interrupted |= answer.header.flags & DUMP_INTERRUPTED != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Error(error) => verdict(&error)?,
                NetlinkPayload::Overrun(_) => interrupted = true,
                _ => {}
            }
        }
    }
}

pub(super) fn verdict(error: &ErrorMessage) -> Result<(), RequestError> {
    match error.code {
        None => Ok(()),
        Some(code) => {
            let errno = code.get().saturating_neg();
            let text = extended_text(&error.header)
                .unwrap_or_else(|| std::io::Error::from_raw_os_error(errno).to_string());
            Err(RequestError::Refused { errno, text })
        }
    }
}

/// The kernel's own words (extended acknowledgement). `bytes` are the header of the request, its payload,
/// and then attributes.
fn extended_text(bytes: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
    // A capped answer carries only the header.
    let mut at = if bytes.len() < length { HEADER } else { length.next_multiple_of(4) };
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(at + 2..at + 4)?.try_into().ok()?) & 0x3fff;
        if length < 4 {
            return None;
        }
        if kind == ATTRIBUTE_MESSAGE {
            let text = String::from_utf8_lossy(bytes.get(at + 4..at + length)?);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        at += length.next_multiple_of(4);
    }
}
