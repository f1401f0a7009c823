//! A real Prometheus beside the control plane.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tartan_lab::{
    Cluster, Process, eventually_ok,
    prerequisites::{self, Tool},
};

const URL: &str = "http://127.0.0.1:9090";

/// A Prometheus that stops when it is dropped.
pub struct Prometheus {
    _process: Process,
}

impl Prometheus {
    /// Starts it with these `scrape_configs`; every second, unless they say otherwise.
    pub fn start(cluster: &Cluster, scrape: &Value) -> Result<Self> {
        prerequisites::require(&[Tool::Prometheus])?;
        // JSON is YAML.
        let configuration = json!({ "global": { "scrape_interval": "1s" }, "scrape_configs": scrape });
        let directory = cluster.directory().join("prometheus");
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("prometheus.yaml");
        std::fs::write(&file, configuration.to_string())?;
        let control = cluster.fabric().control().context("the cluster has no control plane")?;
        let process = control.spawn(
            "prometheus",
            &[
                "prometheus",
                &format!("--config.file={}", file.display()),
                &format!("--storage.tsdb.path={}", directory.join("data").display()),
                "--web.listen-address=127.0.0.1:9090",
                "--log.level=warn",
            ],
        )?;
        Ok(Self { _process: process })
    }

    /// Waits until an instant query has this answer, in the words of [`Prometheus::value`].
    pub fn wait_for_answer(&self, cluster: &Cluster, query: &str, expected: &str) -> Result<()> {
        eventually_ok(&format!("{query} to be {expected}"), Duration::from_secs(60), || {
            let now = self.value(cluster, query)?;
            if now == expected { Ok(()) } else { bail!("it is {now}") }
        })
    }

    /// The result of an instant query in words: the value, or label=value pairs.
    pub fn value(&self, cluster: &Cluster, query: &str) -> Result<String> {
        let control = cluster.fabric().control().context("the cluster has no control plane")?;
        let answer = control.exec(&[
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "5",
            "--get",
            "--data-urlencode",
            &format!("query={query}"),
            &format!("{URL}/api/v1/query"),
        ])?;
        let answer: Value = serde_json::from_str(&answer.ok()?.stdout)?;
        let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        if results.is_empty() {
            bail!("no result for {query}");
        }
        let words: Vec<String> = results.iter().map(in_words).collect();
        Ok(words.join(", "))
    }
}

fn in_words(result: &Value) -> String {
    let value = result["value"][1].as_str().unwrap_or("?");
    let short = value.parse::<f64>().map_or_else(
        |_| value.to_owned(),
        |number| {
            if number.fract() == 0.0 { format!("{number}") } else { format!("{number:.1}") }
        },
    );
    let labels = result["metric"].as_object().cloned().unwrap_or_default();
    let labels: Vec<&str> = labels.values().filter_map(Value::as_str).collect();
    if labels.is_empty() { short } else { format!("{} {short}", labels.join(" ")) }
}
