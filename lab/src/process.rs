//! Processes that live as long as they should and no longer.
//!
//! A process of the lab is killed by the kernel when the process that started it ends, however it ends
//! (`PR_SET_PDEATHSIG`). The kernel ties that to the *thread* that forked, and a test's thread ends before others that
//! share its cluster; so one thread that never ends does all the forking. A kept process gets a session of its own
//! instead. Processes are known by pid and start time, so that a recycled pid is never killed.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{eventually, pause};

const REAP: Duration = Duration::from_secs(20);

/// A pid that cannot be mistaken for a later process with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat`.
    pub(crate) started: u64,
}

impl Identity {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        (!stat.has_ended()).then_some(Self { pid, started: stat.started })
    }

    pub(crate) fn own() -> Result<Self> {
        let pid = i32::try_from(std::process::id())?;
        Self::of(pid).context("read /proc/self/stat")
    }

    pub(crate) fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal` if it is still that process.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_running() {
            // It may end between the two lines, which is what was wanted.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// A program that the lab started in the background. Dropping it kills it, unless it belongs to something kept.
#[derive(Debug)]
pub struct Process {
    name: String,
    identity: Identity,
    child: Option<Child>,
    log: PathBuf,
    /// Where its own part of the log begins; earlier runs of that name are before it.
    log_start: u64,
    kept: bool,
}

impl Process {
    /// Starts `command` with its output going to `log`. `kept` processes outlive this one.
    pub(crate) fn start(name: &str, command: &Command, log: &Path, kept: bool) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let log_start = file.metadata()?.len();
        let mut command = bound(command, kept);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = fork(command).with_context(|| format!("start {name}"))?;
        let pid = i32::try_from(child.id())?;
        // An unwaited child keeps its stat, also as a zombie.
        let Stat { started, .. } =
            Stat::of(pid).with_context(|| format!("{name} is gone before it began"))?;
        wait_for_exec(pid);
        Ok(Self {
            name: name.to_owned(),
            identity: Identity { pid, started },
            child: Some(child),
            log: log.to_owned(),
            log_start,
            kept,
        })
    }

    /// A process that another one started and kept.
    pub(crate) fn adopt(name: &str, identity: Identity, log: &Path) -> Self {
        Self { name: name.to_owned(), identity, child: None, log: log.to_owned(), log_start: 0, kept: true }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything that it has printed so far.
    pub fn output(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_start))?;
            file.read_to_end(&mut text)
        });
        // A log that cannot be read is as good as an empty one to whoever waits for a line in it.
        read.map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.identity.is_running()
    }

    pub fn signal(&self, signal: Signal) {
        self.identity.signal(signal);
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL);
        self.wait(REAP)
    }

    /// SIGTERM, then SIGKILL after `grace`; an error when the second was needed.
    pub fn stop(&mut self, grace: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM);
        if self.wait(grace).is_ok() {
            return Ok(());
        }
        self.kill()?;
        bail!("{} did not end within {grace:?} of SIGTERM", self.name)
    }

    /// Waits until it ends by itself. Its exit status is not looked at: see [`Process::exit_code`].
    pub fn wait(&mut self, deadline: Duration) -> Result<()> {
        let (identity, name) = (self.identity, self.name.clone());
        eventually(&format!("the end of {name}"), deadline, || !identity.is_running())?;
        self.reap();
        Ok(())
    }

    /// The exit code of a process that this one started and that has ended by itself.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.as_mut()?.try_wait().ok().flatten()?.code()
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept && self.child.is_some() {
            // Nothing can be done here about a process that survives SIGKILL; the registry has it.
            let _ = self.kill();
        }
    }
}

/// Kills all of them and waits for the end of each.
pub(crate) fn kill_all(identities: &[Identity]) -> Result<()> {
    for identity in identities {
        identity.signal(Signal::SIGKILL);
    }
    let start = Instant::now();
    while identities.iter().any(|identity| identity.is_running()) {
        if start.elapsed() > REAP {
            bail!("processes survive SIGKILL: {identities:?}");
        }
        pause(Duration::from_millis(10));
    }
    Ok(())
}

/// `command` so that it dies with the thread that forks it, or, kept, so that no signal of our terminal reaches it.
fn bound(command: &Command, kept: bool) -> Command {
    let mut outer = if kept {
        let mut outer = Command::new("setsid");
        outer.arg("--");
        outer
    } else {
        let mut outer = dying_with_us();
        // Ctrl-C is for the one that we die with. (setsid would fork if it led a group already.)
        outer.process_group(0);
        outer
    };
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    outer
}

/// Waits until the programs that only prepare (they all `exec`) have made way for the command itself, so that whoever
/// looks at the process, or sends it a signal, meets the right one.
fn wait_for_exec(pid: i32) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let name = program.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let preparing = matches!(name, Some("setpriv" | "setsid" | "nsenter"));
        if !preparing {
            return;
        }
        pause(Duration::from_millis(2));
    }
}

/// A prefix for a command that must not outlive the calling thread.
pub(crate) fn dying_with_us() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command
}

/// What is asked of `/proc/PID/stat`, proc_pid_stat(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    threads: u32,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The program name is in parentheses and may itself contain anything.
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let threads = fields.nth(16)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        Some(Self { state, threads, started })
    }

    /// The first thread of a killed process is a zombie from its own end on. Until the others have ended too, the
    /// process holds what it had open: the port that its successor wants.
    fn has_ended(self) -> bool {
        self.state == 'Z' && self.threads <= 1
    }
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Forks in the thread that never ends.
fn fork(command: Command) -> Result<Child> {
    static FORKER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = mpsc::channel();
    let forker = forker.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    forker.send((command, sender)).context("the forking thread is gone")?;
    Ok(answer.recv().context("the forking thread is gone")??)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::command;

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it_and_dies_when_dropped() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let path = log.path().to_owned();
        let process = std::thread::spawn(move || {
            Process::start("sleeper", &command(&["sleep", "600"]), &path, false).unwrap()
        })
        .join()
        .unwrap();
        let identity = process.identity();
        assert!(process.is_running());
        drop(process);
        assert!(!identity.is_running());
    }

    #[test]
    fn a_process_has_ended_when_its_last_thread_has() {
        let zombie = |threads| {
            let text = format!("7 (a) Z b) Z 6 5 4 0 -1 4 9 6 1 2 7 4 2 6 20 0 {threads} 0 6910786 0 0");
            Stat::parse(&text).unwrap()
        };
        assert_eq!(zombie(2), Stat { state: 'Z', threads: 2, started: 6_910_786 });
        assert!(!zombie(2).has_ended());
        assert!(zombie(1).has_ended());
        assert!(!Stat { state: 'R', ..zombie(1) }.has_ended());
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let own = Identity::own().unwrap();
        assert!(own.is_running());
        assert!(!Identity { started: own.started + 1, ..own }.is_running());
    }
}
