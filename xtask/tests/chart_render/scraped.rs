//! Which pods Prometheus is told of, and where those listen that it need not reach.

use serde_json::Value;

use super::{WITHOUT_CRDS, object, objects, render};

const ANNOTATIONS: &str = "metrics.scrapeAnnotations=true";
const MONITOR: &str = "metrics.podMonitor.enabled=true";
const PROGRAMS: [(&str, u16); 2] = [("forwarder", 9474), ("wireguard", 9475)];

#[test]
fn programs_of_packets_are_reached_by_others_only_where_prometheus_is_told_of_them() {
    for (metrics, address, listens, probed) in [
        (&[][..], "", "127.0.0.1", "127.0.0.1"),
        (&[ANNOTATIONS], "", "[::]", "127.0.0.1"),
        (&[MONITOR], "", "[::]", "127.0.0.1"),
        (&[ANNOTATIONS, MONITOR], "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        (&[ANNOTATIONS, MONITOR], "::1", "[::1]", "::1"),
        (&[ANNOTATIONS, MONITOR], "192.0.2.7", "192.0.2.7", "192.0.2.7"),
        (&[], "0.0.0.0", "0.0.0.0", "127.0.0.1"),
    ] {
        let case = format!("{metrics:?} {address:?}");
        let addresses = PROGRAMS.map(|(name, _)| format!("{name}.listenAddress={address}"));
        let all = rendered(
            &[metrics, &["forwarder.enabled=true", "wireguard.userspace=Auto"]].concat(),
            &addresses,
        );
        let hidden = listens == "127.0.0.1" || listens == "[::1]";
        for (name, port) in PROGRAMS {
            let template = &object(&all, "DaemonSet", &format!("tartan-{name}"))["spec"]["template"];
            let container = &template["spec"]["containers"][0];
            let environment = container["env"].as_array().unwrap();
            let listen = environment.iter().find(|variable| variable["name"] == "TARTAN_LISTEN").unwrap();
            assert_eq!(listen["value"], format!("{listens}:{port}"), "{case}");
            assert_eq!(container["readinessProbe"]["httpGet"]["host"], probed, "{case}");
            let annotation = &template["metadata"]["annotations"]["prometheus.io/port"];
            let expected = metrics.contains(&ANNOTATIONS) && !hidden;
            assert_eq!(
                *annotation,
                if expected { Value::from(port.to_string()) } else { Value::Null },
                "{case}"
            );
        }
        if metrics.contains(&MONITOR) {
            let expected: &[_] = if hidden { &["metrics"] } else { &["metrics", "forwarder", "wireguard"] };
            assert_eq!(endpoints(&all), expected, "{case}");
        }
    }
}

#[test]
fn what_does_not_run_is_not_scraped() {
    assert_eq!(endpoints(&rendered(&[MONITOR], &[])), ["metrics"]);
    assert_eq!(endpoints(&rendered(&[MONITOR, "forwarder.enabled=true"], &[])), ["metrics", "forwarder"]);
}

#[test]
fn agents_and_operators_on_loopback_have_no_scrape_annotations() {
    for (name, kind) in [("agent", "DaemonSet"), ("operator", "Deployment")] {
        let own = format!("{name}.listenAddress=127.0.0.1");
        let (others, hidden) = (rendered(&[ANNOTATIONS], &[]), rendered(&[ANNOTATIONS], &[own]));
        let object_name = if name == "agent" { "tartan-node-agent" } else { "tartan-operator" };
        let scrape = |all: &[Value]| {
            object(all, kind, object_name)["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scrape"].clone()
        };
        assert_eq!((scrape(&others), scrape(&hidden)), (Value::from("true"), Value::Null), "{name}");
    }
}

fn rendered(settings: &[&str], strings: &[String]) -> Vec<Value> {
    let set = settings.iter().flat_map(|setting| ["--set", setting]);
    let strings = strings.iter().flat_map(|setting| ["--set-string", setting]);
    let arguments: Vec<&str> = WITHOUT_CRDS
        .into_iter()
        .chain(["--set", "image.registry=example.org"])
        .chain(set)
        .chain(strings)
        .collect();
    objects(&render(&arguments).unwrap())
}

/// The port or the container of each endpoint of the PodMonitor.
fn endpoints(all: &[Value]) -> Vec<String> {
    let all = object(all, "PodMonitor", "tartan")["spec"]["podMetricsEndpoints"].as_array().unwrap();
    let found = |endpoint: &Value| {
        let container = &endpoint["relabelings"][0]["regex"];
        endpoint["port"].as_str().or(container.as_str()).unwrap().to_owned()
    };
    all.iter().map(found).collect()
}
