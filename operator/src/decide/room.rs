//! What status says of the room that is left: for an entry, a pool, and the network as a whole.

use tartan_crds::{CidrUsage, Family, Forecast, Room, conditions::reason, wellknown::NO_POOL};

use super::{
    Problem,
    draft::Draft,
    forecast::usage_of,
    usage::{EntryFigures, FamilyFigures, Usage},
};

/// Who will be the first without a block, and of which family.
#[derive(Debug)]
pub struct First {
    pub pool: String,
    pub family: Family,
    pub forecast: Forecast,
}

pub const AMPLE: &str = "blocks are left, and will be for days at the present rate";

pub fn of_entry(entry: &EntryFigures, before: &[CidrUsage]) -> Forecast {
    let before = usage_of(before, entry).map_or(Room::Ample, |usage| usage.forecast.room);
    entry.outlook.forecast(before)
}

/// That of a pool, by its scarcest family.
pub fn of_pool(scarcest: Option<&FamilyFigures>, before: Room) -> Forecast {
    scarcest.map(|family| family.outlook.forecast(before)).unwrap_or_default()
}

/// The pool, or the nodes in no pool, that will be the first without a block. A pool without nodes counts
/// for nothing, as long as others have some.
pub fn first_exhausted(draft: &Draft<'_>, usage: &Usage<'_>, before: Option<&Forecast>) -> Option<First> {
    let nobody = draft.world.nodes.is_empty();
    let (pool, scarcest) = usage
        .pools
        .iter()
        .filter(|pool| nobody || pool.nodes > 0)
        .filter_map(|pool| Some((pool, pool.scarcest()?)))
        .min_by_key(|(_, scarcest)| scarcest.outlook.rank())?;
    let before = before.map_or(Room::Ample, |before| before.room);
    Some(First {
        pool: pool.pool.clone(),
        family: scarcest.family,
        forecast: scarcest.outlook.forecast(before),
    })
}

pub fn network_problem(first: Option<&First>) -> Option<Problem> {
    let First { pool, family, forecast } = first?;
    let whose = if pool == NO_POOL { "nodes in no pool".to_owned() } else { format!("pool {pool}") };
    problem(forecast, *family, &whose, "append an entry to spec.cidrs")
}

pub fn pool_problem(forecast: &Forecast, family: Option<Family>, claimed: &[String]) -> Option<Problem> {
    let remedy = if claimed.is_empty() {
        "append an entry to the ClusterNetwork's spec.cidrs"
    } else {
        "append an entry to the ClusterNetwork's spec.cidrs and to the pool's cidrs"
    };
    problem(forecast, family?, "the pool", remedy)
}

fn problem(forecast: &Forecast, family: Family, whose: &str, remedy: &str) -> Option<Problem> {
    match forecast.room {
        Room::Ample => None,
        Room::Exhausted => {
            Some(Problem::new(reason::EXHAUSTED, format!("no {family} block is left for {whose}: {remedy}")))
        }
        Room::Low => {
            let left = forecast.exhausted_in.as_deref().unwrap_or("days");
            Some(Problem::new(
                reason::NEARLY_EXHAUSTED,
                format!(
                    "the {family} blocks for {whose} last about {left} at the present rate of about {} a day: \
                     {remedy}",
                    forecast.blocks_per_day
                ),
            ))
        }
    }
}
