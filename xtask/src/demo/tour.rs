//! What the demo shows: tables, the matrix of paths, Services, the outside, figures.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tartan_lab::{Cluster, Fabric, Process, prerequisites::Program};

use crate::cluster::{self, NODE_PORT, NODE_PORT_LOCAL, PORT, Web};
use crate::prometheus::Prometheus;

const AGENTS_SCRAPED: &str = "count(up{job=\"tartan-node-agent\"} == 1)";

/// Shows everything and returns what did not work.
pub(super) fn show(cluster: &mut Cluster) -> Result<Vec<String>> {
    let mut failures = vec![];
    let outside = start_outside(cluster)?;
    let prometheus = scraping_every_node(cluster)?;
    let cluster = &*cluster;
    table(cluster, &["get", "nodes", "-o", "wide"])?;
    table(cluster, &["get", "clusternetworks,networkpools,subnetleases,nodenetworks"])?;
    let pods = cluster::web_pods(cluster)?;
    matrix(cluster, &pods, &mut failures)?;
    services(cluster, &pods, &mut failures)?;
    leaving(cluster, &pods, &mut failures)?;
    println!("\n==> figures, from Prometheus");
    for (name, query) in [
        ("nodes scraped", AGENTS_SCRAPED),
        ("leases in use", "sum(tartan_cidr_blocks_used)"),
        ("blocks free", "sum(tartan_cidr_blocks_free)"),
        ("paths by backend", "sum by (backend) (tartan_agent_peers)"),
        ("bytes through tunnels", "sum(tartan_agent_device_transmit_bytes_total{device=\"tartan-vxlan\"})"),
        ("agent memory, MB, most", "max(process_resident_memory_bytes{job=\"tartan-node-agent\"}) / 1e6"),
        ("operator memory, MB", "max(process_resident_memory_bytes{job=\"tartan-operator\"}) / 1e6"),
    ] {
        match prometheus.value(cluster, query) {
            Ok(value) => println!("    {name:<26} {value}"),
            Err(error) => failures.push(format!("Prometheus, {name}: {error:#}")),
        }
    }
    drop((outside, prometheus));
    Ok(failures)
}

/// Every node's agent, and the operator where it happens to be.
fn scraping_every_node(cluster: &Cluster) -> Result<Prometheus> {
    let targets = |port: u16| -> Vec<String> {
        cluster.nodes().iter().map(|node| format!("{}:{port}", node.address())).collect()
    };
    let scrape = json!([
        { "job_name": "tartan-node-agent", "static_configs": [{ "targets": targets(9472) }] },
        { "job_name": "tartan-operator", "static_configs": [{ "targets": targets(9473) }] },
    ]);
    let prometheus = Prometheus::start(cluster, &scrape)?;
    prometheus.wait_for_answer(cluster, AGENTS_SCRAPED, &cluster.nodes().len().to_string())?;
    Ok(prometheus)
}

/// A web server outside of the cluster.
fn start_outside(cluster: &mut Cluster) -> Result<Process> {
    let program = Program::Agnhost.path()?;
    let program = program.to_str().context("the path of agnhost is not UTF-8")?.to_owned();
    cluster.fabric_mut().outside()?.spawn("web", &[&program, "netexec", "--http-port=8080", "--udp-port=-1"])
}

fn table(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    println!("\n$ kubectl {}\n{}", arguments.join(" "), cluster.kubectl(arguments)?.ok()?.stdout.trim_end());
    Ok(())
}

/// Every pod asks every pod; the path is what the kernel of the sending node says.
fn matrix(cluster: &Cluster, pods: &[Web], failures: &mut Vec<String>) -> Result<()> {
    println!("\n==> from pod to pod: does it answer, and by which path");
    print!("{:<22}", "from \\ to");
    for to in pods {
        print!("{:<26}", format!("{} {}", to.node, to.address));
    }
    println!();
    for from in pods {
        print!("{:<22}", format!("{} {}", from.node, from.address));
        for to in pods {
            let answer = cluster::ask_from_pod(cluster, from, &to.address.to_string(), PORT, "hostname");
            let path = path(cluster, &from.node, &to.address.to_string())?;
            let verdict = match answer {
                Ok(name) if name.trim() == to.name => "ok",
                Ok(name) => {
                    failures.push(format!("{} asked {} and {name} answered", from.name, to.name));
                    "WRONG"
                }
                Err(error) => {
                    failures.push(format!("{error:#}"));
                    "NO ANSWER"
                }
            };
            print!("{:<26}", format!("{verdict} {path}"));
        }
        println!();
    }
    Ok(())
}

/// Device and next hop by which a node sends to an address.
fn path(cluster: &Cluster, node: &str, address: &str) -> Result<String> {
    let answer = cluster.node(node).exec(&["ip", "-json", "route", "get", address])?.ok()?.stdout;
    let routes: Value = serde_json::from_str(&answer)?;
    let route = routes.get(0).cloned().unwrap_or_default();
    let device = route["dev"].as_str().unwrap_or("?");
    Ok(match (device, route["gateway"].as_str()) {
        ("tartan0", _) => "bridge".to_owned(),
        ("tartan-vxlan", _) => "vxlan".to_owned(),
        (_, Some(gateway)) => format!("direct {gateway}"),
        (device, None) => device.to_owned(),
    })
}

fn services(cluster: &Cluster, pods: &[Web], failures: &mut Vec<String>) -> Result<()> {
    println!("\n==> Services");
    let address = cluster::cluster_ip(cluster, "web")?;
    for from in pods {
        report(
            &format!("pod on {} -> ClusterIP {address}", from.node),
            cluster::ask_from_pod(cluster, from, &address, 80, "hostname"),
            failures,
        );
    }
    let outside = cluster.fabric().existing_outside().context("the host outside is gone")?;
    for node in cluster.nodes() {
        for (policy, port) in [("Cluster", NODE_PORT), ("Local", NODE_PORT_LOCAL)] {
            let url = format!("http://{}:{port}/clientip", node.address());
            let seen = cluster::http(outside, &url);
            if let (Ok(seen), "Local") = (&seen, policy)
                && !seen.starts_with(&Fabric::OUTSIDE.to_string())
            {
                failures.push(format!("{url}: externalTrafficPolicy Local, but the pod saw {seen}"));
            }
            report(
                &format!("outside -> NodePort {}:{port} ({policy}), seen as", node.name()),
                seen,
                failures,
            );
        }
    }
    Ok(())
}

fn leaving(cluster: &Cluster, pods: &[Web], failures: &mut Vec<String>) -> Result<()> {
    println!("\n==> to the outside, behind the node's address");
    for from in pods {
        let seen = cluster::ask_from_pod(cluster, from, &Fabric::OUTSIDE.to_string(), 8080, "clientip");
        let node = cluster.node(&from.node).address().to_string();
        if let Ok(seen) = &seen
            && !seen.starts_with(&format!("{node}:"))
        {
            failures.push(format!("{}: outside sees {seen}, not the node's {node}", from.name));
        }
        report(&format!("pod on {} -> {}, seen as", from.node, Fabric::OUTSIDE), seen, failures);
    }
    Ok(())
}

fn report(what: &str, answer: Result<String>, failures: &mut Vec<String>) {
    match answer {
        Ok(answer) => println!("    ok  {what} {}", answer.trim()),
        Err(error) => {
            println!("    NO  {what}");
            failures.push(format!("{what}: {error:#}"));
        }
    }
}

/// For a cluster that was kept.
pub(super) fn tell_how_to_go_on(cluster: &Cluster) {
    let kubeconfig = cluster.api().kubeconfig();
    let kubectl = Program::Kubernetes.path().map(|path| path.display().to_string()).unwrap_or_default();
    println!("\n==> the cluster stays up\n    export KUBECONFIG={}", kubeconfig.display());
    println!("    alias kubectl='{kubectl} kubectl'");
    for node in cluster.nodes() {
        println!("    a shell on {}: {}", node.name(), node.enter().join(" "));
    }
    println!("    remove it: cargo xtask demo down");
}
