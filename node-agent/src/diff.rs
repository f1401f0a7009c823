//! `diff`: what `run` would change, and why each peer has its path. Changes nothing.

use std::{fmt::Write as _, time::Duration};

use anyhow::Context as _;
use futures::StreamExt as _;
use serde::Serialize;
use tartan_crds::WireguardPlace;
use tartan_daemon::connection;
use tartan_datapath::{
    desired::{Desired, PeerPath, desired},
    kernel::Kernel,
    model::{Conflict, Deletions, Plan, Step},
    pair::Path,
    plan::plan,
    problem::Problem,
};

use crate::{
    api_server,
    cli::{Options, Output},
    ground::{self, Ground},
    inputs::{World, watch::follow},
    intent::{Built, backend},
    publish::status::wireguard_place,
    round::Memory,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The answer, ready to print.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub differs: bool,
}

pub async fn diff(options: &Options, output: Output) -> anyhow::Result<Answer> {
    let node = options.node_name()?;
    let mut kernel = Kernel::open(options.kernel()).context("cannot talk to the kernel")?;
    let clients = connection::connect(options.kubeconfig.as_deref()).await?;
    let api_server = api_server::addresses(&clients.host).await;
    let world = tokio::time::timeout(PATIENCE, read_world(&clients, node))
        .await
        .context("the API server did not answer in time")??;
    let snapshot = world.snapshot().context("the inputs are incomplete")?;
    // The agent's paths do without what it could not set up.
    let mut memory = Memory::default();
    let own = snapshot.node_net.and_then(|own| own.status.as_ref());
    memory.lost.extend(own.iter().flat_map(|status| &status.unavailable).map(|kind| backend(*kind)));
    let ground = ground::find(node, &api_server, snapshot, &mut kernel, &mut memory).await;
    let built = match &ground {
        Ground::Fresh { built, .. } | Ground::Held { built, .. } => built,
        Ground::None { why, .. } => anyhow::bail!("{}: {}", why.reason, why.message),
    };
    let desired = desired(&built.intent);
    let seen = kernel.observe(&desired.elements).await;
    if let Some(error) = seen.failures.into_iter().next() {
        return Err(error).context("cannot see all of the kernel's state");
    }
    let plan = plan(&desired.elements, &seen.observed, Deletions::Allowed);
    let differs = !plan.steps.is_empty() || !plan.conflicts.is_empty();
    let text = match output {
        Output::Text => text(node, built, &desired, &plan),
        Output::Json => json(node, built, &desired, &plan)?,
    };
    Ok(Answer { text, differs })
}

async fn read_world(clients: &connection::Clients, node: &str) -> anyhow::Result<World> {
    let mut world = World::default();
    let mut inputs = follow(&clients.watch, node);
    while world.snapshot().is_none() {
        match inputs.next().await.context("the watches ended")? {
            Ok(change) => {
                world.apply(change);
            }
            Err((kind, error)) => return Err(error).with_context(|| format!("cannot list {kind}")),
        }
    }
    Ok(world)
}

fn text(node: &str, built: &Built, desired: &Desired, plan: &Plan) -> String {
    let (mut text, faults) = (String::new(), &built.faults);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "Node {node}: {} paths", desired.paths.len());
    if let Some(place) = wireguard_place(&built.intent) {
        let _ = writeln!(text, "WireGuard: {}", place.as_str());
    }
    for path in &desired.paths {
        let how = match path.pairing.path {
            Path::Direct { gateway } => format!("direct via {gateway}"),
            Path::Vxlan { destination, mac } => format!("vxlan to {destination} ({mac})"),
            Path::Ipip { destination } => format!("ipip to {destination}"),
            Path::Wireguard { destination, peer } => {
                format!("wireguard to {destination} port {} ({})", peer.port, peer.key)
            }
            Path::Ipsec { destination } => format!("ipsec to {destination}"),
            Path::Udp { destination, port } => format!("udp to {destination} port {port}"),
            Path::None => "no path".to_owned(),
        };
        let subnets: Vec<String> = path.subnets.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "  {}  {}  {how}{}  mtu {}  {}: {}",
            path.node,
            subnets.join(","),
            if path.sealed { "  sealed" } else { "" },
            path.mtu,
            path.pairing.reason,
            path.pairing.reason.sentence()
        );
    }
    for problem in &desired.problems {
        let _ = writeln!(text, "problem: node {}: {}", problem.node, problem.message);
    }
    for fault in faults {
        let _ = writeln!(text, "problem: node {}: {}", fault.node, fault.message);
    }
    for conflict in &plan.conflicts {
        let _ = writeln!(text, "conflict: {conflict}");
    }
    for step in &plan.steps {
        let _ = writeln!(text, "{step}");
    }
    if plan.steps.is_empty() && plan.conflicts.is_empty() {
        text.push_str("Nothing to change.\n");
    }
    text
}

#[derive(Serialize)]
struct Report<'a> {
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wireguard: Option<WireguardPlace>,
    peers: Vec<Peer<'a>>,
    steps: Vec<Change<'a>>,
    conflicts: &'a [Conflict],
    problems: Vec<&'a Problem>,
    faults: Vec<Fault<'a>>,
}

#[derive(Serialize)]
struct Peer<'a> {
    #[serde(flatten)]
    path: &'a PeerPath,
    why: &'static str,
}

#[derive(Serialize)]
struct Change<'a> {
    action: &'static str,
    kind: &'static str,
    object: String,
    text: String,
    value: &'a tartan_datapath::model::Value,
}

#[derive(Serialize)]
struct Fault<'a> {
    node: &'a str,
    message: &'a str,
}

fn json(node: &str, built: &Built, desired: &Desired, plan: &Plan) -> anyhow::Result<String> {
    let faults = &built.faults;
    let change =
        |step: &Step| (step.action.as_str(), step.key.kind(), step.key.to_string(), step.to_string());
    let report = Report {
        node,
        wireguard: wireguard_place(&built.intent),
        peers: desired.paths.iter().map(|path| Peer { path, why: path.pairing.reason.sentence() }).collect(),
        steps: plan
            .steps
            .iter()
            .map(|step| {
                let (action, kind, object, text) = change(step);
                Change { action, kind, object, text, value: &step.value }
            })
            .collect(),
        conflicts: &plan.conflicts,
        problems: desired.problems.iter().collect(),
        faults: faults.iter().map(|f| Fault { node: &f.node, message: &f.message }).collect(),
    };
    let mut text = serde_json::to_string_pretty(&report).context("cannot print the answer as JSON")?;
    text.push('\n');
    Ok(text)
}
