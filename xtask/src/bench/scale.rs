//! Thousands of nodes that are Node objects, and agents that are their writes.
//!
//! Everything is measured in one run against fresh API servers: what bare creates take, what
//! kube-controller-manager's node IPAM takes with its client unthrottled, and what the operator takes with
//! the chart's roles and admission policies in force, while agents answer for their nodes; then the operator
//! at rest, while figures change, while nodes are replaced, when all agents restart, and when it restarts
//! itself.

mod api;
mod fleet;
mod process;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tartan_lab::{ApiServer, ApiServerOptions, eventually_ok};

use super::{Options, Programs, lease, node, prepare, report};
use crate::workspace;
use api::{GROUP, Load, Request, Watch};
use fleet::Fleet;
use process::{Operator, sum};

const NODES: &str = "/api/v1/nodes";
/// Watchers beside the operator's own: each is what an agent is to the API server.
const WATCHERS: usize = 100;
const REST: Duration = Duration::from_secs(30);
const CHURN: Duration = Duration::from_secs(60);
/// The status of its lease and of its NodeNetwork, and a condition of its Node.
const WRITES_OF_A_NEW_AGENT: f64 = 3.0;
/// What the agents of a large cluster allow themselves, all together, for figures alone.
const WRITES_OF_FIGURES: f64 = 50.0;

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let size = options.size;
    bare_creates(size)?;
    node_ipam(size)?;
    operator(size, programs)
}

fn bare_creates(size: usize) -> Result<()> {
    let api = ApiServer::start(ApiServerOptions::default())?;
    prepare(&api)?;
    let load = Load::new(&api)?;
    let leases = (0..size).map(|number| lease(number, &name(number), "none"));
    let requests = leases.map(|lease| Request::create(&format!("{GROUP}/subnetleases"), lease)).collect();
    let start = Instant::now();
    load.send(requests)?;
    report(&format!("{size} bare creates of leases"), "s", vec![start.elapsed().as_secs_f64()]);
    Ok(())
}

fn node_ipam(size: usize) -> Result<()> {
    let options = ApiServerOptions::default();
    let mut api = ApiServer::start(options)?;
    let load = Load::new(&api)?;
    load.send(nodes(0..size))?;
    let watch = load.watch(NODES)?;
    let begin = Instant::now();
    api.start_controller_manager(&[
        "--controllers=node-ipam-controller,serviceaccount-controller".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        "--cluster-cidr=10.0.0.0/8".to_owned(),
        "--node-cidr-mask-size=24".to_owned(),
        "--kube-api-qps=100000".to_owned(),
        "--kube-api-burst=100000".to_owned(),
    ])?;
    load.until("all podCIDRs", begin, || watch.with_pod_cidr() >= size as u64)?;
    let first = watch.first_pod_cidr().context("no podCIDR")?;
    let all = first.elapsed().as_secs_f64();
    report(&format!("kube-controller-manager, unthrottled: {size} podCIDRs, from the first"), "s", vec![all]);
    Ok(())
}

fn operator(size: usize, programs: &Programs) -> Result<()> {
    let api = ApiServer::start(ApiServerOptions::default())?;
    install(&api)?;
    let account = account(&api)?;
    let load = Load::new(&api)?;
    let start = Instant::now();
    load.send(nodes(0..size))?;
    report(&format!("{size} Nodes created"), "s", vec![start.elapsed().as_secs_f64()]);
    let operator = Operator::start(&programs.operator, &api, &account)?;
    report("operator, resident, with all Nodes and no lease", "MB", vec![operator.resident()?]);
    let fleet = Fleet::start(&load)?;
    let network = load.watch(&format!("{GROUP}/clusternetworks"))?;
    lease_all(&load, &operator, &fleet, size)?;
    let before = told_of(&network, "all leases: changes of the network that each agent is sent", (0, 0));
    rest(&load, &operator)?;
    let watchers: Vec<Watch> =
        (0..WATCHERS).map(|_| load.watch(&format!("{GROUP}/subnetleases"))).collect::<Result<_>>()?;
    figures(&load, &operator, &watchers)?;
    agents_restart(&load, &watchers)?;
    churn(&load, &operator, &fleet, &watchers, size)?;
    told_of(&network, "since then: changes of the network that each agent is sent", before);
    fleet.check()?;
    drop(watchers);
    drop(operator);

    let leases = load.watch(&format!("{GROUP}/subnetleases"))?;
    let start = Instant::now();
    let operator = Operator::start(&programs.operator, &api, &account)?;
    report("operator, restart: until all is read", "s", vec![start.elapsed().as_secs_f64()]);
    load.until("a round", start, || {
        operator.metric("tartan_operator_rounds_total", &[]).is_ok_and(|n| n >= 3.0)
    })?;
    report("operator, restart: leases written", "", vec![leases.events() as f64]);
    report("operator, restart: resident", "MB", vec![operator.resident()?]);
    Ok(())
}

fn lease_all(load: &Load, operator: &Operator, fleet: &Fleet, size: usize) -> Result<()> {
    let leases = load.watch(&format!("{GROUP}/subnetleases"))?;
    let (before, cpu) = (api_requests(load)?, operator.cpu()?);
    let start = Instant::now();
    load.send(vec![Request::create(&format!("{GROUP}/clusternetworks"), network())])?;
    let all = load.until("all leases", start, || leases.added() >= size as u64)?;
    report(&format!("operator: {size} leases, from the creation of the network"), "s", vec![all]);
    let settled = load.until("all written", start, || {
        let written = |kind| operator.metric("tartan_operator_writes_total", &[kind, "\"done\""]);
        let all = |kind| written(kind).is_ok_and(|count| count >= size as f64);
        all("\"report-leased\"") && all("\"mirror-pod-cidrs\"")
    })?;
    report("operator: the same with NodeNetworks, conditions and podCIDRs", "s", vec![settled]);
    report("operator: processor time of it", "s", vec![operator.cpu()? - cpu]);
    let answered =
        load.until("all agents' answers", start, || fleet.sent() >= WRITES_OF_A_NEW_AGENT * size as f64)?;
    report("all agents have published what they have", "s", vec![answered]);
    fleet.check()?;
    let requests = api_requests(load)? - before - fleet.sent();
    report("operator: requests for each Node", "", vec![requests / size as f64]);
    report("operator, resident, with all leases", "MB", vec![operator.resident()?]);
    decide_time(operator)
}

fn decide_time(operator: &Operator) -> Result<()> {
    let rounds = operator.metric("tartan_operator_decide_seconds_count", &[])?;
    let seconds = operator.metric("tartan_operator_decide_seconds_sum", &[])?;
    report("operator: a round of deciding, on average", "ms", vec![seconds / rounds * 1000.0]);
    Ok(())
}

fn rest(load: &Load, operator: &Operator) -> Result<()> {
    // What the agents wrote is taken in first.
    load.pass(Duration::from_secs(5));
    let (start, cpu) = (Instant::now(), operator.cpu()?);
    load.pass(REST);
    let used = (operator.cpu()? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    report("operator at rest: of one processor", "%", vec![used]);
    report("operator at rest: resident", "MB", vec![operator.resident()?]);
    Ok(())
}

/// Pods come and go everywhere: as many NodeNetworks are written as the agents allow themselves.
fn figures(load: &Load, operator: &Operator, watchers: &[Watch]) -> Result<()> {
    let writes = (WRITES_OF_FIGURES * REST.as_secs_f64()) as usize;
    let mut requests = fleet::new_figures(&living(load)?, 4);
    requests.truncate(writes);
    let (cpu, events) = (operator.cpu()?, total(watchers, Watch::events));
    let start = Instant::now();
    load.send_over(REST, requests)?;
    let used = (operator.cpu()? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    report(
        &format!("{WRITES_OF_FIGURES} figures written a second: operator, of one processor"),
        "%",
        vec![used],
    );
    let seen = total(watchers, Watch::events) - events;
    report("the same: changes of leases that watchers see", "", vec![seen as f64]);
    Ok(())
}

/// How often and with how many bytes since `before`.
fn told_of(network: &Watch, what: &str, before: (u64, u64)) -> (u64, u64) {
    let now = (network.events(), network.bytes());
    report(what, "", vec![(now.0 - before.0) as f64]);
    report(&format!("{what}: bytes of all"), "B", vec![(now.1 - before.1) as f64]);
    now
}

/// Every agent says again what it has said. That an agent which starts anew says nothing at all is measured with a real
/// one (`--part agent`).
fn agents_restart(load: &Load, watchers: &[Watch]) -> Result<()> {
    let leases = living(load)?;
    let events = total(watchers, Watch::events);
    load.send(fleet::say_again(&leases))?;
    let after = total(watchers, Watch::events) - events;
    report(
        &format!("{} statuses applied again as they are: changes of leases that watchers see", leases.len()),
        "",
        vec![after as f64],
    );
    Ok(())
}

fn living(load: &Load) -> Result<Vec<Value>> {
    let mut list = load.get(&format!("{GROUP}/subnetleases"))?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// A tenth of the nodes is replaced within a minute: the old ones go, new ones come, whose agents answer.
fn churn(load: &Load, operator: &Operator, fleet: &Fleet, watchers: &[Watch], size: usize) -> Result<()> {
    let replaced = size / 10;
    let steps = 20;
    let (events, bytes) = (total(watchers, Watch::events), total(watchers, Watch::bytes));
    let (cpu, requests) = (operator.cpu()?, api_requests(load)?);
    let agents = fleet.sent();
    let mut own = 0;
    let start = Instant::now();
    for step in 0..steps {
        let part = |step: usize| replaced * step / steps..replaced * (step + 1) / steps;
        let gone = part(step).map(|number| Request::delete(format!("{NODES}/{}", name(number))));
        own += load.send(gone.collect())?.len();
        let new = part(step);
        own += load.send(nodes(new.start + size..new.end + size))?.len();
        let due = CHURN.mul_f64((step + 1) as f64 / steps as f64);
        load.pass(due.saturating_sub(start.elapsed()));
    }
    let wanted = (size + replaced) as f64;
    let done = load.until("the new nodes' leases", start, || {
        operator
            .metric("tartan_operator_writes_total", &["\"report-leased\"", "\"done\""])
            .is_ok_and(|count| count >= wanted)
    })?;
    report(&format!("churn: {replaced} nodes replaced, all leased after"), "s", vec![done]);
    let used = (operator.cpu()? - cpu) / done * 100.0;
    report("churn: operator, of one processor", "%", vec![used]);
    report("churn: operator, resident", "MB", vec![operator.resident()?]);
    load.until("the new agents' answers", start, || {
        fleet.sent() - agents >= WRITES_OF_A_NEW_AGENT * replaced as f64
    })?;
    let requests = api_requests(load)? - requests - own as f64 - (fleet.sent() - agents);
    report("churn: the operator's requests for each replaced node", "", vec![requests / replaced as f64]);
    let seen = total(watchers, Watch::events) - events;
    let bytes = total(watchers, Watch::bytes) - bytes;
    let per_node = seen as f64 / (watchers.len() * replaced) as f64;
    report("churn: changes that one watcher sees for each replaced node", "", vec![per_node]);
    report("churn: bytes of one change to one watcher", "B", vec![bytes as f64 / (seen as f64).max(1.0)]);
    Ok(())
}

fn total(watchers: &[Watch], figure: fn(&Watch) -> u64) -> u64 {
    watchers.iter().map(figure).sum()
}

/// Writes and reads that the server has answered, watches and the server's own loopback apart.
fn api_requests(load: &Load) -> Result<f64> {
    let text = load.text("/metrics")?;
    let ours = |resource: &str| {
        ["GET", "LIST", "POST", "PUT", "PATCH", "APPLY", "DELETE"]
            .map(|verb| sum(&text, "apiserver_request_total", &[resource, &format!("verb=\"{verb}\"")]))
            .iter()
            .sum::<f64>()
    };
    Ok(["nodes", "subnetleases", "nodenetworks", "clusternetworks", "networkpools", "events"]
        .map(|resource| ours(&format!("resource=\"{resource}\"")))
        .iter()
        .sum())
}

fn nodes(numbers: std::ops::Range<usize>) -> Vec<Request> {
    numbers.map(|number| Request::create(NODES, node(&name(number)))).collect()
}

fn name(number: usize) -> String {
    format!("n{number:05}")
}

fn network() -> Value {
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": { "cidrs": [{ "name": "all", "cidr": "10.0.0.0/8", "nodeMaskSize": 24 }] },
    })
}

/// The chart with its kinds, roles and policies; nobody is there to make pods of it.
fn install(api: &ApiServer) -> Result<()> {
    let chart = workspace::chart();
    let chart = chart.to_str().context("a path that is no text")?;
    let place = ["--namespace", "tartan-system", "--create-namespace"];
    let words = [&["install", "tartan", chart][..], &place, &["--set", "image.registry=localhost"]].concat();
    api.helm(&words)?.ok()?;
    // The operator would make a network of it at once: the clock starts with ours.
    api.kubectl(&["delete", "configmap", "tartan-config", "--namespace", "tartan-system"])?.ok()?;
    eventually_ok("the new kinds are served", Duration::from_secs(60), || {
        api.kubectl(&["get", "tartan"])?.ok()
    })?;
    Ok(())
}

/// A kubeconfig of the operator's own account: what throttles and limits it in a cluster does so here.
fn account(api: &ApiServer) -> Result<PathBuf> {
    let user = "system:serviceaccount:tartan-system:tartan-operator";
    let kubeconfig =
        api.kubeconfig_for(user, &["system:serviceaccounts", "system:serviceaccounts:tartan-system"])?;
    eventually_ok("the account has its rights", Duration::from_secs(30), || {
        api.kubectl_as(&kubeconfig, &["get", "nodes"])?.ok()
    })?;
    Ok(kubeconfig)
}
