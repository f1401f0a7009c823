//! The operator as a process: its pages, its memory and its processor time.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use tartan_lab::{ApiServer, eventually_ok};

use super::super::resident;

const LISTEN: &str = "127.0.0.1:19473";

pub struct Operator {
    child: Child,
}

impl Operator {
    /// Starts it and waits until it has read all objects.
    pub fn start(program: &Path, api: &ApiServer, kubeconfig: &Path) -> Result<Self> {
        let log = std::fs::File::create(api.directory().join("operator.log"))?;
        let child = Command::new(program)
            .args(["run", "--no-leader-election", "--listen", LISTEN])
            .env("KUBECONFIG", kubeconfig)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let operator = Self { child };
        eventually_ok("the operator is ready", Duration::from_secs(120), || page("/readyz").map(drop))?;
        Ok(operator)
    }

    pub fn resident(&self) -> Result<f64> {
        resident(i32::try_from(self.child.id())?)
    }

    /// Processor time so far, in seconds.
    pub fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok());
        // utime and stime (proc(5)) in ticks, of which there are a hundred in a second.
        Ok((ticks(11).context("no utime")? + ticks(12).context("no stime")?) / 100.0)
    }

    /// Sum over the series of a metric whose line contains all words.
    pub fn metric(&self, name: &str, words: &[&str]) -> Result<f64> {
        Ok(sum(&page("/metrics")?, name, words))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sum over the series of a metric, in the text that Prometheus scrapes.
pub fn sum(text: &str, name: &str, words: &[&str]) -> f64 {
    text.lines()
        .filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && words.iter().all(|word| line.contains(word))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn page(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(LISTEN)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}
