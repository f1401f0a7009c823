//! A network namespace with its own mounts and host name, held open by one sleeping process.
//!
//! Nothing is pinned in the file system: when the holder dies, the kernel takes the namespace with everything in it,
//! links, addresses, mounts. That is why a killed lab leaves neither.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::home::Home;
use crate::process::{Identity, Process, dying_with_us};
use crate::run::{Output, command, run};
use crate::wait::{eventually, eventually_ok};

/// Where Debian puts the standard CNI plugins.
pub(crate) const PACKAGED_PLUGINS: &str = "/usr/lib/cni";

/// What a node has of its own: written there, it is written below the node's disk, and the host's stays as it is.
const OWN_DIRECTORIES: [&str; 4] = ["/etc", "/opt", "/var/lib", "/var/log"];

/// A place to run commands in.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    holder: Process,
    /// Whose mounts and host name it has; usually the holder's.
    mounts: i32,
    home: Arc<Home>,
}

impl Namespace {
    /// A network namespace that otherwise sees the host. `inside` is another one whose mounts and host name it shares.
    pub(crate) fn create(home: &Arc<Home>, name: &str, inside: Option<&Self>) -> Result<Self> {
        let mut holder = Command::new("unshare");
        if let Some(outer) = inside {
            holder = outer.command("unshare");
            holder.arg("--net");
        } else {
            holder.args(["--net", "--mount", "--uts", "--propagation", "private"]);
        }
        holder.args(["--", "sleep", "infinity"]);
        let holder = home.start(&holder_name(name), &holder)?;
        let comm = format!("/proc/{}/comm", holder.pid());
        eventually(&format!("the namespace {name}"), Duration::from_secs(20), || {
            fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == "sleep")
        })
        .with_context(|| holder.output())?;
        let namespace = Self { name: name.to_owned(), mounts: holder.pid(), holder, home: Arc::clone(home) };
        namespace.script("ip link set lo up")?;
        if inside.is_none() {
            namespace.exec(&["hostname", name])?.ok()?;
        }
        Ok(namespace)
    }

    /// One that a kept lab has.
    pub(crate) fn find(home: &Arc<Home>, name: &str) -> Option<Self> {
        let holder = home.find(&holder_name(name))?;
        Some(Self { name: name.to_owned(), mounts: holder.pid(), holder, home: Arc::clone(home) })
    }

    /// The network of a process that somebody else has started, with the files of `outer`.
    pub(crate) fn of_process(home: &Arc<Home>, name: &str, process: Identity, outer: &Self) -> Self {
        let holder = Process::adopt(name, process, &home.log(name));
        Self { name: name.to_owned(), holder, mounts: outer.mounts, home: Arc::clone(home) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that holds the namespace open: `nsenter --target PID`.
    pub fn pid(&self) -> i32 {
        self.holder.pid()
    }

    /// `/proc/PID/ns/net`.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    /// The words to put before a command so that it runs here.
    pub fn enter(&self) -> Vec<String> {
        let net = format!("--net=/proc/{}/ns/net", self.pid());
        let mount = format!("--mount=/proc/{}/ns/mnt", self.mounts);
        let uts = format!("--uts=/proc/{}/ns/uts", self.mounts);
        vec!["nsenter".to_owned(), net, mount, uts, "--".to_owned()]
    }

    /// A command that will run here; its working directory is `/`.
    pub fn command(&self, program: &str) -> Command {
        let mut words = self.enter().into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(program);
        command
    }

    /// Runs a command here to its end.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        let mut command = dying_with_us();
        command.args(self.enter()).args(words);
        run(&mut command)
    }

    /// Runs a shell script here; it stops at the first command that fails, which is an error.
    pub fn script(&self, script: &str) -> Result<Output> {
        self.exec(&["sh", "-euc", script])?.ok()
    }

    /// Waits until these devices carry packets: the kernel activates a device some time after its cable is plugged in,
    /// up to a second on a busy machine, and drops what is sent before.
    pub(crate) fn wait_up(&self, devices: &[&str]) -> Result<()> {
        eventually_ok(
            &format!("{} in state UP in {}", devices.join(", "), self.name),
            Duration::from_secs(10),
            || {
                for device in devices {
                    let shown = self.exec(&["ip", "link", "show", "dev", device])?.ok()?.stdout;
                    anyhow::ensure!(shown.contains("state UP"), "{shown}");
                }
                Ok(())
            },
        )
    }

    /// Starts a command here in the background, under a name that its log has too. Its pid is the command's own.
    pub fn spawn(&self, name: &str, words: &[&str]) -> Result<Process> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut command = self.command(program);
        command.args(arguments);
        self.start(name, &command)
    }

    /// As [`Namespace::spawn`], of a command made by [`Namespace::command`].
    pub fn start(&self, name: &str, command: &Command) -> Result<Process> {
        self.home.start(&format!("{}.{name}", self.name), command)
    }

    /// Gives it directories of its own over the host's, kept on `disk`, an empty `/run`, and a `/sys` that shows its
    /// devices.
    pub(crate) fn own_directories(&self, disk: &Path) -> Result<()> {
        let mut script = String::new();
        for directory in OWN_DIRECTORIES {
            let layer = disk.join(layer_name(directory));
            let (upper, work) = (layer.join("files"), layer.join("work"));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            script.push_str(&format!(
                "mount -t overlay overlay -o lowerdir={directory},upperdir={},workdir={} {directory}\n",
                upper.display(),
                work.display()
            ));
        }
        script.push_str(
            "mount -t tmpfs -o mode=755 tmpfs /run
             mkdir /run/lock /run/cgroup
             mount --rbind /sys/fs/cgroup /run/cgroup
             mount -t sysfs sysfs /sys
             mount --rbind /run/cgroup /sys/fs/cgroup
             umount --recursive /run/cgroup
             rmdir /run/cgroup",
        );
        self.script(&script)?;
        Ok(())
    }

    /// Ends the namespace and whatever the lab knows of in it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.holder.kill()
    }
}

/// Where on a node's disk the files are that it has written below its own directories.
pub(crate) fn own_files(disk: &Path) -> Vec<(&'static str, PathBuf)> {
    OWN_DIRECTORIES.map(|directory| (directory, disk.join(layer_name(directory)).join("files"))).into()
}

fn layer_name(directory: &str) -> String {
    directory.trim_start_matches('/').replace('/', "-")
}

fn holder_name(name: &str) -> String {
    format!("namespace-{name}")
}

/// The host's own namespace, for the one veth end that may be there.
pub(crate) fn on_host(script: &str) -> Result<()> {
    run(&mut command(&["sh", "-euc", script]))?.ok()?;
    Ok(())
}

/// Does something in a network namespace, by the path of its file: what is opened there stays there.
pub fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = File::open(netns).with_context(|| netns.display().to_string())?;
    // A thread has a network of its own; this one keeps the one that it has.
    std::thread::scope(|scope| {
        let there = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            Ok(work())
        });
        there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
