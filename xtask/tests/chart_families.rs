//! The chart on whole clusters of two families and of IPv6 alone: real API server, kubelets, kube-proxies and pods.
//!
//! The dual-stack one has podCIDRs of kube-controller-manager, which are adopted; in the other one, where nobody has
//! an IPv4 address, they are mirrored, and both vxlan and plain routes go over IPv6.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

use std::net::IpAddr;

use serde_json::Value;
use tartan_lab::{
    Cluster, ClusterOptions, Fabric, Families, Namespace, eventually_ok, prerequisites::Program,
};
use xtask::{
    cluster::{self, NAMESPACE, NODE_PORT, NODE_PORT_LOCAL, PORT, Web, url},
    image,
};

#[test]
fn a_cluster_of_two_families_adopts_the_pairs_of_another_ipam() {
    let options = ClusterOptions {
        families: Families::Dual,
        cluster_cidr: Some("10.244.0.0/16,fd00:10:244::/48".to_owned()),
        ..ClusterOptions::with_segments(&[1, 1])
    };
    let values = r"
network:
  cidrs:
  - {name: four, cidr: 10.244.0.0/16, nodeMaskSize: 24}
  - {name: six, cidr: 'fd00:10:244::/48', nodeMaskSize: 64}
";
    tell(options, values, |cluster, pods| {
        assert_eq!(mode(cluster), "Adopt");
        whole_story(cluster, pods, &Expected { families: 2, mtu: 1450 });
        for pod in pods {
            for to in others(pods, pod).flat_map(|to| &to.addresses) {
                assert_eq!(
                    device(cluster.node(&pod.node), *to),
                    "tartan-vxlan",
                    "both by one tunnel over IPv4"
                );
            }
        }
    });
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_cluster_without_any_ipv4_has_tunnels_and_plain_routes() {
    let options = ClusterOptions { families: Families::V6, ..ClusterOptions::with_segments(&[2, 1]) };
    let values = r"
network:
  cidrs: [{name: six, cidr: 'fd00:10:244::/48', nodeMaskSize: 64}]
  defaultBackend: {type: host-gw}
";
    tell(options, values, |cluster, pods| {
        assert_eq!(mode(cluster), "Mirror");
        whole_story(cluster, pods, &Expected { families: 1, mtu: 1430 });
        let by = |from: usize, to: usize| device(cluster.node(&pods[from].node), pods[to].address);
        assert_eq!((by(0, 1).as_str(), by(1, 0).as_str()), ("eth0", "eth0"), "on one link");
        assert_eq!(
            (by(0, 2).as_str(), by(2, 0).as_str()),
            ("tartan-vxlan6", "tartan-vxlan6"),
            "not on one link"
        );
        for node in cluster.nodes() {
            let found = node.script("ip -4 address show dev eth0; ip -4 route").unwrap().stdout;
            assert_eq!(found.trim(), "", "{} has IPv4", node.name());
        }
    });
}

struct Expected {
    families: usize,
    mtu: usize,
}

/// Raises a cluster with the chart and a pod on each node; what is known of it is printed where the story fails.
fn tell(options: ClusterOptions, values: &str, story: impl FnOnce(&Cluster, &[Web])) {
    let images = image::build(&image::default_directory()).unwrap();
    let mut cluster = Cluster::start(options).unwrap();
    let agnhost = Program::Agnhost.path().unwrap();
    let outside = cluster.fabric_mut().outside().unwrap();
    let web = [agnhost.to_str().unwrap(), "netexec", "--http-port=8080", "--udp-port=-1"];
    let _web = outside.spawn("web", &web).unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster::install(&cluster, &images, values).unwrap();
        cluster::start_workload(&cluster).unwrap();
        story(&cluster, &cluster::web_pods(&cluster).unwrap());
    }));
    if let Err(panic) = told {
        cluster::tell_state(&cluster);
        std::panic::resume_unwind(panic);
    }
}

fn chapter(title: &str) {
    println!("-- {title}");
}

/// What holds in every family of every cluster.
fn whole_story(cluster: &Cluster, pods: &[Web], expected: &Expected) {
    assert_eq!(pods.len(), cluster.nodes().len());
    chapter("leases are the Nodes' podCIDRs, one of each family");
    leases_are_pod_cidrs(cluster, expected.families);
    chapter("every pod reaches every pod, and nodes reach pods, by every address");
    everybody_talks(cluster, pods, expected.families);
    chapter("Services and NodePorts");
    services(cluster, pods);
    chapter("the outside sees nodes, not pods");
    the_outside_sees_nodes(cluster, pods);
    chapter("the largest packet passes, and not one byte more");
    for pod in pods {
        largest_packets(cluster, pod, pods, expected.mtu);
    }
    chapter("subnet.env and metrics");
    files_and_metrics(cluster, expected);
    chapter("kubelets are reached, and no probe has failed");
    let name = kubectl(cluster, &["exec", &pods[0].name, "--", "hostname"]);
    assert_eq!(name.trim(), pods[0].name);
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    let restarts = kubectl(cluster, &["get", "pods", "-n", NAMESPACE, "-o", restarts]);
    assert!(!restarts.is_empty() && restarts.split(' ').all(|count| count == "0"), "restarts: {restarts}");
}

fn leases_are_pod_cidrs(cluster: &Cluster, families: usize) {
    let leases = list(cluster, "subnetleases");
    for node in list(cluster, "nodes") {
        let of_node = |lease: &&Value| lease["spec"]["nodeName"] == node["metadata"]["name"];
        let texts = |values: &mut dyn Iterator<Item = &Value>| -> Vec<String> {
            let mut texts: Vec<String> = values.map(|value| value.as_str().unwrap().to_owned()).collect();
            texts.sort();
            texts
        };
        let leased = texts(&mut leases.iter().filter(of_node).map(|lease| &lease["spec"]["subnet"]));
        let told = texts(&mut node["spec"]["podCIDRs"].as_array().unwrap().iter());
        assert_eq!((leased.len(), &leased), (families, &told), "{}", node["metadata"]["name"]);
        assert!(leases.iter().filter(of_node).all(|lease| lease["spec"]["primary"] == true));
    }
}

fn everybody_talks(cluster: &Cluster, pods: &[Web], families: usize) {
    for from in pods {
        assert_eq!(from.addresses.len(), families, "{from:?}");
        for to in pods {
            for (own, address) in pairs(&from.addresses, &to.addresses) {
                let ask =
                    |what| cluster::ask_from_pod(cluster, from, &address.to_string(), PORT, what).unwrap();
                assert_eq!(ask("hostname").trim(), to.name, "{address}");
                assert_eq!(host_of(&ask("clientip")), own, "{} as {address} sees it", from.name);
            }
        }
        let node = cluster.node(&from.node);
        for (own, address) in others(pods, from).flat_map(|to| pairs(&from.addresses, &to.addresses)) {
            let seen = cluster::http(node, &url(address, PORT, "clientip")).unwrap();
            assert_eq!(host_of(&seen), base_of(own), "{} as {address} sees it", node.name());
        }
    }
}

fn services(cluster: &Cluster, pods: &[Web]) {
    let outside = cluster.fabric().existing_outside().unwrap();
    for address in cluster::cluster_ips(cluster, "web").unwrap() {
        for from in pods {
            // Enough times that each end point, the pod's own included, has its turn.
            for _ in 0..6 {
                cluster::ask_from_pod(cluster, from, &address.to_string(), 80, "hostname").unwrap();
            }
        }
        // A node's own packets too: what runs in the host's network asks Services.
        for node in cluster.nodes() {
            for _ in 0..6 {
                cluster::http(node, &url(address, 80, "hostname")).unwrap();
            }
        }
    }
    for address in cluster.nodes().iter().flat_map(|node| cluster.known_addresses(node)) {
        for _ in 0..4 {
            cluster::http(outside, &url(address, NODE_PORT, "hostname")).unwrap();
        }
        let seen = cluster::http(outside, &url(address, NODE_PORT_LOCAL, "clientip")).unwrap();
        assert_eq!(host_of(&seen), outside_of(address), "NodePort Local of {address}");
    }
}

fn the_outside_sees_nodes(cluster: &Cluster, pods: &[Web]) {
    for from in pods {
        for own in cluster.known_addresses(cluster.node(&from.node)) {
            let outside = outside_of(own).to_string();
            let seen = cluster::ask_from_pod(cluster, from, &outside, 8080, "clientip").unwrap();
            assert_eq!(host_of(&seen), own, "{} as {outside} sees it", from.name);
        }
    }
}

fn largest_packets(cluster: &Cluster, from: &Web, pods: &[Web], mtu: usize) {
    let inside = cluster.pod("default", &from.name).unwrap();
    let shown = inside.exec(&["ip", "link", "show", "eth0"]).unwrap().ok().unwrap().stdout;
    assert!(shown.contains(&format!("mtu {mtu} ")), "{shown}");
    for address in others(pods, from).flat_map(|to| &to.addresses) {
        let headers = if address.is_ipv4() { 20 + 8 } else { 40 + 8 };
        let ping = |size: usize| {
            let (size, address) = ((size - headers).to_string(), address.to_string());
            inside.exec(&["ping", "-n", "-c1", "-W2", "-M", "do", "-s", &size, &address]).unwrap()
        };
        ping(mtu).ok().unwrap();
        assert!(!ping(mtu + 1).success(), "{} sends {} bytes to {address}", from.name, mtu + 1);
    }
}

fn files_and_metrics(cluster: &Cluster, expected: &Expected) {
    for node in cluster.nodes() {
        let env = node.read("/run/flannel/subnet.env").unwrap();
        assert_eq!(env.contains("\nFLANNEL_SUBNET=10.244."), expected.families == 2, "{env}");
        assert!(env.contains("\nFLANNEL_IPV6_SUBNET=fd00:10:244:"), "{env}");
        assert!(env.contains(&format!("\nFLANNEL_MTU={}\n", expected.mtu)), "{env}");
        // As Prometheus asks, by each address that the Node has.
        for address in cluster.known_addresses(node) {
            let metrics = cluster::http(node, &url(address, 9472, "metrics")).unwrap();
            assert!(metrics.contains("tartan_agent_ready"), "{metrics}");
        }
    }
    eventually_ok("the network to say what is used", cluster::PATIENCE, || {
        let network = &list(cluster, "clusternetworks")[0];
        let used: Vec<u64> = network["status"]["cidrs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["used"].as_u64())
            .collect();
        let all = vec![cluster.nodes().len() as u64; expected.families];
        anyhow::ensure!(used == all, "{used:?} of {all:?}");
        Ok(())
    })
    .unwrap();
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(arguments).unwrap().ok().unwrap().stdout
}

fn list(cluster: &Cluster, kind: &str) -> Vec<Value> {
    let text = kubectl(cluster, &["get", kind, "-o", "json"]);
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

fn mode(cluster: &Cluster) -> String {
    kubectl(cluster, &["get", "clusternetwork", "default", "-o", "jsonpath={.status.podCIDRMode}"])
}

fn others<'a>(pods: &'a [Web], pod: &'a Web) -> impl Iterator<Item = &'a Web> {
    pods.iter().filter(move |other| other.node != pod.node)
}

/// Addresses of one family: the first list's and the second's.
fn pairs<'a>(ours: &'a [IpAddr], theirs: &'a [IpAddr]) -> impl Iterator<Item = (IpAddr, IpAddr)> + 'a {
    theirs.iter().map(move |address| {
        let own = ours.iter().find(|own| own.is_ipv4() == address.is_ipv4()).unwrap();
        (*own, *address)
    })
}

/// The base address of the node on which a pod has this address: of a /24 its own, of a /64 the gateway's.
fn base_of(pod: IpAddr) -> IpAddr {
    match pod {
        IpAddr::V4(pod) => IpAddr::V4((u32::from(pod) & !0xff).into()),
        IpAddr::V6(pod) => IpAddr::V6((u128::from(pod) >> 64 << 64 | 1).into()),
    }
}

fn outside_of(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { Fabric::OUTSIDE.into() } else { Fabric::OUTSIDE_V6.into() }
}

/// The address of `address:port`.
fn host_of(text: &str) -> IpAddr {
    text.trim().parse::<std::net::SocketAddr>().unwrap_or_else(|error| panic!("{text}: {error}")).ip()
}

fn device(node: &Namespace, to: IpAddr) -> String {
    let route = node.exec(&["ip", "-json", "route", "get", &to.to_string()]).unwrap().ok().unwrap();
    serde_json::from_str::<Value>(&route.stdout).unwrap()[0]["dev"].as_str().unwrap().to_owned()
}
