//! The task that tells programs. It holds the newest [`Wanted`] and repeats what failed, each on its own delay, so that
//! one peer keeps back no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tartan_crds::ExtensionParameters;
use tartan_daemon::chain;
use tokio::{sync::watch, time::Instant};

use super::{
    Environment, Report, Told, Wanted,
    command::{self, CommandError},
};

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Programs that run at a time.
const AT_ONCE: usize = 8;

/// Where programs are, and what they were told.
#[derive(Clone, Debug)]
pub struct Places {
    /// `None`: no program may be run on this node.
    pub directory: Option<PathBuf>,
    /// What was told, by subnet.
    pub file: PathBuf,
}

/// What was told of a subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    told: Told,
    /// The words of the `subnetAdd` that was told; none where there was none to tell, and `None` where an agent of before
    /// did not say.
    #[serde(default)]
    by: Option<Vec<String>>,
}

/// When something that failed is tried again.
#[derive(Clone, Debug)]
struct Retry {
    at: Instant,
    delay: Duration,
    why: String,
}

#[derive(Default)]
struct Memory {
    told: BTreeMap<String, Known>,
    /// For which commands and facts `preStartup` ran, and all programs of the start.
    prepared: Option<(ExtensionParameters, Environment)>,
    started: Option<(ExtensionParameters, Environment)>,
    data: Option<String>,
    retries: BTreeMap<String, Retry>,
}

/// Tells until the sender is gone.
pub async fn run(places: Places, mut wanted: watch::Receiver<Option<Wanted>>, report: watch::Sender<Report>) {
    let mut memory = Memory { told: read(&places.file), ..Memory::default() };
    loop {
        let want = wanted.borrow_and_update().clone();
        if let Some(want) = want {
            let said = tell(&places, &want, &mut memory).await;
            report.send_if_modified(|held| {
                let differs = *held != said;
                *held = said;
                differs
            });
        }
        let due = memory.retries.values().map(|retry| retry.at).min();
        let again = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Cancel-safe: both only wait.
        tokio::select! {
            () = again => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// One pass: programs of the start, what is no more, what is new.
async fn tell(places: &Places, want: &Wanted, memory: &mut Memory) -> Report {
    let Wanted { commands, own, peers } = want;
    let Some(directory) = places.directory.as_deref() else {
        let asked = own.is_some() && all(commands).any(|words| !words.is_empty());
        let why = "programs of backends.extension are not run on this node: start its agent with --extension-commands-from (the chart: agent.extensionCommandsFrom)";
        return Report { data: None, failed: if asked { vec![why.to_owned()] } else { vec![] } };
    };
    let limit = Duration::from_secs(u64::try_from(commands.timeout_seconds).unwrap_or(10));
    let mut said = Report::default();
    let mut owed = BTreeSet::new();
    match own {
        Some(own) => {
            start(directory, (commands, own), limit, memory).await;
            said.data.clone_from(&memory.data);
        }
        None => (memory.prepared, memory.started) = (None, None),
    }
    if own.is_none() || memory.started.is_some() {
        // What nothing was told of there is nothing to take back of.
        let is_silent = |known: &Known| known.by.as_ref().is_some_and(Vec::is_empty);
        memory.told.retain(|subnet, known| !is_silent(known) || peers.get(subnet) == Some(&known.told));
        let stale = |(subnet, known): &(&String, &Known)| peers.get(*subnet) != Some(&known.told);
        let stale = memory.told.iter().filter(stale);
        let stale: Vec<(String, Told)> =
            stale.map(|(subnet, known)| (subnet.clone(), known.told.clone())).collect();
        owed.extend(stale.iter().map(|(subnet, _)| format!("subnetRemove {subnet}")));
        for (subnet, _) in
            many(directory, ("subnetRemove", &commands.subnet_remove), stale, limit, memory).await
        {
            memory.told.remove(&subnet);
        }
        // Another program than before is told of all, but for a subnet whose removal is still owed.
        let by = &commands.subnet_add;
        let is_new = |(subnet, told): &(&String, &Told)| {
            let is_other =
                |known: &Known| known.told == **told && known.by.as_ref() != Some(by) && !by.is_empty();
            memory.told.get(*subnet).is_none_or(is_other)
        };
        let new = peers.iter().filter(is_new);
        let new: Vec<(String, Told)> = new.map(|(subnet, told)| (subnet.clone(), told.clone())).collect();
        owed.extend(new.iter().map(|(subnet, _)| format!("subnetAdd {subnet}")));
        let added = many(directory, ("subnetAdd", by), new, limit, memory).await;
        let known = |(subnet, told)| (subnet, Known { told, by: Some(by.clone()) });
        memory.told.extend(added.into_iter().map(known));
        if let Err(error) = write(&places.file, &memory.told) {
            said.failed.push(format!("cannot write {}: {error}", places.file.display()));
        }
    } else {
        owed.extend(
            start_commands(commands).filter(|(_, words)| !words.is_empty()).map(|(name, _)| name.to_owned()),
        );
    }
    // What nobody asks for any more is no failure, and nothing to wake up for.
    memory.retries.retain(|key, _| owed.contains(key));
    said.failed.extend(memory.retries.values().map(|retry| retry.why.clone()));
    said
}

fn start_commands(commands: &ExtensionParameters) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
    [("preStartup", &commands.pre_startup), ("postStartup", &commands.post_startup)].into_iter()
}

/// Runs `preStartup` and `postStartup` once for the same facts; each again until it has gone well.
async fn start(
    directory: &Path,
    (commands, own): (&ExtensionParameters, &Environment),
    limit: Duration,
    memory: &mut Memory,
) {
    let facts = (commands.clone(), own.clone());
    if memory.started.as_ref() == Some(&facts) {
        return;
    }
    memory.started = None;
    for (name, words) in start_commands(commands) {
        let is_prepared = name == "preStartup" && memory.prepared.as_ref() == Some(&facts);
        if words.is_empty() || is_prepared {
            continue;
        }
        if !memory.is_due(name) {
            return;
        }
        let outcome = command::run(directory, words, own, "", limit).await;
        let printed = memory.note(name, outcome);
        let Some(printed) = printed else { return };
        if name == "preStartup" {
            memory.data = Some(printed);
            memory.prepared = Some(facts.clone());
        }
    }
    if commands.pre_startup.is_empty() {
        memory.data = None;
    }
    memory.started = Some(facts);
}

/// Runs a program for each of them, some at a time; those for which it went well.
async fn many(
    directory: &Path,
    (name, words): (&str, &[String]),
    all: Vec<(String, Told)>,
    limit: Duration,
    memory: &mut Memory,
) -> Vec<(String, Told)> {
    let due = all.into_iter().filter(|(subnet, _)| memory.is_due(&format!("{name} {subnet}")));
    let runs = due.map(|(subnet, told)| async move {
        let outcome = if words.is_empty() {
            Ok(String::new())
        } else {
            command::run(directory, words, &told.environment, &told.data, limit).await
        };
        (subnet, told, outcome)
    });
    let done: Vec<_> = stream::iter(runs.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
    let mut well = vec![];
    for (subnet, told, outcome) in done {
        if memory.note(&format!("{name} {subnet}"), outcome).is_some() {
            well.push((subnet, told));
        }
    }
    well
}

impl Memory {
    fn is_due(&self, key: &str) -> bool {
        self.retries.get(key).is_none_or(|retry| retry.at <= Instant::now())
    }

    /// What it printed, where it went well.
    fn note(&mut self, key: &str, outcome: Result<String, CommandError>) -> Option<String> {
        match outcome {
            Ok(printed) => {
                tracing::debug!(command = key, "ran");
                self.retries.remove(key);
                Some(printed)
            }
            Err(error) => {
                let why = format!("backends.extension.{key}: {}", chain(&error));
                tracing::debug!(why, "failed");
                let delay =
                    self.retries.get(key).map_or(FIRST_RETRY, |retry| (retry.delay * 2).min(LONGEST_RETRY));
                self.retries.insert(key.to_owned(), Retry { at: Instant::now() + delay, delay, why });
                None
            }
        }
    }
}

fn all(commands: &ExtensionParameters) -> impl Iterator<Item = &Vec<String>> {
    let ExtensionParameters { pre_startup, post_startup, subnet_add, subnet_remove, timeout_seconds: _ } =
        commands;
    [pre_startup, post_startup, subnet_add, subnet_remove].into_iter()
}

/// Nothing, where there is no file: programs are told anew, as after a reboot.
fn read(file: &Path) -> BTreeMap<String, Known> {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The file that tells what was told, and the one that takes its place next.
pub fn files(file: &Path) -> [PathBuf; 2] {
    [file.to_owned(), file.with_extension("next")]
}

/// Whole or not at all; not at all where it says so already.
fn write(file: &Path, told: &BTreeMap<String, Known>) -> Result<(), std::io::Error> {
    if read(file) == *told {
        return Ok(());
    }
    let [file, next] = &files(file);
    std::fs::write(next, serde_json::to_vec(told)?)?;
    std::fs::rename(next, file)
}
