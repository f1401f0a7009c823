//! The loop: reads what the agent asks for, publishes the table, and keeps the queues on the device that is there.
//!
//! | reason to look | when |
//! | --- | --- |
//! | the kernel says that a link or a route changed | 2 ms later, so that a burst is one look |
//! | a thread ended: its device has gone | at once |
//! | starting failed | with growing delays |
//! | nothing | after a minute all the same |

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tartan_daemon::chain;
use tartan_datapath::{
    kernel::udp::{UdpOrders, UdpWatch},
    mark,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    cli::Options,
    http,
    metrics::{Metrics, State},
    table::Table,
    workers::Workers,
};

const COALESCE: Duration = Duration::from_millis(2);
const RESYNC: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let metrics = Metrics::new(options.queues());
    let watch = UdpWatch::open().context("cannot talk to the kernel")?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), queues = options.queues(), "started");
    let mut forwarder = Control {
        watch,
        metrics: metrics.clone(),
        table: Arc::default(),
        orders: None,
        workers: None,
        ended: mpsc::unbounded_channel(),
    };
    tokio::select! {
        outcome = forwarder.go() => outcome,
        outcome = http::serve(options.listen, metrics) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

struct Control {
    watch: UdpWatch,
    metrics: Metrics,
    table: Arc<ArcSwap<Table>>,
    /// As of the last look.
    orders: Option<UdpOrders>,
    workers: Option<Workers>,
    ended: (mpsc::UnboundedSender<io::Error>, mpsc::UnboundedReceiver<io::Error>),
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
                    let state = State::Failed(format!("{error:#}"));
                    if self.metrics.set_state(state) {
                        tracing::warn!(error = format!("{error:#}"), "does not forward");
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
                Some(error) = self.ended.1.recv() => {
                    tracing::info!(error = chain(&error), "a queue ended");
                    self.workers = None;
                }
            }
        }
    }

    /// Makes what runs equal to what is asked for.
    async fn look(&mut self) -> anyhow::Result<()> {
        let orders = self.watch.read().await.context("cannot read what the agent asks for")?;
        if orders.as_ref().map(|orders| &orders.routes) != self.orders.as_ref().map(|orders| &orders.routes) {
            let table = orders.as_ref().map(|orders| Table::new(&orders.routes)).unwrap_or_default();
            self.metrics.set_table(table.peers(), table.subnets());
            self.table.store(Arc::new(table));
        }
        self.orders = orders;
        let Some(orders) = &self.orders else {
            self.workers = None;
            if self.metrics.set_state(State::Waiting) {
                tracing::info!(device = mark::UDP, "waiting for the agent to make the device");
            }
            return Ok(());
        };
        let runs = self.workers.as_ref().map(|workers| (workers.index, workers.local));
        if runs != Some((orders.index, orders.local)) {
            self.workers = None;
            // What the old ones have said concerns no one now.
            while self.ended.1.try_recv().is_ok() {}
            self.workers = Some(Workers::start(orders, &self.table, self.metrics.counters(), &self.ended.0)?);
            tracing::info!(local = %orders.local, subnets = orders.routes.len(), "forwarding");
        }
        self.metrics.set_state(State::Forwarding);
        Ok(())
    }
}
