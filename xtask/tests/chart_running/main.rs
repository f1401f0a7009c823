//! tartan in operation on a real three-node Kubernetes: what it has put on hosts, and what traffic notices while its
//! parts are restarted and killed and nodes and pools move between backends. Nothing, where the kernel forwards; where
//! programs do, little.
//!
//! The faults of all chapters are collected, so that one red run shows all that is red.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod classes;
mod disturbances;
mod footprint;
mod programs;
mod watch;

use std::time::{Duration, Instant};

use tartan_lab::{Cluster, ClusterOptions, eventually};
use xtask::{cluster, image};

const VALUES: &str = r"
network:
  cidrs: [{name: pods, cidr: 10.244.0.0/16, nodeMaskSize: 24}]
pools:
  rack: {nodeSelector: {matchLabels: {place: rack}}, backend: {type: host-gw}}
  remote: {nodeSelector: {matchLabels: {place: remote}}, backend: {type: vxlan}}
cniPlugins: {install: true}
";

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(arguments).unwrap().ok().unwrap().stdout
}

fn let_flow(time: Duration) {
    let start = Instant::now();
    eventually("enough traffic", time * 3, || start.elapsed() >= time).unwrap();
}

fn chapter(title: &str) {
    println!("-- {title}");
}

#[test]
fn traffic_of_every_class_survives_what_happens_to_the_control_plane() {
    tell(|cluster, images| {
        label(cluster);
        let before = footprint::Before::of(cluster);
        let scene = install(cluster, images);
        chapter("hosts have what the document lists, and nothing else");
        let mut faults = before.compare(cluster);
        faults.extend(disturbances::of_programs(cluster, &scene));
        faults
    });
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn traffic_of_every_class_survives_nodes_and_pools_that_move() {
    tell(|cluster, images| {
        label(cluster);
        let scene = install(cluster, images);
        disturbances::of_pools(cluster, &scene)
    });
}

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn traffic_of_every_class_passes_programs_that_are_replaced_killed_and_left() {
    tell(programs::story);
}

/// Three nodes on two segments. What is known of them is printed where the story fails.
fn tell(story: impl FnOnce(&Cluster, &image::Images) -> Vec<String>) {
    let images = image::build(&image::default_directory()).unwrap();
    let mut cluster = Cluster::start(ClusterOptions::with_segments(&[2, 1])).unwrap();
    cluster.fabric_mut().outside().unwrap();
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| story(&cluster, &images)));
    match told {
        Ok(faults) if faults.is_empty() => {}
        Ok(faults) => {
            cluster::tell_state(&cluster);
            panic!("{}", faults.join("\n"));
        }
        Err(panic) => {
            cluster::tell_state(&cluster);
            std::panic::resume_unwind(panic);
        }
    }
}

fn label(cluster: &Cluster) {
    for (node, place) in [("node1", "rack"), ("node2", "rack"), ("node3", "remote")] {
        kubectl(cluster, &["label", "node", node, &format!("place={place}")]);
    }
}

fn install<'a>(cluster: &'a Cluster, images: &image::Images) -> classes::Scene<'a> {
    chapter("the chart is installed");
    cluster::install(cluster, images, VALUES).unwrap();
    classes::Scene::set(cluster, 1)
}
