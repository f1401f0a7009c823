//! Backends whose packets pass a program on each node: the forwarder of udp, and WireGuard in user space, which the
//! lab's kernel has none of. Their pods are the chart's, the forwarder's as it is by default, WireGuard's privileged.

use std::time::Duration;

use tartan_lab::{Cluster, eventually_ok};
use xtask::{
    cluster::{self, PATIENCE},
    image,
};

use super::{chapter, classes::Scene, kubectl, label, let_flow, watch};

const VALUES: &str = r"
network:
  cidrs: [{name: pods, cidr: 10.244.0.0/16, nodeMaskSize: 24}]
pools:
  rack: {nodeSelector: {matchLabels: {place: rack}}, backend: {type: udp}}
  remote: {nodeSelector: {matchLabels: {place: remote}}, backend: {type: wireguard}}
forwarder: {enabled: true}
wireguard: {userspace: Auto, privileged: true}
";
const RACK: [&str; 2] = ["node1", "node2"];
/// Of different pools, and not on one link.
const FAR: [&str; 2] = ["node1", "node3"];
/// Each packet takes its turn in a program at both ends, of which six share two processors with three nodes: they wait
/// for a second while helm and kubelets are busy, and what does not fit into their queues meanwhile is no finding.
const SLOWER: u32 = 4;
/// A backend that is left or taken may cost this.
const CHANGE: Duration = Duration::from_millis(200);
/// A container that is started anew by the kubelet, and then sessions.
const RESTART: Duration = Duration::from_secs(10);

pub fn story(cluster: &Cluster, images: &image::Images) -> Vec<String> {
    label(cluster);
    chapter("the chart is installed, with the programs");
    cluster::install(cluster, images, VALUES).unwrap();
    let scene = Scene::set(cluster, SLOWER);
    paths(cluster, &scene, "tartan-udp");
    let mut faults = vec![];
    let mut during = |title: &str, allowed: Duration, disturb: &dyn Fn()| {
        faults.extend(watch::during(&scene, title, allowed, disturb));
    };

    during("nothing happens: what is lost here is lost by the machine", Duration::ZERO, &|| {
        let_flow(Duration::from_secs(3));
    });
    during("the agents are replaced one by one", Duration::ZERO, &|| {
        watch::roll(cluster, "tartan-node-agent");
    });
    during("the forwarders are replaced, each by one that starts beside it", CHANGE, &|| {
        watch::roll(cluster, "tartan-forwarder");
    });
    during("all forwarders are killed", RESTART, &|| watch::kill(cluster, "forwarder"));
    during("all that do WireGuard are killed", RESTART, &|| watch::kill(cluster, "wireguard"));
    for (backend, device) in [("wireguard", "tartan-wg0"), ("vxlan", "tartan-vxlan"), ("udp", "tartan-udp")] {
        during(&format!("the rack's backend becomes {backend}"), CHANGE, &|| {
            let values = VALUES.replace("backend: {type: udp}", &format!("backend: {{type: {backend}}}"));
            cluster::helm(cluster, "upgrade", &values).unwrap();
            watch::wait_for_path(&scene, cluster, RACK, device);
            let settled =
                ["wait", "networkpool", "rack", "--for=condition=Progressing=False", "--timeout=60s"];
            kubectl(cluster, &settled);
            paths(cluster, &scene, device);
        });
    }
    chapter("on request the hosts are clean again");
    clean(cluster);
    faults
}

/// Within the rack by this device, and to the pool that encrypts by WireGuard, whatever the rack's own backend is.
fn paths(cluster: &Cluster, scene: &Scene, device: &str) {
    watch::wait_for_path(scene, cluster, RACK, device);
    watch::wait_for_path(scene, cluster, FAR, "tartan-wg0");
    let said = ["get", "nodenetworks", "-o", "jsonpath={.items[*].status.wireguard}"];
    assert_eq!(kubectl(cluster, &said), "user-space user-space user-space");
}

fn clean(cluster: &Cluster) {
    cluster::clean(cluster, VALUES).unwrap();
    for node in cluster.nodes() {
        eventually_ok(&format!("{} to be clean", node.name()), PATIENCE, || {
            let script =
                "links=$(ip -oneline link); echo \"$links\" | grep tartan || true; ls -A /run/tartan/wireguard 2>/dev/null || true";
            let left = node.script(script)?.ok()?.stdout;
            anyhow::ensure!(left.is_empty(), "left: {left}");
            Ok(())
        })
        .unwrap();
    }
}
