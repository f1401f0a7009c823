//! Releases of the chart on an API server without nodes: what install, upgrade, rollback and uninstall do to objects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Helm, NAMESPACE, chart, get, install};
use tartan_lab::prerequisites::KUBERNETES_VERSION;
use tartan_lab::{ApiServer, ApiServerOptions, eventually_ok, run};
use xtask::workspace::root;

const DEFINITIONS: [&str; 4] = [
    "clusternetworks.tartan.network",
    "networkpools.tartan.network",
    "nodenetworks.tartan.network",
    "subnetleases.tartan.network",
];

fn server() -> ApiServer {
    ApiServer::start(ApiServerOptions::default()).unwrap()
}

fn names(api: &ApiServer, kind: &str) -> Vec<String> {
    let list = get(api, &[kind, "-A"]);
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(name).filter(|name| name.contains("tartan")).collect()
}

#[test]
fn the_server_takes_every_object_without_a_warning() {
    let api = server();
    let helm = Helm::of(&api);
    helm.release(&["install", "tartan", &chart(), "--create-namespace", "--dry-run=server"]);
    api.kubectl(&["create", "namespace", NAMESPACE]).unwrap().ok().unwrap();
    let everything = root().join("xtask/tests/values/everything.yaml").display().to_string();
    for values in [
        vec!["--set", "operator.replicas=2", "--set", "cniPlugins.install=true"],
        vec!["--set", "cleanup.enabled=true"],
        // Without the PodMonitor, whose kind this server doesn't know, and the Namespace, which is there already.
        vec![
            "--values",
            &everything,
            "--set",
            "metrics.podMonitor.enabled=false",
            "--set",
            "metrics.prometheusRule.enabled=false",
            "--set",
            "namespace.create=false",
        ],
    ] {
        let chart = chart();
        let template = ["template", "tartan", &chart, "-n", NAMESPACE, "--kube-version", KUBERNETES_VERSION];
        let rendered = helm.run(&[&template, &values[..]].concat()).ok().unwrap().stdout;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), rendered).unwrap();
        let create = ["create", "--dry-run=server", "--validate=strict", "-f", file.path().to_str().unwrap()];
        let said = api.kubectl(&create).unwrap().ok().unwrap();
        assert_eq!(said.stderr, "", "{values:?}");
    }
}

#[test]
fn definitions_and_leases_outlive_the_release() {
    let api = server();
    let helm = install(&api);
    assert_eq!(names(&api, "crd"), DEFINITIONS);
    assert_eq!(names(&api, "validatingadmissionpolicybindings").len(), 5);
    let network = json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": { "cidrs": [{ "name": "default", "cidr": "10.244.0.0/16", "nodeMaskSize": 24 }] },
    });
    eventually_ok("a network", Duration::from_secs(60), || api.apply(&network.to_string())?.ok()).unwrap();
    let lease = json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease", "metadata": { "name": "10.244.1.0-24" },
        "spec": {
            "nodeName": "node1", "nodeUID": "u", "subnet": "10.244.1.0/24", "pool": "default",
            "backend": { "type": "vxlan", "accepts": ["vxlan"] },
        },
    });
    eventually_ok("a lease", Duration::from_secs(60), || api.apply(&lease.to_string())?.ok()).unwrap();
    let uid = get(&api, &["sl", "10.244.1.0-24"])["metadata"]["uid"].clone();

    let said = helm.run(&["install", "second", &chart(), "--namespace", "elsewhere", "--create-namespace"]);
    assert!(!said.success() && said.stderr.contains("exists and cannot be imported"), "{}", said.stderr);

    let said = helm.run(&["uninstall", "tartan", "--namespace", NAMESPACE]).ok().unwrap();
    assert!(said.stdout.contains("kept due to the resource policy"), "{}", said.stdout);
    assert_eq!(names(&api, "crd"), DEFINITIONS);
    for kind in
        ["clusterroles", "validatingadmissionpolicies", "daemonsets", "deployments", "serviceaccounts"]
    {
        assert_eq!(names(&api, kind), Vec::<String>::new(), "{kind}");
    }

    helm.release(&["install", "tartan", &chart()]);
    assert_eq!(get(&api, &["sl", "10.244.1.0-24"])["metadata"]["uid"], uid);
}

#[test]
fn an_upgrade_brings_new_definitions_and_a_rollback_the_old_ones() {
    let api = server();
    let helm = install(&api);
    let maximum = || {
        let definition = get(&api, &["crd", "networkpools.tartan.network"]);
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["priority"]["maximum"].clone()
    };
    let config =
        || get(&api, &["configmap", "tartan-config", "-n", NAMESPACE])["data"]["network.yaml"].clone();
    let before = config();
    assert_eq!(maximum(), json!(1_000_000));

    let directory = tempfile::tempdir().unwrap();
    run(Command::new("cp").arg("-r").arg(chart()).arg(directory.path())).unwrap().ok().unwrap();
    let newer = directory.path().join("tartan");
    let template = newer.join("templates/crds/networkpools.yaml");
    let text = fs::read_to_string(&template).unwrap();
    let changed = text.replace("maximum: 1000000\n", "maximum: 2000000\n");
    assert_ne!(text, changed);
    fs::write(&template, changed).unwrap();
    let pool = [
        "--set",
        "pools.edge.backend.type=host-gw",
        "--set",
        "pools.edge.nodeSelector.matchLabels.site=edge",
    ];
    helm.release(&[&["upgrade", "tartan", newer.to_str().unwrap()], &pool[..]].concat());
    assert_eq!(maximum(), json!(2_000_000));
    assert!(config().as_str().unwrap().contains("name: edge"), "{}", config());

    helm.release(&["rollback", "tartan"]);
    assert_eq!((maximum(), config()), (json!(1_000_000), before));
}

#[test]
fn what_is_rendered_can_be_applied_with_its_namespace() {
    let api = server();
    let template = ["template", "tartan", &chart(), "-n", NAMESPACE, "--kube-version", KUBERNETES_VERSION];
    let rendered = Helm::alone().run(&[&template, &["--set", "namespace.create=true"][..]].concat());
    let said = api.apply(&rendered.ok().unwrap().stdout).unwrap().ok().unwrap();
    assert_eq!(said.stderr, "");
    let labels = get(&api, &["namespace", NAMESPACE])["metadata"]["labels"].clone();
    for mode in ["enforce", "audit", "warn"] {
        assert_eq!(labels[format!("pod-security.kubernetes.io/{mode}")], "privileged", "{labels}");
    }
}
