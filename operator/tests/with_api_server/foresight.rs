//! How long room lasts, as the operator foresees it on a real API server: conditions, events, metrics and tables.

use k8s_openapi::{
    api::core::v1::Event,
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tartan_crds::{ClusterNetwork, NetworkPool};

use super::lab::{self, Lab, entry};

#[test]
fn the_family_that_runs_out_is_foreseen_told_and_shown() {
    let lab = Lab::start();
    let (six, four) = (entry("six", "fd00:9::/48", 64), entry("four", "10.9.0.0/21", 24));
    lab.network(json!({ "cidrs": [six, four] }));
    lab.pool("all", json!({ "nodeSelector": {}, "backend": { "type": "vxlan" } }));
    unused_a_day_ago(&lab, &[("six", "fd00:9::/48"), ("four", "10.9.0.0/21")]);
    let operator = lab.operator();
    lab.until("the operator has counted too", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        status.cidrs.iter().all(|usage| usage.samples.len() == 2)
    });
    let seconds = |family| {
        operator.metric(&format!("tartan_pool_exhaustion_seconds{{pool=\"all\",family=\"{family}\"}}"))
    };

    for node in ["a", "b", "c", "d", "e"] {
        lab.node(node, json!({}));
    }
    // Three are left, at the rate of five in an hour.
    shows(&lab, "10 IPv4 8 5 0 3 30m", "False NearlyExhausted");
    lab.until("the metric says so", || seconds("IPv4").is_some_and(|s| (2159.0..=2160.0).contains(&s)));
    assert_eq!(seconds("IPv6"), None);
    assert_eq!(operator.metric("tartan_pool_blocks_free{pool=\"all\",family=\"IPv6\"}"), Some(65_531.0));
    tells(
        &lab,
        "NearlyExhausted",
        &[
            "HasRoom: the IPv4 blocks for pool all last",
            "HasRoom: the IPv4 blocks for the pool last",
            "entry four (10.9.0.0/21) lasts",
        ],
    );

    for node in ["f", "g", "h"] {
        lab.node(node, json!({}));
    }
    shows(&lab, "16 IPv4 8 8 0 0 now", "False Exhausted");
    lab.until("the metric says so", || seconds("IPv4") == Some(0.0));
    assert_eq!(seconds("IPv6"), None);
    tells(
        &lab,
        "Exhausted",
        &[
            "HasRoom: no IPv4 block is left for pool all",
            "HasRoom: no IPv4 block is left for the pool",
            "entry four (10.9.0.0/21) has no block left",
        ],
    );

    let entries = [
        entry("six", "fd00:9::/48", 64),
        entry("four", "10.9.0.0/21", 24),
        entry("more", "10.10.0.0/16", 24),
    ];
    lab.patch::<ClusterNetwork>("default", json!({ "spec": { "cidrs": entries } }));
    shows(&lab, "16 IPv4 264 8 0 256 4w", "True AsExpected");
}

/// What the operator would have written into the status a day ago. Without it an hour must pass before growth counts:
/// in the first one a cluster is set up.
fn unused_a_day_ago(lab: &Lab, entries: &[(&str, &str)]) {
    let yesterday = Time(Timestamp::now() - SignedDuration::from_hours(24));
    let usage: Vec<_> = entries
        .iter()
        .map(|(name, cidr)| {
            json!({
                "name": name, "cidr": cidr, "capacity": 0, "used": 0, "held": 0, "free": 0,
                "samples": [{ "at": yesterday, "used": 0 }],
            })
        })
        .collect();
    let networks = lab.all::<ClusterNetwork>();
    let patch = Patch::Merge(json!({ "status": { "cidrs": usage } }));
    lab.runtime.block_on(networks.patch_status("default", &PatchParams::default(), &patch)).unwrap();
}

/// Waits for the tables of a network and its pool `all`. `figures` are the columns from LEASES, which a network has not,
/// to EXHAUSTED-IN; `room` is the condition of both.
#[track_caller]
fn shows(lab: &Lab, figures: &str, room: &str) {
    let (leases, of_network) = figures.split_once(' ').unwrap();
    let nodes = leases.parse::<u32>().unwrap() / 2;
    let expected = [
        "NAME CIDRS BACKEND FAMILY CAPACITY USED HELD FREE EXHAUSTED-IN ACCEPTED".to_owned(),
        format!("default fd00:9::/48 vxlan {of_network} True"),
        "NAME BACKEND PRIORITY NODES LEASES FAMILY CAPACITY USED HELD FREE EXHAUSTED-IN CHANGING ACCEPTED"
            .to_owned(),
        format!("all vxlan 0 {nodes} {figures} True"),
    ];
    let table = |kind: &str| {
        let said = lab.api.kubectl(&["get", kind])?.ok()?.stdout;
        // Without AGE, which is the last.
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().split_last().unwrap().1.join(" ");
        anyhow::Ok(said.lines().map(line).collect::<Vec<String>>())
    };
    tartan_lab::eventually_ok("the tables", lab::PATIENCE, || {
        let found = [table("clusternetworks")?, table("networkpools")?].concat();
        anyhow::ensure!(found == expected, "{found:#?} is not {expected:#?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(lab.condition::<ClusterNetwork>("default", "HasRoom"), room);
    assert_eq!(lab.condition::<NetworkPool>("all", "HasRoom"), room);
}

/// Waits until the events of a reason begin with these words, and are no others.
#[track_caller]
fn tells(lab: &Lab, reason: &str, expected: &[&str]) {
    tartan_lab::eventually_ok("the events", lab::PATIENCE, || {
        let events = lab.list::<Event>().into_iter();
        let of_reason = events.filter(|event| event.reason.as_deref() == Some(reason));
        let mut notes: Vec<String> = of_reason.filter_map(|event| event.message).collect();
        notes.sort();
        let mut pairs = notes.iter().zip(expected);
        let good = notes.len() == expected.len() && pairs.all(|(note, begin)| note.starts_with(begin));
        anyhow::ensure!(good, "{reason}: {notes:#?} is not {expected:#?}");
        Ok(())
    })
    .unwrap();
}
