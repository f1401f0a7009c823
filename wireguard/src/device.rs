//! One device that is served: its end of the TUN, its socket, and the engine behind both.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gotatun::device::{self, Error};
use nix::net::if_::if_nametoindex;
use tartan_datapath::kernel::user_wireguard::{self, UserDevice};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    engine::Engine,
    socket::Sockets,
    tun::{self, Reader, Writer},
    uapi,
};

/// Between looks whether the engine has given up.
const LOOK: Duration = Duration::from_secs(1);
/// How long its end may take.
const ENDING: Duration = Duration::from_secs(5);

/// Why a device can't be served, by what was tried.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot attach to {name}")]
    Attach {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{name} was replaced meanwhile")]
    Replaced { name: &'static str },
    #[error("cannot listen at {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start {name}")]
    Start {
        name: &'static str,
        #[source]
        source: Error,
    },
}

/// Which device has ended by itself, and which time that it was served.
pub type Ended = (&'static str, u64);

/// A device that is served. The TUN device has no carrier when it has stopped, and the socket is gone.
pub struct Served {
    pub index: u32,
    /// Counts all that were ever served.
    pub number: u64,
    pub engine: Arc<Engine>,
    mtu: watch::Sender<u16>,
    path: PathBuf,
    tasks: JoinSet<()>,
    /// What the engine writes to the device, which it would miss.
    written: JoinSet<()>,
}

impl Served {
    /// The socket listens before the device has a carrier, which says that somebody answers. Who ends by himself says so on `ended`.
    pub async fn start(
        wanted: &UserDevice,
        sockets: &Path,
        number: u64,
        ended: mpsc::UnboundedSender<Ended>,
    ) -> Result<Self, StartError> {
        let name = wanted.name;
        let path = user_wireguard::socket(sockets, name);
        // Beside its place: there may be the socket of a process that has the device.
        let aside = path.with_extension("new");
        let failed = |source| StartError::Listen { path: path.clone(), source };
        let listener = uapi::listen(&aside).map_err(failed)?;
        let (mtu, watched) = watch::channel(bounded(wanted.mtu));
        let (writer, reader, writing) = attach(wanted, watched).inspect_err(|_| {
            let _ = std::fs::remove_file(&aside);
        })?;
        std::fs::rename(&aside, &path).map_err(failed)?;
        let built = device::build().with_udp(Sockets::default()).with_ip_pair(writer, reader).build().await;
        let device = built.map_err(|source| StartError::Start { name, source })?;
        let engine = Arc::new(Engine::new(device));
        let (mut tasks, mut written) = (JoinSet::new(), JoinSet::new());
        written.spawn(writing);
        let (answering, told) = (Arc::clone(&engine), ended.clone());
        tasks.spawn(async move {
            let outcome = uapi::serve(listener, answering).await;
            tracing::warn!(device = name, error = ?outcome.err(), "the socket ended");
            // Nobody listens at the end of the process.
            let _ = told.send((name, number));
        });
        let watched = Arc::clone(&engine);
        tasks.spawn(async move {
            while !watched.has_given_up().await {
                sleep(LOOK).await;
            }
            let _ = ended.send((name, number));
        });
        Ok(Self { index: wanted.index, number, engine, mtu, path, tasks, written })
    }

    /// Ends it, before another takes its port and its place.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        let _ = timeout(ENDING, self.engine.stop()).await;
        self.written.shutdown().await;
    }

    pub fn set_mtu(&self, mtu: u32) {
        let mtu = bounded(mtu);
        self.mtu.send_if_modified(|held| std::mem::replace(held, mtu) != mtu);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.tasks.abort_all();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn attach(
    wanted: &UserDevice,
    mtu: watch::Receiver<u16>,
) -> Result<(Writer, Reader, impl Future<Output = ()> + Send + use<>), StartError> {
    let name = wanted.name;
    let tun = tun::attach(name, mtu).map_err(|source| StartError::Attach { name, source })?;
    // Attaching to a device that has gone makes one, which goes with us.
    if if_nametoindex(name).ok() == Some(wanted.index) { Ok(tun) } else { Err(StartError::Replaced { name }) }
}

fn bounded(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}
