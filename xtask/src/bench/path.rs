//! What a pod's packets lose to the path, beside the nodes' own in the same run.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tartan_lab::{ApiServer, ApiServerOptions, Fabric, FabricOptions, Namespace, eventually_ok};

use super::{Options, Programs, create, node, prepare, report};

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let mut fabric = Fabric::start(FabricOptions::with_segments(&[2]))?;
    let api = fabric.api_server(ApiServerOptions::default())?;
    prepare(&api)?;
    let names = ["node1", "node2"];
    for (number, name) in names.iter().enumerate() {
        create(
            &api,
            &[
                node(name),
                json!({
                    "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": name }, "spec": {},
                }),
            ],
        )?;
        let uid = api.kubectl(&["get", "node", name, "-o", "jsonpath={.metadata.uid}"])?.ok()?.stdout;
        create(&api, &[super::lease(number, name, &uid)])?;
    }
    let mut agents = vec![];
    for name in names {
        let host = fabric.node(name);
        let mut command = host.command(&programs.agent.display().to_string());
        command.env("NODE_NAME", name).env("KUBECONFIG", api.kubeconfig());
        agents.push(host.start("agent", &command)?);
    }
    let (one, two) = (fabric.node("node1"), fabric.node("node2"));
    for host in [one, two] {
        eventually_ok("a CNI configuration", Duration::from_secs(60), || {
            host.exec(&["test", "-e", "/etc/cni/net.d/05-tartan.conflist"])?.ok()
        })?;
    }
    let (from, to) = (one.pod("from")?, two.pod("to")?);
    for (name, pod_path) in [("vxlan", "vxlan"), ("host-gw", "host-gw")] {
        set_backend(&api, pod_path)?;
        let address = to.ip().to_string();
        let device = if pod_path == "vxlan" { "dev tartan-vxlan" } else { "dev eth0" };
        eventually_ok("the path", Duration::from_secs(60), || {
            let route = one.exec(&["ip", "route", "get", &address])?.ok()?.stdout;
            anyhow::ensure!(route.contains(device), "{route}");
            from.exec(&["ping", "-c1", "-W1", &address])?.ok()
        })?;
        let _server = to.spawn("iperf", &["iperf3", "--server", "--port", "5201"])?;
        let _other = two.spawn("iperf", &["iperf3", "--server", "--port", "5202"])?;
        let (mut pods, mut nodes, mut pod_rtt, mut node_rtt) = (vec![], vec![], vec![], vec![]);
        for _ in 0..options.rounds {
            pods.push(throughput(&from, &address, "5201")?);
            nodes.push(throughput(one, &two.address().to_string(), "5202")?);
            pod_rtt.push(round_trip(&from, &address)?);
            node_rtt.push(round_trip(one, &two.address().to_string())?);
        }
        report(&format!("pod to pod by {name}, one TCP stream"), "Gb/s", pods);
        report("node to node in the same run", "Gb/s", nodes);
        report(&format!("pod to pod by {name}, round trip"), "ms", pod_rtt);
        report("node to node in the same run", "ms", node_rtt);
    }
    from.remove(one)?;
    to.remove(two)
}

fn set_backend(api: &ApiServer, kind: &str) -> Result<()> {
    let patch =
        json!({ "spec": { "backend": { "type": kind, "accepts": ["vxlan", "host-gw"] } } }).to_string();
    for name in ["10.0.0.0-24", "10.0.1.0-24"] {
        api.kubectl(&["patch", "subnetlease", name, "--type=merge", "-p", &patch])?.ok()?;
    }
    Ok(())
}

fn throughput(from: &Namespace, to: &str, port: &str) -> Result<f64> {
    let client = ["iperf3", "--client", to, "--port", port, "--time", "2", "--json"];
    let output = eventually_ok("iperf3", Duration::from_secs(20), || from.exec(&client)?.ok())?;
    let answer: Value = serde_json::from_str(&output.stdout)?;
    let bits = answer["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 gave no figure")?;
    Ok(bits / 1e9)
}

/// The average of 200 pings, in milliseconds.
fn round_trip(from: &Namespace, to: &str) -> Result<f64> {
    let output = from.exec(&["ping", "-q", "-c", "200", "-i", "0.002", to])?.ok()?.stdout;
    let line = output.lines().find(|line| line.starts_with("rtt")).context("ping gave no figure")?;
    let average = line.split('/').nth(4).context("ping gave no average")?;
    Ok(average.parse()?)
}
