//! The directory of one lab: what it has started, where its files are, who owns it.
//!
//! Everything is written down before or as it is made, so that a lab whose owner was killed can be removed completely
//! by whoever comes next: [`remove_leftovers`] at every start, `down` by hand. Nothing outside such a directory is ever
//! removed by it, except the processes and cgroups that are written there.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

use crate::process::{Identity, Process, kill_all};
use crate::progress::say;
use crate::run::{command, run};

/// There where the newer cgroups are the only ones.
const CONTROLLERS: &str = "/sys/fs/cgroup/cgroup.subtree_control";

/// How long a lab lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// Until it is dropped, or this process ends in any way.
    #[default]
    Scoped,
    /// Until it is taken down by name.
    Kept,
}

#[derive(Debug)]
pub(crate) struct Home {
    name: String,
    path: PathBuf,
    lifetime: Lifetime,
}

impl Home {
    /// A directory for a lab of this name. Removes what dead labs have left first.
    pub(crate) fn create(name: &str, lifetime: Lifetime) -> Result<Self> {
        let base = base()?;
        let _guard = lock(&base)?;
        sweep(&base)?;
        let path = base.join(name);
        if path.exists() {
            bail!("a lab named {name} is up ({}); take it down first", path.display());
        }
        fs::create_dir_all(path.join("log"))?;
        let owner = Identity::own()?;
        let line = match lifetime {
            Lifetime::Scoped => format!("{} {}\n", owner.pid, owner.started),
            Lifetime::Kept => "kept\n".to_owned(),
        };
        fs::write(path.join("owner"), line)?;
        Ok(Self { name: name.to_owned(), path, lifetime })
    }

    /// A directory with a name that nobody else has.
    pub(crate) fn create_unique(kind: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::create(&format!("{kind}-{}-{count}", std::process::id()), Lifetime::Scoped)
    }

    /// The directory of a kept lab.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let path = base()?.join(name);
        if !path.join("owner").exists() {
            bail!("no lab named {name} is up");
        }
        Ok(Self { name: name.to_owned(), path, lifetime: Lifetime::Kept })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.path.join("log").join(format!("{process}.log"))
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.lifetime == Lifetime::Kept
    }

    /// Starts a background process that belongs to this lab.
    pub(crate) fn start(&self, name: &str, command: &Command) -> Result<Process> {
        let process = Process::start(name, command, &self.log(name), self.is_kept())?;
        let Identity { pid, started } = process.identity();
        self.note("processes", &format!("{pid} {started} {name}"))?;
        Ok(process)
    }

    /// The newest process of that name which still runs, for an attached lab.
    pub(crate) fn find(&self, name: &str) -> Option<Process> {
        let (_, identity) = self
            .processes()
            .into_iter()
            .rev()
            .find(|(known, identity)| known == name && identity.is_running())?;
        Some(Process::adopt(name, identity, &self.log(name)))
    }

    /// Writes down a directory of the cgroup file system that must not survive this lab.
    pub(crate) fn note_cgroup(&self, path: &Path) -> Result<()> {
        self.note("cgroups", &path.display().to_string())
    }

    /// Writes down a link of the host's that must not survive this lab.
    pub(crate) fn note_link(&self, name: &str) -> Result<()> {
        self.note("links", name)
    }

    /// On a host with the newer cgroups only: makes the root hand these controllers down, which it does only for those
    /// that some service has asked for. What is switched on here is written down and switched off again.
    pub(crate) fn enable_controllers(&self, wanted: &[&str]) -> Result<()> {
        let Ok(enabled) = fs::read_to_string(CONTROLLERS) else { return Ok(()) };
        for controller in wanted.iter().filter(|name| !enabled.split_whitespace().any(|have| have == **name))
        {
            self.note("controllers", controller)?;
            // A kernel may lack one of them; whether that matters is for the container runtime to say.
            let _ = fs::write(CONTROLLERS, format!("+{controller}"));
        }
        Ok(())
    }

    fn processes(&self) -> Vec<(String, Identity)> {
        read_processes(&self.path)
    }

    fn note(&self, file: &str, line: &str) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.path.join(file))?;
        // One write, so that parallel writers do not mix their lines.
        file.write_all(format!("{line}\n").as_bytes())?;
        Ok(())
    }

    /// Kills what belongs to this lab and removes its directory.
    pub(crate) fn remove(&self) -> Result<()> {
        let _guard = lock(&base()?)?;
        demolish(&self.path)
    }

    /// The last lines of every log, for a test that is failing.
    pub(crate) fn tell_logs(&self) {
        tell_logs(&self.path.join("log"));
    }
}

fn tell_logs(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            tell_logs(&path);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default();
        if !tail.is_empty() {
            say(&format!("--- the end of {}\n{}", path.display(), tail.join("\n")));
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.is_kept() {
            return;
        }
        if std::thread::panicking() {
            self.tell_logs();
        }
        if let Err(error) = self.remove() {
            say(&format!("{} is not completely removed: {error:#}", self.name));
        }
    }
}

/// Removes every lab whose owner has died. Every start does it; so may anybody.
pub fn remove_leftovers() -> Result<()> {
    let base = base()?;
    let _guard = lock(&base)?;
    sweep(&base)
}

/// Removes the lab of this name, whoever owns it. One that is not there is removed already.
pub(crate) fn demolish_named(name: &str) -> Result<()> {
    let base = base()?;
    let _guard = lock(&base)?;
    let path = base.join(name);
    if name.is_empty() || name.contains('/') {
        bail!("{name:?} is no name of a lab");
    }
    if !path.is_dir() {
        return Ok(());
    }
    demolish(&path)
}

/// Where labs live: not a temporary directory that others may write to, and on a disk, not in memory.
fn base() -> Result<PathBuf> {
    let base = if Uid::effective().is_root() {
        PathBuf::from("/var/cache/tartan-lab")
    } else {
        crate::prerequisites::cache()?.join("labs")
    };
    fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
    Ok(base)
}

fn lock(base: &Path) -> Result<Flock<File>> {
    let file = File::create(base.join(".lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the labs")
}

fn sweep(base: &Path) -> Result<()> {
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        if path.is_dir() && is_abandoned(&path) {
            say(&format!("removing {}, whose owner has died", path.display()));
            demolish(&path)?;
        }
    }
    Ok(())
}

fn is_abandoned(path: &Path) -> bool {
    // Directory and owner are made under the lock: one without an owner was left between the two.
    let owner = fs::read_to_string(path.join("owner")).unwrap_or_default();
    owner.trim() != "kept" && !parse_identity(&owner).is_some_and(|(identity, _)| identity.is_running())
}

fn demolish(path: &Path) -> Result<()> {
    // Until the owner's name is gone the rest can be tried again.
    let processes: Vec<Identity> = read_processes(path).into_iter().map(|(_, identity)| identity).collect();
    kill_all(&processes)?;
    // The kernel removes a link with the namespace of its other end. But a connection that a killed program left half
    // closed keeps its namespace for a minute or two.
    for link in fs::read_to_string(path.join("links")).unwrap_or_default().lines() {
        run(&mut command(&["ip", "link", "delete", link]))?;
        if Path::new("/sys/class/net").join(link).exists() {
            bail!("the link {link} cannot be removed");
        }
    }
    for cgroup in fs::read_to_string(path.join("cgroups")).unwrap_or_default().lines() {
        remove_cgroup(Path::new(cgroup))?;
    }
    for controller in fs::read_to_string(path.join("controllers")).unwrap_or_default().lines() {
        // The kernel refuses while somebody else, such as another lab, hands it on.
        let _ = fs::write(CONTROLLERS, format!("-{controller}"));
    }
    fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
}

/// Kills what is left in a cgroup and removes it with its children. Files there cannot be removed, only directories.
fn remove_cgroup(path: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let members: Vec<Identity> = members.lines().filter_map(|pid| Identity::of(pid.parse().ok()?)).collect();
    kill_all(&members)?;
    crate::wait::eventually_ok(
        "removing a cgroup",
        std::time::Duration::from_secs(5),
        || match fs::remove_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        },
    )
}

fn read_processes(path: &Path) -> Vec<(String, Identity)> {
    let text = fs::read_to_string(path.join("processes")).unwrap_or_default();
    text.lines().filter_map(parse_identity).map(|(identity, name)| (name.to_owned(), identity)).collect()
}

fn parse_identity(line: &str) -> Option<(Identity, &str)> {
    let mut words = line.trim().splitn(3, ' ');
    let identity = Identity { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? };
    Some((identity, words.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_processes() {
        let home = Home::create_unique("unit").unwrap();
        let process = home.start("sleeper", &command(&["sleep", "600"])).unwrap();
        let (path, identity) = (home.path().to_owned(), process.identity());
        assert_eq!(home.find("sleeper").map(|found| found.identity()), Some(identity));
        drop(home);
        assert!(!identity.is_running());
        assert!(!path.exists());
    }

    #[test]
    fn a_lab_of_a_dead_owner_is_removed_by_the_next_start() {
        let home = Home::create_unique("unit").unwrap();
        let process = home.start("sleeper", &command(&["sleep", "600"])).unwrap();
        let identity = process.identity();
        fs::write(home.join("owner"), "1 1\n").unwrap();
        assert!(is_abandoned(home.path()));
        remove_leftovers().unwrap();
        assert!(!home.path().exists());
        assert!(!identity.is_running());
        std::mem::forget(home);
    }

    #[test]
    fn a_kept_lab_is_not_a_leftover() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("owner"), "kept\n").unwrap();
        assert!(!is_abandoned(directory.path()));
    }
}
