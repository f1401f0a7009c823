//! The chart's values: a ConfigMap that says which ClusterNetwork and pools the release wants.
//!
//! They are applied server-side under a field manager of their own and without force. So values that an
//! upgrade changes arrive, and what a user edited stays as it was edited: such fields are left out, and
//! reported. Objects that are not in the values any more are deleted only if they came from them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use serde_json::{Value, json};
use tartan_crds::{
    ClusterNetwork, NetworkPool,
    conditions::reason,
    wellknown::{CLUSTER_NETWORK, GROUP, VERSION, field_manager},
};

use crate::{
    client::{self, untyped},
    decide::Problem,
    events::{self, Events},
    metrics::Metrics,
    world::{ChartValues, Network, Pool, World},
};

/// The ConfigMap in the release's namespace, and its key.
pub const CONFIG_MAP: &str = "tartan-config";
pub const KEY: &str = "network.yaml";
/// Label of objects that were made from the values.
pub const FROM_CHART: &str = "tartan.network/from-chart";
/// Keys of [`World::chart_outcomes`].
pub const NETWORK: &str = "ClusterNetwork/default";

/// What came of the values of one object.
pub type ChartOutcome = Result<(), Problem>;

/// After a failure, and otherwise for the sake of edits that nobody noticed.
const RETRY: Duration = Duration::from_secs(5);
const RESYNC: Duration = Duration::from_secs(300);

pub fn pool_key(name: &str) -> String {
    format!("NetworkPool/{name}")
}

/// Applies the values.
pub struct Chart {
    networks: Api<DynamicObject>,
    pools: Api<DynamicObject>,
    events: Events,
    metrics: Metrics,
    applied: Option<Applied>,
}

/// What the last application was made from and led to: if it is still so, there is nothing to do.
struct Applied {
    values: ChartValues,
    objects: BTreeMap<String, (String, Option<i64>)>,
    next: Instant,
}

impl Chart {
    pub fn new(client: &Client, events: Events, metrics: Metrics) -> Self {
        Self {
            networks: untyped::<ClusterNetwork>(client),
            pools: untyped::<NetworkPool>(client),
            events,
            metrics,
            applied: None,
        }
    }

    /// Applies the values if they, or the objects, are not as the last application left them. Returns when
    /// to look again.
    pub async fn apply_if_due(&mut self, world: &mut World) -> Option<Instant> {
        let Some(values) = world.charts.get(CONFIG_MAP).cloned() else {
            world.chart_outcomes.clear();
            return None;
        };
        if !world.is_complete() {
            return None;
        }
        if let Some(applied) = &self.applied
            && applied.values == values
            && applied.objects == generations(world, &values)
            && Instant::now() < applied.next
        {
            return Some(applied.next);
        }
        let before = world.chart_outcomes.clone();
        let good = self.apply(world, &values).await;
        self.tell(world, &values, &before);
        let next = Instant::now() + if good { RESYNC } else { RETRY };
        let objects = generations(world, &values);
        self.applied = Some(Applied { values, objects, next });
        // Conditions follow from the outcomes: another round at once where these are new.
        Some(if before == world.chart_outcomes { next } else { Instant::now() })
    }

    async fn apply(&self, world: &mut World, values: &ChartValues) -> bool {
        world.chart_outcomes.clear();
        if let Some(error) = &values.error {
            let problem =
                Problem::new(reason::INVALID_VALUES, format!("ConfigMap {CONFIG_MAP}, key {KEY}: {error}"));
            world.chart_outcomes.insert(NETWORK.to_owned(), Err(problem));
            return true;
        }
        let mut good = true;
        if let Some(spec) = &values.network {
            match self.apply_one(&self.networks, "ClusterNetwork", CLUSTER_NETWORK, spec).await {
                Ok((outcome, object)) => {
                    if let Some(object) = object {
                        world.networks.learn(Network::parse(object), Instant::now());
                    }
                    world.chart_outcomes.insert(NETWORK.to_owned(), outcome);
                }
                Err(error) => good = self.failed("ClusterNetwork", CLUSTER_NETWORK, &error),
            }
        }
        for pool in &values.pools {
            match self.apply_one(&self.pools, "NetworkPool", &pool.name, &pool.spec).await {
                Ok((outcome, object)) => {
                    if let Some(object) = object {
                        world.pools.learn(Pool::parse(object), Instant::now());
                    }
                    world.chart_outcomes.insert(pool_key(&pool.name), outcome);
                }
                Err(error) => good = self.failed("NetworkPool", &pool.name, &error),
            }
        }
        good & self.delete_dropped_pools(world, values).await
    }

    async fn delete_dropped_pools(&self, world: &mut World, values: &ChartValues) -> bool {
        let dropped: Vec<_> = world
            .pools
            .iter()
            .filter(|pool| pool.from_chart && values.pools.iter().all(|wanted| wanted.name != pool.meta.name))
            .map(|pool| pool.meta.clone())
            .collect();
        let mut good = true;
        for pool in dropped {
            let uid = Some(Preconditions { uid: Some(pool.uid.clone()), resource_version: None });
            let params = DeleteParams { preconditions: uid, ..DeleteParams::default() };
            match self.pools.delete(&pool.name, &params).await {
                Ok(_) => {
                    tracing::info!(
                        pool = pool.name,
                        "pool deleted: it is not in the chart's values any more"
                    );
                    world.pools.forget(&pool.name);
                }
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => good = self.failed("NetworkPool", &pool.name, &error),
            }
        }
        good
    }

    /// Applies one object; where a user holds fields, all others. `Err` is for failures that may pass.
    async fn apply_one(
        &self,
        api: &Api<DynamicObject>,
        kind: &str,
        name: &str,
        spec: &Value,
    ) -> kube::Result<(ChartOutcome, Option<DynamicObject>)> {
        let mut object = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": kind,
            "metadata": { "name": name, "labels": { FROM_CHART: "true" } },
            "spec": spec,
        });
        // Strict: a value that the API does not know is an error to report, not one to drop.
        let params = PatchParams::apply(field_manager::CHART).validation_strict();
        let mut kept: Vec<String> = vec![];
        loop {
            match api.patch(name, &params, &Patch::Apply(&object)).await {
                Ok(applied) if kept.is_empty() => return Ok((Ok(()), Some(applied))),
                Ok(applied) => {
                    let problem = Problem::new(
                        reason::FIELD_CONFLICT,
                        format!("{} stays as it was edited; the chart's value differs", kept.join(", ")),
                    );
                    return Ok((Err(problem), Some(applied)));
                }
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    let causes = status.details.iter().flat_map(|details| &details.causes);
                    let held: Vec<String> = causes.map(|cause| cause.field.clone()).collect();
                    let dropped = held.iter().filter(|field| drop_field(&mut object, field)).count();
                    if dropped == 0 {
                        let problem = Problem::new(reason::FIELD_CONFLICT, status.message.clone());
                        return Ok((Err(problem), None));
                    }
                    kept.extend(held);
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                    return Ok((Err(Problem::new(reason::INVALID_VALUES, status.message.clone())), None));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn failed(&self, kind: &str, name: &str, error: &kube::Error) -> bool {
        self.metrics.request_failed(client::reason(error));
        tracing::warn!(
            kind,
            name,
            error = client::text(error),
            "the chart's values are not applied, trying again"
        );
        false
    }

    /// An event on the object, or on the ConfigMap where the object does not exist.
    fn tell(&self, world: &World, values: &ChartValues, before: &BTreeMap<String, ChartOutcome>) {
        for (key, outcome) in &world.chart_outcomes {
            let Err(problem) = outcome else { continue };
            if before.get(key) == Some(outcome) {
                continue;
            }
            tracing::warn!(object = key, reason = problem.reason, "chart values: {}", problem.message);
            let (kind, name) = key.split_once('/').unwrap_or((key, ""));
            let uid = match kind {
                "ClusterNetwork" => world.network().map(|network| network.meta.uid.clone()),
                _ => world.pools.get(name).map(|pool| pool.meta.uid.clone()),
            };
            let about = match uid {
                Some(uid) => events::ours(kind, name, &uid),
                None => events::config_map(values),
            };
            self.events.warn(
                about,
                problem.reason,
                "ApplyChartValues",
                format!("{key}: {}", problem.message),
            );
        }
    }
}

/// UID and generation of every object that the values are about.
fn generations(world: &World, values: &ChartValues) -> BTreeMap<String, (String, Option<i64>)> {
    let network = world.network().map(|n| (NETWORK.to_owned(), (n.meta.uid.clone(), n.generation)));
    let pools = world.pools.iter().filter_map(|pool| {
        let ours = pool.from_chart || values.pools.iter().any(|wanted| wanted.name == pool.meta.name);
        ours.then(|| (pool_key(&pool.meta.name), (pool.meta.uid.clone(), pool.generation)))
    });
    network.into_iter().chain(pools).collect()
}

/// Removes a field, given as in a conflict (`.spec.backends.vxlan.port`). A path into a list removes the list.
fn drop_field(object: &mut Value, path: &str) -> bool {
    let path = path.split('[').next().unwrap_or_default();
    let names: Vec<&str> = path.split('.').filter(|name| !name.is_empty()).collect();
    let Some((last, parents)) = names.split_last() else { return false };
    let mut at = object;
    for name in parents {
        let Some(next) = at.get_mut(name) else { return false };
        at = next;
    }
    at.as_object_mut().is_some_and(|fields| fields.remove(*last).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_a_user_holds_is_left_out() {
        let spec = json!({ "spec": { "mtu": 1400, "backends": { "vxlan": { "port": 1, "vni": 2 } }, "cidrs": [1] } });
        let check = |path: &str, expected: Value| {
            let mut object = spec.clone();
            let changed = drop_field(&mut object, path);
            assert_eq!((changed, object), (expected != spec, expected), "{path}");
        };
        check(
            ".spec.mtu",
            json!({ "spec": { "backends": { "vxlan": { "port": 1, "vni": 2 } }, "cidrs": [1] } }),
        );
        check(
            ".spec.backends.vxlan.port",
            json!({ "spec": { "mtu": 1400, "backends": { "vxlan": { "vni": 2 } }, "cidrs": [1] } }),
        );
        check(
            ".spec.cidrs[name=\"a\"].cidr",
            json!({ "spec": { "mtu": 1400, "backends": { "vxlan": { "port": 1, "vni": 2 } } } }),
        );
        check(".spec.unknown", spec.clone());
        check("", spec.clone());
    }
}
