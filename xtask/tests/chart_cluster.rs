//! The chart on a real three-node Kubernetes, from nodes that are NotReady to hosts that are clean again.
//!
//! One cluster and one story, since each chapter stands on the one before: install, traffic of every
//! kind, upgrade, crash, uninstall, reinstall, clean-up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

use std::time::Duration;

use serde_json::Value;
use tartan_lab::{Cluster, ClusterOptions, Fabric, eventually, eventually_ok, prerequisites::Program};
use xtask::{
    cluster::{self, NAMESPACE, NODE_PORT, NODE_PORT_LOCAL, PORT, Web},
    image,
};

const VALUES: &str = r"
network:
  cidrs: [{name: pods, cidr: 10.244.0.0/16, nodeMaskSize: 24}]
pools:
  rack: {nodeSelector: {matchLabels: {place: rack}}, backend: {type: host-gw}}
  remote: {nodeSelector: {matchLabels: {place: remote}}, backend: {type: vxlan}}
";

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(arguments).unwrap().ok().unwrap().stdout
}

fn list(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let text = kubectl(cluster, &["get", kind, "-o", "json"]);
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

fn chapter(title: &str) {
    println!("-- {title}");
}

#[test]
fn the_chart_from_not_ready_nodes_to_clean_hosts() {
    let images = image::build(&image::default_directory()).unwrap();
    let mut cluster = Cluster::start(ClusterOptions::with_segments(&[2, 1])).unwrap();
    let agnhost = Program::Agnhost.path().unwrap();
    let outside = cluster.fabric_mut().outside().unwrap();
    let _web = outside
        .spawn("web", &[agnhost.to_str().unwrap(), "netexec", "--http-port=8080", "--udp-port=-1"])
        .unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&cluster, &images)));
    if let Err(panic) = told {
        cluster::tell_state(&cluster);
        std::panic::resume_unwind(panic);
    }
}

fn story(cluster: &Cluster, images: &image::Images) {
    for (node, place) in [("node1", "rack"), ("node2", "rack"), ("node3", "remote")] {
        kubectl(cluster, &["label", "node", node, &format!("place={place}")]);
    }

    chapter("nodes are NotReady and have no CNI file: the chart installs all the same");
    cluster::install(cluster, images, VALUES).unwrap();
    cluster::start_workload(cluster).unwrap();
    let pods = cluster::web_pods(cluster).unwrap();
    assert_eq!(pods.len(), 3);

    chapter("every pod reaches every pod, each pair by its path");
    everybody_talks(cluster, &pods);
    let device = |node: &str, to: &Web| {
        let route = cluster
            .node(node)
            .exec(&["ip", "-json", "route", "get", &to.address.to_string()])
            .unwrap()
            .ok()
            .unwrap();
        serde_json::from_str::<Value>(&route.stdout).unwrap()[0]["dev"].as_str().unwrap().to_owned()
    };
    assert_eq!(device("node1", &pods[1]), "eth0", "both in the rack: a plain route");
    assert_eq!(device("node1", &pods[2]), "tartan-vxlan");
    assert_eq!(device("node1", &pods[0]), "tartan0");

    chapter("Services, NodePorts and the outside, with the source addresses of the truth table");
    services(cluster, &pods);

    chapter("podCIDRs are mirrored into Nodes, and leases, pools and nodes say what they should");
    let leases = list(cluster, "subnetleases");
    assert_eq!(leases.len(), 3);
    for node in list(cluster, "nodes") {
        let lease =
            leases.iter().find(|lease| lease["spec"]["nodeName"] == node["metadata"]["name"]).unwrap();
        assert_eq!(lease["spec"]["subnet"], node["spec"]["podCIDR"]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let unavailable = conditions.iter().find(|c| c["type"] == "NetworkUnavailable").unwrap();
        assert_eq!(
            (&unavailable["status"], &unavailable["reason"]),
            (&"False".into(), &"TartanReady".into())
        );
    }
    assert_eq!(list(cluster, "networkpools").len(), 2);
    let program = ["deploy/tartan-operator", "--", "tartan-operator"];
    let explain = [&["-n", NAMESPACE, "exec"][..], &program, &["explain", "node3"]].concat();
    let said = kubectl(cluster, &explain);
    let of_node3 = leases.iter().find(|lease| lease["spec"]["nodeName"] == "node3").unwrap();
    let subnet = of_node3["spec"]["subnet"].as_str().unwrap();
    assert!(said.starts_with(&format!("node node3 holds {subnet}\n")), "{said}");
    assert!(said.contains("\n  pool      remote: the only one that selects the node\n"), "{said}");
    assert!(
        said.contains("as the lowest free block of its entry"),
        "the lease says why it was chosen: {said}"
    );

    chapter("an agent that is killed comes back, and pods talk all the time");
    let before: Vec<String> =
        leases.iter().map(|lease| lease["metadata"]["resourceVersion"].to_string()).collect();
    kubectl(
        cluster,
        &[
            "delete",
            "pods",
            "-n",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/component=agent",
            "--force",
            "--grace-period=0",
        ],
    );
    everybody_talks(cluster, &pods);
    cluster::wait_ready(cluster).unwrap();
    let after: Vec<String> = list(cluster, "subnetleases")
        .iter()
        .map(|lease| lease["metadata"]["resourceVersion"].to_string())
        .collect();
    assert_eq!(after, before, "a restart of all agents writes no lease");

    chapter("an upgrade changes the values: a third pool, and a network that grows");
    let grown = VALUES.replace(
        "nodeMaskSize: 24}]",
        "nodeMaskSize: 24}, {name: more, cidr: 10.245.0.0/16, nodeMaskSize: 26}]",
    );
    cluster::helm(cluster, "upgrade", &grown).unwrap();
    eventually("the second entry to arrive", Duration::from_secs(60), || {
        list(cluster, "clusternetworks")[0]["spec"]["cidrs"].as_array().is_some_and(|cidrs| cidrs.len() == 2)
    })
    .unwrap();
    everybody_talks(cluster, &pods);

    chapter("a rollback of the release brings nobody down");
    cluster.helm(&["rollback", "tartan", "1", "--namespace", NAMESPACE]).unwrap().ok().unwrap();
    everybody_talks(cluster, &pods);

    chapter("uninstalling keeps leases and the data path");
    cluster.helm(&["uninstall", "tartan", "--namespace", NAMESPACE, "--wait"]).unwrap().ok().unwrap();
    assert_eq!(list(cluster, "subnetleases").len(), 3);
    everybody_talks(cluster, &pods);

    chapter("installing again takes over what is there");
    cluster::helm(cluster, "install", VALUES).unwrap();
    cluster::wait_ready(cluster).unwrap();
    everybody_talks(cluster, &pods);
    let subnets =
        |leases: &[Value]| leases.iter().map(|lease| lease["spec"]["subnet"].to_string()).collect::<Vec<_>>();
    assert_eq!(subnets(&list(cluster, "subnetleases")), subnets(&leases));

    chapter("on request the hosts are clean again");
    kubectl(cluster, &["delete", "daemonset", "web"]);
    cluster::clean(cluster, VALUES).unwrap();
    for node in cluster.nodes() {
        eventually_ok(&format!("{} to be clean", node.name()), Duration::from_secs(90), || {
            let links = node.exec(&["ip", "-oneline", "link"])?.ok()?.stdout;
            let routes = node.exec(&["ip", "route", "show", "proto", "84"])?.ok()?.stdout;
            let nft = node.exec(&["nft", "list", "tables"])?.ok()?.stdout;
            let files =
                node.exec(&["sh", "-c", "ls /etc/cni/net.d /run/flannel 2>/dev/null || true"])?.ok()?.stdout;
            if links.contains("tartan")
                || !routes.is_empty()
                || nft.contains("tartan")
                || files.contains("tartan")
                || files.contains("subnet.env")
            {
                anyhow::bail!("still there:\n{links}{routes}{nft}{files}");
            }
            Ok(())
        })
        .unwrap();
    }
}

fn everybody_talks(cluster: &Cluster, pods: &[Web]) {
    for from in pods {
        for to in pods {
            let name =
                cluster::ask_from_pod(cluster, from, &to.address.to_string(), PORT, "hostname").unwrap();
            assert_eq!(name.trim(), to.name);
            let seen =
                cluster::ask_from_pod(cluster, from, &to.address.to_string(), PORT, "clientip").unwrap();
            assert!(
                seen.starts_with(&format!("{}:", from.address)),
                "{} saw {seen} instead of {}",
                to.name,
                from.address
            );
        }
    }
}

fn services(cluster: &Cluster, pods: &[Web]) {
    let address = cluster::cluster_ip(cluster, "web").unwrap();
    for from in pods {
        // Enough times that each end point, the pod's own included, has its turn.
        for _ in 0..6 {
            cluster::ask_from_pod(cluster, from, &address, 80, "hostname").unwrap();
        }
        let seen =
            cluster::ask_from_pod(cluster, from, &Fabric::OUTSIDE.to_string(), 8080, "clientip").unwrap();
        let node = cluster.node(&from.node).address();
        assert!(seen.starts_with(&format!("{node}:")), "outside saw {seen} instead of the node's {node}");
    }
    let outside = cluster.fabric().existing_outside().unwrap();
    for node in cluster.nodes() {
        for _ in 0..6 {
            cluster::http(outside, &format!("http://{}:{NODE_PORT}/hostname", node.address())).unwrap();
        }
        let seen =
            cluster::http(outside, &format!("http://{}:{NODE_PORT_LOCAL}/clientip", node.address())).unwrap();
        assert!(seen.starts_with(&format!("{}:", Fabric::OUTSIDE)), "NodePort Local: the pod saw {seen}");
        // A node's own packets to a remote pod carry its base address.
        for to in pods.iter().filter(|to| to.node != node.name()) {
            let seen = cluster::http(node, &format!("http://{}:{PORT}/clientip", to.address)).unwrap();
            let base = pods
                .iter()
                .find(|pod| pod.node == node.name())
                .map(|pod| base_of(cluster, &pod.node))
                .unwrap();
            assert!(seen.starts_with(&format!("{base}:")), "{}: {seen} instead of {base}", to.name);
        }
    }
}

/// The network address of the node's subnet.
fn base_of(cluster: &Cluster, node: &str) -> String {
    let subnet = kubectl(cluster, &["get", "node", node, "-o", "jsonpath={.spec.podCIDR}"]);
    subnet.split_once('/').unwrap().0.to_owned()
}
