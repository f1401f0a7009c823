//! Metrics, prefix `tartan_forwarder_`, and what the probes say. No label grows with the number of peers.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text::encode},
    metrics::{
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use crate::{
    counters::{Drop, Sum},
    workers::Pair,
};

/// Whether packets are forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The agent hasn't made the device: no node here uses the backend.
    Waiting,
    Forwarding,
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug)]
struct Shared {
    counters: Vec<Pair>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    state: Option<State>,
    peers: usize,
    subnets: usize,
}

/// Handles on all metrics; a clone is the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
}

impl Metrics {
    pub fn new(queues: usize) -> Self {
        let shared = Arc::new(Shared {
            counters: (0..queues).map(|_| Pair::default()).collect(),
            seen: Mutex::new(Seen { state: None, peers: 0, subnets: 0 }),
        });
        let mut registry = Registry::default();
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("tartan_forwarder_build_info", "The running version", build);
        registry.register_collector(Box::new(Queues(Arc::clone(&shared))));
        registry.register_collector(Box::new(tartan_daemon::process::Process));
        Self { shared, registry: Arc::new(registry) }
    }

    pub fn counters(&self) -> &[Pair] {
        &self.shared.counters
    }

    /// Whether it is another one than before.
    pub fn set_state(&self, state: State) -> bool {
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = seen.state.as_ref() != Some(&state);
        seen.state = Some(state);
        changed
    }

    pub fn state(&self) -> Option<State> {
        self.shared.seen().state
    }

    pub fn set_table(&self, peers: usize, subnets: usize) {
        let mut seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.peers, seen.subnets) = (peers, subnets);
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Shared {
    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Outward and inward.
    fn sums(&self) -> [(&'static str, Sum); 2] {
        let mut sums = [("out", Sum::default()), ("in", Sum::default())];
        for pair in &self.counters {
            for (counters, (_, sum)) in pair.iter().zip(&mut sums) {
                counters.add_to(sum);
            }
        }
        sums
    }
}

#[derive(Debug)]
struct Queues(Arc<Shared>);

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Seen { state, peers, subnets } = self.0.seen();
        let forwarding = i64::from(state == Some(State::Forwarding));
        for (name, help, value) in [
            ("tartan_forwarder_forwarding", "1 while packets are forwarded", forwarding),
            ("tartan_forwarder_peers", "Peers in the table", i64::try_from(peers).unwrap_or(0)),
            ("tartan_forwarder_subnets", "Peers' subnets in the table", i64::try_from(subnets).unwrap_or(0)),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let sums = self.0.sums();
        type Figure = fn(&Sum) -> u64;
        let figures: [(&str, &str, Figure); 4] = [
            ("tartan_forwarder_packets", "Packets forwarded, by direction", |sum| sum.packets),
            ("tartan_forwarder_bytes", "Bytes of these, with their IPv4 headers", |sum| sum.bytes),
            ("tartan_forwarder_batches", "Batches that they were moved in", |sum| sum.batches),
            ("tartan_forwarder_icmp_errors", "ICMP errors sent about packets, by direction", |sum| {
                sum.complaints
            }),
        ];
        for (name, help, figure) in figures {
            let counter = ConstCounter::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            for (direction, sum) in &sums {
                ConstCounter::new(figure(sum)).encode(family.encode_family(&[("direction", *direction)])?)?;
            }
        }
        let counter = ConstCounter::new(0u64);
        let help = "Packets dropped, by direction and reason";
        let mut family = encoder.encode_descriptor(
            "tartan_forwarder_dropped_packets",
            help,
            None,
            counter.metric_type(),
        )?;
        for (direction, sum) in &sums {
            for (why, count) in Drop::ALL.iter().zip(sum.dropped) {
                let labels = [("direction", *direction), ("reason", why.as_str())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
