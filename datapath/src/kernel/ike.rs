//! The IKE daemon, strongSwan's charon, by its VICI socket. It negotiates the associations that the policies ask
//! for; which peers it talks to, and how, is desired state like everything else.
//!
//! A connection to it is opened for one look or one plan and closed again: the daemon may be restarted at any time,
//! and the kernel's associations go on meanwhile. A second one lies idle, and tells of the daemon's end.

mod message;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use rsvici::Client;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use self::message::{Answer, LoadShared, Shared, connection, surplus};
use crate::{
    mark,
    model::{Action, Elements, IkeConnection, Key, Observed, Step, Value},
};

/// The daemon answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// A key of fewer characters could be found by trying: one answer of a node is enough to try on.
const SHORTEST_KEY: usize = 32;

/// Talking to the daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum IkeError {
    #[error(
        "the IKE daemon can't be reached at {}: its container must run beside this one (chart value ipsec.enabled), and the socket's directory must be mounted in both", path.display()
    )]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It was there before: what it negotiated goes on until it is due to be negotiated anew.
    #[error(
        "the IKE daemon has ended (its socket was {}): what it negotiated goes on for at most an hour, and no new node is reached; look at the logs of its container", path.display()
    )]
    Ended {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("ask the IKE daemon: {command}")]
    Request {
        command: &'static str,
        #[source]
        source: rsvici::Error,
    },
    #[error("the IKE daemon does not answer: {command}")]
    Timeout { command: &'static str },
    #[error("the IKE daemon refused {command}: {message}")]
    Refused { command: &'static str, message: String },
    #[error(transparent)]
    Key(#[from] IkeKeyError),
}

/// The preshared key can't be had.
#[derive(Debug, thiserror::Error)]
pub enum IkeKeyError {
    #[error(
        "no preshared key in {}: make the Secret that the chart names, or mount the file", path.display()
    )]
    Missing { path: PathBuf },
    #[error("read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} may be read by others (mode {mode:o}): mount it with mode 400", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the preshared key in {} must be a text of at least {SHORTEST_KEY} characters in one line", path.display())]
    Unfit { path: PathBuf },
}

impl IkeError {
    /// Labels of metrics: a fixed set.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "ike-daemon-unreachable",
            Self::Ended { .. } => "ike-daemon-ended",
            Self::Request { .. } | Self::Timeout { .. } => "no-answer",
            Self::Refused { .. } => "refused",
            Self::Key(_) => "ike-key-unfit",
        }
    }
}

/// The way to the daemon.
#[derive(Debug)]
pub(super) struct Ike {
    socket: PathBuf,
    key: PathBuf,
    /// It answered this process once.
    reached: bool,
    /// Open as long as the daemon lives.
    idle: Option<UnixStream>,
}

/// Printed by nothing.
#[derive(PartialEq, Eq)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Ike {
    pub(super) fn new(socket: PathBuf, key: PathBuf) -> Self {
        Self { socket, key, reached: false, idle: None }
    }

    /// Returns when the daemon has ended. Cancel-safe.
    pub(super) async fn ended(&self) {
        let Some(idle) = &self.idle else { return std::future::pending().await };
        loop {
            if idle.readable().await.is_err() {
                return;
            }
            match idle.try_read(&mut [0; 64]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Adds what the daemon holds for us. Nothing where it can't be reached: applying will say so, if it matters.
    pub(super) async fn observe(
        &mut self,
        desired: &Elements,
        observed: &mut Observed,
    ) -> Result<(), IkeError> {
        let wanted = desired.contains_key(&Key::IkeSecret);
        if !wanted && !self.socket.exists() {
            return Ok(());
        }
        self.idle = UnixStream::connect(&self.socket).await.ok();
        let mut session = match Session::open(&self.socket).await {
            Ok(session) => session,
            Err(IkeError::Connect { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let shared: Shared = session.ask("get-shared", ()).await?;
        self.reached = true;
        // A file that can't be used leaves what is loaded.
        let current = secret(&self.key).ok().map(|(name, _)| name);
        let mut loaded = shared.keys.iter().filter(|key| key.starts_with(mark::IKE_PREFIX));
        if loaded.any(|key| !wanted || current.as_ref().is_none_or(|current| current == key)) {
            observed.ours.insert(Key::IkeSecret, Value::IkeSecret);
        }
        let connections: Vec<BTreeMap<String, message::SeenConnection>> =
            session.list("list-conns", "list-conn").await?;
        for (name, seen) in connections.into_iter().flatten() {
            if name.starts_with(mark::IKE_PREFIX) {
                let key = Key::IkeConnection(name);
                let value = seen.value(desired.get(&key));
                observed.ours.insert(key, Value::IkeConnection(value));
            }
        }
        let associations: Vec<BTreeMap<String, message::SeenAssociation>> =
            session.list("list-sas", "list-sa").await?;
        for number in surplus(associations.into_iter().flatten(), desired) {
            observed.ours.insert(Key::IkeAssociation(number), Value::IkeAssociation);
        }
        Ok(())
    }

    /// The results of these steps, in their order.
    pub(super) async fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), IkeError>> {
        let mut results = Vec::with_capacity(steps.len());
        let mut session = None;
        for step in steps {
            let result = match &mut session {
                Some(session) => self.apply_one(session, step).await,
                None => match Session::open(&self.socket).await {
                    Ok(opened) => self.apply_one(session.insert(opened), step).await,
                    // Without the daemon, its connections are gone.
                    Err(IkeError::Connect { .. }) if step.action == Action::Delete => Ok(()),
                    Err(IkeError::Connect { path, source }) if self.reached => {
                        Err(IkeError::Ended { path, source })
                    }
                    Err(error) => Err(error),
                },
            };
            if result.is_err() {
                session = None;
            }
            results.push(result);
        }
        results
    }

    async fn apply_one(&mut self, session: &mut Session, step: &Step) -> Result<(), IkeError> {
        match (&step.key, &step.value, step.action) {
            (Key::IkeSecret, _, Action::Delete) => session.unload_keys(None).await,
            (Key::IkeSecret, ..) => {
                let (name, secret) = secret(&self.key)?;
                session.order("load-shared", LoadShared::of(&name, &secret.0)).await?;
                session.unload_keys(Some(&name)).await
            }
            (Key::IkeConnection(name), _, Action::Delete) => {
                session.order("unload-conn", message::Name { name }).await
            }
            (Key::IkeConnection(name), Value::IkeConnection(wanted), _) => {
                session.order("load-conn", load(name, wanted)).await
            }
            (Key::IkeAssociation(number), ..) => {
                session.order("terminate", message::Terminate::of(*number)).await
            }
            _ => Ok(()),
        }
    }
}

fn load<'a>(name: &'a str, wanted: &IkeConnection) -> BTreeMap<&'a str, message::Connection> {
    BTreeMap::from([(name, connection(wanted))])
}

/// The preshared key, of a file that a Secret is mounted as, and its name in the daemon, which tells when the file
/// was written and nothing of the key.
fn secret(path: &Path) -> Result<(String, Secret), IkeKeyError> {
    let path = path.to_owned();
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IkeKeyError::Missing { path }),
        Err(source) => return Err(IkeKeyError::File { path, source }),
    };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IkeKeyError::Open { path, mode });
    }
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(IkeKeyError::Unfit { path }),
        Err(source) => return Err(IkeKeyError::File { path, source }),
    };
    let text = text.trim();
    if text.len() < SHORTEST_KEY || text.lines().count() != 1 {
        return Err(IkeKeyError::Unfit { path });
    }
    let name = format!("{}{}.{:09}", mark::IKE_PREFIX, found.mtime(), found.mtime_nsec());
    Ok((name, Secret(text.to_owned())))
}

/// One conversation.
struct Session(Client);

impl Session {
    async fn open(path: &Path) -> Result<Self, IkeError> {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|source| IkeError::Connect { path: path.to_owned(), source })?;
        Ok(Self(Client::new(stream)))
    }

    async fn ask<T: Serialize, U: DeserializeOwned>(
        &mut self,
        command: &'static str,
        message: T,
    ) -> Result<U, IkeError> {
        match timeout(PATIENCE, self.0.request(command, message)).await {
            Ok(answer) => answer.map_err(|source| IkeError::Request { command, source }),
            Err(_) => Err(IkeError::Timeout { command }),
        }
    }

    /// A request that is answered by success or failure.
    async fn order<T: Serialize>(&mut self, command: &'static str, message: T) -> Result<(), IkeError> {
        let answer: Answer = self.ask(command, message).await?;
        if answer.success || command == "terminate" {
            // One that has ended by itself has ended.
            return Ok(());
        }
        Err(IkeError::Refused { command, message: answer.errmsg })
    }

    /// Our keys, except for this one.
    async fn unload_keys(&mut self, except: Option<&str>) -> Result<(), IkeError> {
        let shared: Shared = self.ask("get-shared", ()).await?;
        let ours = |key: &&String| key.starts_with(mark::IKE_PREFIX) && Some(key.as_str()) != except;
        for key in shared.keys.iter().filter(ours) {
            self.order("unload-shared", message::Id { id: key }).await?;
        }
        Ok(())
    }

    async fn list<U: DeserializeOwned>(
        &mut self,
        command: &'static str,
        event: &'static str,
    ) -> Result<Vec<U>, IkeError> {
        let stream = self.0.stream_request::<(), U>(command, event, ());
        let mut stream = std::pin::pin!(stream);
        let mut found = vec![];
        loop {
            match timeout(PATIENCE, stream.next()).await {
                Ok(Some(Ok(item))) => found.push(item),
                Ok(Some(Err(source))) => return Err(IkeError::Request { command, source }),
                Ok(None) => return Ok(found),
                Err(_) => return Err(IkeError::Timeout { command }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_must_be_long_secret_and_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("psk");
        assert!(matches!(secret(&path), Err(IkeKeyError::Missing { .. })));
        let good = "0123456789abcdef0123456789abcdef";
        for (text, mode, fits) in [
            (good, 0o600, true),
            (&format!("{good}\n"), 0o400, true),
            (good, 0o644, false),
            ("short", 0o600, false),
            (&format!("{good}\n{good}"), 0o600, false),
        ] {
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let found = secret(&path);
            assert_eq!(found.is_ok(), fits, "{text:?} {mode:o}: {found:?}");
            assert!(!format!("{found:?}").contains(good));
        }
    }
}
