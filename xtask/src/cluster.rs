//! tartan on a cluster of the lab: installing it, a workload to look at, and asking pods questions. Shared
//! by the demo and the tests on whole clusters.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tartan_lab::{Cluster, eventually_ok, images};

use crate::{
    image::{self, Images},
    workspace,
};

/// How long a cluster may take for what it does by itself.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The release's namespace.
pub const NAMESPACE: &str = "tartan-system";
/// The port that the workload's pods listen on.
pub const PORT: u16 = 8080;
/// The NodePorts of the workload: any node answers, only the client's own node answers.
pub const NODE_PORT: u16 = 30080;
pub const NODE_PORT_LOCAL: u16 = 30081;

/// Installs the chart with `values` and waits until all nodes are Ready.
pub fn install(cluster: &Cluster, built: &Images, values: &str) -> Result<()> {
    for archive in [&built.operator, &built.agent] {
        cluster.import_image(archive)?;
    }
    println!("==> helm install tartan charts/tartan");
    helm(cluster, "install", values)?;
    wait_ready(cluster)
}

/// `helm install` or `helm upgrade` with the lab's images and API address.
pub fn helm(cluster: &Cluster, verb: &str, values: &str) -> Result<()> {
    let file = cluster.directory().join("values.yaml");
    std::fs::write(&file, values)?;
    let chart = workspace::root().join("charts/tartan");
    let url = cluster.api().url();
    let (host, port) =
        url.trim_start_matches("https://").rsplit_once(':').context("the API server's URL has no port")?;
    let settings = [
        // The chart takes an IPv6 address as it is.
        format!("apiServer.host={}", host.trim_matches(['[', ']'])),
        format!("apiServer.port={port}"),
        format!("image.registry={}", image::REGISTRY),
        "image.pullPolicy=Never".to_owned(),
        "log.format=text".to_owned(),
    ];
    let mut arguments = vec![
        verb,
        "tartan",
        path(&chart),
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--values",
        path(&file),
    ];
    for setting in &settings {
        arguments.extend(["--set", setting]);
    }
    cluster.helm(&arguments)?.ok()?;
    Ok(())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// Takes tartan off the hosts, as the chart's README says, and waits until each agent's pod says that its node is clean.
pub fn clean(cluster: &Cluster, values: &str) -> Result<()> {
    helm(cluster, "upgrade", &format!("{values}\ncleanup: {{enabled: true}}\n"))?;
    let status = ["rollout", "status", "daemonset/tartan-node-agent", "--timeout=120s", "-n", NAMESPACE];
    cluster.kubectl(&status)?.ok()?;
    Ok(())
}

/// Waits until every node is Ready and every agent says that its node's network is.
pub fn wait_ready(cluster: &Cluster) -> Result<()> {
    for (kind, condition) in [("node", "Ready"), ("nodenetwork", "Ready")] {
        eventually_ok(&format!("every {kind} to be {condition}"), Duration::from_secs(120), || {
            let listed = cluster.kubectl(&["get", kind, "-o", "json"])?.ok()?;
            let list: Value = serde_json::from_str(&listed.stdout)?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            if items.len() < cluster.nodes().len() {
                bail!("only {} of {} are there", items.len(), cluster.nodes().len());
            }
            match items.iter().find(|item| !is_true(item, condition)) {
                Some(item) => bail!("{} is not", item["metadata"]["name"]),
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == condition && c["status"] == "True"))
}

/// One pod on each node behind a Service, by ClusterIP and by two NodePorts.
pub fn start_workload(cluster: &Cluster) -> Result<()> {
    println!("==> a pod on each node, a Service, two NodePorts");
    cluster.apply(&workload()).and_then(tartan_lab::Output::ok)?;
    cluster.kubectl(&["rollout", "status", "daemonset/web", "--timeout=120s"])?.ok()?;
    wait_for_services(cluster)
}

/// Waits until kube-proxy has told every node of the Services and their end points, which it does some time
/// after the pods are ready: that is not what is looked at here.
fn wait_for_services(cluster: &Cluster) -> Result<()> {
    let services = cluster_ips(cluster, "web")?;
    let pods = web_pods(cluster)?;
    for node in cluster.nodes() {
        let ports = [NODE_PORT, NODE_PORT_LOCAL];
        let own = cluster.known_addresses(node);
        let own = own.into_iter().flat_map(|address| ports.map(|port| (address, port)));
        for (address, port) in services.iter().map(|address| (*address, 80)).chain(own) {
            let url = url(address, port, "hostname");
            eventually_ok(&format!("{url} to answer {}", node.name()), PATIENCE, || http(node, &url))?;
        }
        eventually_ok(&format!("kube-proxy on {} to know all pods", node.name()), PATIENCE, || {
            for address in pods.iter().flat_map(|pod| &pod.addresses) {
                let family = if address.is_ipv4() { "ip" } else { "ip6" };
                let listed = node.exec(&["nft", "list", "table", family, "kube-proxy"])?.ok()?.stdout;
                if !listed.contains(&address.to_string()) {
                    bail!("{address} is missing");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Such as `http://[fd00::1]:80/hostname`.
pub fn url(address: IpAddr, port: u16, request: &str) -> String {
    format!("http://{}/{request}", SocketAddr::new(address, port))
}

fn workload() -> String {
    let image = images::TEST_IMAGE;
    let mut text = format!(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{{operator: Exists}}]
      containers:
      - name: web
        image: {image}
        imagePullPolicy: Never
        args: [netexec, --http-port={PORT}]
        readinessProbe: {{httpGet: {{path: /healthz, port: {PORT}}}, periodSeconds: 1}}
"#
    );
    for (name, policy, port) in [("web", "Cluster", NODE_PORT), ("web-local", "Local", NODE_PORT_LOCAL)] {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ipFamilyPolicy: PreferDualStack\n  type: NodePort\n  externalTrafficPolicy: {policy}\n  \
             selector: {{app: web}}\n  ports: [{{port: 80, targetPort: {PORT}, nodePort: {port}}}]\n"
        );
    }
    text
}

/// A pod of the workload.
#[derive(Clone, Debug)]
pub struct Web {
    pub name: String,
    pub node: String,
    /// The first of its addresses.
    pub address: IpAddr,
    /// One of each family.
    pub addresses: Vec<IpAddr>,
}

/// The workload's pods, by node.
pub fn web_pods(cluster: &Cluster) -> Result<Vec<Web>> {
    let listed = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "json"])?.ok()?;
    let list: Value = serde_json::from_str(&listed.stdout)?;
    let mut pods = vec![];
    for item in list["items"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let (Some(name), Some(node), Some(address)) =
            (text(&item["metadata"]["name"]), text(&item["spec"]["nodeName"]), text(&item["status"]["podIP"]))
        {
            let all = item["status"]["podIPs"].as_array().into_iter().flatten();
            let all = all.filter_map(|one| one["ip"].as_str()).map(str::parse::<IpAddr>);
            let addresses = all.collect::<Result<Vec<_>, _>>()?;
            pods.push(Web { name, node, address: address.parse()?, addresses });
        }
    }
    pods.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(pods)
}

/// Lets `pod` send `request` to `host:port` by HTTP and returns the answer's body.
pub fn ask_from_pod(cluster: &Cluster, pod: &Web, host: &str, port: u16, request: &str) -> Result<String> {
    let url = format!(
        "http://{}/dial?host={host}&port={port}&protocol=http&request={request}&tries=1",
        SocketAddr::new(pod.address, PORT)
    );
    let answer = http(cluster.node(&pod.node), &url)?;
    let answer: Value = serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))?;
    match answer["responses"].as_array().and_then(|all| all.first()).and_then(Value::as_str) {
        Some(body) => Ok(body.to_owned()),
        None => bail!("{} got no answer from {host}:{port}: {}", pod.name, answer["errors"]),
    }
}

/// A GET from inside of a namespace.
pub fn http(from: &tartan_lab::Namespace, url: &str) -> Result<String> {
    Ok(from.exec(&["curl", "--silent", "--show-error", "--fail", "--max-time", "5", url])?.ok()?.stdout)
}

/// The first ClusterIP of a Service.
pub fn cluster_ip(cluster: &Cluster, service: &str) -> Result<String> {
    Ok(cluster.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"])?.ok()?.stdout)
}

/// One of each family.
pub fn cluster_ips(cluster: &Cluster, service: &str) -> Result<Vec<IpAddr>> {
    let said =
        cluster.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIPs[*]}"])?.ok()?.stdout;
    Ok(said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// Prints what helps to find out why something failed.
pub fn tell_state(cluster: &Cluster) {
    for arguments in [
        &["get", "nodes,pods", "-A", "-o", "wide"][..],
        &["get", "clusternetworks,networkpools,subnetleases,nodenetworks"],
        &["describe", "nodenetworks"],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        &[
            "logs",
            "-n",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/name=tartan",
            "--prefix",
            "--tail=30",
            "--all-containers",
            "--ignore-errors",
        ],
    ] {
        eprintln!("$ kubectl {}", arguments.join(" "));
        match cluster.kubectl(arguments) {
            Ok(output) => eprintln!("{}{}", output.stdout, output.stderr),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}
