//! How long blocks will last: how fast their use grows, and until when what is left suffices.
//!
//! Two rates are measured, and both from the objects alone. Over the last *hour*, from the leases themselves:
//! each that was created adds one, each that was released takes one away. Released leases are still there for
//! `reclaimAfter`, so the count goes back no further than that, and nothing that happened in it is missed; it counts as
//! that of an hour, for a few minutes say nothing of the next ones. Over the last *day*
//! nodes that were replaced would look like growth, since their old leases are gone; so the network's status
//! keeps two samples of each entry's use, one twelve hours apart from the other. What only comes back to what
//! a sample had, as when nodes are replaced one after the other, is no growth of the hour either; and the first
//! hour of an entry, in which a cluster is set up, is where the count begins.
//!
//! A rate is trusted only so far ahead: an hour in which some nodes came says nothing about next month.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use tartan_crds::{CidrUsage, Forecast, Room, UsageSample};

use super::{
    draft::Draft,
    usage::{EntryFigures, signed},
};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);
const HOURS_OF_A_DAY: f64 = 24.0;
/// How far ahead a rate is trusted that was measured over an hour, and over a day.
const HOURLY_AHEAD: f64 = 24.0 * 3600.0;
const DAILY_AHEAD: f64 = 365.0 * 24.0 * 3600.0;
/// Fewer blocks in an hour are chance.
const FEW: f64 = 3.0;
/// A sample is taken so often, and the rate of a day needs one of this age.
const SAMPLE_EVERY: SignedDuration = SignedDuration::from_hours(12);
const YOUNGEST: SignedDuration = SignedDuration::from_hours(6);
/// Room is low below this, and ample again only above the second, so that it is told once.
const LOW: f64 = 7.0 * 24.0 * 3600.0;
const AMPLE_AGAIN: f64 = 10.0 * 24.0 * 3600.0;
/// Shares are compared in millionths.
const MILLION: u64 = 1_000_000;

/// How fast use grows, in blocks a day. Negative where it shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Growth {
    hourly: f64,
    daily: f64,
}

/// How long what is left will last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outlook {
    /// Blocks that nodes could get, held ones too.
    left: u64,
    capacity: u64,
    /// By how much use grows in a day.
    pub blocks_per_day: f64,
    /// Until no block is left, where that is foreseen.
    pub seconds: Option<u64>,
}

impl Growth {
    fn plus(self, other: Self) -> Self {
        Self { hourly: self.hourly + other.hourly, daily: self.daily + other.daily }
    }
}

impl Outlook {
    /// That of nodes which no entry gives a block any more.
    pub fn exhausted() -> Self {
        Self { seconds: Some(0), ..Self::default() }
    }

    /// The outlook of an entry.
    pub fn of_entry(figures: &EntryFigures, growth: Growth) -> Self {
        if figures.draining {
            return Self::default();
        }
        Self::new(figures.left, figures.capacity, growth)
    }

    /// The outlook of nodes that get blocks of these entries, all of one family.
    pub fn of_entries<'e>(entries: impl Iterator<Item = (&'e EntryFigures, Growth)>) -> Self {
        let (left, capacity, growth) = entries.filter(|(entry, _)| !entry.draining).fold(
            (0_u64, 0_u64, Growth::default()),
            |(left, capacity, growth), (entry, more)| {
                (left.saturating_add(entry.left), capacity.saturating_add(entry.capacity), growth.plus(more))
            },
        );
        Self::new(left, capacity, growth)
    }

    fn new(left: u64, capacity: u64, growth: Growth) -> Self {
        let rates = [(growth.hourly, HOURLY_AHEAD), (growth.daily, DAILY_AHEAD)];
        let foreseen = rates
            .into_iter()
            .filter(|(rate, _)| *rate > 0.0)
            .map(|(rate, ahead)| (left as f64 / rate * DAY.as_secs_f64(), rate, ahead))
            .filter(|(seconds, _, ahead)| seconds <= ahead)
            .min_by(|(one, ..), (other, ..)| one.total_cmp(other));
        let rate = foreseen.map_or(growth.daily, |(_, rate, _)| rate).max(0.0);
        let seconds = if left == 0 && capacity > 0 {
            Some(0)
        } else {
            foreseen.map(|(seconds, ..)| (seconds as u64).max(1))
        };
        Self { left, capacity, blocks_per_day: rate, seconds }
    }

    /// The lower, the sooner exhausted; where that is not foreseen, the less is left of all.
    pub fn rank(&self) -> impl Ord + use<> {
        let share = self.left.saturating_mul(MILLION).checked_div(self.capacity);
        (self.seconds.is_none(), self.seconds, share.unwrap_or(u64::MAX))
    }

    /// As status says it, after what it said before.
    pub fn forecast(&self, before: Room) -> Forecast {
        Forecast {
            room: self.room(before),
            blocks_per_day: one_digit(self.blocks_per_day),
            exhausted_in: self.seconds.map(coarse),
        }
    }

    fn room(&self, before: Room) -> Room {
        let Some(seconds) = self.seconds else { return Room::Ample };
        if seconds == 0 {
            return Room::Exhausted;
        }
        // A cluster that is being set up grows fast and has room.
        let is_half_used = self.left.saturating_mul(2) <= self.capacity;
        let limit = if before == Room::Ample { LOW } else { AMPLE_AGAIN };
        if is_half_used && seconds as f64 <= limit { Room::Low } else { Room::Ample }
    }
}

/// The growth of each entry, in the order of the layout.
pub fn growth(draft: &Draft<'_>, before: &[CidrUsage], entries: &[EntryFigures]) -> Vec<Growth> {
    let hold: std::time::Duration = draft.layout.spec.reclaim_after.into();
    let window = SignedDuration::try_from(hold).unwrap_or(SignedDuration::MAX).min(HOUR);
    let start = draft.now.checked_sub(window).unwrap_or(Timestamp::MIN);
    let mut changes = vec![0_f64; entries.len()];
    for lease in draft.world.leases.iter() {
        let change = match lease.released_at() {
            None if lease.created >= start => 1.0,
            Some(released) if released >= start && lease.created < start => -1.0,
            _ => continue,
        };
        if let Some((place, _)) = draft.layout.entry_of(lease.subnet)
            && let Some(sum) = changes.get_mut(place)
        {
            *sum += change;
        }
    }
    entries
        .iter()
        .zip(changes)
        .map(|(entry, change)| {
            let samples = samples_of(before, entry);
            let highest = samples.iter().map(|sample| sample.used).max().unwrap_or(0);
            let change = change.min((signed(entry.used) - highest) as f64);
            let hourly = if change < FEW { 0.0 } else { change * HOURS_OF_A_DAY };
            Growth { hourly, daily: daily(samples, entry.used, draft.now) }
        })
        .collect()
}

/// What the status knew of an entry.
pub fn usage_of<'b>(before: &'b [CidrUsage], entry: &EntryFigures) -> Option<&'b CidrUsage> {
    let cidr = entry.cidr.to_string();
    before.iter().find(|usage| usage.name == entry.entry && usage.cidr == cidr)
}

/// The samples that the status is to keep.
pub fn samples(before: &[CidrUsage], entry: &EntryFigures, now: Timestamp) -> Vec<UsageSample> {
    let mut samples = samples_of(before, entry).to_vec();
    if let [first] = samples.as_mut_slice()
        && now.duration_since(first.at.0) < HOUR
    {
        first.used = signed(entry.used);
    }
    if samples.last().is_none_or(|newest| now.duration_since(newest.at.0) >= SAMPLE_EVERY) {
        samples.push(UsageSample { at: Time(now), used: signed(entry.used) });
        let surplus = samples.len().saturating_sub(2);
        samples.drain(..surplus);
    }
    samples
}

fn samples_of<'b>(before: &'b [CidrUsage], entry: &EntryFigures) -> &'b [UsageSample] {
    usage_of(before, entry).map_or(&[], |usage| &usage.samples)
}

fn daily(samples: &[UsageSample], used: u64, now: Timestamp) -> f64 {
    let Some(oldest) = samples.first() else { return 0.0 };
    let age = now.duration_since(oldest.at.0);
    if age < YOUNGEST {
        return 0.0;
    }
    (signed(used) - oldest.used) as f64 / (age.as_secs_f64() / DAY.as_secs_f64())
}

/// Rounded so that it changes seldom: the shorter, the finer.
fn coarse(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0 => "now".to_owned(),
        s if s < 2 * HOUR => format!("{}m", (s / (10 * MINUTE) * 10).max(10)),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 3 * 7 * DAY => format!("{}d", s / DAY),
        s => format!("{}w", s / (7 * DAY)),
    }
}

/// How long ago, such as `3h ago`.
pub fn coarse_age(now: Timestamp, then: Timestamp) -> String {
    let age = u64::try_from(now.duration_since(then).as_secs()).unwrap_or(0);
    if age < 600 { "just now".to_owned() } else { format!("{} ago", coarse(age)) }
}

fn one_digit(rate: f64) -> i64 {
    if rate < 1.0 {
        return i64::from(rate > 0.0);
    }
    let unit = 10_f64.powi(rate.log10().floor() as i32);
    ((rate / unit).round() * unit) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(left: u64, capacity: u64, (hourly, daily): (f64, f64), expected: (Room, i64, Option<&str>)) {
        let forecast = Outlook::new(left, capacity, Growth { hourly, daily }).forecast(Room::Ample);
        let found = (forecast.room, forecast.blocks_per_day, forecast.exhausted_in.as_deref());
        assert_eq!(found, expected, "{left} of {capacity} at {hourly} or {daily} a day");
    }

    #[test]
    fn a_rate_is_trusted_as_far_ahead_as_it_was_measured_long() {
        check(100, 256, (0.0, 0.0), (Room::Ample, 0, None));
        check(100, 256, (0.0, -5.0), (Room::Ample, 0, None));
        check(100, 256, (0.0, 20.0), (Room::Low, 20, Some("5d")));
        check(200, 256, (0.0, 100.0), (Room::Ample, 100, Some("2d")));
        check(100, 256, (0.0, 0.3), (Room::Ample, 1, Some("47w")));
        check(100, 256, (0.0, 0.2), (Room::Ample, 1, None));
        check(100, 256, (72.0, 0.0), (Room::Ample, 0, None));
        check(60, 256, (72.0, 0.0), (Room::Low, 70, Some("20h")));
        check(60, 256, (720.0, 1.0), (Room::Low, 700, Some("2h")));
        check(5, 256, (720.0, 1.0), (Room::Low, 700, Some("10m")));
        check(0, 256, (0.0, 0.0), (Room::Exhausted, 0, Some("now")));
        check(0, 0, (0.0, 0.0), (Room::Ample, 0, None));
    }

    #[test]
    fn room_that_was_low_is_ample_again_only_with_a_margin() {
        let outlook = |left| Outlook::new(left, 1000, Growth { hourly: 0.0, daily: 10.0 });
        assert_eq!(outlook(80).forecast(Room::Ample).room, Room::Ample);
        assert_eq!(outlook(70).forecast(Room::Ample).room, Room::Low);
        assert_eq!(outlook(80).forecast(Room::Low).room, Room::Low);
        assert_eq!(outlook(101).forecast(Room::Low).room, Room::Ample);
    }

    #[test]
    fn times_are_told_so_that_they_change_seldom() {
        let cases = [(0, "now"), (30, "10m"), (3599, "50m"), (7199, "110m"), (7200, "2h"), (172_800, "2d")];
        for (seconds, expected) in cases.into_iter().chain([(1_814_399, "20d"), (1_814_400, "3w")]) {
            assert_eq!(coarse(seconds), expected, "{seconds} s");
        }
        let rates = [(0.0, 0), (0.4, 1), (1.4, 1), (9.6, 10), (14.9, 10), (151.0, 200), (4999.0, 5000)];
        for (rate, expected) in rates {
            assert_eq!(one_digit(rate), expected, "{rate}");
        }
    }
}
