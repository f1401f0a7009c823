//! The loop: waits for a reason to go round, goes round, hands what is to be written to the writer.
//!
//! | reason | when |
//! | --- | --- |
//! | inputs changed | 20 ms later, so that a burst is one round |
//! | the kernel says that something of ours changed | the same, but at most every 100 ms |
//! | it says that something else changed | the same, but up to 900 ms later while it is noise |
//! | a file or a setting of ours was altered | when the next second begins |
//! | something failed | with growing delays, and jitter |
//! | nothing | after a minute all the same |
//!
//! At the end everything stays in place.

mod asking;

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt as _, stream::BoxStream, stream::SelectAll};
use kube::{Api, Client};
use tartan_daemon::{
    chain,
    connection::{self, Clients},
};
use tartan_datapath::kernel::{Kernel, Notice};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};

use self::asking::{answered, ask};
use crate::{
    api_server,
    cli::Options,
    cni::{files::Written, vacate::Vacating},
    extension, http,
    inputs::{
        World,
        watch::{Watched, follow},
    },
    lock,
    metrics::Metrics,
    publish::{Writes, told::Told, writer, writes},
    round::{Memory, Place, round},
    sources::Sources,
};

const COALESCE: Duration = Duration::from_millis(20);
/// Between rounds that the kernel caused. Other programs' links and neighbours wake us too, and a round costs
/// a few milliseconds; so while nothing of it is ours, the gap grows, within the second that a repair may take.
const LEAST_GAP: Duration = Duration::from_millis(100);
const LARGEST_GAP: Duration = Duration::from_millis(900);
const RESYNC: Duration = Duration::from_secs(60);
/// What was handed to be written is so again when watches say for so long that the API has something else; and twice as
/// long after that.
const SAID_AGAIN: Duration = Duration::from_secs(20);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const BEAT: Duration = Duration::from_secs(1);
/// How long requests that are under way may take at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let node = options.node_name()?.to_owned();
    let mut stop = Stop::listen()?;
    let _lock = tokio::select! {
        lock = take_lock(&options) => lock?,
        () = stop.wait() => return Ok(()),
    };
    // Listening comes first: an address in use is known before anything is touched.
    let listener = tartan_daemon::listen::on(options.listen)
        .and_then(TcpListener::from_std)
        .with_context(|| format!("cannot listen on {} (--listen)", options.listen))?;
    let kernel = Kernel::open(options.kernel()).context("cannot talk to the kernel")?;
    let clients = connection::connect(options.kubeconfig.as_deref()).await?;
    let api_server = api_server::addresses(&clients.host).await;
    tracing::info!(node, version = env!("CARGO_PKG_VERSION"), listen = %options.listen, "started");
    let metrics = Metrics::default();
    let (wanted, to_write) = watch::channel(Writes::default());
    let (refresh, refreshes) = mpsc::channel(4);
    let (stopping, stopped) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(http::serve(listener, metrics.clone(), refresh, async {
        // The sender's end is a stop as well.
        let _ = stopped.await;
    }));
    let (request, requests) = watch::channel(clients.request.clone());
    let said = Told::default();
    let writer = writer::run(requests, node.clone(), to_write, said.clone(), metrics.clone());
    tasks.spawn(async move {
        writer.await;
        Ok(())
    });
    let (tell, to_tell) = watch::channel(None);
    let (told, extension) = watch::channel(extension::Report::default());
    let teller = extension::task::run(options.extension(), to_tell, told);
    tasks.spawn(async move {
        teller.await;
        Ok(())
    });
    let mut agent = Loop {
        inputs: follow(&clients.watch, &node),
        world: World::default(),
        memory: Memory::default(),
        asking: None,
        said_missing: vec![],
        retry: FIRST_RETRY,
        gap: LEAST_GAP,
        node,
        options,
        clients,
        request,
        sources: Sources::default(),
        api_server,
        kernel,
        metrics,
        wanted,
        handed: Instant::now(),
        patience: SAID_AGAIN,
        said,
        tell,
        extension,
        refreshes,
    };
    let outcome = tokio::select! {
        outcome = agent.go() => outcome,
        () = stop.wait() => Ok(()),
        // Neither task ends while the loop runs, unless it failed.
        ended = tasks.join_next() => match ended {
            Some(Ok(outcome)) => outcome.and_then(|()| anyhow::bail!("a task ended")),
            Some(Err(error)) => Err(error).context("a task died"),
            None => Ok(()),
        },
    };
    tracing::info!("stopping; the data path stays as it is");
    drop(stopping);
    // Without the loop there is nothing more to write, and both tasks come to their end.
    drop(agent);
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, ended).await;
    outcome
}

struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        // Cancel-safe: a signal that came is kept.
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Waits for an agent before us, as during a rolling update.
async fn take_lock(options: &Options) -> anyhow::Result<lock::Lock> {
    let mut said = false;
    loop {
        if let Some(lock) = lock::try_lock(&options.run_dir)? {
            return Ok(lock);
        }
        if !said {
            tracing::info!(run_dir = %options.run_dir.display(), "another agent runs on this node: waiting for its end");
            said = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

struct Loop {
    node: String,
    options: Options,
    clients: Clients,
    /// Of them, to the task that writes.
    request: watch::Sender<Client>,
    sources: Sources,
    api_server: Vec<IpAddr>,
    kernel: Kernel,
    inputs: SelectAll<BoxStream<'static, Watched>>,
    world: World,
    memory: Memory,
    metrics: Metrics,
    wanted: watch::Sender<Writes>,
    /// When it was last given any, and when it is given the same again.
    handed: Instant,
    patience: Duration,
    /// What became of them.
    said: Told,
    /// To the task that tells the administrator's programs, and what came of it.
    tell: watch::Sender<Option<extension::Wanted>>,
    extension: watch::Receiver<extension::Report>,
    refreshes: mpsc::Receiver<oneshot::Sender<()>>,
    /// The question which of the leases that vanished are really gone.
    asking: Option<JoinHandle<Option<BTreeSet<String>>>>,
    said_missing: Vec<&'static str>,
    /// The delay after the next failure.
    retry: Duration,
    /// Between rounds that the kernel causes.
    gap: Duration,
}

impl Loop {
    async fn go(&mut self) -> anyhow::Result<()> {
        let mut due = Instant::now() + RESYNC;
        let mut last = Instant::now();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: streams, channels and sockets keep what was not taken.
            tokio::select! {
                Some(watched) = self.inputs.next() => {
                    if self.take(watched) {
                        due = due.min(Instant::now() + COALESCE);
                    }
                }
                changed = self.kernel.changed() => {
                    let gap = match changed.context("the kernel's notifications ended")? {
                        Notice::Ours => LEAST_GAP,
                        Notice::Other => self.gap,
                    };
                    due = due.min((Instant::now() + COALESCE).max(last + gap));
                }
                () = tokio::time::sleep_until(due) => {
                    due = Instant::now() + self.round().await;
                    last = Instant::now();
                }
                _ = beat.tick() => if self.beat() {
                    due = due.min(Instant::now());
                },
                gone = answered(&mut self.asking) => {
                    self.asking = None;
                    if self.take_answer(gone) {
                        due = due.min(Instant::now() + COALESCE);
                    }
                }
                Ok(()) = self.extension.changed() => due = due.min(Instant::now() + COALESCE),
                Some(done) = self.refreshes.recv() => {
                    self.read_counters().await;
                    // A scrape that gave up doesn't listen any more.
                    let _ = done.send(());
                }
            }
        }
    }

    fn take(&mut self, watched: Watched) -> bool {
        match watched {
            Ok(change) => self.world.apply(change) && self.world.snapshot().is_some(),
            Err((kind, error)) => {
                self.metrics.watch_failed(kind);
                tracing::warn!(kind, error = chain(&error), "watching failed, will try again");
                false
            }
        }
    }

    /// One round; how long until the next one at the latest.
    async fn round(&mut self) -> Duration {
        let Some(snapshot) = self.world.snapshot() else {
            let missing = self.world.missing();
            if missing != self.said_missing {
                tracing::info!(missing = missing.join(", "), "waiting for the API server");
                self.said_missing = missing;
            }
            return RESYNC;
        };
        let places = self.options.places();
        let extension = self.extension.borrow_and_update().clone();
        let place = Place {
            node: &self.node,
            api_server: &self.api_server,
            places: &places,
            metrics: &self.metrics,
            pod_start_limit: self.options.pod_start_limit.into(),
            extension: &extension,
        };
        let round = Box::pin(round(&place, snapshot, &mut self.kernel, &mut self.memory)).await;
        let writes = writes(&round.published, &snapshot, &self.said);
        // A write that was cut off may arrive after the next one.
        let again = !writes.is_empty() && self.handed.elapsed() > self.patience;
        let handed = self.wanted.send_if_modified(|held| {
            let differs = *held != writes;
            *held = writes;
            self.patience = if differs { SAID_AGAIN } else { self.patience * if again { 2 } else { 1 } };
            differs || again
        });
        if handed {
            self.handed = Instant::now();
        }
        self.connect_anew(&round.addresses).await;
        if let Some(wanted) = round.extension {
            self.tell.send_if_modified(|held| {
                let differs = held.as_ref() != Some(&wanted);
                *held = Some(wanted);
                differs
            });
        }
        self.gap = if round.worked { LEAST_GAP } else { (self.gap * 2).min(LARGEST_GAP) };
        if !round.unconfirmed.is_empty() && self.asking.is_none() {
            let api = Api::all(self.clients.request.clone());
            self.asking = Some(tokio::spawn(ask(api, round.unconfirmed)));
        }
        if round.settled {
            self.retry = FIRST_RETRY;
            return round.again.map_or(RESYNC, |again| RESYNC.min(again));
        }
        let pause = self.retry;
        self.retry = (self.retry * 2).min(LONGEST_RETRY);
        jittered(pause)
    }

    /// Where an address is gone by which the API server was spoken to.
    async fn connect_anew(&mut self, host: &BTreeSet<IpAddr>) {
        let Some(gone) = self.sources.look(&self.api_server, host) else { return };
        match connection::connect(self.options.kubeconfig.as_deref()).await {
            Ok(clients) => {
                tracing::info!(%gone, "an address of this node is gone: connecting to the API server anew");
                self.sources.begin_anew();
                self.inputs = follow(&clients.watch, &self.node);
                self.request.send_replace(clients.request.clone());
                if let Some(question) = self.asking.take() {
                    question.abort();
                }
                self.clients = clients;
            }
            // The next round tries it again.
            Err(error) => tracing::warn!(error = chain(&*error), "cannot connect to the API server anew"),
        }
    }

    /// Leases that are really gone. True where that is news.
    fn take_answer(&mut self, gone: Option<BTreeSet<String>>) -> bool {
        let Some(gone) = gone else { return false };
        // The same answer again would be no news: the watch is behind, so wait for it.
        let news = gone != self.memory.confirmed_gone;
        self.memory.confirmed_gone = gone;
        news
    }

    /// Someone may have altered our files, or a setting, or a peer answered with a new key, of which the kernel tells
    /// nobody. A few small reads, but for devices and associations while answers are waited for.
    /// True where a round is worth it.
    fn beat(&mut self) -> bool {
        self.metrics.show(|view| view.last_beat = Some(std::time::Instant::now()));
        self.rewrite_files();
        let answered = self.memory.answered.as_ref().is_some_and(|seen| seen.is_outdated(&self.kernel));
        answered || self.kernel.settings_altered()
    }

    fn rewrite_files(&mut self) {
        let Some(texts) = &self.memory.texts else { return };
        match self.options.places().write(texts) {
            Ok(Written { count: 0, .. }) => {}
            Ok(Written { count, .. }) => {
                self.metrics.files_written(count);
                // What they offered meanwhile is not known.
                self.memory.vacating = Vacating::default();
                tracing::warn!(count, "CNI configuration or subnet.env had been altered: wrote it again");
            }
            // The next round meets the same and makes it a condition.
            Err(error) => tracing::debug!(error = chain(&error), "cannot write files"),
        }
    }

    async fn read_counters(&mut self) {
        match self.kernel.nft_counters().await {
            Ok(counters) => self.metrics.show(|view| view.nft = counters),
            Err(error) => self.metrics.failure(error.reason()),
        }
    }
}

/// Between one half of `pause` and the whole of it, so that nodes don't retry in step.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8) % 1000;
    pause.mul_f64(0.5 + random as f64 / 2000.0)
}
