//! Metrics, prefix `tartan_wireguard_`, and what the probes say. No label grows with the number of peers.

use std::{
    collections::BTreeMap,
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

use crate::engine::{Engine, Figures};

/// Whether devices are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The agent made none: the kernel has WireGuard, or no node here uses the backend.
    Waiting,
    Serving,
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Option<State>>,
    engines: Mutex<BTreeMap<&'static str, Arc<Engine>>>,
    figures: Mutex<BTreeMap<&'static str, Figures>>,
}

/// Handles on all metrics; a clone is the same metrics.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let shared = Arc::<Shared>::default();
        let mut registry = Registry::default();
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("tartan_wireguard_build_info", "The running version", build);
        registry.register_collector(Box::new(Devices(Arc::clone(&shared))));
        registry.register_collector(Box::new(tartan_daemon::process::Process));
        Self { shared, registry: Arc::new(registry) }
    }
}

impl Metrics {
    /// Whether it is another one than before.
    pub fn set_state(&self, state: State) -> bool {
        let mut held = lock(&self.shared.state);
        let changed = held.as_ref() != Some(&state);
        *held = Some(state);
        changed
    }

    pub fn state(&self) -> Option<State> {
        lock(&self.shared.state).clone()
    }

    /// The devices that are served.
    pub fn set_engines(&self, engines: BTreeMap<&'static str, Arc<Engine>>) {
        *lock(&self.shared.engines) = engines;
    }

    /// The text that Prometheus scrapes.
    pub async fn text(&self) -> Result<String, fmt::Error> {
        let engines = lock(&self.shared.engines).clone();
        let mut figures = BTreeMap::new();
        for (name, engine) in engines {
            figures.insert(name, engine.figures().await);
        }
        *lock(&self.shared.figures) = figures;
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Devices(Arc<Shared>);

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Devices")
    }
}

impl Collector for Devices {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = lock(&self.0.figures).clone();
        type Figure = fn(&Figures) -> u64;
        let gauges: [(&str, &str, Figure); 3] = [
            ("tartan_wireguard_device", "1 for each device that is served", |_| 1),
            ("tartan_wireguard_peers", "Peers of the device", |figures| figures.peers),
            ("tartan_wireguard_sessions", "Peers with a session", |figures| figures.sessions),
        ];
        for (name, help, figure) in gauges {
            let none = ConstGauge::new(0i64);
            let mut family = encoder.encode_descriptor(name, help, None, none.metric_type())?;
            for (device, figures) in &figures {
                let value = i64::try_from(figure(figures)).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(family.encode_family(&[("device", *device)].as_slice())?)?;
            }
        }
        let counters: [(&str, &str, Figure); 2] = [
            ("tartan_wireguard_received_bytes", "Bytes from peers", |figures| figures.received),
            ("tartan_wireguard_sent_bytes", "Bytes to peers", |figures| figures.sent),
        ];
        for (name, help, figure) in counters {
            let none = ConstCounter::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, none.metric_type())?;
            for (device, figures) in &figures {
                ConstCounter::new(figure(figures))
                    .encode(family.encode_family(&[("device", *device)].as_slice())?)?;
            }
        }
        Ok(())
    }
}
