//! The IKE daemon, strongSwan's charon, by its VICI socket. It negotiates the associations that the policies ask
//! for; which peers it talks to, and how, is desired state like everything else.
//!
//! A connection to it is opened for one look or one plan and closed again: the daemon may be restarted at any time,
//! and the kernel's associations go on meanwhile. A second one lies idle, and tells of the daemon's end.

mod answers;
mod associations;
mod certificate;
mod credentials;
mod key;
mod message;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::net::UnixStream;

use self::answers::Answers;
pub use self::answers::Unanswered;
pub(super) use self::credentials::Files;
pub use self::key::IkeKeyError;
use self::{
    associations::{connections, surplus, unanswered, under_way},
    message::connection,
    session::Session,
};
use crate::{
    mark,
    model::{Action, Elements, IkeConnection, IkeCredentials, Key, Observed, Step, Value},
};

/// The daemon answers from memory. Everything else of the node waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

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
        "the IKE daemon has ended or hangs: what it negotiated goes on for at most an hour, and no new node is reached; look at the logs of its container"
    )]
    Ended(#[source] Box<IkeError>),
    #[error("ask the IKE daemon: {command}")]
    Request {
        command: &'static str,
        #[source]
        source: Arc<rsvici::Error>,
    },
    #[error(
        "the IKE daemon does not answer {command} within {} s: restart its container, whose logs may say more", PATIENCE.as_secs()
    )]
    Timeout { command: &'static str },
    #[error("the IKE daemon refused {command}: {message}")]
    Refused { command: &'static str, message: String },
    #[error(transparent)]
    Key(#[from] IkeKeyError),
    /// What was loaded before goes on.
    #[error("the new key or certificate is not taken, and the one of before goes on")]
    Renewal(#[source] IkeKeyError),
}

impl IkeError {
    /// Labels of metrics: a fixed set.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "ike-daemon-unreachable",
            Self::Ended(_) => "ike-daemon-ended",
            Self::Request { .. } | Self::Timeout { .. } => "ike-daemon-silent",
            Self::Refused { .. } => "refused",
            Self::Key(IkeKeyError::Expired { .. }) => "ike-certificate-expired",
            Self::Key(_) => "ike-key-unfit",
            Self::Renewal(_) => "ike-renewal-unfit",
        }
    }

    fn request(command: &'static str, source: rsvici::Error) -> Self {
        Self::Request { command, source: Arc::new(source) }
    }

    /// That nobody answers, of which there is more than one to tell.
    fn silence(&self) -> Option<Self> {
        match self {
            Self::Timeout { command } => Some(Self::Timeout { command }),
            Self::Request { command, source } => Some(Self::Request { command, source: Arc::clone(source) }),
            _ => None,
        }
    }
}

/// The way to the daemon.
#[derive(Debug)]
pub(super) struct Ike {
    socket: PathBuf,
    files: Files,
    /// It answered this process once.
    reached: bool,
    /// Open as long as the daemon lives.
    idle: Option<UnixStream>,
    /// It did not answer when it was looked at: it isn't asked again in the same round.
    silent: Option<IkeError>,
    pub(super) answers: Answers,
    /// Connections that it holds as they are wanted, and that have no association.
    waiting: Vec<(String, IkeConnection)>,
    /// Until when this node's certificate is valid, at the last look.
    pub(super) expiry: Option<SystemTime>,
}

impl Ike {
    pub(super) fn new(socket: PathBuf, files: Files) -> Self {
        Self {
            socket,
            files,
            reached: false,
            idle: None,
            silent: None,
            answers: Answers::default(),
            waiting: vec![],
            expiry: None,
        }
    }

    /// Returns when the daemon has ended, once for each. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        let Some(idle) = &self.idle else { return std::future::pending().await };
        while idle.readable().await.is_ok() {
            match idle.try_read(&mut [0; 64]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        self.idle = None;
    }

    /// Adds what the daemon holds for us. Nothing where it can't be reached or does not answer: applying will say so,
    /// if it matters.
    pub(super) async fn observe(&mut self, desired: &Elements, observed: &mut Observed) {
        self.idle = None;
        self.silent = None;
        self.waiting.clear();
        // Of a daemon that can't be asked, nothing is known.
        let mut answers = std::mem::take(&mut self.answers);
        let wanted = match desired.get(&Key::IkeCredentials) {
            Some(Value::IkeCredentials(wanted)) => Some(wanted),
            _ => None,
        };
        self.expiry = wanted.and_then(|wanted| self.files.expiry(wanted));
        if wanted.is_none() && !self.socket.exists() {
            return;
        }
        // All of it or nothing: of what was not seen, nothing is removed.
        match self.look(desired, wanted).await {
            Ok((mut seen, silent, under_way)) => {
                self.reached = true;
                answers.learn(silent);
                self.idle = UnixStream::connect(&self.socket).await.ok();
                answers.ask_again(&mut seen, &under_way);
                self.waiting = waiting(&seen, desired, &answers);
                observed.ours.extend(seen);
                self.answers = answers;
            }
            Err(IkeError::Connect { .. }) => {}
            Err(error) => {
                tracing::debug!(%error, ?wanted, "cannot look at the IKE daemon");
                self.silent = Some(error);
            }
        }
    }

    /// What is ours, the peers that have not answered, and those that are being asked.
    async fn look(
        &self,
        desired: &Elements,
        wanted: Option<&IkeCredentials>,
    ) -> Result<(Elements, BTreeSet<IpAddr>, BTreeSet<IpAddr>), IkeError> {
        let mut seen = Elements::new();
        let mut session = Session::open(&self.socket).await?;
        let loaded = session.loaded().await?;
        let held = match wanted {
            Some(wanted) => self.files.are_loaded(wanted, &loaded).then(|| wanted.clone()),
            None => (!loaded.is_empty()).then_some(IkeCredentials::PresharedKey),
        };
        seen.extend(held.map(|held| (Key::IkeCredentials, Value::IkeCredentials(held))));
        let connections: Vec<BTreeMap<String, message::SeenConnection>> =
            session.list("list-conns", "list-conn", ()).await?;
        for (name, found) in connections.into_iter().flatten() {
            if name.starts_with(mark::IKE_PREFIX) {
                let key = Key::IkeConnection(name);
                let value = found.value(desired.get(&key));
                seen.insert(key, Value::IkeConnection(value));
            }
        }
        let associations = session.associations(()).await?;
        for number in surplus(&associations, desired) {
            seen.insert(Key::IkeAssociation(number), Value::IkeAssociation);
        }
        Ok((seen, unanswered(&associations, desired), under_way(&associations, desired)))
    }

    /// The results of these steps, in their order.
    pub(super) async fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), IkeError>> {
        let mut results = Vec::with_capacity(steps.len());
        let mut session = None;
        for step in steps {
            // One that hangs would be waited for as many times as there are steps.
            let silent = self.silent.as_ref().and_then(IkeError::silence);
            let result = match (silent, &mut session) {
                (Some(error), _) => Err(error),
                (None, Some(session)) => self.apply_one(session, step).await,
                (None, None) => match Session::open(&self.socket).await {
                    Ok(opened) => self.apply_one(session.insert(opened), step).await,
                    // Without the daemon, its connections are gone.
                    Err(IkeError::Connect { .. }) if step.action == Action::Delete => Ok(()),
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = &result {
                session = None;
                self.silent = self.silent.take().or(error.silence());
            }
            let result = result.map_err(|error| match error {
                // It was there before.
                IkeError::Connect { .. } | IkeError::Request { .. } | IkeError::Timeout { .. }
                    if self.reached =>
                {
                    IkeError::Ended(Box::new(error))
                }
                other => other,
            });
            results.push(result);
        }
        results
    }

    async fn apply_one(&mut self, session: &mut Session, step: &Step) -> Result<(), IkeError> {
        match (&step.key, &step.value, step.action) {
            (Key::IkeCredentials, _, Action::Delete) => session.unload_credentials().await,
            (Key::IkeCredentials, Value::IkeCredentials(wanted), _) => {
                session.load_credentials(&self.files, wanted).await?;
                // By these, a peer may answer that refused those of before.
                for (name, wanted) in std::mem::take(&mut self.waiting) {
                    session.begin_anew(&name).await?;
                    session.order("load-conn", load(&name, &wanted)).await?;
                }
                Ok(())
            }
            (Key::IkeConnection(name), _, Action::Delete) => {
                session.order("unload-conn", message::Name { name }).await
            }
            (Key::IkeConnection(name), Value::IkeConnection(wanted), _) => {
                if self.answers.begins_anew(wanted.remote) {
                    session.begin_anew(name).await?;
                }
                session.order("load-conn", load(name, wanted)).await
            }
            (Key::IkeAssociation(number), ..) => {
                session.order("terminate", message::Terminate::of(*number)).await
            }
            _ => Ok(()),
        }
    }
}

fn waiting(seen: &Elements, desired: &Elements, answers: &Answers) -> Vec<(String, IkeConnection)> {
    let held: BTreeMap<_, _> = connections(seen).collect();
    let waits = |(name, wanted): &(&String, &IkeConnection)| {
        held.get(name) == Some(wanted) && answers.waits_for(wanted.remote)
    };
    connections(desired).filter(waits).map(|(name, wanted)| (name.clone(), wanted.clone())).collect()
}

fn load<'a>(name: &'a str, wanted: &IkeConnection) -> BTreeMap<&'a str, message::Connection> {
    BTreeMap::from([(name, connection(wanted))])
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Instant};

    use tokio::time::timeout;

    use super::*;

    fn credentials() -> Value {
        Value::IkeCredentials(IkeCredentials::PresharedKey)
    }

    fn files(folder: &Path) -> Files {
        Files { key: folder.join("psk"), certificates: folder.to_owned() }
    }

    fn steps() -> Vec<Step> {
        let names = ["tartan-192.0.2.1", "tartan-192.0.2.2", "tartan-192.0.2.3"];
        let connections = names.map(|name| Key::IkeConnection(name.to_owned()));
        let keys = [Key::IkeCredentials].into_iter().chain(connections);
        let step = |key| Step { action: Action::Create, key, value: credentials(), before: None };
        keys.map(step).collect()
    }

    fn reasons(results: &[Result<(), IkeError>]) -> Vec<&'static str> {
        results.iter().map(|result| result.as_ref().unwrap_err().reason()).collect()
    }

    /// As one that was stopped, or waits for a lock.
    #[tokio::test]
    async fn a_daemon_that_hangs_is_waited_for_once_and_hides_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("charon.vici");
        let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let mut ike = Ike::new(socket, files(folder.path()));
        let desired = Elements::from([(Key::IkeCredentials, credentials())]);
        let mut observed = Observed::default();
        let begin = Instant::now();
        ike.observe(&desired, &mut observed).await;
        assert_eq!(reasons(&ike.apply(&steps()).await), ["ike-daemon-silent"; 4]);
        assert!(begin.elapsed() < PATIENCE * 2, "{:?}", begin.elapsed());
        assert!(observed.ours.is_empty());
        // What it had before goes on.
        ike.reached = true;
        assert_eq!(reasons(&ike.apply(&steps()).await), ["ike-daemon-ended"; 4]);
    }

    #[tokio::test]
    async fn the_end_of_a_daemon_is_told_once() {
        let mut ike = Ike::new(PathBuf::from("/nowhere"), files(Path::new("/nowhere")));
        let (ours, theirs) = UnixStream::pair().unwrap();
        ike.idle = Some(ours);
        drop(theirs);
        ike.ended().await;
        assert!(timeout(Duration::from_millis(50), ike.ended()).await.is_err(), "it is told of all the time");
    }
}
