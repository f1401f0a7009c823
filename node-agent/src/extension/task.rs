//! The task that tells programs. It holds the newest [`Wanted`] and repeats what failed, each on its own delay, so that
//! one peer keeps back no other.
//!
//! What was told is written down as it goes, so that an agent that is started anew, or dies, knows it.

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

/// What programs were told; in `/run`, and so gone after a reboot, as is what they made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Saved {
    /// For which the programs of the start were last run.
    facts: Option<Facts>,
    /// `preStartup` went well, and `postStartup`.
    prepared: bool,
    started: bool,
    /// What `preStartup` printed last.
    data: Option<String>,
    /// By subnet.
    told: BTreeMap<String, Known>,
}

/// The programs of the start, and what they are told of this node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Facts {
    pre_startup: Vec<String>,
    post_startup: Vec<String>,
    own: Environment,
}

/// What was told of a subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    told: Told,
    /// The words of the `subnetAdd` that was told; none where there was none to tell. `None` where it may have been undone
    /// since, by the programs of the start or by a `subnetRemove` that did not end well.
    by: Option<Vec<String>>,
}

/// When something that failed is tried again.
#[derive(Clone, Debug)]
struct Retry {
    /// Other words are tried at once.
    words: Vec<String>,
    at: Instant,
    delay: Duration,
    why: String,
}

struct Teller {
    directory: PathBuf,
    file: PathBuf,
    limit: Duration,
    saved: Saved,
    /// What the file says.
    written: Saved,
    /// Why it does not say what it should.
    unwritten: Option<String>,
    retries: BTreeMap<String, Retry>,
}

/// Tells until the sender is gone.
pub async fn run(places: Places, mut wanted: watch::Receiver<Option<Wanted>>, report: watch::Sender<Report>) {
    let mut teller = places.directory.map(|directory| Teller::new(directory, places.file));
    loop {
        let want = wanted.borrow_and_update().clone();
        if let Some(want) = want {
            let said = match &mut teller {
                Some(teller) => teller.tell(&want).await,
                None => nobody(&want),
            };
            report.send_if_modified(|held| {
                let differs = *held != said;
                *held = said;
                differs
            });
        }
        let due = teller.iter().flat_map(|teller| teller.retries.values()).map(|retry| retry.at).min();
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

/// Where no program may be run.
fn nobody(Wanted { commands, own, .. }: &Wanted) -> Report {
    let ExtensionParameters { pre_startup, post_startup, subnet_add, subnet_remove, timeout_seconds: _ } =
        commands;
    let mut all = [pre_startup, post_startup, subnet_add, subnet_remove].into_iter();
    let asked = own.is_some() && all.any(|words| !words.is_empty());
    let why = "programs of backends.extension are not run on this node: start its agent with --extension-commands-from (the chart: agent.extensionCommandsFrom)";
    Report { data: None, failed: if asked { vec![why.to_owned()] } else { vec![] } }
}

impl Teller {
    fn new(directory: PathBuf, file: PathBuf) -> Self {
        let saved = read(&file);
        let (written, limit) = (saved.clone(), Duration::ZERO);
        Self { directory, file, limit, saved, written, unwritten: None, retries: BTreeMap::new() }
    }

    /// One pass: programs of the start, what is no more, what is new.
    async fn tell(&mut self, Wanted { commands, own, peers }: &Wanted) -> Report {
        self.limit = Duration::from_secs(u64::try_from(commands.timeout_seconds).unwrap_or(10));
        let mut data = None;
        let mut owed = BTreeSet::new();
        match own {
            Some(own) => {
                owed.extend(self.start(commands, own).await.map(str::to_owned));
                data.clone_from(&self.saved.data);
            }
            None => self.saved.facts = None,
        }
        if owed.is_empty() {
            owed.extend(self.take_back(&commands.subnet_remove, peers).await);
            owed.extend(self.tell_new(&commands.subnet_add, peers).await);
        }
        self.save();
        // What nobody asks for any more is no failure, and nothing to wake up for.
        self.retries.retain(|key, _| owed.contains(key));
        let failed = self.retries.values().map(|retry| &retry.why).chain(&self.unwritten).cloned().collect();
        Report { data, failed }
    }

    /// Runs `preStartup` and `postStartup` once for the same facts. The answer is the one that is to be tried again.
    async fn start(&mut self, commands: &ExtensionParameters, own: &Environment) -> Option<&'static str> {
        let ExtensionParameters { pre_startup, post_startup, .. } = commands.clone();
        let facts = Facts { pre_startup, post_startup, own: own.clone() };
        if self.saved.facts.as_ref() != Some(&facts) {
            (self.saved.prepared, self.saved.started) = (false, false);
            self.saved.facts = Some(facts);
        }
        if !self.saved.prepared {
            let words = &commands.pre_startup;
            if words.is_empty() {
                self.saved.data = None;
            } else if let Some(printed) = self.begin("preStartup", words, own).await {
                self.saved.data = Some(printed);
            } else {
                return Some("preStartup");
            }
            self.saved.prepared = true;
        }
        if !self.saved.started {
            let words = &commands.post_startup;
            if !words.is_empty() && self.begin("postStartup", words, own).await.is_none() {
                return Some("postStartup");
            }
            self.saved.started = true;
        }
        None
    }

    /// Runs one of them. It may make devices anew, and undo what was told of peers.
    async fn begin(&mut self, name: &str, words: &[String], own: &Environment) -> Option<String> {
        if !self.is_due(name, words) {
            return None;
        }
        for known in self.saved.told.values_mut().filter(|known| !known.is_silent()) {
            known.by = None;
        }
        self.save();
        let outcome = command::run(&self.directory, words, own, "", self.limit).await;
        self.note(name, words, outcome)
    }

    /// The answer is what is to be taken back, also where that did not go well or waits.
    async fn take_back(&mut self, words: &[String], peers: &BTreeMap<String, Told>) -> Vec<String> {
        let told = &mut self.saved.told;
        // What nothing was told of there is nothing to take back of.
        told.retain(|subnet, known| !known.is_silent() || peers.get(subnet) == Some(&known.told));
        let mut stale = vec![];
        for (subnet, known) in
            told.iter_mut().filter(|(subnet, known)| peers.get(*subnet) != Some(&known.told))
        {
            // Until it has gone well.
            known.by = None;
            stale.push((subnet.clone(), known.told.clone()));
        }
        if stale.is_empty() {
            return vec![];
        }
        self.save();
        let forget = |told: &mut BTreeMap<String, Known>, subnet: String, _| _ = told.remove(&subnet);
        self.many(("subnetRemove", words), stale, forget).await
    }

    /// Tells what is new, and of all peers a program that is another than before.
    async fn tell_new(&mut self, words: &[String], peers: &BTreeMap<String, Told>) -> Vec<String> {
        let is_new = |(subnet, told): &(&String, &Told)| match self.saved.told.get(*subnet) {
            None => true,
            // Its removal is owed.
            Some(known) if known.told != **told => false,
            Some(known) => !words.is_empty() && known.by.as_deref() != Some(words),
        };
        let new = peers.iter().filter(is_new).map(|(subnet, told)| (subnet.clone(), told.clone())).collect();
        let remember = |all: &mut BTreeMap<String, Known>, subnet, told| {
            all.insert(subnet, Known { told, by: Some(words.to_vec()) });
        };
        self.many(("subnetAdd", words), new, remember).await
    }

    /// Runs a program for each of them, some at a time, and does with those for which it went well what is said. The
    /// answer is all of them, by the names of their retries.
    async fn many(
        &mut self,
        (name, words): (&str, &[String]),
        all: Vec<(String, Told)>,
        well: impl Fn(&mut BTreeMap<String, Known>, String, Told),
    ) -> Vec<String> {
        let key = |subnet: &str| format!("{name} {subnet}");
        let keys = all.iter().map(|(subnet, _)| key(subnet)).collect();
        let (directory, limit) = (self.directory.clone(), self.limit);
        let runs =
            all.into_iter().filter(|(subnet, _)| self.is_due(&key(subnet), words)).map(|(subnet, told)| {
                let directory = &directory;
                async move {
                    let outcome = if words.is_empty() {
                        Ok(String::new())
                    } else {
                        command::run(directory, words, &told.environment, &told.data, limit).await
                    };
                    (subnet, told, outcome)
                }
            });
        let mut runs = stream::iter(runs.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut done = 0_usize;
        while let Some((subnet, told, outcome)) = runs.next().await {
            if self.note(&key(&subnet), words, outcome).is_some() {
                well(&mut self.saved.told, subnet, told);
                done += 1;
                if done.is_multiple_of(AT_ONCE) {
                    self.save();
                }
            }
        }
        keys
    }

    fn is_due(&self, key: &str, words: &[String]) -> bool {
        self.retries.get(key).is_none_or(|retry| retry.words != words || retry.at <= Instant::now())
    }

    /// What it printed, where it went well.
    fn note(&mut self, key: &str, words: &[String], outcome: Result<String, CommandError>) -> Option<String> {
        match outcome {
            Ok(printed) => {
                tracing::debug!(command = key, "ran");
                self.retries.remove(key);
                Some(printed)
            }
            Err(error) => {
                let why = format!("backends.extension.{key}: {}", chain(&error));
                tracing::debug!(why, "failed");
                let before = self.retries.get(key).filter(|retry| retry.words == words);
                let delay = before.map_or(FIRST_RETRY, |retry| (retry.delay * 2).min(LONGEST_RETRY));
                let retry = Retry { words: words.to_vec(), at: Instant::now() + delay, delay, why };
                self.retries.insert(key.to_owned(), retry);
                None
            }
        }
    }

    /// Whole or not at all; not at all where it says so already.
    fn save(&mut self) {
        if self.saved == self.written && self.unwritten.is_none() {
            return;
        }
        let [file, next] = &files(&self.file);
        let bytes = serde_json::to_vec(&self.saved).map_err(std::io::Error::from);
        let outcome =
            bytes.and_then(|bytes| std::fs::write(next, bytes)).and_then(|()| std::fs::rename(next, file));
        self.unwritten = match outcome {
            Ok(()) => {
                self.written.clone_from(&self.saved);
                None
            }
            Err(error) => Some(format!("cannot write {}: {error}", file.display())),
        };
    }
}

impl Known {
    /// No program was told.
    fn is_silent(&self) -> bool {
        self.by.as_ref().is_some_and(Vec::is_empty)
    }
}

/// Nothing, where there is no file: programs are told anew, as after a reboot.
fn read(file: &Path) -> Saved {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The file that tells what was told, and the one that takes its place next.
pub fn files(file: &Path) -> [PathBuf; 2] {
    [file.to_owned(), file.with_extension("next")]
}
