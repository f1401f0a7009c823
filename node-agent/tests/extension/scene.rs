//! Programs, and the task of the agent that tells them, without an agent.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tartan_crds::ExtensionParameters;
use tartan_lab::eventually;
use tartan_node_agent::extension::{
    Environment, Report, Told, Wanted,
    task::{self, Places},
};
use tokio::{runtime::Runtime, sync::watch};

use super::cluster::PATIENCE;

/// Programs, a log that they write, and the task that runs them.
pub struct Scene {
    pub folder: tempfile::TempDir,
    pub runtime: Runtime,
    pub wanted: watch::Sender<Option<Wanted>>,
    pub report: watch::Receiver<Report>,
}

pub fn program(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Scene {
    pub fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("commands");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let log = folder.path().join("log");
        program(
            &directory,
            "pre",
            &format!("echo $NODE >> {}/starts; echo key-of-here", folder.path().display()),
        );
        program(&directory, "bad", "exit 3");
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
        let sticks = format!("[ $NODE != sticky ] || [ -e {}/calm ] || exit 7\n", folder.path().display());
        program(&directory, "remove", &(sticks + &line("remove")));
        let runtime = Runtime::new().unwrap();
        let (wanted, report) = start(&runtime, folder.path(), Some(directory));
        Self { folder, runtime, wanted, report }
    }

    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[track_caller]
    pub fn wait_for_log(&self, expected: &[&str]) {
        let done = eventually("the programs to be told", PATIENCE, || self.log() == expected);
        assert!(done.is_ok(), "{:?}\n{:?}", self.log(), self.report.borrow());
    }

    pub fn ask(&self, wanted: Wanted) {
        self.wanted.send(Some(wanted)).unwrap();
    }

    #[track_caller]
    pub fn wait_for_failure(&self, words: &str) {
        let said = || self.report.borrow().failed.join("; ");
        assert!(eventually("a failure", PATIENCE, || said().contains(words)).is_ok(), "{}", said());
    }
}

pub fn start(
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

pub fn words(line: &str) -> Vec<String> {
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

pub fn peer(number: u8, node: &str, data: &str) -> (String, Told) {
    let subnet = format!("10.244.{number}.0/24");
    let environment = [("NODE", node), ("SUBNET", &subnet), ("PUBLIC_IP", &format!("192.0.2.{number}"))];
    let environment: Environment =
        environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    (subnet, Told { environment, data: data.into() })
}

pub fn wanted(peers: &[(String, Told)]) -> Wanted {
    Wanted { commands: commands(), own: Some(Environment::new()), peers: peers.iter().cloned().collect() }
}
