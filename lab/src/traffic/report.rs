//! What a load counted.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(super) const BULK: &str = "bulk";

/// All flows of one load.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    pub to: String,
    pub seconds: f64,
    pub flows: Vec<Flow>,
}

/// One flow. Messages are UDP packets, or numbered messages of a TCP connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// `udp`, `tcp`, or `bulk`: TCP with many bytes in each message.
    pub protocol: String,
    pub sent: u64,
    /// Different messages that came back.
    pub received: u64,
    pub lost: u64,
    /// When the first of these was sent, after the start of the flow.
    pub first_lost_ms: Option<u64>,
    pub duplicated: u64,
    pub reordered: u64,
    /// Sends that the kernel refused; these messages are lost as well.
    pub refused: u64,
    /// TCP connections that ended before we ended them.
    pub connections_lost: u64,
    /// TCP segments of messages that were lost, as far as the sender's kernel knows; those of echoes are not counted.
    pub segments_lost: u64,
    /// The longest time without an echo.
    pub max_gap_ms: u64,
    /// The longest time from a send to its echo: seconds are packets that wait in front of a program that has no
    /// processor.
    pub max_delay_ms: u64,
}

impl Report {
    /// Messages that did not come back, over all flows.
    pub fn lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.lost).sum()
    }

    pub fn sent(&self) -> u64 {
        self.flows.iter().map(|flow| flow.sent).sum()
    }

    pub fn connections_lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.connections_lost).sum()
    }

    pub fn segments_lost(&self) -> u64 {
        self.flows.iter().map(|flow| flow.segments_lost).sum()
    }

    pub fn max_gap_ms(&self) -> u64 {
        self.flows.iter().map(|flow| flow.max_gap_ms).max().unwrap_or(0)
    }

    /// Without that of many bytes, which take a time of their own.
    pub fn max_delay_ms(&self) -> u64 {
        let small = self.flows.iter().filter(|flow| flow.protocol != BULK);
        small.map(|flow| flow.max_delay_ms).max().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} for {:.1} s:", self.to, self.seconds)?;
        for flow in &self.flows {
            let Flow {
                protocol,
                sent,
                received,
                lost,
                first_lost_ms,
                duplicated,
                reordered,
                refused,
                connections_lost,
                segments_lost,
                max_gap_ms,
                max_delay_ms,
            } = flow;
            let first =
                first_lost_ms.map(|first| format!(", the first after {first} ms")).unwrap_or_default();
            writeln!(
                f,
                "  {protocol}: {sent} sent, {received} received, {lost} lost ({refused} refused{first}), \
                 {duplicated} twice, {reordered} late, longest gap {max_gap_ms} ms, \
                 longest delay {max_delay_ms} ms, {connections_lost} connections lost, {segments_lost} segments lost"
            )?;
        }
        Ok(())
    }
}

/// Counts the echoes of one flow.
#[derive(Debug)]
pub(super) struct Account {
    flow: Flow,
    /// Sent at which time, and not yet back. Small, unless much is lost.
    missing: HashMap<u64, Instant>,
    newest: Option<u64>,
    start: Instant,
    last: Instant,
}

impl Account {
    pub(super) fn new(protocol: &str, now: Instant) -> Self {
        let flow = Flow { protocol: protocol.to_owned(), ..Flow::default() };
        Self { flow, missing: HashMap::new(), newest: None, start: now, last: now }
    }

    /// Before the send itself: the echo may be faster than the return of the call.
    pub(super) fn sent(&mut self, number: u64, now: Instant) {
        self.flow.sent += 1;
        self.missing.insert(number, now);
    }

    pub(super) fn refused(&mut self) {
        self.flow.refused += 1;
    }

    pub(super) fn received(&mut self, number: u64, now: Instant) {
        self.note_gap(now);
        let Some(sent) = self.missing.remove(&number) else {
            self.flow.duplicated += 1;
            return;
        };
        self.flow.max_delay_ms =
            self.flow.max_delay_ms.max(milliseconds(now.saturating_duration_since(sent)));
        self.flow.received += 1;
        if self.newest.is_some_and(|newest| number < newest) {
            self.flow.reordered += 1;
        } else {
            self.newest = Some(number);
        }
    }

    pub(super) fn connection_lost(&mut self) {
        self.flow.connections_lost += 1;
    }

    pub(super) fn segments_lost(&mut self, segments: u64) {
        self.flow.segments_lost += segments;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// `stopped` is when the sending ended: silence after it is no gap.
    pub(super) fn close(mut self, stopped: Instant) -> Flow {
        if stopped > self.last {
            self.note_gap(stopped);
        }
        self.flow.lost = u64::try_from(self.missing.len()).unwrap_or(u64::MAX);
        let first_lost = self.missing.values().min();
        self.flow.first_lost_ms =
            first_lost.map(|sent| milliseconds(sent.saturating_duration_since(self.start)));
        self.flow
    }

    fn note_gap(&mut self, now: Instant) {
        let gap = milliseconds(now.saturating_duration_since(self.last));
        self.flow.max_gap_ms = self.flow.max_gap_ms.max(gap);
        self.last = now;
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_duplicates_late_packets_and_gaps_are_told_apart() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut account = Account::new("udp", start);
        for number in 0..5 {
            account.sent(number, at(number / 2));
        }
        // 1 comes twice, 2 comes after 3, 4 never.
        for (number, ms) in [(0, 1), (1, 2), (1, 3), (3, 43), (2, 44)] {
            account.received(number, at(ms));
        }
        assert!(!account.is_complete());
        let expected = Flow {
            protocol: "udp".to_owned(),
            sent: 5,
            received: 4,
            lost: 1,
            first_lost_ms: Some(2),
            duplicated: 1,
            reordered: 1,
            max_gap_ms: 40,
            max_delay_ms: 43,
            ..Flow::default()
        };
        assert_eq!(account.close(at(50)), expected);
    }
}
