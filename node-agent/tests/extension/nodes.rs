//! The backends whose paths are others' to make: the administrator's programs are really run, and tell real routes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod cluster;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use cluster::{Cluster, PATIENCE, wait_until_reaches};
use serde_json::{Value, json};
use tartan_crds::ExtensionParameters;
use tartan_lab::{eventually, eventually_ok};
use tartan_node_agent::extension::{
    Environment, Report, Told, Wanted,
    task::{self, Places},
};
use tokio::{runtime::Runtime, sync::watch};

/// Programs, a log that they write, and the task that runs them.
struct Scene {
    folder: tempfile::TempDir,
    runtime: Runtime,
    wanted: watch::Sender<Option<Wanted>>,
    report: watch::Receiver<Report>,
}

fn program(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Scene {
    fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("commands");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let log = folder.path().join("log");
        program(&directory, "pre", "echo key-of-here");
        let line = |what: &str| {
            format!(r#"echo "{what} $# $1 $NODE $SUBNET $PUBLIC_IP $(cat)" >> {}"#, log.display())
        };
        program(
            &directory,
            "add",
            &format!(
                "[ $NODE != stubborn ] || [ -e {}/calm ] || {{ echo no >&2; exit 7; }}\n{}",
                folder.path().display(),
                line("add")
            ),
        );
        program(&directory, "remove", &line("remove"));
        let runtime = Runtime::new().unwrap();
        let (wanted, report) = start(&runtime, folder.path(), Some(directory));
        Self { folder, runtime, wanted, report }
    }

    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[track_caller]
    fn wait_for_log(&self, expected: &[&str]) {
        let done = eventually("the programs to be told", PATIENCE, || self.log() == expected);
        assert!(done.is_ok(), "{:?}\n{:?}", self.log(), self.report.borrow());
    }

    fn ask(&self, wanted: Wanted) {
        self.wanted.send(Some(wanted)).unwrap();
    }

    #[track_caller]
    fn wait_for_failure(&self, words: &str) {
        let said = || self.report.borrow().failed.join("; ");
        assert!(eventually("a failure", PATIENCE, || said().contains(words)).is_ok(), "{}", said());
    }
}

fn start(
    runtime: &Runtime,
    folder: &Path,
    directory: Option<PathBuf>,
) -> (watch::Sender<Option<Wanted>>, watch::Receiver<Report>) {
    let (wanted, to_tell) = watch::channel(None);
    let (told, report) = watch::channel(Report::default());
    let places = Places { directory, file: folder.join("extension.json") };
    runtime.spawn(task::run(places, to_tell, told));
    (wanted, report)
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn commands() -> ExtensionParameters {
    ExtensionParameters {
        pre_startup: words("pre"),
        subnet_add: words("add word"),
        subnet_remove: words("remove word"),
        ..ExtensionParameters::default()
    }
}

fn peer(number: u8, node: &str, data: &str) -> (String, Told) {
    let subnet = format!("10.244.{number}.0/24");
    let environment = [("NODE", node), ("SUBNET", &subnet), ("PUBLIC_IP", &format!("192.0.2.{number}"))];
    let environment: Environment =
        environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    (subnet, Told { environment, data: data.into() })
}

fn wanted(peers: &[(String, Told)]) -> Wanted {
    Wanted { commands: commands(), own: Some(Environment::new()), peers: peers.iter().cloned().collect() }
}

#[test]
fn programs_are_told_once_of_what_is_new_changed_and_gone_also_across_a_restart() {
    let mut scene = Scene::set();
    // Read as text and never as words of a shell.
    let hostile = "$(touch /tmp/x); `id` \" --help";
    scene.ask(wanted(&[peer(2, "two", hostile), peer(3, "three", ""), peer(4, "four", "")]));
    let four = "add 1 word four 10.244.4.0/24 192.0.2.4 ";
    let (two, three) = (
        format!("add 1 word two 10.244.2.0/24 192.0.2.2 {hostile}"),
        "add 1 word three 10.244.3.0/24 192.0.2.3 ",
    );
    scene.wait_for_log(&[four, three, &two]);
    eventually("the data to be known", PATIENCE, || {
        scene.report.borrow().data.as_deref() == Some("key-of-here")
    })
    .unwrap();
    // Another process with the same file: node three has changed, node two is gone, node four is as it was.
    (scene.wanted, scene.report) =
        start(&scene.runtime, scene.folder.path(), Some(scene.folder.path().join("commands")));
    scene.ask(wanted(&[peer(3, "three", "new"), peer(4, "four", "")]));
    scene.wait_for_log(&[
        four,
        three,
        "add 1 word three 10.244.3.0/24 192.0.2.3 new",
        &two,
        "remove 1 word three 10.244.3.0/24 192.0.2.3 ",
        &two.replace("add", "remove"),
    ]);
    let before = scene.log();
    // The node gets another backend.
    scene.ask(Wanted { own: None, ..wanted(&[]) });
    eventually("the last to be taken back", PATIENCE, || scene.log().len() == before.len() + 2).unwrap();
    assert_eq!(scene.report.borrow().failed, [] as [String; 0]);
}

#[test]
fn a_program_that_is_named_later_is_told_of_what_was_there_before() {
    let scene = Scene::set();
    let all = [peer(2, "two", ""), peer(3, "three", "")];
    let asked = |words: Vec<String>| {
        let wanted = wanted(&all);
        Wanted { commands: ExtensionParameters { subnet_add: words, ..wanted.commands }, ..wanted }
    };
    let told = || scene.report.borrow().data.is_some();
    scene.ask(asked(vec![]));
    eventually("a pass", PATIENCE, told).unwrap();
    let line = |what: &str, word: &str, number: u8, node: &str| {
        format!("{what} 1 {word} {node} 10.244.{number}.0/24 192.0.2.{number} ")
    };
    scene.ask(asked(words("add early")));
    let mut expected = vec![line("add", "early", 3, "three"), line("add", "early", 2, "two")];
    let wait =
        |expected: &[String]| scene.wait_for_log(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    wait(&expected);
    scene.ask(asked(words("add late")));
    expected.extend([line("add", "late", 3, "three"), line("add", "late", 2, "two")]);
    wait(&expected);
    scene.ask(Wanted { peers: all[..1].iter().cloned().collect(), ..asked(words("add late")) });
    expected.push(line("remove", "word", 3, "three"));
    wait(&expected);
    // What was told is taken back also where no program adds any more.
    scene.ask(Wanted { peers: [].into(), ..asked(vec![]) });
    expected.push(line("remove", "word", 2, "two"));
    expected.sort();
    wait(&expected);
}

/// Nor is the agent kept busy by it.
#[test]
fn what_failed_and_is_asked_for_no_more_is_no_failure() {
    let scene = Scene::set();
    let all = [peer(2, "two", "")];
    let asked = |pre: &str, add: &str| {
        let wanted = wanted(&all);
        let commands = ExtensionParameters {
            pre_startup: if pre.is_empty() { vec![] } else { words(pre) },
            subnet_add: words(add),
            ..wanted.commands
        };
        Wanted { commands, ..wanted }
    };
    let is_well = || scene.report.borrow().failed.is_empty();
    scene.ask(asked("pre", "add early"));
    let early = "add 1 early two 10.244.2.0/24 192.0.2.2 ";
    scene.wait_for_log(&[early]);
    scene.ask(asked("pre", "nothing"));
    scene.wait_for_failure("nothing");
    scene.ask(asked("pre", "add early"));
    eventually("the words of before to do", PATIENCE, is_well).unwrap();
    scene.ask(asked("nowhere", "add early"));
    scene.wait_for_failure("nowhere");
    scene.ask(asked("", "add early"));
    eventually("no program to do", PATIENCE, is_well).unwrap();
    assert_eq!(scene.log(), [early]);
}

/// A file of an agent that did not note who was told: a program may have been.
#[test]
fn what_an_agent_of_before_told_is_taken_back() {
    let mut scene = Scene::set();
    let (subnet, told) = peer(2, "two", "");
    let before = serde_json::json!({ subnet: told });
    drop(scene.wanted);
    fs::write(scene.folder.path().join("extension.json"), before.to_string()).unwrap();
    (scene.wanted, scene.report) =
        start(&scene.runtime, scene.folder.path(), Some(scene.folder.path().join("commands")));
    scene.wanted.send(Some(wanted(&[]))).unwrap();
    scene.wait_for_log(&["remove 1 word two 10.244.2.0/24 192.0.2.2 "]);
}

#[test]
fn one_that_fails_is_named_and_tried_again_and_keeps_back_no_other() {
    let scene = Scene::set();
    scene.ask(wanted(&[peer(2, "stubborn", ""), peer(3, "three", "")]));
    let three = "add 1 word three 10.244.3.0/24 192.0.2.3 ";
    scene.wait_for_log(&[three]);
    scene.wait_for_failure("backends.extension.subnetAdd 10.244.2.0/24: it ended with exit status: 7: no");
    fs::write(scene.folder.path().join("calm"), "").unwrap();
    scene.wait_for_log(&["add 1 word stubborn 10.244.2.0/24 192.0.2.2 ", three]);
    eventually("no failure", PATIENCE, || scene.report.borrow().failed.is_empty()).unwrap();
}

#[test]
fn a_program_that_does_not_end_is_killed_with_all_that_it_started() {
    let scene = Scene::set();
    let directory = scene.folder.path().join("commands");
    program(&directory, "slow", "sleep 4242.4242 & sleep 4242.4242");
    program(&directory, "long", "head -c 5000 /dev/zero | tr '\\0' x");
    let mut slow = wanted(&[]);
    (slow.commands.pre_startup, slow.commands.timeout_seconds) = (words("slow"), 1);
    scene.ask(slow);
    scene.wait_for_failure("backends.extension.preStartup: it did not end within 1 s, and was killed");
    let left = || {
        let found = std::process::Command::new("pgrep").args(["-f", "^sleep 4242.4242"]).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    eventually("all of it to end", PATIENCE, || {
        // The next try begins within seconds, so this is asked of what the first left.
        left().lines().count() <= 2
    })
    .unwrap();
    let mut long = wanted(&[]);
    long.commands.pre_startup = words("long");
    scene.ask(long);
    scene.wait_for_failure("it printed more than 1024 bytes");
    eventually("all of it to end", PATIENCE, || left().is_empty()).unwrap();
}

#[test]
fn what_the_node_does_not_offer_is_not_run() {
    let scene = Scene::set();
    let directory = scene.folder.path().join("commands");
    program(&directory, "loose", "exit 0");
    fs::set_permissions(directory.join("loose"), fs::Permissions::from_mode(0o777)).unwrap();
    for (name, answer) in [
        ("../commands/pre", "is not the name of a program"),
        ("/bin/sh", "is not the name of a program"),
        ("missing", "cannot look at"),
        ("loose", "nobody else may write to"),
    ] {
        let mut asked = wanted(&[]);
        asked.commands.pre_startup = words(name);
        scene.ask(asked);
        scene.wait_for_failure(answer);
    }
    let (off, report) = start(&scene.runtime, &scene.folder.path().join("off"), None);
    off.send(Some(wanted(&[peer(2, "two", "")]))).unwrap();
    eventually("an answer", PATIENCE, || {
        report.borrow().failed.join("").contains("--extension-commands-from")
    })
    .unwrap();
    assert_eq!(scene.log(), [] as [String; 0]);
}

fn backend(kind: &str) -> impl Fn(usize) -> Value {
    let kind = kind.to_owned();
    move |_| json!({ "type": kind, "accepts": [kind] })
}

#[test]
fn nodes_whose_paths_programs_make_reach_each_other_by_them() {
    let mut cluster = Cluster::leased(&[2], backend("extension"));
    let commands = json!({ "preStartup": ["pre"], "subnetAdd": ["route"], "subnetRemove": ["unroute"] });
    let patch = json!({ "spec": { "backends": { "extension": commands } } }).to_string();
    let patched = cluster.api.kubectl(&["patch", "clusternetwork", "default", "--type=merge", "-p", &patch]);
    patched.unwrap().ok().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    program(folder.path(), "pre", "cat /etc/hostname 2>/dev/null || echo none");
    program(folder.path(), "route", "exec ip route replace \"$SUBNET\" via \"$PUBLIC_IP\"");
    program(folder.path(), "unroute", "exec ip route delete \"$SUBNET\"");
    for name in cluster.names() {
        let mut command = cluster.command(&name);
        command.env("TARTAN_EXTENSION_COMMANDS_FROM", folder.path());
        cluster.start_command(&name, &command);
        cluster.wait_for_condition(&name, "Ready", "True", "AsExpected");
    }
    let pods = ["node1", "node2"].map(|node| cluster.node(node).pod("a").unwrap());
    wait_until_reaches(&pods[0], &pods[1]);
    wait_until_reaches(&pods[1], &pods[0]);
    let endpoint = cluster.field("subnetlease", "10.244.2.0-24", ".status.endpoints[0].type");
    assert_eq!(endpoint, "extension");
    // Nothing of ours leads there, and nothing of ours is in the way.
    assert_eq!(cluster::routes(cluster.node("node1")), "");
    cluster.stop_agent("node2");
    cluster.api.kubectl(&["delete", "subnetlease", "10.244.2.0-24"]).unwrap().ok().unwrap();
    eventually_ok("the program to be told", PATIENCE, || {
        let routes = cluster.node("node1").exec(&["ip", "route", "show", "10.244.2.0/24"])?.stdout;
        anyhow::ensure!(routes.is_empty(), "{routes}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_node_that_is_only_given_a_lease_serves_its_pods_and_has_no_path_of_ours() {
    let mut cluster = Cluster::leased(&[2], backend("alloc"));
    cluster.start_all();
    for name in cluster.names() {
        cluster.wait_for_condition(&name, "Ready", "True", "AsExpected");
        cluster.wait_for_condition(&name, "Degraded", "False", "AsExpected");
        let unavailable = ".status.conditions[?(@.type==\"NetworkUnavailable\")].status";
        eventually("the Node to have a network", PATIENCE, || {
            cluster.field("node", &name, unavailable) == "False"
        })
        .unwrap();
    }
    let node = cluster.node("node1");
    let (a, b) = (node.pod("a").unwrap(), node.pod("b").unwrap());
    wait_until_reaches(&a, &b);
    let far = cluster.node("node2").pod("c").unwrap();
    assert!(!cluster::reaches(&a, &far), "nobody has made a path");
    assert_eq!(cluster::routes(node), "");
    let tunnels = node.exec(&["ip", "-o", "link"]).unwrap().stdout;
    assert!(tunnels.contains("tartan0") && !tunnels.contains("tartan-vxlan"), "{tunnels}");
    let env = node.read("/run/flannel/subnet.env").unwrap();
    // Room for the fallback overlay, so that running pods may be joined to others one day.
    assert!(env.contains("FLANNEL_SUBNET=10.244.1.1/24") && env.contains("FLANNEL_MTU=1450"), "{env}");
    // Somebody else makes them.
    for (node, other, by) in [("node1", 2, 12), ("node2", 1, 11)] {
        let route = format!("10.244.{other}.0/24");
        cluster
            .node(node)
            .exec(&["ip", "route", "add", &route, "via", &format!("198.18.0.{by}")])
            .unwrap()
            .ok()
            .unwrap();
    }
    wait_until_reaches(&a, &far);
    assert!(
        cluster.condition("node1", "Degraded").0 == "False",
        "a route of another's is none of our business"
    );
}
