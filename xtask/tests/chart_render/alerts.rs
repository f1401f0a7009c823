//! Which alerts Prometheus raises about the operator and the blocks that are left, asked of its own `promtool test rules`.

use std::{fs, process::Command};

use serde_json::{Value, json};
use tartan_lab::{
    prerequisites::{Tool, require},
    run,
};
use xtask::workspace::root;

/// A family's blocks that are left of those that are not drained, and the seconds until none is left, where that is foreseen.
type Blocks = (&'static str, u64, u64, Option<u64>);

const DAY: u64 = 24 * 3600;

#[test]
fn each_familys_blocks_raise_alerts_of_their_own() {
    require(&[Tool::Prometheus]).unwrap();
    let roomy = ("IPv6", 65_000, 65_536, None);
    check("both have room", &[("IPv4", 200, 256, None), roomy], &[]);
    check("IPv4 is exhausted", &[("IPv4", 0, 256, Some(0)), roomy], &[exhausted("IPv4")]);
    check(
        "both are exhausted",
        &[("IPv4", 0, 256, Some(0)), ("IPv6", 0, 256, Some(0))],
        &[exhausted("IPv4"), exhausted("IPv6")],
    );
    check(
        "IPv4 runs out beside an IPv6 that has room for a year",
        &[("IPv4", 40, 256, Some(3 * DAY)), ("IPv6", 65_000, 65_536, Some(300 * DAY))],
        &[nearly("IPv4", "3d 0h 0m 0s")],
    );
    check(
        "the same, and of IPv6 nothing is foreseen",
        &[("IPv4", 40, 256, Some(3 * DAY)), roomy],
        &[nearly("IPv4", "3d 0h 0m 0s")],
    );
    check("IPv4 lasts for weeks", &[("IPv4", 40, 256, Some(20 * DAY)), roomy], &[]);
    check("IPv4 grows fast, and half of it is left", &[("IPv4", 140, 256, Some(2 * DAY)), roomy], &[]);
    check(
        "IPv4 is used and does not grow, IPv6 grows and is not used",
        &[("IPv4", 10, 256, None), ("IPv6", 65_000, 65_536, Some(2 * DAY))],
        &[],
    );
    check_pool("a pool without nodes", 0, &[("IPv4", 0, 0, Some(0))], &[]);
    check_pool("the same, with less left than half", 0, &[("IPv4", 40, 256, Some(3 * DAY))], &[]);
    check("IPv4 alone", &[("IPv4", 40, 256, Some(DAY))], &[nearly("IPv4", "1d 0h 0m 0s")]);
}

const EXHAUSTED: &str = "TartanSubnetsExhausted";
const NEARLY: &str = "TartanSubnetsNearlyExhausted";

fn exhausted(family: &str) -> (&'static str, Value) {
    let summary = format!("No {family} subnet is left for new nodes of pool racks.");
    (EXHAUSTED, alert("critical", family, &summary))
}

fn nearly(family: &str, left: &str) -> (&'static str, Value) {
    let summary = format!("At the present rate pool racks has no {family} subnet left in {left}.");
    (NEARLY, alert("warning", family, &summary))
}

fn alert(severity: &str, family: &str, summary: &str) -> Value {
    let description = format!(
        "Append an {family} entry to ClusterNetwork.spec.cidrs, and to the pool's cidrs where it claims entries."
    );
    json!({
        "exp_labels": { "severity": severity, "pool": "racks", "family": family },
        "exp_annotations": { "summary": summary, "description": description },
    })
}

/// Both alerts, an hour after the blocks of a pool with some nodes are like this.
#[track_caller]
fn check(what: &str, blocks: &[Blocks], expected: &[(&str, Value)]) {
    check_pool(what, 3, blocks, expected);
}

#[track_caller]
fn check_pool(what: &str, nodes: u64, blocks: &[Blocks], expected: &[(&str, Value)]) {
    let series = |metric: &str, family: &str, value: u64| {
        let series = format!("tartan_pool_{metric}{{pool=\"racks\",family=\"{family}\"}}");
        json!({ "series": series, "values": format!("{value}+0x60") })
    };
    let of_pool = json!({ "series": "tartan_pool_nodes{pool=\"racks\"}", "values": format!("{nodes}+0x60") });
    let mut input = vec![of_pool];
    for (family, left, capacity, seconds) in blocks {
        input.extend([series("blocks_left", family, *left), series("blocks_allocatable", family, *capacity)]);
        input.extend(seconds.map(|seconds| series("exhaustion_seconds", family, seconds)));
    }
    let raised = [EXHAUSTED, NEARLY].map(|name| {
        let alerts = expected.iter().filter(|(of, _)| *of == name).map(|(_, alert)| alert);
        json!({ "eval_time": "60m", "alertname": name, "exp_alerts": alerts.collect::<Vec<_>>() })
    });
    ask_promtool(what, &json!({ "interval": "1m", "input_series": input, "alert_rule_test": raised }));
}

#[track_caller]
fn ask_promtool(what: &str, test: &Value) {
    let test = json!({
        "rule_files": [root().join("charts/tartan/files/alerts.yaml")],
        "evaluation_interval": "1m",
        "tests": [test],
    });
    let directory = tempfile::tempdir().unwrap();
    // JSON is YAML.
    let file = directory.path().join("test.yaml");
    fs::write(&file, test.to_string()).unwrap();
    let said = run(Command::new("promtool").args(["test", "rules"]).arg(&file)).unwrap();
    assert!(said.success(), "{what}\n{}{}", said.stdout, said.stderr);
}

/// Of two replicas, one of which leads.
const SOUND: [(&str, u64); 7] = [
    ("tartan_operator_leader{instance=\"a\"}", 1),
    ("tartan_operator_leader{instance=\"b\"}", 0),
    ("tartan_operator_synced{instance=\"a\"}", 1),
    ("tartan_operator_synced{instance=\"b\"}", 1),
    ("tartan_operator_idle{instance=\"a\"}", 0),
    ("tartan_operator_objects{instance=\"a\",kind=\"Node\"}", 3),
    ("tartan_invariant_violations{instance=\"a\",invariant=\"leases-overlap\"}", 0),
];

#[test]
fn an_operator_that_gives_out_no_subnets_raises_one_alert_and_a_sound_one_none() {
    require(&[Tool::Prometheus]).unwrap();
    check_operator("all is well", &[], None);
    check_operator("nobody leads", &[("tartan_operator_leader{instance=\"a\"}", 0)], Some("TartanNoLeader"));
    let blind = ("tartan_operator_synced{instance=\"b\"}", 0);
    check_operator("one replica can't read all", &[blind], Some("TartanOperatorUnsynced"));
    let idle = ("tartan_operator_idle{instance=\"a\"}", 1);
    check_operator("no ClusterNetwork", &[idle], Some("TartanNoClusterNetwork"));
    let empty = ("tartan_operator_objects{instance=\"a\",kind=\"Node\"}", 0);
    check_operator("no ClusterNetwork, and no nodes", &[idle, empty], None);
    let refused = ("tartan_nodes_waiting{instance=\"a\",reason=\"LeaseRefused\"}", 2);
    check_operator("leases are refused", &[refused], Some("TartanNodesWithoutSubnet"));
    let adopting = ("tartan_nodes_waiting{instance=\"a\",reason=\"WaitingForPodCIDR\"}", 2);
    check_operator("nobody gives podCIDRs", &[adopting], Some("TartanNodesWaitForPodCIDRs"));
    let broken = ("tartan_invariant_violations{instance=\"a\",invariant=\"leases-overlap\"}", 1);
    check_operator("leases overlap", &[broken], Some("TartanInconsistent"));
}

/// All alerts about the operator, an hour after it is like this.
#[track_caller]
fn check_operator(what: &str, otherwise: &[(&str, u64)], expected: Option<&str>) {
    let changed = |name: &str| otherwise.iter().any(|(other, _)| *other == name);
    let series = SOUND.iter().filter(|(name, _)| !changed(name)).chain(otherwise);
    let input: Vec<Value> =
        series.map(|(name, value)| json!({ "series": name, "values": format!("{value}+0x60") })).collect();
    let count = |alert: &str| u64::from(expected == Some(alert));
    let asked: Vec<Value> = [
        "TartanNoLeader",
        "TartanOperatorUnsynced",
        "TartanNoClusterNetwork",
        "TartanNodesWithoutSubnet",
        "TartanNodesWaitForPodCIDRs",
        "TartanInconsistent",
    ]
    .into_iter()
    .map(|alert| {
        let firing = format!("count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}) or vector(0)");
        json!({ "expr": firing, "eval_time": "60m", "exp_samples": [{ "value": count(alert) }] })
    })
    .collect();
    ask_promtool(what, &json!({ "interval": "1m", "input_series": input, "promql_expr_test": asked }));
}
