//! What is read at each scrape: the last round's findings, device counters, the process itself. Encoded
//! whole, so that what is gone leaves no series behind.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Instant, SystemTime},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use tartan_datapath::mark;

/// What the last round saw.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Objects of ours in the kernel, by kind.
    pub owned: BTreeMap<&'static str, u64>,
    /// Peers by family of the packets, backend (`none`: no path) and the reason of the pair's path.
    pub peers: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// Peers of which nothing is taken in clear.
    pub sealed_peers: u64,
    /// Our leases, primary and further ones.
    pub leases: (u64, u64),
    /// Pod addresses of our blocks by family: all, and those in use.
    pub addresses: BTreeMap<&'static str, (i64, i64)>,
    /// Who does WireGuard here, where keys are in use.
    pub wireguard: Option<&'static str>,
    /// Until when this node's certificate of IPsec is valid, where it goes by one.
    pub certificate_expiry: Option<SystemTime>,
    /// Foreign objects in our way.
    pub conflicts: u64,
    pub deletions_frozen: bool,
    /// Deletions that were held back.
    pub held_back: u64,
    /// Problems with peers' objects and the like, by kind.
    pub problems: BTreeMap<&'static str, u64>,
    pub last_good: Option<Instant>,
    /// When the loop last went round.
    pub last_beat: Option<Instant>,
    /// Why the node's network does not work: reason and message. Empty before the first round.
    pub not_ready: Option<(&'static str, String)>,
    /// Named counters of our nft table: packets and bytes.
    pub nft: BTreeMap<String, (u64, u64)>,
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[(Labels<'_>, f64)],
) -> fmt::Result {
    let none = ConstGauge::new(0f64);
    let mut family = encoder.encode_descriptor(name, help, None, none.metric_type())?;
    for (labels, value) in series {
        ConstGauge::new(*value).encode(family.encode_family(&labels.as_slice())?)?;
    }
    Ok(())
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[(Labels<'_>, u64)],
) -> fmt::Result {
    let none = ConstCounter::new(0u64);
    let mut family = encoder.encode_descriptor(name, help, None, none.metric_type())?;
    for (labels, value) in series {
        ConstCounter::new(*value).encode(family.encode_family(&labels.as_slice())?)?;
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct ViewCollector(pub(super) Arc<RwLock<View>>);

impl Collector for ViewCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let View {
            owned,
            peers,
            sealed_peers,
            leases: (primary, further),
            addresses,
            wireguard,
            certificate_expiry,
            conflicts,
            deletions_frozen,
            held_back,
            problems,
            last_good,
            last_beat: _,
            not_ready,
            nft,
        } = &*view;
        let encoder = &mut encoder;
        let by_kind = |map: &'_ BTreeMap<&'static str, u64>| -> Vec<(Labels<'static>, f64)> {
            map.iter().map(|(kind, count)| (vec![("kind", *kind)], *count as f64)).collect()
        };
        gauges(encoder, "tartan_agent_owned_objects", "Kernel objects of ours, by kind", &by_kind(owned))?;
        gauges(
            encoder,
            "tartan_agent_problems",
            "Problems with peers and inputs, by kind",
            &by_kind(problems),
        )?;
        let peers: Vec<_> = peers
            .iter()
            .map(|((family, backend, state), count)| {
                (vec![("family", *family), ("backend", *backend), ("state", *state)], *count as f64)
            })
            .collect();
        let help = "Other nodes, for each family of packets, by the path to them and its reason";
        gauges(encoder, "tartan_agent_peers", help, &peers)?;
        gauges(
            encoder,
            "tartan_agent_sealed_peers",
            "Other nodes of which nothing is taken in clear",
            &[(vec![], *sealed_peers as f64)],
        )?;
        let leases =
            [(vec![("role", "primary")], *primary as f64), (vec![("role", "further")], *further as f64)];
        gauges(encoder, "tartan_agent_leases", "Leases of this node", &leases)?;
        let of_family = |figure: fn(&(i64, i64)) -> i64| -> Vec<(Labels<'_>, f64)> {
            addresses.iter().map(|(family, both)| (vec![("family", *family)], figure(both) as f64)).collect()
        };
        let (all, used) = (of_family(|(all, _)| *all), of_family(|(_, used)| *used));
        gauges(encoder, "tartan_agent_pod_addresses", "Pod addresses in this node's blocks", &all)?;
        gauges(encoder, "tartan_agent_pod_addresses_used", "Those that pods have", &used)?;
        let wireguard: Vec<(Labels<'_>, f64)> =
            wireguard.iter().map(|place| (vec![("in", *place)], 1.0)).collect();
        gauges(
            encoder,
            "tartan_agent_wireguard",
            "Who does WireGuard here: kernel or user-space",
            &wireguard,
        )?;
        let expiry = certificate_expiry.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let expiry: Vec<_> = expiry.iter().map(|at| (vec![], at.as_secs_f64())).collect();
        gauges(
            encoder,
            "tartan_agent_ipsec_certificate_expiry_timestamp_seconds",
            "Until when this node's certificate of IPsec is valid",
            &expiry,
        )?;
        gauges(
            encoder,
            "tartan_agent_conflicts",
            "Foreign objects in our way",
            &[(vec![], *conflicts as f64)],
        )?;
        gauges(
            encoder,
            "tartan_agent_deletions_frozen",
            "1 while nothing is deleted because too much vanished at once",
            &[(vec![], f64::from(u8::from(*deletions_frozen)))],
        )?;
        gauges(
            encoder,
            "tartan_agent_deletions_held_back",
            "Deletions that wait for it",
            &[(vec![], *held_back as f64)],
        )?;
        let reason = not_ready.as_ref().map_or("AsExpected", |(reason, _)| reason);
        let ready = f64::from(u8::from(not_ready.is_none() && last_good.is_some()));
        gauges(
            encoder,
            "tartan_agent_ready",
            "1 where this node's pod network works",
            &[(vec![("reason", reason)], ready)],
        )?;
        if let Some(last_good) = last_good {
            gauges(
                encoder,
                "tartan_agent_last_good_pass_age_seconds",
                "Time since kernel and inputs were last seen in agreement",
                &[(vec![], last_good.elapsed().as_secs_f64())],
            )?;
        }
        let nft_series = |figure: fn(&(u64, u64)) -> u64| -> Vec<(Labels<'_>, u64)> {
            nft.iter().map(|(name, counts)| (vec![("counter", name.as_str())], figure(counts))).collect()
        };
        let packets = nft_series(|(packets, _)| *packets);
        let bytes = nft_series(|(_, bytes)| *bytes);
        counters(encoder, "tartan_agent_nft_packets", "Packets that a rule of ours counted", &packets)?;
        counters(encoder, "tartan_agent_nft_bytes", "Bytes that a rule of ours counted", &bytes)
    }
}

/// Counters of our devices, as the kernel keeps them.
#[derive(Debug)]
pub(super) struct Devices;

type Figure = (&'static str, &'static str, fn(&procfs::net::DeviceStatus) -> u64);

const FIGURES: [Figure; 8] = [
    ("tartan_agent_device_receive_bytes", "Bytes received", |d| d.recv_bytes),
    ("tartan_agent_device_receive_packets", "Packets received", |d| d.recv_packets),
    ("tartan_agent_device_receive_errors", "Receive errors", |d| d.recv_errs),
    ("tartan_agent_device_receive_drops", "Packets dropped on receiving", |d| d.recv_drop),
    ("tartan_agent_device_transmit_bytes", "Bytes sent", |d| d.sent_bytes),
    ("tartan_agent_device_transmit_packets", "Packets sent", |d| d.sent_packets),
    ("tartan_agent_device_transmit_errors", "Send errors", |d| d.sent_errs),
    ("tartan_agent_device_transmit_drops", "Packets dropped on sending", |d| d.sent_drop),
];

impl Collector for Devices {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(all) = procfs::net::dev_status() else { return Ok(()) };
        let ours = std::iter::once(mark::BRIDGE).chain(mark::TUNNELS);
        for (name, help, figure) in FIGURES {
            let series: Vec<(Labels<'_>, u64)> = ours
                .clone()
                .filter_map(|device| Some((vec![("device", device)], figure(all.get(device)?))))
                .collect();
            counters(&mut encoder, name, help, &series)?;
        }
        Ok(())
    }
}
