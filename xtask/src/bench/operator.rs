//! Nodes that appear all at once, and their leases.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tartan_lab::{ApiServer, ApiServerOptions, eventually_ok};

use super::{Options, Programs, create, lease, node, prepare, report, resident, seconds_until};

pub(super) fn run(options: &Options, programs: &Programs) -> Result<()> {
    let size = options.size;
    let (mut bare, mut nodes, mut leased, mut memory) = (vec![], vec![], vec![], vec![]);
    // Each round is a control plane of its own: two are enough to see the spread.
    for _ in 0..options.rounds.min(2) {
        let api = ApiServer::start(ApiServerOptions::default())?;
        prepare(&api)?;
        let start = Instant::now();
        let all: Vec<_> = (0..size).map(|number| lease(number, "nobody", "none")).collect();
        create(&api, &all)?;
        bare.push(start.elapsed().as_secs_f64());
        api.kubectl(&["delete", "subnetleases", "--all", "--wait=false"])?.ok()?;
        let log = std::fs::File::create(api.directory().join("operator.log"))?;
        let mut operator = std::process::Command::new(&programs.operator)
            .args(["run", "--no-leader-election", "--listen", "127.0.0.1:19473"])
            .env("KUBECONFIG", api.kubeconfig())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = i32::try_from(operator.id())?;
        let outcome = (|| {
            eventually_ok("the operator is ready", Duration::from_secs(60), || metrics().map(drop))?;
            memory.push(resident(pid)?);
            let start = Instant::now();
            let all: Vec<_> = (0..size).map(|number| node(&format!("n{number:05}"))).collect();
            create(&api, &all)?;
            nodes.push(start.elapsed().as_secs_f64());
            let rest = seconds_until("the last lease", || Ok(leases_written()? >= size as f64))?;
            leased.push(nodes.last().copied().unwrap_or_default() + rest);
            memory.push(resident(pid)?);
            anyhow::Ok(())
        })();
        operator.kill()?;
        operator.wait()?;
        outcome?;
    }
    report(&format!("{size} bare creates of leases"), "s", bare);
    report(&format!("{size} Nodes created"), "s", nodes);
    report(&format!("{size} Nodes created and leased, from the first create"), "s", leased);
    report("operator, resident, from none to all leases", "MB", memory);
    Ok(())
}

fn metrics() -> Result<String> {
    let url = "http://127.0.0.1:19473/metrics";
    let output = std::process::Command::new("curl").args(["-sSf", "--max-time", "5", url]).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn leases_written() -> Result<f64> {
    let text = metrics()?;
    let name = "tartan_operator_writes_total{kind=\"create-lease\",result=\"done\"} ";
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0.0))
}
