//! The chart's pods on real nodes: what they may touch, and that this is enough for them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tartan_lab::{Cluster, ClusterOptions, eventually, eventually_ok};
use xtask::cluster::{self, NAMESPACE};
use xtask::image;
use xtask::prometheus::Prometheus;

/// Two operators with metrics on loopback only, plugins into a directory that has one of them already, and the programs
/// that packets of some backends pass.
const VALUES: &str = r"
operator: {replicas: 2, listenAddress: 127.0.0.1}
cniPlugins: {install: true}
cniBinDir: /opt/other
forwarder: {enabled: true}
wireguard: {userspace: Auto}
";

/// The definition of a PodMonitor, as far as an API server that only keeps it needs one.
const POD_MONITORS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, listKind: PodMonitorList, plural: podmonitors, singular: podmonitor}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

/// Bit 12 of linux/capability.h.
const NET_ADMIN: u64 = 1 << 12;

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(arguments).unwrap().ok().unwrap().stdout
}

fn pods(cluster: &Cluster, component: &str) -> Vec<Value> {
    selected(cluster, &format!("app.kubernetes.io/component={component}"))
}

fn selected(cluster: &Cluster, selector: &str) -> Vec<Value> {
    let text = kubectl(cluster, &["get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "json"]);
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn inside(cluster: &Cluster, object: &str, container: &str, script: &str) -> String {
    kubectl(cluster, &["exec", "-n", NAMESPACE, object, "-c", container, "--", "sh", "-euc", script])
}

fn in_agent(cluster: &Cluster, script: &str) -> String {
    inside(cluster, "ds/tartan-node-agent", "agent", script)
}

#[test]
fn pods_have_the_rights_that_they_need_and_no_others() {
    let images = image::build(&image::default_directory()).unwrap();
    let cluster = Cluster::start(ClusterOptions::with_segments(&[2])).unwrap();
    // As on a cluster that enforces PodSecurity.
    kubectl(&cluster, &["create", "namespace", NAMESPACE]);
    kubectl(&cluster, &["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=privileged"]);
    cluster.api().apply(POD_MONITORS).unwrap().ok().unwrap();
    for node in cluster.nodes() {
        node.exec(&["mkdir", "-p", "/opt/other"]).unwrap().ok().unwrap();
        node.write("/opt/other/portmap", "older\n").unwrap();
    }
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster::install(&cluster, &images, VALUES).unwrap();
        powers(&cluster);
        agents(&cluster);
        operators(&cluster);
        prometheus_finds_all(&cluster);
        nobody_was_refused(&cluster);
        a_projected_token(&cluster);
    }));
    if let Err(panic) = told {
        cluster::tell_state(&cluster);
        std::panic::resume_unwind(panic);
    }
}

/// What the kernel lets the programs do that run on, as the chart's README has it. The IKE daemon is not here: it ends on
/// a kernel without IPsec, as this one may be.
fn powers(cluster: &Cluster) {
    let nobody = 65532;
    let programs = [
        ("deployment/tartan-operator", "operator", nobody, 0),
        ("ds/tartan-node-agent", "agent", 0, NET_ADMIN),
        ("ds/tartan-forwarder", "forwarder", 0, NET_ADMIN),
        ("ds/tartan-wireguard", "wireguard", 0, NET_ADMIN),
    ];
    for (object, container, user, capabilities) in programs {
        let rolled = ["rollout", "status", object, "-n", NAMESPACE, "--timeout=120s"];
        kubectl(cluster, &rolled);
        let ask = "grep -E '^(Uid|Cap(Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/1/status";
        let told = inside(cluster, object, container, ask);
        let found: Vec<String> =
            told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            format!("Uid: {user} {user} {user} {user}"),
            format!("CapEff: {capabilities:016x}"),
            format!("CapBnd: {capabilities:016x}"),
            "NoNewPrivs: 1".to_owned(),
            // A filter, and not none at all.
            "Seccomp: 2".to_owned(),
        ];
        assert_eq!(found, expected, "{container}");
        // The root, before anything that is mounted into it.
        let root = inside(cluster, object, container, "grep -m 1 -E '^[^ ]+ / ' /proc/self/mounts");
        let options = root.split_whitespace().nth(3).unwrap();
        assert!(options.split(',').any(|option| option == "ro"), "{container}: {root}");
    }
}

fn agents(cluster: &Cluster) {
    for node in cluster.nodes() {
        assert_eq!(node.read("/opt/other/portmap").unwrap(), "older\n", "overwritten unasked");
        let listed = node.exec(&["ls", "-A", "/opt/other"]).unwrap().ok().unwrap().stdout;
        assert_eq!(
            listed.split_whitespace().collect::<Vec<_>>(),
            ["bridge", "host-local", "loopback", "portmap"]
        );
    }
    for forbidden in ["touch /usr/x", "echo 1 > /proc/sys/net/ipv4/ip_forward"] {
        in_agent(cluster, &format!("if {forbidden}; then exit 1; fi 2> /dev/null"));
    }
    in_agent(cluster, "echo 1 > /host/proc/sys/net/ipv4/ip_forward");
    // For programs of the backend extension.
    in_agent(cluster, "ip route show");
    // Exit code 0: the kernel is as it should be.
    in_agent(cluster, "tartan-node-agent diff");
}

fn operators(cluster: &Cluster) {
    let all = pods(cluster, "operator");
    assert_eq!(all.len(), 2);
    assert_ne!(all[0]["spec"]["nodeName"], all[1]["spec"]["nodeName"]);
    // Metrics on loopback, as asked.
    for node in cluster.nodes() {
        assert!(cluster::http(node, "http://127.0.0.1:9473/metrics").unwrap().contains("tartan_"));
        assert!(cluster::http(node, &format!("http://{}:9473/metrics", node.address())).is_err());
    }
    let lease = ["get", "lease", "-n", NAMESPACE, "tartan-operator", "-o", "jsonpath={.spec.holderIdentity}"];
    let leader = kubectl(cluster, &lease);
    assert!(all.iter().any(|pod| leader.contains(name(pod))), "{leader} leads");
    kubectl(cluster, &["delete", "pod", "-n", NAMESPACE, &leader, "--wait=false"]);
    eventually("another leader", Duration::from_secs(60), || {
        let now = kubectl(cluster, &lease);
        !now.is_empty() && now != leader
    })
    .unwrap();
    eventually_ok("both operators again", Duration::from_secs(60), || {
        let wait = ["rollout", "status", "deployment/tartan-operator", "-n", NAMESPACE, "--timeout=1s"];
        cluster.kubectl(&wait)?.ok()
    })
    .unwrap();
}

/// A Prometheus that does what its operator would have it do with the PodMonitor finds every pod that can be reached. Told
/// so in operation: what listened on loopback is replaced by what others reach.
fn prometheus_finds_all(cluster: &Cluster) {
    for (node, port) in cluster.nodes().iter().flat_map(|node| [(node, 9474), (node, 9475)]) {
        assert!(
            cluster::http(node, &format!("http://127.0.0.1:{port}/metrics")).unwrap().contains("tartan_")
        );
        assert!(cluster::http(node, &format!("http://{}:{port}/metrics", node.address())).is_err());
    }
    let values = format!("{VALUES}metrics: {{podMonitor: {{enabled: true}}}}\n");
    cluster::helm(cluster, "upgrade", &values).unwrap();
    for object in ["ds/tartan-forwarder", "ds/tartan-wireguard"] {
        kubectl(cluster, &["rollout", "status", object, "-n", NAMESPACE, "--timeout=120s"]);
    }
    let monitor = kubectl(cluster, &["get", "podmonitor", "-n", NAMESPACE, "tartan", "-o", "json"]);
    let monitor: Value = serde_json::from_str(&monitor).unwrap();
    let spec = &monitor["spec"];
    let mut targets = targets(cluster, &spec["selector"]["matchLabels"]);
    // A node of the other family, which nobody answers for.
    targets.push(json!({
        "targets": ["2001:db8::1"],
        "labels": {
            "__meta_kubernetes_pod_ip": "2001:db8::1",
            "__meta_kubernetes_pod_container_name": "forwarder",
            "component": "elsewhere",
        },
    }));
    let endpoints = spec["podMetricsEndpoints"].as_array().unwrap().iter().enumerate();
    let scrape: Vec<Value> = endpoints
        .map(|(index, endpoint)| {
            let port = endpoint["port"].as_str().map(|name| {
                json!({ "sourceLabels": ["__meta_kubernetes_pod_container_port_name"], "regex": name, "action": "keep" })
            });
            let rules: Vec<Value> =
                port.into_iter().chain(endpoint["relabelings"].as_array().unwrap().clone()).collect();
            // The names of the fields are all that differs.
            let rules = json!(rules).to_string().replace("sourceLabels", "source_labels");
            let rules = rules.replace("targetLabel", "target_label");
            json!({
                "job_name": format!("{NAMESPACE}/tartan/{index}"),
                "metrics_path": endpoint["path"],
                "scrape_interval": "5s",
                "static_configs": targets,
                "relabel_configs": serde_json::from_str::<Value>(&rules).unwrap(),
            })
        })
        .collect();
    let prometheus = Prometheus::start(cluster, &json!(scrape)).unwrap();
    let is = |query: &str, expected: &str| prometheus.wait_for_answer(cluster, query, expected).unwrap();
    for component in ["agent", "forwarder", "wireguard"] {
        is(&format!("count(up{{component=\"{component}\",node=~\"node[12]\"}} == 1)"), "2");
        is(&format!("count(tartan_{component}_build_info{{component=\"{component}\"}})"), "2");
    }
    is("count(up{component=\"elsewhere\",instance=\"[2001:db8::1]:9474\"} == 0)", "1");
    // The operators listen on loopback, as asked.
    is("sort(count by (component) (up == 0))", "elsewhere 1, operator 2");
}

/// Of each pod with these labels what Prometheus' discovery of pods would tell: a target for each port of a container, or
/// one without port. Debian's Prometheus is built without discovery by Kubernetes.
/// <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod>
fn targets(cluster: &Cluster, labels: &Value) -> Vec<Value> {
    let labels: Vec<String> = labels
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
        .collect();
    let mut targets = vec![];
    for pod in selected(cluster, &labels.join(",")) {
        // One that is on its way out has another in its place.
        let (ip, ending) = (&pod["status"]["podIP"], &pod["metadata"]["deletionTimestamp"]);
        let (Some(ip), true) = (ip.as_str(), ending.is_null()) else { continue };
        let containers = ["initContainers", "containers"].map(|kind| pod["spec"][kind].as_array().cloned());
        for container in containers.into_iter().flatten().flatten() {
            let ports = container["ports"].as_array().cloned().unwrap_or_else(|| vec![Value::Null]);
            for port in ports {
                let number = port["containerPort"].as_u64();
                targets.push(json!({
                    "targets": [number.map_or_else(|| ip.to_owned(), |number| format!("{ip}:{number}"))],
                    "labels": {
                        "__meta_kubernetes_pod_ip": ip,
                        "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
                        "__meta_kubernetes_pod_container_name": container["name"],
                        "__meta_kubernetes_pod_container_port_name": port["name"].as_str().unwrap_or(""),
                        "component": pod["metadata"]["labels"]["app.kubernetes.io/component"],
                    },
                }));
            }
        }
    }
    targets
}

/// The roles have every right that the programs use.
fn nobody_was_refused(cluster: &Cluster) {
    for component in ["operator", "agent"] {
        for pod in pods(cluster, component) {
            let log = kubectl(cluster, &["logs", "-n", NAMESPACE, name(&pod), "--all-containers"]);
            let refusal = log.lines().find(|line| line.to_lowercase().contains("forbidden"));
            assert_eq!(refusal, None, "{}", name(&pod));
        }
    }
}

/// The token that the kubelet gives an agent is bound to its node.
fn a_projected_token(cluster: &Cluster) {
    let pod = pods(cluster, "agent").into_iter().find(|pod| pod["spec"]["nodeName"] == "node1").unwrap();
    let file = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = kubectl(cluster, &["exec", "-n", NAMESPACE, name(&pod), "-c", "agent", "--", "cat", file]);
    let thief = cluster.api().kubeconfig_for_token("thief", &token).unwrap();
    let steal = |node: &str| {
        let object = json!({ "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork", "metadata": { "name": node },
                             "status": { "peers": 7 } });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        let apply =
            ["apply", "--server-side", "--subresource=status", "--field-manager=thief", "--force-conflicts"];
        let path = file.path().to_str().unwrap();
        cluster.api().kubectl_as(&thief, &[&apply[..], &["--validate=false", "-f", path]].concat()).unwrap()
    };
    let said = steal("node2").stderr;
    assert!(said.contains("the agent of node node1 may not write the status of NodeNetwork node2"), "{said}");
    steal("node1").ok().unwrap();
}
