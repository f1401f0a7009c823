//! Nodes whose paths the administrator's programs make, or nobody.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};
use tartan_lab::{eventually, eventually_ok};

use super::{
    cluster::{self, Cluster, PATIENCE, wait_until_reaches},
    scene::program,
};

fn backend(kind: &str) -> impl Fn(usize) -> Value {
    let kind = kind.to_owned();
    move |_| json!({ "type": kind, "accepts": [kind] })
}

#[test]
fn nodes_whose_paths_programs_make_reach_each_other_by_them() {
    let mut cluster = Cluster::leased(&[2], backend("extension"));
    let commands = json!({ "preStartup": ["pre"], "subnetAdd": ["route"], "subnetRemove": ["unroute"] });
    let patch = json!({ "spec": { "backends": { "extension": commands } } }).to_string();
    let patched = cluster.api.kubectl(&["patch", "clusternetwork", "default", "--type=merge", "-p", &patch]);
    patched.unwrap().ok().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    program(folder.path(), "pre", "cat /etc/hostname 2>/dev/null || echo none");
    program(folder.path(), "route", "exec ip route replace \"$SUBNET\" via \"$PUBLIC_IP\"");
    program(folder.path(), "unroute", "exec ip route delete \"$SUBNET\"");
    for name in cluster.names() {
        let mut command = cluster.command(&name);
        command.env("TARTAN_EXTENSION_COMMANDS_FROM", folder.path());
        cluster.start_command(&name, &command);
        cluster.wait_for_condition(&name, "Ready", "True", "AsExpected");
    }
    let pods = ["node1", "node2"].map(|node| cluster.node(node).pod("a").unwrap());
    wait_until_reaches(&pods[0], &pods[1]);
    wait_until_reaches(&pods[1], &pods[0]);
    let endpoint = cluster.field("subnetlease", "10.244.2.0-24", ".status.endpoints[0].type");
    assert_eq!(endpoint, "extension");
    // Nothing of ours leads there, and nothing of ours is in the way.
    assert_eq!(cluster::routes(cluster.node("node1")), "");
    cluster.stop_agent("node2");
    cluster.api.kubectl(&["delete", "subnetlease", "10.244.2.0-24"]).unwrap().ok().unwrap();
    eventually_ok("the program to be told", PATIENCE, || {
        let routes = cluster.node("node1").exec(&["ip", "route", "show", "10.244.2.0/24"])?.stdout;
        anyhow::ensure!(routes.is_empty(), "{routes}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_node_that_is_only_given_a_lease_serves_its_pods_and_has_no_path_of_ours() {
    let mut cluster = Cluster::leased(&[2], backend("alloc"));
    cluster.start_all();
    for name in cluster.names() {
        cluster.wait_for_condition(&name, "Ready", "True", "AsExpected");
        cluster.wait_for_condition(&name, "Degraded", "False", "AsExpected");
        let unavailable = ".status.conditions[?(@.type==\"NetworkUnavailable\")].status";
        eventually("the Node to have a network", PATIENCE, || {
            cluster.field("node", &name, unavailable) == "False"
        })
        .unwrap();
    }
    let node = cluster.node("node1");
    let (a, b) = (node.pod("a").unwrap(), node.pod("b").unwrap());
    wait_until_reaches(&a, &b);
    let far = cluster.node("node2").pod("c").unwrap();
    assert!(!cluster::reaches(&a, &far), "nobody has made a path");
    assert_eq!(cluster::routes(node), "");
    let tunnels = node.exec(&["ip", "-o", "link"]).unwrap().stdout;
    assert!(tunnels.contains("tartan0") && !tunnels.contains("tartan-vxlan"), "{tunnels}");
    let env = node.read("/run/flannel/subnet.env").unwrap();
    // Room for the fallback overlay, so that running pods may be joined to others one day.
    assert!(env.contains("FLANNEL_SUBNET=10.244.1.1/24") && env.contains("FLANNEL_MTU=1450"), "{env}");
    // Somebody else makes them.
    for (node, other, by) in [("node1", 2, 12), ("node2", 1, 11)] {
        let route = format!("10.244.{other}.0/24");
        cluster
            .node(node)
            .exec(&["ip", "route", "add", &route, "via", &format!("198.18.0.{by}")])
            .unwrap()
            .ok()
            .unwrap();
    }
    wait_until_reaches(&a, &far);
    assert!(
        cluster.condition("node1", "Degraded").0 == "False",
        "a route of another's is none of our business"
    );
}
