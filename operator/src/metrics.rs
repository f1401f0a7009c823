//! Metrics, prefix `tartan_`. Labels come from fixed sets, or are names of entries and pools; what is gone
//! from the cluster is gone from the next scrape.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::decide::{EntryFigures, FamilyFigures, Figures, PoolFigures};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchError {
    kind: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// Handles on all metrics; a clone is the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    state: Arc<RwLock<State>>,
    writes: Family<Write, Counter>,
    conflicts: Family<Kind, Counter>,
    errors: Family<Reason, Counter>,
    watch_errors: Family<WatchError, Counter>,
    events_dropped: Counter,
    leader: Gauge,
    rounds: Counter,
    decide_seconds: Histogram,
    allocation_seconds: Histogram,
}

#[derive(Debug, Default)]
struct State {
    figures: Figures,
    incomplete: Vec<&'static str>,
    idle: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let unknown = State { incomplete: vec!["objects"], ..State::default() };
        let state = Arc::new(RwLock::new(unknown));
        let metrics = Self {
            registry: Arc::default(),
            state: state.clone(),
            writes: Family::default(),
            conflicts: Family::default(),
            errors: Family::default(),
            watch_errors: Family::default(),
            events_dropped: Counter::default(),
            leader: Gauge::default(),
            rounds: Counter::default(),
            decide_seconds: Histogram::new(exponential_buckets(0.0001, 3.0, 9)),
            allocation_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
        };
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("tartan_operator_build_info", "The running version", build);
        registry.register(
            "tartan_operator_writes",
            "Decisions carried out, by kind and result",
            metrics.writes.clone(),
        );
        registry.register(
            "tartan_operator_conflicts",
            "Writes that met a newer object or another owner",
            metrics.conflicts.clone(),
        );
        registry.register(
            "tartan_operator_api_errors",
            "Failed requests to the API server",
            metrics.errors.clone(),
        );
        registry.register(
            "tartan_operator_watch_errors",
            "Failures of watches",
            metrics.watch_errors.clone(),
        );
        registry.register(
            "tartan_operator_events_dropped",
            "Kubernetes events that were not written, to spare the API server",
            metrics.events_dropped.clone(),
        );
        registry.register(
            "tartan_operator_leader",
            "1 where this replica writes, 0 on standby",
            metrics.leader.clone(),
        );
        registry.register("tartan_operator_rounds", "Rounds of deciding", metrics.rounds.clone());
        registry.register_with_unit(
            "tartan_operator_decide",
            "Time to decide over all objects",
            Unit::Seconds,
            metrics.decide_seconds.clone(),
        );
        registry.register_with_unit(
            "tartan_operator_allocation",
            "From a Node seen without a lease to its lease written",
            Unit::Seconds,
            metrics.allocation_seconds.clone(),
        );
        registry.register_collector(Box::new(StateCollector(state)));
        registry.register_collector(Box::new(tartan_daemon::process::Process));
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    /// The text that Prometheus scrapes.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub fn show(&self, figures: Figures, incomplete: Vec<&'static str>, idle: bool) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State { figures, incomplete, idle };
    }

    /// Kinds whose first list is awaited; `None` before the first round.
    pub fn incomplete(&self) -> Vec<&'static str> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).incomplete.clone()
    }

    pub fn decided(&self, took: Duration) {
        self.rounds.inc();
        self.decide_seconds.observe(took.as_secs_f64());
    }

    pub fn allocated(&self, after: Duration) {
        self.allocation_seconds.observe(after.as_secs_f64());
    }

    pub fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&Write { kind, result }).inc();
    }

    pub fn conflicted(&self, kind: &'static str) {
        self.conflicts.get_or_create(&Kind { kind }).inc();
    }

    pub fn request_failed(&self, reason: &'static str) {
        self.errors.get_or_create(&Reason { reason }).inc();
    }

    pub fn watch_failed(&self, kind: &'static str, reason: &'static str) {
        self.watch_errors.get_or_create(&WatchError { kind, reason }).inc();
    }

    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }
}

/// What the last round saw, encoded whole at each scrape: so a vanished entry leaves no series behind.
#[derive(Debug)]
struct StateCollector(Arc<RwLock<State>>);

impl Collector for StateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let State { figures, incomplete, idle } = &*state;
        let Figures { nodes, leases, node_networks, entries, pools, waiting, violations, further, returning } =
            figures;
        let families = || {
            pools.iter().flat_map(|pool| {
                pool.families.iter().map(move |family| (family_labels(pool, family), family))
            })
        };
        let mut gauge = |name: &str, help: &str, series: Vec<(Vec<(&str, String)>, u64)>| {
            let none = ConstGauge::new(0u64);
            let mut family = encoder.encode_descriptor(name, help, None, none.metric_type())?;
            for (labels, value) in series {
                let value = ConstGauge::new(value);
                if labels.is_empty() {
                    value.encode(family)?;
                    break;
                }
                value.encode(family.encode_family(&labels)?)?;
            }
            fmt::Result::Ok(())
        };
        gauge(
            "tartan_operator_objects",
            "Objects in memory",
            [("Node", nodes), ("SubnetLease", leases), ("NodeNetwork", node_networks)]
                .map(|(kind, count)| (vec![("kind", kind.to_owned())], *count as u64))
                .to_vec(),
        )?;
        gauge(
            "tartan_operator_synced",
            "1 when every watch has completed its first list",
            vec![(vec![], incomplete.is_empty().into())],
        )?;
        gauge(
            "tartan_operator_idle",
            "1 when there is no usable ClusterNetwork",
            vec![(vec![], (*idle).into())],
        )?;
        gauge(
            "tartan_nodes_waiting",
            "Nodes that wait for a lease",
            waiting.iter().map(|(reason, count)| (vec![("reason", (*reason).to_owned())], *count)).collect(),
        )?;
        gauge(
            "tartan_invariant_violations",
            "How often what must hold among all objects doesn't",
            violations
                .iter()
                .map(|(invariant, count)| (vec![("invariant", (*invariant).to_owned())], *count))
                .collect(),
        )?;
        gauge(
            "tartan_cidr_exhaustion_seconds",
            "Until a CIDR entry has no block left at the present rate; absent where that is not foreseen",
            entries.iter().filter_map(|entry| Some((entry_labels(entry), entry.outlook.seconds?))).collect(),
        )?;
        gauge(
            "tartan_pool_exhaustion_seconds",
            "Until no block of a family is left for a pool's nodes at the present rate; absent where that is not \
             foreseen",
            families().filter_map(|(labels, family)| Some((labels, family.outlook.seconds?))).collect(),
        )?;
        gauge(
            "tartan_further_leases",
            "Leases that are not their nodes' first of the family",
            vec![(vec![], *further)],
        )?;
        gauge("tartan_returning_leases", "Further leases that are asked back", vec![(vec![], *returning)])?;
        for (name, help, figure) in ENTRY_GAUGES {
            gauge(name, help, entries.iter().map(|entry| (entry_labels(entry), figure(entry))).collect())?;
        }
        for (name, help, figure) in POOL_GAUGES {
            gauge(
                name,
                help,
                pools.iter().map(|pool| (vec![("pool", pool.pool.clone())], figure(pool))).collect(),
            )?;
        }
        for (name, help, figure) in FAMILY_GAUGES {
            gauge(name, help, families().map(|(labels, family)| (labels, figure(family))).collect())?;
        }
        Ok(())
    }
}

fn entry_labels(entry: &EntryFigures) -> Vec<(&'static str, String)> {
    vec![("entry", entry.entry.clone()), ("cidr", entry.cidr.to_string())]
}

fn family_labels(pool: &PoolFigures, family: &FamilyFigures) -> Vec<(&'static str, String)> {
    vec![("pool", pool.pool.clone()), ("family", family.family.to_string())]
}

type GaugeOf<T> = (&'static str, &'static str, fn(&T) -> u64);

const ENTRY_GAUGES: [GaugeOf<EntryFigures>; 8] = [
    ("tartan_cidr_blocks_capacity", "Blocks of a CIDR entry", |entry| entry.capacity),
    ("tartan_cidr_blocks_used", "Blocks leased to nodes that exist, or withheld", |entry| entry.used),
    ("tartan_cidr_blocks_held", "Blocks held since their Nodes went", |entry| entry.held),
    ("tartan_cidr_blocks_reserved", "Blocks that are kept back and not leased", |entry| entry.reserved),
    ("tartan_cidr_blocks_free", "Blocks that a node can get", |entry| entry.free),
    (
        "tartan_cidr_blocks_left",
        "Blocks that are free, or held and given away where no other is left",
        |entry| entry.left,
    ),
    ("tartan_cidr_growth_per_day", "Blocks by which use grows in a day at the present rate", |entry| {
        entry.outlook.blocks_per_day.round() as u64
    }),
    ("tartan_cidr_draining", "1 where an entry gives out no more blocks", |entry| entry.draining.into()),
];

const POOL_GAUGES: [GaugeOf<PoolFigures>; 2] = [
    ("tartan_pool_nodes", "Nodes in a pool", |pool| pool.nodes),
    ("tartan_pool_leases", "Leases of a pool's nodes", |pool| pool.leases),
];

const FAMILY_GAUGES: [GaugeOf<FamilyFigures>; 7] = [
    ("tartan_pool_blocks_capacity", "Blocks of a family's entries in a pool's reach", |blocks| {
        blocks.capacity
    }),
    ("tartan_pool_blocks_used", "Used blocks of these entries, also by other pools", |blocks| blocks.used),
    ("tartan_pool_blocks_held", "Held blocks of these entries", |blocks| blocks.held),
    ("tartan_pool_blocks_reserved", "Blocks of these entries that are kept back and not leased", |blocks| {
        blocks.reserved
    }),
    ("tartan_pool_blocks_free", "Blocks that a node of the pool can get", |blocks| blocks.free),
    ("tartan_pool_blocks_allocatable", "Blocks of those of these entries that are not drained", |blocks| {
        blocks.allocatable
    }),
    (
        "tartan_pool_blocks_left",
        "Blocks of these entries that are free, or held and given away where no other is left",
        |blocks| blocks.left,
    ),
];
