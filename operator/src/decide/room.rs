//! What status says of the room that is left: for an entry, a pool, and the network as a whole.

use tartan_crds::{CidrUsage, Family, Forecast, Room, conditions::reason, wellknown::NO_POOL};

use super::{
    Problem,
    draft::Draft,
    forecast::usage_of,
    usage::{EntryFigures, PoolFigures, Usage},
};

/// Who will be the first without a block, and of which family.
#[derive(Debug)]
pub struct First {
    pub pool: String,
    /// `None` where no entry has any.
    pub family: Option<Family>,
    pub barren: bool,
    pub forecast: Forecast,
}

pub const AMPLE: &str = "blocks are left, and will be for days at the present rate";

pub fn of_entry(entry: &EntryFigures, before: &[CidrUsage]) -> Forecast {
    let before = usage_of(before, entry).map_or(Room::Ample, |usage| usage.forecast.room);
    entry.outlook.forecast(before)
}

/// The pool, or the nodes in no pool, that will be the first without a block. A pool without nodes counts
/// for nothing, as long as others have some.
pub fn first_exhausted(draft: &Draft<'_>, usage: &Usage<'_>, before: Option<&Forecast>) -> Option<First> {
    let nobody = draft.world.nodes.is_empty();
    let counts = |pool: &&PoolFigures| pool.nodes > 0 || (nobody && !pool.barren);
    let first = usage.pools.iter().filter(counts).min_by_key(|pool| pool.outlook().rank())?;
    let before = before.map_or(Room::Ample, |before| before.room);
    Some(First {
        pool: first.pool.clone(),
        family: first.scarcest().map(|scarcest| scarcest.family),
        barren: first.barren,
        forecast: first.outlook().forecast(before),
    })
}

pub fn network_problem(first: Option<&First>) -> Option<Problem> {
    let First { pool, family, barren, forecast } = first?;
    let whose = if pool == NO_POOL { "nodes in no pool".to_owned() } else { format!("pool {pool}") };
    problem(forecast, (*family, *barren), &whose, "append an entry to spec.cidrs")
}

pub fn pool_problem(forecast: &Forecast, figures: &PoolFigures, claimed: &[String]) -> Option<Problem> {
    let remedy = if claimed.is_empty() {
        "append an entry to the ClusterNetwork's spec.cidrs"
    } else {
        "append an entry to the ClusterNetwork's spec.cidrs and to the pool's cidrs"
    };
    let family = figures.scarcest().map(|scarcest| scarcest.family);
    problem(forecast, (family, figures.barren), "the pool", remedy)
}

fn problem(
    forecast: &Forecast,
    (family, barren): (Option<Family>, bool),
    whose: &str,
    remedy: &str,
) -> Option<Problem> {
    let kind = family.map_or_else(String::new, |family| format!("{family} "));
    match forecast.room {
        Room::Ample => None,
        Room::Exhausted if barren => Some(Problem::new(
            reason::EXHAUSTED,
            format!("every entry that {whose} could get a block of is drained or not there: {remedy}"),
        )),
        Room::Exhausted => {
            Some(Problem::new(reason::EXHAUSTED, format!("no {kind}block is left for {whose}: {remedy}")))
        }
        Room::Low => {
            let left = forecast.exhausted_in.as_deref().unwrap_or("days");
            Some(Problem::new(
                reason::NEARLY_EXHAUSTED,
                format!(
                    "the {kind}blocks for {whose} last about {left} at the present rate of about {} a day: {remedy}",
                    forecast.blocks_per_day
                ),
            ))
        }
    }
}
