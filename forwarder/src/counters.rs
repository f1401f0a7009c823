//! What the queues count. Each thread has its own, so that none waits for another's cache line.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet was dropped: the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// It is no whole IPv4 packet.
    Malformed,
    /// No peer has its destination.
    NoRoute,
    /// It had no hop left.
    Expired,
    /// It doesn't fit the path and may not be cut.
    TooBig,
    /// The datagram came from an address that is no peer's.
    ForeignPeer,
    /// The packet inside has a source that the peer doesn't have.
    ForeignSource,
    /// The kernel refused it.
    Refused,
}

impl Drop {
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::NoRoute,
        Self::Expired,
        Self::TooBig,
        Self::ForeignPeer,
        Self::ForeignSource,
        Self::Refused,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoRoute => "no_route",
            Self::Expired => "expired",
            Self::TooBig => "too_big",
            Self::ForeignPeer => "foreign_peer",
            Self::ForeignSource => "foreign_source",
            Self::Refused => "refused",
        }
    }
}

/// Of one direction of one queue. Aligned so that two of them share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// System calls that moved them.
    batches: AtomicU64,
    complaints: AtomicU64,
    dropped: [AtomicU64; Drop::ALL.len()],
}

/// A sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub packets: u64,
    pub bytes: u64,
    pub batches: u64,
    pub complaints: u64,
    pub dropped: [u64; Drop::ALL.len()],
}

impl Counters {
    pub fn moved(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub fn complained(&self) {
        self.complaints.fetch_add(1, Ordering::Relaxed);
    }

    pub fn dropped(&self, why: Drop, packets: usize) {
        if let Some(counter) = self.dropped.get(why as usize) {
            counter.fetch_add(packets as u64, Ordering::Relaxed);
        }
    }

    pub fn add_to(&self, sum: &mut Sum) {
        sum.packets += self.packets.load(Ordering::Relaxed);
        sum.bytes += self.bytes.load(Ordering::Relaxed);
        sum.batches += self.batches.load(Ordering::Relaxed);
        sum.complaints += self.complaints.load(Ordering::Relaxed);
        for (total, counter) in sum.dropped.iter_mut().zip(&self.dropped) {
            *total += counter.load(Ordering::Relaxed);
        }
    }
}
