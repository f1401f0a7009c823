//! One agent with many peers that have no machine behind them.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tartan_lab::{ApiServer, ApiServerOptions, Fabric, FabricOptions, Node, Process, eventually_ok};

use super::{Options, Programs, create, lease, node, prepare, report, resident, seconds_until, send};

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let size = options.size;
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[1]))?;
    let api = fabric.api_server(ApiServerOptions::default())?;
    prepare(&api)?;
    let host = fabric.node("node1");
    add_own_lease(&api)?;
    add_peers(&api, 1..3)?;
    let agent = start(host, &api, programs)?;
    wait_for_routes(host, 2)?;
    report("agent, resident, 3 leases", "MB", vec![resident(agent.pid())?]);
    drop(agent);
    add_peers(&api, 3..size + 1)?;
    let (mut cold, mut memory, mut route, mut device) = (vec![], vec![], vec![], vec![]);
    let mut written = vec![];
    for _ in 0..options.rounds {
        clean(host, programs)?;
        let begin = std::time::Instant::now();
        let agent = start(host, &api, programs)?;
        wait_for_routes(host, size)?;
        cold.push(begin.elapsed().as_secs_f64());
        eventually_ok("the first pass to end", Duration::from_secs(30), || ready(host))?;
        host.script("ip route delete 10.0.1.0/24")?;
        route.push(seconds_until("the route", || {
            Ok(!host.exec(&["ip", "route", "show", "10.0.1.0/24", "proto", "84"])?.stdout.is_empty())
        })?);
        host.script("ip link delete tartan-vxlan")?;
        device.push(wait_for_routes(host, size)?);
        memory.push(resident(agent.pid())?);
        drop(agent);
        let before = own_versions(&api)?;
        let agent = start(host, &api, programs)?;
        eventually_ok("the first pass after a restart", Duration::from_secs(60), || ready(host))?;
        // Figures are written at their own pace: the first are there by then.
        host.exec(&["sleep", "10"])?.ok()?;
        let after = own_versions(&api)?;
        written.push(before.iter().zip(&after).filter(|(before, after)| before != after).count() as f64);
        drop(agent);
    }
    report(&format!("agent, resident, {size} leases"), "MB", memory);
    report(&format!("agent, cold start to {size} vxlan peers programmed"), "s", cold);
    report("agent, repair of a deleted route", "s", route);
    report(&format!("agent, repair of the deleted device with {size} peers"), "s", device);
    report(
        &format!("agent, restarted with {size} peers: of lease, NodeNetwork and Node, how many are written"),
        "",
        written,
    );
    clean(host, programs)
}

/// The versions of all that the agent writes.
fn own_versions(api: &ApiServer) -> Result<Vec<String>> {
    let version = |object: &str| {
        let words = ["get", object, "-o", "jsonpath={.metadata.resourceVersion}"];
        Ok(api.kubectl(&words)?.ok()?.stdout)
    };
    let lease = lease(0, "node1", "none")["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    [format!("subnetlease/{lease}"), "nodenetwork/node1".to_owned(), "node/node1".to_owned()]
        .iter()
        .map(|object| version(object))
        .collect()
}

fn add_own_lease(api: &ApiServer) -> Result<()> {
    create(
        api,
        &[
            node("node1"),
            json!({
                "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": "node1" }, "spec": {},
            }),
        ],
    )?;
    let uid = api.kubectl(&["get", "node", "node1", "-o", "jsonpath={.metadata.uid}"])?.ok()?.stdout;
    create(api, &[lease(0, "node1", &uid)])?;
    Ok(())
}

fn add_peers(api: &ApiServer, numbers: std::ops::Range<usize>) -> Result<()> {
    let with_status = |number: usize| {
        let mut lease = lease(number, &format!("peer{number:05}"), "none");
        let address = format!("172.16.{}.{}", number / 256, number % 256);
        lease["status"] = json!({
            "publicIPs": [address], "uplinkPrefixes": ["172.16.0.0/16"], "mtu": 1450, "pairingVersion": 1,
            "endpoints": [{ "type": "vxlan", "vtepMAC": format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256) }],
        });
        lease
    };
    let leases: Vec<Value> = numbers.map(with_status).collect();
    create(api, &leases)?;
    send(api, &["replace", "--subresource=status"], "status", &leases)?;
    Ok(())
}

fn start(host: &Node, api: &ApiServer, programs: &Programs) -> Result<Process> {
    let mut command = host.command(&programs.agent.display().to_string());
    command.env("NODE_NAME", "node1").env("KUBECONFIG", api.kubeconfig());
    host.start("agent", &command)
}

fn clean(host: &Node, programs: &Programs) -> Result<()> {
    host.exec(&[&programs.agent.display().to_string(), "cleanup", "--force"])?.ok()?;
    Ok(())
}

/// Seconds until there are as many routes of ours.
fn wait_for_routes(host: &Node, count: usize) -> Result<f64> {
    seconds_until("all routes", || {
        Ok(host.exec(&["ip", "route", "show", "proto", "84"])?.stdout.lines().count() >= count)
    })
}

fn ready(host: &Node) -> Result<()> {
    match host.exec(&["curl", "-sSf", "--max-time", "5", "http://127.0.0.1:9472/readyz"])?.success() {
        true => Ok(()),
        false => bail!("not ready"),
    }
}
