//! `cargo xtask demo`: a real three-node Kubernetes with tartan in it, and a look around.
//!
//! Owns the order of events and what is shown. Any part that doesn't work makes the command fail, after
//! it has shown what there is to see.

mod tour;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use tartan_lab::{Cluster, ClusterOptions, Lifetime};

use crate::{cluster, image};

/// The name under which the cluster is found again.
const NAME: &str = "demo";

/// What to do.
#[derive(Args, Debug)]
pub struct Options {
    /// Leave the cluster up; `cargo xtask demo down` removes it
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Remove a cluster that was kept
    Down,
}

/// Two pools: node1 and node2 share a rack and route directly; node3 is behind a router and tunnels.
const VALUES: &str = r"
network:
  cidrs:
    - name: pods
      cidr: 10.244.0.0/16
      nodeMaskSize: 24
pools:
  rack:
    nodeSelector: {matchLabels: {demo.tartan.network/place: rack}}
    backend: {type: host-gw}
  remote:
    nodeSelector: {matchLabels: {demo.tartan.network/place: remote}}
    backend: {type: vxlan}
";

/// Runs the demo. The error says what of it failed.
pub fn run(options: &Options) -> Result<()> {
    if let Some(Action::Down) = options.action {
        return Cluster::down(NAME);
    }
    let begin = Instant::now();
    Cluster::down(NAME).context("remove what an earlier demo left")?;
    let built = image::build(&image::default_directory())?;
    let mut cluster = Cluster::start(ClusterOptions {
        name: Some(NAME.to_owned()),
        lifetime: if options.keep { Lifetime::Kept } else { Lifetime::default() },
        ..ClusterOptions::with_segments(&[2, 1])
    })?;
    for (node, place) in [("node1", "rack"), ("node2", "rack"), ("node3", "remote")] {
        cluster.kubectl(&["label", "node", node, &format!("demo.tartan.network/place={place}")])?.ok()?;
    }
    let shown = cluster::install(&cluster, &built, VALUES)
        .and_then(|()| cluster::start_workload(&cluster))
        .and_then(|()| tour::show(&mut cluster));
    let failures = match shown {
        Ok(failures) => failures,
        Err(error) => {
            cluster::tell_state(&cluster);
            return Err(error);
        }
    };
    if options.keep {
        tour::tell_how_to_go_on(&cluster);
    }
    println!("\nThe demo took {} s.", begin.elapsed().as_secs());
    if failures.is_empty() {
        return Ok(());
    }
    cluster::tell_state(&cluster);
    bail!("{} of the checks failed:\n  {}", failures.len(), failures.join("\n  "))
}
