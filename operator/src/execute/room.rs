//! Telling that an entry runs out of blocks: once when it is foreseen, and once when it has happened.

use tartan_crds::{CidrUsage, Room, conditions::reason, wellknown::CLUSTER_NETWORK};

use super::Executor;
use crate::events;

impl Executor {
    pub(super) fn tell_of_room(&self, network: &str, before: &[CidrUsage], after: &[CidrUsage]) {
        for entry in after {
            let old = before.iter().find(|old| old.name == entry.name && old.cidr == entry.cidr);
            let Some((reason, what)) = news(old, entry) else { continue };
            let about = events::ours("ClusterNetwork", CLUSTER_NETWORK, network);
            self.events.warn(
                about,
                reason,
                "Allocate",
                format!("entry {} ({}) {what}", entry.name, entry.cidr),
            );
        }
    }
}

fn news(before: Option<&CidrUsage>, entry: &CidrUsage) -> Option<(&'static str, String)> {
    if entry.forecast.room <= before.map_or(Room::Ample, |before| before.forecast.room) {
        return None;
    }
    match entry.forecast.room {
        Room::Ample => None,
        Room::Low => Some((
            reason::NEARLY_EXHAUSTED,
            format!(
                "lasts about {} at the present rate of about {} blocks a day; {} are free",
                entry.forecast.exhausted_in.as_deref().unwrap_or("days"),
                entry.forecast.blocks_per_day,
                entry.free
            ),
        )),
        Room::Exhausted => Some((
            reason::EXHAUSTED,
            "has no block left; nodes get blocks of other entries of its family, if any".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use tartan_crds::Forecast;

    use super::*;

    #[test]
    fn an_entry_that_runs_out_is_told_once_for_each_step() {
        let entry = |room| CidrUsage {
            name: "main".into(),
            cidr: "10.0.0.0/16".into(),
            capacity: 256,
            used: 200,
            held: 0,
            free: 56,
            reserved: 0,
            used_by: vec![],
            draining: false,
            forecast: Forecast { room, blocks_per_day: 20, exhausted_in: Some("2d".into()) },
            samples: vec![],
        };
        let told = |before: Option<Room>, after| {
            news(before.map(entry).as_ref(), &entry(after)).map(|(reason, _)| reason)
        };
        assert_eq!(told(None, Room::Ample), None);
        assert_eq!(told(Some(Room::Ample), Room::Low), Some("NearlyExhausted"));
        assert_eq!(told(Some(Room::Low), Room::Low), None);
        assert_eq!(told(Some(Room::Low), Room::Exhausted), Some("Exhausted"));
        assert_eq!(told(Some(Room::Exhausted), Room::Low), None);
        assert_eq!(told(None, Room::Exhausted), Some("Exhausted"));
    }
}
