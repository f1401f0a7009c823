//! The chart as text: what it renders to, which values it refuses, and that it agrees with the programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "chart_render/alerts.rs"]
mod alerts;
#[path = "chart_render/scraped.rs"]
mod scraped;
#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use support::{Helm, NAMESPACE, chart};
use tartan_lab::prerequisites::{KUBERNETES_VERSION, Tool, require};
use tartan_lab::run;
use xtask::workspace::root;

fn everything() -> String {
    root().join("xtask/tests/values/everything.yaml").display().to_string()
}

fn render(arguments: &[&str]) -> Result<String, String> {
    let chart = chart();
    let fixed =
        ["template", "tartan", &chart, "--namespace", NAMESPACE, "--kube-version", KUBERNETES_VERSION];
    let said = Helm::alone().run(&[&fixed, arguments].concat());
    if said.success() { Ok(said.stdout) } else { Err(said.stderr) }
}

fn objects(rendered: &str) -> Vec<Value> {
    let parse = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    rendered.split("\n---\n").map(|text| parse(text.trim_start_matches("---\n"))).collect()
}

fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The definitions are generated, and compared with the code elsewhere.
const WITHOUT_CRDS: [&str; 2] = ["--set", "crds.install=false"];

#[test]
fn the_rendered_chart_is_as_committed() {
    for (name, arguments) in [
        ("defaults", vec![]),
        ("everything", vec!["--values", &everything()]),
        ("cleanup", vec!["--set", "cleanup.enabled=true"]),
    ] {
        let rendered = render(&[&WITHOUT_CRDS[..], &arguments].concat()).unwrap();
        let what = format!("helm template with {name}; `INSTA_UPDATE=always cargo test -p xtask` accepts it");
        insta::with_settings!({ description => what, omit_expression => true }, {
            insta::assert_snapshot!(name, rendered);
        });
    }
}

#[test]
fn helm_lint_finds_nothing() {
    let chart = chart();
    for values in [vec![], vec!["--values", &everything()]] {
        let lint = ["lint", "--strict", &chart, "--kube-version", KUBERNETES_VERSION];
        Helm::alone().run(&[&lint, &values[..]].concat()).ok().unwrap();
    }
}

#[test]
fn values_that_make_no_sense_are_refused_with_the_reason() {
    for (setting, expected) in [
        ("netwrk.mtu=1400", "additional properties 'netwrk' not allowed"),
        ("network.mut=1400", "additional properties 'mut' not allowed"),
        ("network.mtu=5", "at '/network/mtu': minimum: got 5, want 576"),
        ("network.cidrs=null", "at '/network': missing property 'cidrs'"),
        (
            "network.cidrs[0].cidr=10.244.0.0/16",
            "at '/network/cidrs/0': missing properties 'name', 'nodeMaskSize'",
        ),
        ("network.backends.vxlan.vni=16777216", "at '/network/backends/vxlan/vni': maximum"),
        ("network.podCIDRMode=Steal", "value must be one of 'Auto', 'Adopt', 'Mirror', 'Ignore'"),
        ("network.reclaimAfter=1d", "at '/network/reclaimAfter': '1d' does not match pattern"),
        ("network.fallbackBackend=host-gw", "value must be one of 'vxlan'"),
        (
            "pools.edge.backend.type=gre",
            "value must be one of 'vxlan', 'ipip', 'wireguard', 'ipsec', 'udp', 'host-gw'",
        ),
        ("pools.edge.backend.type=vxlan", "at '/pools/edge': missing property 'nodeSelector'"),
        ("pools.default.backend.type=vxlan", "invalid propertyName 'default'"),
        ("operator.replicas=3", "at '/operator/replicas': maximum: got 3, want 2"),
        ("agent.port=0", "at '/agent/port': minimum"),
        ("agent.maxUnavailable=0", "at '/agent/maxUnavailable'"),
        ("agent.maxUnavailable=0%", "at '/agent/maxUnavailable'"),
        ("network.backends.wireguard.port=65535", "at '/network/backends/wireguard/port': maximum"),
        ("agent.image.digest=sha256:1", "does not match pattern"),
        ("log.format=xml", "value must be one of 'text', 'json'"),
        ("cniConfDir=etc/cni/net.d", "at '/cniConfDir': 'etc/cni/net.d' does not match pattern '^/'"),
        ("ipsec.certificatesFrom=etc/pki", "at '/ipsec/certificatesFrom'"),
        (
            "network.backends.ipsec.authentication=Password",
            "value must be one of 'PresharedKey', 'Certificate'",
        ),
        ("image.pullPolicy=Sometimes", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ] {
        match render(&["--set", setting]) {
            Ok(_) => panic!("{setting} was accepted"),
            Err(said) => assert!(said.contains(expected), "{setting}\nexpected: {expected}\ngot: {said}"),
        }
    }
    let said = render(&["--set", "image.registry="]).unwrap_err();
    assert!(said.contains("image.registry is empty: say where the images are"), "{said}");
    let said = render(&["--kube-version", "1.32.9"]).unwrap_err();
    assert!(said.contains("chart requires kubeVersion: >=1.33.0-0"), "{said}");
}

#[test]
fn ipsec_goes_by_the_secret_or_by_the_nodes_certificates() {
    let values = ["--set", "ipsec.enabled=true"];
    let by_key = render(&values).unwrap();
    assert!(
        by_key.contains("secretName: tartan-ipsec") && !by_key.contains("ipsec-certificates"),
        "{by_key}"
    );
    let certificates = ["--set", "ipsec.certificatesFrom=/etc/pki/pods"];
    let by_certificate = render(&[values, certificates].concat()).unwrap();
    assert!(
        by_certificate.contains("path: /etc/pki/pods")
            && !by_certificate.contains("secretName: tartan-ipsec")
    );
}

#[test]
fn the_values_that_the_readme_shows_are_good() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once("## Configure it").expect("README.md shows values");
    let values = section.split("```").nth(1).unwrap().trim_start_matches("yaml\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values).unwrap();
    let rendered = render(&["--values", file.path().to_str().unwrap()]).unwrap();
    assert!(rendered.contains("name: rack-a"), "{rendered}");
}

#[test]
fn schema_and_values_know_the_same_keys() {
    let read = |file: &str| fs::read_to_string(root().join("charts/tartan").join(file)).unwrap();
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
    let mut declared = BTreeSet::new();
    collect_schema(&schema, &schema, "", &mut declared);
    // helm's own.
    declared.remove("global");
    let mut given = BTreeSet::new();
    collect_values(&values, "", &declared, &mut given);
    assert_eq!(declared, given);
}

/// Paths of the schema, down to maps that users fill: those have no defaults to compare.
fn collect_schema(root: &Value, schema: &Value, path: &str, to: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let inner = schema["properties"].as_object();
    for (key, value) in inner.into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let filled_by_users = path.starts_with("network.");
        to.insert(path.clone());
        if !filled_by_users {
            collect_schema(root, value, &path, to);
        }
    }
}

/// Paths of the values that the schema declares; what is below those is the users'.
fn collect_values(values: &Value, path: &str, declared: &BTreeSet<String>, to: &mut BTreeSet<String>) {
    for (key, value) in values.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let has_parts = declared.iter().any(|other| other.starts_with(&format!("{path}.")));
        to.insert(path.clone());
        if has_parts {
            collect_values(value, &path, declared, to);
        }
    }
}

#[test]
fn the_chart_gives_the_programs_what_they_understand() {
    let everything = everything();
    let rendered = [render(&[]).unwrap(), render(&["--values", &everything]).unwrap()];
    for (component, kind, object_name, source) in [
        ("operator", "Deployment", "tartan-operator", "operator/src/cli.rs"),
        ("agent", "DaemonSet", "tartan-node-agent", "node-agent/src/cli.rs"),
    ] {
        let cli = fs::read_to_string(root().join(source)).unwrap();
        for rendered in &rendered {
            let all = objects(rendered);
            let pod = &object(&all, kind, object_name)["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            assert_eq!(container["name"], component);
            assert_eq!(container["args"], serde_json::json!(["run"]));
            for variable in container["env"].as_array().unwrap() {
                let name = variable["name"].as_str().unwrap();
                let kubernetes = name.starts_with("KUBERNETES_SERVICE_");
                assert!(kubernetes || cli.contains(&format!("env = \"{name}\"")), "{source} knows no {name}");
            }
        }
        let all = objects(&rendered[0]);
        let pod = &object(&all, kind, object_name)["spec"]["template"]["spec"];
        assert_eq!(
            pod["containers"][0]["image"],
            xtask::image::name(object_name),
            "the lab builds another image"
        );
    }
}

#[test]
fn the_forwarder_is_there_when_asked_for_and_is_given_what_it_understands() {
    let everything = everything();
    let all = objects(&render(&["--values", &everything]).unwrap());
    let container =
        &object(&all, "DaemonSet", "tartan-forwarder")["spec"]["template"]["spec"]["containers"][0];
    let cli = fs::read_to_string(root().join("forwarder/src/cli.rs")).unwrap();
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(cli.contains(&format!("env = \"{name}\"")), "the forwarder knows no {name}");
    }
    for without in ["forwarder.enabled=false", "cleanup.enabled=true"] {
        let rendered = render(&["--values", &everything, "--set", without]).unwrap();
        assert!(!rendered.contains("name: tartan-forwarder"), "{without}");
    }
}

#[test]
fn the_user_space_wireguard_is_there_when_asked_for_and_agrees_with_the_agent() {
    let everything = everything();
    let all = objects(&render(&["--values", &everything]).unwrap());
    let container =
        |name: &str| object(&all, "DaemonSet", name)["spec"]["template"]["spec"]["containers"][0].clone();
    let cli = fs::read_to_string(root().join("wireguard/src/cli.rs")).unwrap();
    let process = container("tartan-wireguard");
    for variable in process["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(cli.contains(&format!("env = \"{name}\"")), "the process knows no {name}");
    }
    // Where its sockets are is nobody's to choose: the agent looks below its own directory.
    let mounted = process["volumeMounts"].as_array().unwrap().iter().map(|mount| mount["mountPath"].clone());
    assert!(mounted.into_iter().any(|path| path == "/run/tartan/wireguard"), "{process}");
    assert!(cli.contains("default_value = \"/run/tartan/wireguard\""));
    let agent = container("tartan-node-agent");
    let told = serde_json::json!({ "name": "TARTAN_USER_WIREGUARD", "value": "auto" });
    assert!(agent["env"].as_array().unwrap().contains(&told), "{agent}");
    for without in ["wireguard.userspace=Never", "cleanup.enabled=true"] {
        let rendered = render(&["--values", &everything, "--set", without]).unwrap();
        assert!(!rendered.contains("component: wireguard"), "{without}");
    }
    assert!(!render(&["--set", "wireguard.userspace=Never"]).unwrap().contains("TARTAN_USER_WIREGUARD"));
    assert!(render(&["--set", "wireguard.userspace=Always"]).is_err());
}

#[test]
fn promtool_understands_the_alerts_and_the_programs_export_what_they_ask_for() {
    require(&[Tool::Prometheus]).unwrap();
    let rules = root().join("charts/tartan/files/alerts.yaml");
    let mut promtool = std::process::Command::new("promtool");
    let said = run(promtool.args(["check", "rules"]).arg(&rules)).unwrap().ok().unwrap();
    assert!(said.stdout.contains("12 rules found"), "{}", said.stdout);
    let text = fs::read_to_string(&rules).unwrap();
    let names = metric_names(&text, "");
    assert!(names.len() >= 8, "{names:?}");
    let exported = exported();
    assert!(names.is_subset(&exported), "no program exports {:?}", names.difference(&exported));
    let rendered = render(&[&WITHOUT_CRDS[..], &["--values", &everything()]].concat()).unwrap();
    let all = objects(&rendered);
    let rendered = &object(&all, "PrometheusRule", "tartan")["spec"];
    assert_eq!(*rendered, serde_saphyr::from_str::<Value>(&text).unwrap(), "as promtool has checked it");
}

#[test]
fn the_metrics_that_are_documented_are_those_that_are_exported() {
    let documented = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    assert_eq!(metric_names(&documented, "`"), exported());
}

/// Names of metrics in the sources, which say them nowhere else.
fn exported() -> BTreeSet<String> {
    let sources = [
        "operator/src/metrics.rs",
        "node-agent/src/metrics",
        "forwarder/src/metrics.rs",
        "wireguard/src/metrics.rs",
    ];
    let files =
        sources.map(|path| root().join(path)).into_iter().flat_map(|path| match fs::read_dir(&path) {
            Ok(directory) => directory.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![path],
        });
    files.flat_map(|file| metric_names(&fs::read_to_string(file).unwrap(), "\"")).collect()
}

/// Words between these that begin like metrics of ours.
fn metric_names(text: &str, quote: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let begin = format!("{quote}tartan_");
    let words = text.match_indices(&begin).map(|(at, _)| &text[at + quote.len()..]);
    words
        .filter_map(|rest| {
            let (name, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
            after.starts_with(quote).then(|| name.to_owned())
        })
        .collect()
}

#[test]
fn no_pod_has_more_rights_than_the_readme_says() {
    let set = "cniPlugins.install=true,forwarder.enabled=true,wireguard.userspace=Auto,ipsec.enabled=true";
    let all = objects(&render(&["--set", set]).unwrap());
    let cleanup = objects(&render(&["--set", "cleanup.enabled=true"]).unwrap());
    let pods = [
        &object(&all, "Deployment", "tartan-operator")["spec"]["template"]["spec"],
        &object(&all, "DaemonSet", "tartan-node-agent")["spec"]["template"]["spec"],
        &object(&cleanup, "DaemonSet", "tartan-node-agent")["spec"]["template"]["spec"],
        &object(&all, "DaemonSet", "tartan-forwarder")["spec"]["template"]["spec"],
        &object(&all, "DaemonSet", "tartan-wireguard")["spec"]["template"]["spec"],
    ];
    for pod in pods {
        assert_eq!((pod.get("hostPID"), pod.get("hostIPC")), (None, None));
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let containers = |key: &str| pod[key].as_array().cloned().unwrap_or_default();
        for container in containers("containers").iter().chain(&containers("initContainers")) {
            let context = &container["securityContext"];
            let name = container["name"].as_str().unwrap();
            assert_ne!(context["privileged"], true, "{name}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]), "{name}");
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            let has_token = mounts.iter().any(|mount| mount["name"] == "api-access");
            assert_eq!(has_token, ["agent", "cleanup"].contains(&name), "{name}");
            let added = &context["capabilities"]["add"];
            match name {
                "agent" | "cleanup" | "forwarder" | "wireguard" => {
                    assert_eq!(added, &serde_json::json!(["NET_ADMIN"]), "{name}");
                }
                "ipsec" => {
                    assert_eq!(added, &serde_json::json!(["NET_ADMIN", "NET_BIND_SERVICE"]), "{name}");
                }
                _ => assert!(added.is_null(), "{name} has {added}"),
            }
        }
    }
    assert_eq!(pods[0]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pods[0].get("volumes"), None);
    for pod in &pods[1..] {
        assert_eq!(pod["automountServiceAccountToken"], false);
    }
    // The forwarder has a device of the host and no directory.
    let device =
        serde_json::json!([{ "name": "tun", "hostPath": { "path": "/dev/net/tun", "type": "CharDevice" } }]);
    assert_eq!(pods[3]["volumes"], device);
    // The user-space WireGuard has a directory for its sockets beside that, and none with keys.
    let directory = serde_json::json!({ "path": "/run/tartan/wireguard", "type": "DirectoryOrCreate" });
    let sockets = serde_json::json!([device[0], { "name": "sockets", "hostPath": directory }]);
    assert_eq!(pods[4]["volumes"], sockets);
}
