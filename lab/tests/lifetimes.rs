//! A cluster ends with its owner however that ends, and a kept one only when it is taken down.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tartan_lab::{Cluster, ClusterOptions, FabricOptions, Lifetime, Segment, eventually, remove_leftovers};

const NAME: &str = "TARTAN_TEST_CLUSTER";

fn one_node() -> ClusterOptions {
    let segments = vec![Segment { nodes: 1, mtu: 1500 }];
    ClusterOptions {
        fabric: FabricOptions { segments, ..FabricOptions::default() },
        ..ClusterOptions::default()
    }
}

/// Runs as a child of the other tests.
#[test]
#[ignore = "a helper of the tests below"]
fn helper_that_starts_a_cluster() {
    let name = std::env::var(NAME).unwrap();
    let kept = name.starts_with("kept");
    println!("starting");
    let lifetime = if kept { Lifetime::Kept } else { Lifetime::Scoped };
    let cluster = Cluster::start(ClusterOptions { name: Some(name), lifetime, ..one_node() }).unwrap();
    println!("up");
    if !kept {
        eventually("a death", Duration::from_secs(600), || false).unwrap();
    }
    drop(cluster);
}

struct Helper {
    child: Child,
    name: String,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Helper {
    fn start(kind: &str) -> Self {
        let name = format!("{kind}-{}", std::process::id());
        // A shell that starts a job in the background makes it deaf to Ctrl-C, and all that it starts.
        let mut child = Command::new("env")
            .arg("--default-signal=INT,QUIT")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "helper_that_starts_a_cluster", "--ignored", "--nocapture"])
            .env(NAME, &name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        Self { child, name, lines: Box::new(lines) }
    }

    fn wait_for(&mut self, wanted: &str) {
        assert!(self.lines.any(|line| line.ends_with(wanted)), "the helper never said {wanted}");
    }

    fn end_by(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap();
    }

    fn directory(&self) -> PathBuf {
        Path::new("/var/cache/tartan-lab").join(&self.name)
    }
}

/// Everything on this machine that carries the name of the cluster.
fn traces(name: &str) -> Vec<String> {
    let script = format!(
        "find /sys/fs/cgroup /var/cache/tartan-lab -maxdepth 3 -name '*{name}*'
         grep -s {name} /proc/mounts
         for p in /proc/[0-9]*; do
             # A zombie that its new parent has not fetched yet has no command line.
             [ -n \"$(tr -d '\\0' < $p/cmdline 2>/dev/null)\" ] || continue
             [ \"$p\" = /proc/$$ ] || ! tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -F '{name}/' || true
             grep -s 'tartan-lab-{name}-' $p/cgroup || true
         done
         exit 0"
    );
    let output = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn check_nothing_is_left_after(kind: &str, said: &str, signal: Signal) {
    let mut helper = Helper::start(kind);
    helper.wait_for(said);
    eventually("the processes of the cluster", Duration::from_secs(60), || {
        std::fs::read_to_string(helper.directory().join("processes"))
            .is_ok_and(|text| text.contains("kube-apiserver"))
    })
    .unwrap();
    assert!(!traces(&helper.name).is_empty(), "a cluster is seen while it is there");
    let link = std::fs::read_to_string(helper.directory().join("links")).unwrap();
    let link = Path::new("/sys/class/net").join(link.trim());
    assert!(link.exists());

    helper.end_by(signal);

    let only_files = |line: &String| line.starts_with("/var/cache/") || line.starts_with("/sys/fs/cgroup/");
    eventually("the end of all processes", Duration::from_secs(20), || {
        traces(&helper.name).iter().all(only_files)
    })
    .unwrap();
    remove_leftovers().unwrap();
    assert_eq!(traces(&helper.name), Vec::<String>::new());
    assert!(!link.exists());
}

#[test]
fn a_killed_owner_takes_its_cluster_along() {
    check_nothing_is_left_after("killed", "up", Signal::SIGKILL);
}

#[test]
fn an_owner_killed_while_it_starts_leaves_nothing_either() {
    check_nothing_is_left_after("early", "starting", Signal::SIGKILL);
}

#[test]
fn ctrl_c_takes_the_cluster_along() {
    check_nothing_is_left_after("interrupted", "up", Signal::SIGINT);
}

#[test]
fn a_kept_cluster_is_attached_to_and_taken_down() {
    let mut helper = Helper::start("kept");
    helper.wait_for("up");
    assert!(helper.child.wait().unwrap().success());
    remove_leftovers().unwrap();

    let mut cluster = Cluster::attach(&helper.name).unwrap();
    assert_eq!(
        cluster.kubectl(&["get", "nodes", "-o", "name"]).unwrap().ok().unwrap().stdout.trim(),
        "node/node1"
    );
    assert_eq!(cluster.node("node1").exec(&["hostname"]).unwrap().stdout.trim(), "node1");
    let name = cluster.add_node(0).unwrap();
    cluster.reboot_node(&name).unwrap();
    drop(cluster);
    let cluster = Cluster::attach(&helper.name).unwrap();
    assert_eq!(cluster.nodes().len(), 2);
    assert!(cluster.processes().all(tartan_lab::Process::is_running));
    drop(cluster);

    let link = std::fs::read_to_string(helper.directory().join("links")).unwrap();
    Cluster::down(&helper.name).unwrap();
    assert!(!Path::new("/sys/class/net").join(link.trim()).exists());
    assert_eq!(traces(&helper.name), Vec::<String>::new());
    Cluster::down(&helper.name).expect("removing it again is no error");
}
