//! One conversation with the daemon by its VICI socket (strongSwan, src/libcharon/plugins/vici/README.md).

use std::{collections::BTreeMap, path::Path};

use futures::StreamExt as _;
use rsvici::Client;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::{
    IkeError, PATIENCE,
    associations::SeenAssociation,
    message::{self, Answer},
};

/// One conversation.
pub(super) struct Session(Client);

impl Session {
    pub(super) async fn open(path: &Path) -> Result<Self, IkeError> {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|source| IkeError::Connect { path: path.to_owned(), source })?;
        Ok(Self(Client::new(stream)))
    }

    pub(super) async fn ask<T: Serialize, U: DeserializeOwned>(
        &mut self,
        command: &'static str,
        message: T,
    ) -> Result<U, IkeError> {
        match timeout(PATIENCE, self.0.request(command, message)).await {
            Ok(answer) => answer.map_err(|source| IkeError::request(command, source)),
            Err(_) => Err(IkeError::Timeout { command }),
        }
    }

    /// A request that is answered by success or failure.
    pub(super) async fn order<T: Serialize>(
        &mut self,
        command: &'static str,
        message: T,
    ) -> Result<(), IkeError> {
        self.demand(command, message).await.map(drop)
    }

    /// The same, and what else the answer says.
    pub(super) async fn demand<T: Serialize>(
        &mut self,
        command: &'static str,
        message: T,
    ) -> Result<Answer, IkeError> {
        let answer: Answer = self.ask(command, message).await?;
        if answer.success || command == "terminate" {
            // One that has ended by itself has ended.
            return Ok(answer);
        }
        Err(IkeError::Refused { command, message: answer.errmsg })
    }

    /// Takes a connection away that is to be loaded as it is: where it stays, nothing would begin (strongSwan,
    /// `merge_config` in src/libcharon/plugins/vici/vici_config.c). It stays where the peer has answered since the last
    /// look, or the daemon has begun by itself, since what is negotiated would end with it. What the peer has begun has
    /// no name before it proves who it is, and is not seen; it begins again.
    pub(super) async fn begin_anew(&mut self, name: &str) -> Result<(), IkeError> {
        let found = self.associations(message::Association { ike: name }).await?;
        if found.iter().any(|(_, found)| found.carries() || found.begins()) {
            return Ok(());
        }
        match self.order("unload-conn", message::Name { name }).await {
            // A daemon that is new meanwhile hasn't got it.
            Ok(()) | Err(IkeError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// By the names of their connections; `which`: nothing for all, or of one connection.
    pub(super) async fn associations<T: Serialize>(
        &mut self,
        which: T,
    ) -> Result<Vec<(String, SeenAssociation)>, IkeError> {
        let found: Vec<BTreeMap<String, SeenAssociation>> = self.list("list-sas", "list-sa", which).await?;
        Ok(found.into_iter().flatten().collect())
    }

    pub(super) async fn list<T: Serialize, U: DeserializeOwned>(
        &mut self,
        command: &'static str,
        event: &'static str,
        which: T,
    ) -> Result<Vec<U>, IkeError> {
        let stream = self.0.stream_request::<T, U>(command, event, which);
        let mut stream = std::pin::pin!(stream);
        let mut found = vec![];
        loop {
            match timeout(PATIENCE, stream.next()).await {
                Ok(Some(Ok(item))) => found.push(item),
                Ok(Some(Err(source))) => return Err(IkeError::request(command, source)),
                Ok(None) => return Ok(found),
                Err(_) => return Err(IkeError::Timeout { command }),
            }
        }
    }
}
