//! What status says of the room that is left: for an entry, a pool, and the network as a whole.

use tartan_crds::{CidrUsage, Forecast, NetworkPoolStatus, Room, conditions::reason, wellknown::NO_POOL};

use super::{
    Problem,
    draft::Draft,
    forecast::usage_of,
    usage::{EntryFigures, PoolFigures, Usage},
};

pub const AMPLE: &str = "blocks are left, and will be for days at the present rate";

pub fn of_entry(entry: &EntryFigures, before: &[CidrUsage]) -> Forecast {
    let before = usage_of(before, entry).map_or(Room::Ample, |usage| usage.forecast.room);
    entry.outlook.forecast(before)
}

pub fn of_pool(figures: Option<&PoolFigures>, before: &NetworkPoolStatus) -> Forecast {
    figures.map(|figures| figures.outlook.forecast(before.forecast.room)).unwrap_or_default()
}

/// The pool, or the nodes in no pool, that will be the first without a block. A pool without nodes counts
/// for nothing, as long as others have some.
pub fn first_exhausted(
    draft: &Draft<'_>,
    usage: &Usage<'_>,
    before: Option<&Forecast>,
) -> Option<(String, Forecast)> {
    let nobody = draft.world.nodes.is_empty();
    let first = usage
        .pools
        .iter()
        .filter(|pool| pool.capacity > 0 && (nobody || pool.nodes > 0))
        .min_by_key(|pool| pool.outlook.rank())?;
    let before = before.map_or(Room::Ample, |before| before.room);
    Some((first.pool.clone(), first.outlook.forecast(before)))
}

pub fn network_problem(first: Option<&(String, Forecast)>) -> Option<Problem> {
    let (pool, forecast) = first?;
    let whose = if pool == NO_POOL { "nodes in no pool".to_owned() } else { format!("pool {pool}") };
    problem(forecast, &whose, "append an entry to spec.cidrs")
}

pub fn pool_problem(forecast: &Forecast, claimed: &[String]) -> Option<Problem> {
    let remedy = if claimed.is_empty() {
        "append an entry to the ClusterNetwork's spec.cidrs"
    } else {
        "append an entry to the ClusterNetwork's spec.cidrs and to the pool's cidrs"
    };
    problem(forecast, "the pool", remedy)
}

fn problem(forecast: &Forecast, whose: &str, remedy: &str) -> Option<Problem> {
    match forecast.room {
        Room::Ample => None,
        Room::Exhausted => {
            Some(Problem::new(reason::EXHAUSTED, format!("no block is left for {whose}: {remedy}")))
        }
        Room::Low => {
            let left = forecast.exhausted_in.as_deref().unwrap_or("days");
            Some(Problem::new(
                reason::NEARLY_EXHAUSTED,
                format!(
                    "the blocks for {whose} last about {left} at the present rate of about {} a day: {remedy}",
                    forecast.blocks_per_day
                ),
            ))
        }
    }
}
