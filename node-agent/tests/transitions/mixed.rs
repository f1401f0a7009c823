//! Nodes of all backends in one cluster, on two segments, and one of them cannot do WireGuard: each pair has exactly
//! the path that the table says, and those have none that should have none.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tartan_crds::BackendType::{self, HostGw, Ipip, Udp, Vxlan, Wireguard};
use tartan_lab::vm;

use super::{
    beside::nodes_have,
    scene::{Pool, Scene},
    wait_for,
};

/// Nodes 1 to 6 are on one segment, 7 to 11 on the other.
const SEGMENTS: [usize; 2] = [6, 5];
const POOLS: [Pool; 5] = [
    Pool { name: "tunnels", nodes: &[1, 7], backend: Vxlan },
    Pool { name: "plain", nodes: &[2, 5, 8], backend: HostGw },
    Pool { name: "thin", nodes: &[3, 9], backend: Ipip },
    Pool { name: "secret", nodes: &[4, 10], backend: Wireguard },
    Pool { name: "anywhere", nodes: &[6, 11], backend: Udp },
];
/// Another program has WireGuard's ports there.
const WITHOUT_WIREGUARD: usize = 5;

/// Path and reason.
type Verdict = (&'static str, &'static str);

/// For the nodes of two pools: on one segment, and on two.
const TABLE: [(BackendType, BackendType, Verdict, Verdict); 15] = [
    (Vxlan, Vxlan, ("vxlan", "same-backend"), ("vxlan", "same-backend")),
    (Vxlan, HostGw, ("vxlan", "overlay-on-one-side"), ("vxlan", "overlay-on-one-side")),
    (Vxlan, Ipip, ("vxlan", "overlay-on-one-side"), ("vxlan", "overlay-on-one-side")),
    (Vxlan, Wireguard, ("wireguard", "encrypted"), ("wireguard", "encrypted")),
    (HostGw, HostGw, ("direct", "same-backend"), ("vxlan", "fallback")),
    (HostGw, Ipip, ("ipip", "overlay-on-one-side"), ("ipip", "overlay-on-one-side")),
    (HostGw, Wireguard, ("wireguard", "encrypted"), ("wireguard", "encrypted")),
    (Ipip, Ipip, ("ipip", "same-backend"), ("ipip", "same-backend")),
    (Ipip, Wireguard, ("wireguard", "encrypted"), ("wireguard", "encrypted")),
    (Wireguard, Wireguard, ("wireguard", "same-backend"), ("wireguard", "same-backend")),
    (Udp, Vxlan, ("vxlan", "overlay-on-one-side"), ("vxlan", "overlay-on-one-side")),
    (Udp, HostGw, ("udp", "overlay-on-one-side"), ("udp", "overlay-on-one-side")),
    (Udp, Ipip, ("ipip", "overlay-on-one-side"), ("ipip", "overlay-on-one-side")),
    (Udp, Wireguard, ("wireguard", "encrypted"), ("wireguard", "encrypted")),
    (Udp, Udp, ("udp", "same-backend"), ("udp", "same-backend")),
];

/// What both ends of a pair with the node without WireGuard and one that encrypts say.
const REFUSED: Verdict = ("none", "no-endpoint");

#[test]
fn every_pair_of_a_mixed_cluster_has_the_path_of_the_table_or_is_refused_on_both_ends() {
    let (pools, left_out): (Vec<Pool>, Vec<Pool>) =
        POOLS.into_iter().partition(|pool| nodes_have(pool.backend));
    for pool in &left_out {
        assert!(!vm::is_inside(), "this kernel was to have {}", pool.backend);
        println!("-- NODES HERE HAVE NO {}: pool {} is left out", pool.backend, pool.name);
    }
    let scene = Scene::without_services(&SEGMENTS, &pools, WITHOUT_WIREGUARD);
    let backends: BTreeMap<usize, BackendType> =
        pools.iter().flat_map(|pool| pool.nodes.iter().map(|node| (*node, pool.backend))).collect();
    let numbers: BTreeSet<usize> = backends.keys().copied().collect();
    let mut expected = BTreeMap::new();
    for from in &numbers {
        for to in numbers.iter().filter(|to| *to != from) {
            let near = (*from <= SEGMENTS[0]) == (*to <= SEGMENTS[0]);
            let refused = [(from, to), (to, from)]
                .iter()
                .any(|(one, other)| **one == WITHOUT_WIREGUARD && backends[*other].encrypts());
            let verdict = if refused { REFUSED } else { look_up(backends[from], backends[to], near) };
            expected.insert((*from, *to), (verdict.0.to_owned(), verdict.1.to_owned()));
        }
    }
    wait_for("every pair to have its path", || {
        let mut found = BTreeMap::new();
        for from in &numbers {
            // Nodes whose pool is left out are in none.
            let verdicts = verdicts(&scene, *from)?.into_iter().filter(|(to, _)| numbers.contains(to));
            found.extend(verdicts.map(|(to, verdict)| ((*from, to), verdict)));
        }
        let differ = |pair: &(usize, usize)| found.get(pair) != expected.get(pair);
        let wrong: Vec<_> = expected.keys().filter(|pair| differ(pair)).collect();
        let shown: Vec<String> = wrong
            .iter()
            .map(|pair| format!("{pair:?}: {:?}, not {:?}", found.get(pair), expected.get(pair)))
            .collect();
        anyhow::ensure!(found.len() == expected.len() && wrong.is_empty(), "{}", shown.join("\n"));
        Ok(())
    });
    let refused: Vec<_> = expected.iter().filter(|(_, verdict)| verdict.0 == "none").collect();
    let mut faults = vec![];
    for ((from, to), verdict) in &expected {
        // The node that lacks WireGuard has steps to do at all times, so it is not known when its others are done.
        if verdict.0 != "none" {
            wait_for(&format!("node{from} to reach node{to} by {verdict:?}"), || {
                anyhow::ensure!(scene.reaches(*from, *to), "its pod does not answer");
                Ok(())
            });
        } else if scene.reaches(*from, *to) {
            faults.push(format!("node{from} to node{to}: {verdict:?}, but its pod answers"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("mixed: {} ordered pairs as in the table, {} of them refused", expected.len(), refused.len());
}

fn look_up(one: BackendType, other: BackendType, near: bool) -> Verdict {
    let row = TABLE.iter().find(|row| (row.0, row.1) == (one, other) || (row.1, row.0) == (one, other));
    let (_, _, on_one, on_two) = row.unwrap();
    if near { *on_one } else { *on_two }
}

/// By the agent's own word, and nothing is left to do on its node.
pub fn verdicts(scene: &Scene, node: usize) -> anyhow::Result<Vec<(usize, (String, String))>> {
    let (_, text) = scene.agent(&format!("node{node}"), &["diff", "--output", "json"]);
    let report: Value = serde_json::from_str(&text)?;
    let steps = report["steps"].as_array().map_or(0, Vec::len);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let peers = report["peers"].as_array().cloned().unwrap_or_default();
    let read = |peer: &Value| -> anyhow::Result<(usize, (String, String))> {
        let to = word(&peer["node"]).trim_start_matches("node").parse()?;
        Ok((to, (word(&peer["path"]["kind"]), word(&peer["reason"]))))
    };
    anyhow::ensure!(
        steps == 0 || node == WITHOUT_WIREGUARD,
        "node{node} has steps to do: {}",
        report["steps"]
    );
    peers.iter().map(read).collect()
}
