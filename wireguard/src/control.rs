//! The loop: serves each device that the agent made, as long as it is there.
//!
//! | reason to look | when |
//! | --- | --- |
//! | the kernel says that a link changed | 2 ms later, so that a burst is one look |
//! | a device or its socket ended | at once |
//! | starting failed | with growing delays |
//! | nothing | after a minute all the same |

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tartan_datapath::kernel::user_wireguard::DeviceWatch;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    cli::Options,
    device::{Ended, Served},
    http,
    metrics::{Metrics, State},
};

const COALESCE: Duration = Duration::from_millis(2);
const RESYNC: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    own_directory(&options.sockets)
        .with_context(|| format!("cannot have {} for root alone (--sockets)", options.sockets.display()))?;
    let metrics = Metrics::default();
    let watch = DeviceWatch::open().context("cannot talk to the kernel")?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), sockets = %options.sockets.display(), "started");
    let mut control = Control {
        watch,
        sockets: options.sockets,
        metrics: metrics.clone(),
        served: BTreeMap::new(),
        begun: 0,
        ended: mpsc::unbounded_channel(),
    };
    tokio::select! {
        outcome = control.go() => outcome,
        outcome = http::serve(options.listen, metrics) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Sockets in it must be root's from the moment they are there.
fn own_directory(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
}

struct Control {
    watch: DeviceWatch,
    sockets: PathBuf,
    metrics: Metrics,
    served: BTreeMap<&'static str, Served>,
    /// How many were ever served.
    begun: u64,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
}

impl Control {
    async fn go(&mut self) -> anyhow::Result<()> {
        let mut retry = FIRST_RETRY;
        loop {
            let wait = match self.look().await {
                Ok(()) => {
                    retry = FIRST_RETRY;
                    RESYNC
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    if self.metrics.set_state(State::Failed(why.clone())) {
                        tracing::warn!(error = why, "does not serve every device");
                    }
                    let wait = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    wait
                }
            };
            tokio::select! {
                changed = timeout(wait, self.watch.changed()) => {
                    if let Ok(changed) = changed {
                        changed.context("cannot listen to the kernel")?;
                        sleep(COALESCE).await;
                    }
                }
                Some((device, number)) = self.ended.1.recv() => {
                    // Its successor has not.
                    if self.served.get(device).is_some_and(|served| served.number == number) {
                        tracing::info!(device, "ended");
                        self.stop(device).await;
                    }
                }
            }
        }
    }

    /// Makes what is served equal to what is there. One device that can't be is no reason against the other.
    async fn look(&mut self) -> anyhow::Result<()> {
        let wanted = self.watch.read().await.context("cannot read which devices there are")?;
        let is_wanted = |name: &str, served: &Served| {
            wanted.iter().any(|wanted| wanted.name == name && wanted.index == served.index)
        };
        let served = self.served.iter();
        let gone: Vec<&'static str> =
            served.filter(|(name, served)| !is_wanted(name, served)).map(|(name, _)| *name).collect();
        for name in gone {
            self.stop(name).await;
        }
        let mut outcome: anyhow::Result<()> = Ok(());
        for device in &wanted {
            if let Some(served) = self.served.get(device.name) {
                served.set_mtu(device.mtu);
                continue;
            }
            self.begun += 1;
            match Served::start(device, &self.sockets, self.begun, self.ended.0.clone()).await {
                Ok(served) => {
                    tracing::info!(device = device.name, "waiting for keys and peers");
                    self.served.insert(device.name, served);
                }
                Err(error) => outcome = Err(error.into()),
            }
        }
        let engines = self.served.iter().map(|(name, served)| (*name, Arc::clone(&served.engine)));
        self.metrics.set_engines(engines.collect());
        outcome?;
        self.metrics.set_state(if wanted.is_empty() { State::Waiting } else { State::Serving });
        Ok(())
    }

    async fn stop(&mut self, device: &'static str) {
        if let Some(served) = self.served.remove(device) {
            served.stop().await;
        }
    }
}
