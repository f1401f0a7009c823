//! Several blocks on a node, with the real CNI plugins and real agents: pods of an old and of a new block reach every
//! node, a block goes back when no pod has an address of it, and nothing restarts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod cluster;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use cluster::{Cluster, PATIENCE, host_gw, vxlan, wait_until_reaches};
use serde_json::{Value, json};
use tartan_lab::{
    Pod, eventually, eventually_ok,
    traffic::{Echo, Load, LoadOptions},
};

/// Blocks of five pod addresses: node N has 10.244.0.(8·N)/29.
fn small_blocks(backend: impl Fn(usize) -> Value) -> Cluster {
    let cluster = Cluster::bare(&[2, 1]);
    cluster.create(&json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": { "cidrs": [{ "name": "pods", "cidr": "10.244.0.0/16", "nodeMaskSize": 29 }] },
    }));
    for node in cluster.fabric.nodes() {
        cluster.create_node_network(node.name());
        lease(
            &cluster,
            node.name(),
            &format!("10.244.0.{}/29", 8 * node.number()),
            true,
            &backend(node.number()),
        );
    }
    cluster
}

fn lease(cluster: &Cluster, node: &str, subnet: &str, primary: bool, backend: &Value) {
    let uid = cluster.field("node", node, ".metadata.uid");
    cluster.create(&json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
        "metadata": { "name": subnet.replace('/', "-") },
        "spec": {
            "nodeName": node, "nodeUID": uid, "subnet": subnet, "pool": "default", "primary": primary,
            "backend": backend,
        },
    }));
}

/// What the operator writes to ask a block back (`None`: no longer).
fn ask_back(cluster: &Cluster, lease: &str, since: Option<&str>) {
    let patch = json!({ "spec": { "returning": since } }).to_string();
    cluster
        .api
        .kubectl(&["patch", "subnetlease", lease, "--type=merge", "-p", &patch])
        .unwrap()
        .ok()
        .unwrap();
}

fn emptied(cluster: &Cluster, lease: &str) -> String {
    cluster.field("subnetlease", lease, ".status.emptied")
}

fn used(cluster: &Cluster, node: &str, subnet: &str) -> String {
    cluster.field("nodenetwork", node, &format!(".status.addressUse[?(@.subnet==\"{subnet}\")].used"))
}

fn start_agents(cluster: &mut Cluster, limit: &str) {
    for name in cluster.names() {
        let mut command = cluster.command(&name);
        command.env("TARTAN_POD_START_LIMIT", limit);
        cluster.start_command(&name, &command);
    }
}

/// The ranges that new pods get addresses of.
fn offered(cluster: &Cluster, node: &str) -> String {
    let script = "cat /etc/cni/net.d/05-tartan.conflist";
    let list: Value = serde_json::from_str(&cluster.node(node).script(script).unwrap().stdout).unwrap();
    let ranges = &list["plugins"][0]["ipam"]["ranges"][0];
    let subnets =
        ranges.as_array().into_iter().flatten().map(|range| range["subnet"].as_str().unwrap().to_owned());
    subnets.collect::<Vec<_>>().join(" ")
}

fn lies_in(address: IpAddr, subnet: &str) -> bool {
    subnet.parse::<tartan_crds::Cidr>().unwrap().contains(address)
}

#[test]
fn a_node_grows_into_a_second_block_and_gives_it_back_while_pods_talk() {
    let backend = |number: usize| if number < 3 { host_gw(number) } else { vxlan(number) };
    let mut cluster = small_blocks(backend);
    start_agents(&mut cluster, "2s");
    cluster.wait_until_joined();
    let far: Vec<Pod> = ["node2", "node3"].map(|name| cluster.node(name).pod("far").unwrap()).into();
    let node1 = cluster.node("node1");

    // The first block is filled, and the plugins say so.
    let mut first: Vec<Pod> = (0..5).map(|number| node1.pod(&format!("p{number}")).unwrap()).collect();
    assert!(first.iter().all(|pod| lies_in(pod.ip(), "10.244.0.8/29")));
    let full = node1.pod("none").unwrap_err();
    assert!(format!("{full:#}").contains("no IP addresses available"), "{full:#}");
    eventually("the agent reports it", PATIENCE, || used(&cluster, "node1", "10.244.0.8/29") == "5").unwrap();

    // Traffic of the first block, which must not notice what follows.
    let _echo = Echo::start(&far[1], 7000).unwrap();
    wait_until_reaches(&first[0], &far[1]);
    let options = LoadOptions { udp_rate: 200, tcp_flows: 2, ..LoadOptions::default() };
    let load = Load::start(&first[0], "through-it-all", (far[1].ip(), 7000), &options).unwrap();

    lease(&cluster, "node1", "10.244.9.0/29", false, &backend(1));
    eventually("new pods may get the second block", PATIENCE, || {
        offered(&cluster, "node1") == "10.244.0.8/29 10.244.9.0/29"
    })
    .unwrap();
    let second: Vec<Pod> = (5..9).map(|number| node1.pod(&format!("p{number}")).unwrap()).collect();
    assert!(
        second.iter().all(|pod| lies_in(pod.ip(), "10.244.9.0/29")),
        "{:?}",
        second.iter().map(Pod::ip).collect::<Vec<_>>()
    );
    let addresses: BTreeSet<IpAddr> = first.iter().chain(&second).map(Pod::ip).collect();
    assert_eq!(addresses.len(), 9, "no address twice");
    for pod in [&first[0], &second[0]] {
        for other in &far {
            wait_until_reaches(pod, other);
            wait_until_reaches(other, pod);
        }
        for name in ["node1", "node2", "node3"] {
            wait_until_reaches(cluster.node(name), pod);
        }
    }
    wait_until_reaches(&first[0], &second[0]);
    // Four, so that one is left: that is told at once. The step from three left to two may take a minute.
    eventually("its use is reported", PATIENCE, || used(&cluster, "node1", "10.244.9.0/29") == "4").unwrap();

    // Asked back while pods have addresses of it: new pods get none, these keep theirs, and there is no answer.
    ask_back(&cluster, "10.244.9.0-29", Some("2026-01-01T00:00:00Z"));
    eventually("it is not offered any more", PATIENCE, || offered(&cluster, "node1") == "10.244.0.8/29")
        .unwrap();
    let gone = first.pop().unwrap();
    let freed = gone.ip();
    gone.remove(node1).unwrap();
    let renewed = node1.pod("p9").unwrap();
    assert_eq!(renewed.ip(), freed, "only the first block is left for new pods");
    let start = Instant::now();
    eventually("twice the time of a start", PATIENCE, || {
        assert_eq!(emptied(&cluster, "10.244.9.0-29"), "", "pods have addresses of it");
        start.elapsed() > Duration::from_secs(4)
    })
    .unwrap();
    wait_until_reaches(&second[0], &far[0]);

    // The last pod goes, and a new process of the agent goes on where the last one was.
    cluster.stop_agent("node1");
    let node1 = cluster.node("node1");
    for pod in second {
        pod.remove(node1).unwrap();
    }
    let mut command = cluster.command("node1");
    command.env("TARTAN_POD_START_LIMIT", "2s");
    cluster.start_command("node1", &command);
    eventually("the agent says that it is empty", PATIENCE, || {
        emptied(&cluster, "10.244.9.0-29") == "2026-01-01T00:00:00Z"
    })
    .unwrap();

    // A start that slept through all of it takes an address: the answer is taken back.
    let node1 = cluster.node("node1");
    node1.script("touch /run/tartan/ipam/tartan/10.244.9.4").unwrap();
    node1.script("ip link add stir type veth peer name stir2 && ip link del stir").unwrap();
    eventually("the answer is taken back", Duration::from_secs(70), || {
        emptied(&cluster, "10.244.9.0-29").is_empty()
    })
    .unwrap();
    node1.script("rm /run/tartan/ipam/tartan/10.244.9.4; ip link add stir type veth peer name stir2 && ip link del stir").unwrap();
    eventually("and given again", Duration::from_secs(70), || !emptied(&cluster, "10.244.9.0-29").is_empty())
        .unwrap();

    // The operator releases it, and it is gone everywhere.
    cluster.api.kubectl(&["delete", "subnetlease", "10.244.9.0-29"]).unwrap().ok().unwrap();
    for name in cluster.names() {
        eventually_ok(&format!("{name} has nothing of it left"), PATIENCE, || {
            let left = cluster
                .node(&name)
                .script("ip route show 10.244.9.0/29; ip address show dev tartan0 | grep 10.244.9 || true")?;
            anyhow::ensure!(left.stdout.trim().is_empty(), "{}", left.stdout);
            Ok(())
        })
        .unwrap();
    }
    wait_until_reaches(&renewed, &far[0]);
    let report = load.finish().unwrap();
    assert!(report.sent() > 300, "{report}");
    assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
    drop((first, renewed, far));
}

#[test]
fn a_block_that_is_not_asked_back_any_more_is_offered_again_and_the_answer_is_void() {
    let mut cluster = small_blocks(vxlan);
    lease(&cluster, "node1", "10.244.9.0/29", false, &vxlan(1));
    start_agents(&mut cluster, "1s");
    cluster.wait_for_condition("node1", "Ready", "True", "AsExpected");
    ask_back(&cluster, "10.244.9.0-29", Some("2026-01-01T00:00:00Z"));
    eventually("it is met", PATIENCE, || emptied(&cluster, "10.244.9.0-29") == "2026-01-01T00:00:00Z")
        .unwrap();
    assert_eq!(offered(&cluster, "node1"), "10.244.0.8/29");
    ask_back(&cluster, "10.244.9.0-29", None);
    eventually("it is offered again", PATIENCE, || {
        offered(&cluster, "node1") == "10.244.0.8/29 10.244.9.0/29"
    })
    .unwrap();
    eventually("the answer goes", PATIENCE, || emptied(&cluster, "10.244.9.0-29").is_empty()).unwrap();
    // A first block is never given up, whatever somebody writes into it.
    ask_back(&cluster, "10.244.0.8-29", Some("2026-01-01T00:00:00Z"));
    ask_back(&cluster, "10.244.9.0-29", Some("2026-02-01T00:00:00Z"));
    eventually("the newer request is met", PATIENCE, || {
        emptied(&cluster, "10.244.9.0-29") == "2026-02-01T00:00:00Z"
    })
    .unwrap();
    assert_eq!(offered(&cluster, "node1"), "10.244.0.8/29");
    assert_eq!(emptied(&cluster, "10.244.0.8-29"), "");
}

/// The whole of it, with the operator: more pods than the first block holds, then fewer.
#[test]
fn a_node_gets_a_block_from_the_operator_before_it_runs_out_and_gives_it_back() {
    let mut cluster = Cluster::bare(&[2]);
    cluster
        .create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "tartan-system" } }));
    cluster.create(&json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": {
            "cidrs": [{ "name": "pods", "cidr": "10.244.0.0/24", "nodeMaskSize": 29 }],
            "growth": { "maxBlocksPerNode": 2, "grantBelowFree": 30, "coolDown": "1s", "returnEmptyAfter": "3s" },
        },
    }));
    let program = tartan_lab::program("tartan-operator").unwrap();
    let operator = |cluster: &Cluster, number: u8| {
        let mut command = cluster.node("node2").command(program.to_str().unwrap());
        command.args(["run", "--no-leader-election"]).env("KUBECONFIG", cluster.api.kubeconfig());
        cluster.node("node2").start(&format!("operator-{number}"), &command).unwrap()
    };
    let mut running = operator(&cluster, 1);
    start_agents(&mut cluster, "2s");
    cluster.wait_until_joined();
    let far = cluster.node("node2").pod("far").unwrap();
    let blocks = |cluster: &Cluster| {
        let leases =
            cluster.api.kubectl(&["get", "subnetleases", "--field-selector=spec.nodeName=node1", "-oname"]);
        leases.unwrap().ok().unwrap().stdout.lines().count()
    };

    // Four of five addresses: less than 30 % are free.
    let node1 = cluster.node("node1");
    let mut pods: Vec<Pod> = (0..4).map(|number| node1.pod(&format!("p{number}")).unwrap()).collect();
    eventually("a further block, though the first has room", PATIENCE, || blocks(&cluster) == 2).unwrap();
    eventually("it is offered", PATIENCE, || offered(&cluster, "node1").split(' ').count() == 2).unwrap();
    // The operator dies, the agent dies: pods go on and more of them come.
    running.kill().unwrap();
    cluster.agents.remove("node1").unwrap().kill().unwrap();
    let node1 = cluster.node("node1");
    pods.extend((4..8).map(|number| node1.pod(&format!("p{number}")).unwrap()));
    let first = cluster.field("node", "node1", ".spec.podCIDR");
    let (old, new): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| lies_in(pod.ip(), &first));
    assert_eq!((old.len(), new.len()), (5, 3));
    for pod in old.iter().chain(&new) {
        wait_until_reaches(pod, &far);
        wait_until_reaches(cluster.node("node2"), pod);
    }
    running = operator(&cluster, 2);
    let mut command = cluster.command("node1");
    command.env("TARTAN_POD_START_LIMIT", "2s");
    cluster.start_command("node1", &command);

    // Pods of the further block go, and so does the block; the others stay.
    let node1 = cluster.node("node1");
    let (stay, go): (Vec<Pod>, Vec<Pod>) = pods.into_iter().partition(|pod| lies_in(pod.ip(), &first));
    let mut stay = stay;
    for pod in go.into_iter().chain(stay.drain(1..)) {
        pod.remove(node1).unwrap();
    }
    eventually("the block goes back", PATIENCE * 3, || blocks(&cluster) == 1).unwrap();
    assert_eq!(offered(&cluster, "node1"), first);
    wait_until_reaches(&stay[0], &far);
    drop((stay, far, running));
}
