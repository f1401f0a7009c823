//! [`Machine`]: a program in a virtual machine, for what this host's kernel lacks.
//!
//! A Debian kernel boots under qemu (without hardware support: nested machines have none), loads what pod networks
//! need, runs one program and ends. User space is there after a few seconds, so it is an ordinary test runner. The
//! machine has no disk, and no network device unless it is to reach an API server of this host
//! ([`Machine::reaching`]): what happens in it stays in it.
//!
//! The program may itself use this crate: [`crate::Fabric`] works there as it does here.

mod backports;
mod boot;
mod initramfs;
mod inside;
mod kernel;
mod strongswan;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub(crate) use inside::{HOST, HOSTS_NETWORK, NIC, OWN_ADDRESS};
pub use inside::{is_inside, kubeconfig, program};
pub use kernel::Kernel;

use crate::apiserver::ApiServer;
use crate::home::Home;
use crate::namespace::PACKAGED_PLUGINS;
use crate::prerequisites::{Program, Tool, require};
use crate::process::Process;
use crate::wait::eventually;
use boot::{BEGUN, booted};
use initramfs::Initramfs;
use inside::{INSIDE, PROGRAMS};

/// What the init program prints when the program has ended, before its exit status.
const ENDED: &str = "tartan-vm: ended with ";

/// A machine that is to run one program.
#[derive(Debug, Clone)]
pub struct Machine {
    kernel: Kernel,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<(PathBuf, PathBuf)>,
    /// With the libraries that they need.
    programs: Vec<(PathBuf, PathBuf)>,
    reaches_host: bool,
    strongswan: bool,
    memory: u32,
    kernel_options: &'static str,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// Exit status of the program.
    pub status: i32,
    /// Everything on the console.
    pub console: String,
    /// All boots included.
    pub took: Duration,
}

impl Report {
    /// The report of a program that must have succeeded; the error carries what was printed.
    pub fn ok(self) -> Result<Self> {
        if self.status == 0 {
            return Ok(self);
        }
        bail!("the program in the virtual machine ended with {}:\n{}", self.status, self.console)
    }
}

impl Machine {
    /// The shared libraries that `program` needs come with it.
    pub fn new(kernel: Kernel, program: impl Into<PathBuf>) -> Self {
        Self {
            kernel,
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            files: Vec::new(),
            programs: Vec::new(),
            reaches_host: false,
            strongswan: false,
            memory: 1024,
            kernel_options: "",
        }
    }

    /// For a program that uses this crate: everything that a fabric with nodes, pods, Services and traffic needs.
    pub fn with_lab(mut self) -> Result<Self> {
        require(&[Tool::Network, Tool::Kubernetes])?;
        for plugin in ["bridge", "host-local", "loopback", "portmap"] {
            let path = Path::new(PACKAGED_PLUGINS).join(plugin);
            self = self.program(&path, &path);
        }
        let traffic = crate::traffic::program()?;
        let proxy = Program::kubernetes("kube-proxy")?;
        Ok(self
            .program(traffic, Path::new(PROGRAMS).join("tartan-lab-traffic"))
            .program(proxy, Path::new(PROGRAMS).join("kube-proxy")))
    }

    /// Lets everything in the machine reach this API server of the host's: see [`crate::Fabric::host_api_server`].
    pub fn reaching(mut self, api: &ApiServer) -> Result<Self> {
        self.files.push((api.kubeconfig_for_machines()?, PathBuf::from(inside::KUBECONFIG)));
        self.reaches_host = true;
        Ok(self)
    }

    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|word| (*word).to_owned()));
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts a file of the host's there, with its mode.
    pub fn file(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.files.push((source.into(), target.into()));
        self
    }

    /// With strongSwan's daemon, `/usr/sbin/charon-systemd`, and its `swanctl`.
    pub fn strongswan(mut self) -> Self {
        self.strongswan = true;
        self
    }

    /// Puts a program of the host's there, with the libraries that it needs.
    pub fn program(mut self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.programs.push((source.into(), target.into()));
        self
    }

    /// Words for the kernel's command line, such as `ipv6.disable=1`.
    pub fn kernel_options(mut self, words: &'static str) -> Self {
        self.kernel_options = words;
        self
    }

    /// In MiB; 1024 unless told.
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Boots, runs the program to its end and stops. From user space on, each line of the console goes to `line` as it
    /// comes.
    /// An error where the machine doesn't boot, or isn't through within `limit` of that.
    pub fn run(&self, limit: Duration, mut line: impl FnMut(&str)) -> Result<Report> {
        require(&[Tool::Machines])?;
        let start = Instant::now();
        let qemu = backports::qemu()?;
        let kernel = self.kernel.unpack()?;
        let home = Home::create_unique("vm")?;
        let image = home.path().join("initramfs");
        let mut initramfs = Initramfs::new(File::create(&image)?);
        initramfs.add_tools()?;
        initramfs.add_modules(&kernel)?;
        if self.strongswan {
            strongswan::add(&mut initramfs)?;
        }
        let name =
            self.program.file_name().context("the program has no name")?.to_string_lossy().into_owned();
        initramfs.add_program(&self.program, &Path::new(PROGRAMS).join(&name))?;
        for (source, target) in &self.programs {
            initramfs.add_program(source, target)?;
        }
        for (source, target) in &self.files {
            initramfs.add_file(source, target)?;
        }
        initramfs.add_text("/init", &self.init(&name), 0o755)?;
        initramfs.finish()?;
        let console = home.path().join("console");
        let mut command = Command::new(qemu.program);
        command.env("LD_LIBRARY_PATH", qemu.libraries);
        for directory in qemu.firmware {
            command.arg("-L").arg(directory);
        }
        command.args(["-M", "q35", "-cpu", "max", "-smp", "2", "-accel", "tcg,thread=multi"]);
        command.args(["-m", &self.memory.to_string(), "-nographic", "-no-reboot", "-nodefaults"]);
        command.args(["-serial", "stdio", "-monitor", "none"]);
        if self.reaches_host {
            let network = format!("user,id=host,ipv6=off,net={HOSTS_NETWORK},host={HOST}");
            command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=host,romfile="]);
        }
        command.arg("-kernel").arg(kernel.image).arg("-initrd").arg(&image);
        command.args(["-append", &format!("console=ttyS0 quiet panic=-1 {}", self.kernel_options)]);
        let qemu = booted(boot::PATIENCE, || Process::start("qemu", &command, &console, false))?;
        let mut shown = 0;
        let mut show = |text: &str| {
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            text.get(shown..whole).unwrap_or_default().lines().for_each(|text| line(text.trim_end()));
            shown = whole.max(shown);
        };
        let ended = eventually("the virtual machine to stop", limit, || {
            show(&qemu.output());
            !qemu.is_running()
        });
        let text = qemu.output();
        show(&text);
        ended.with_context(|| format!("still running after {} s:\n{text}", limit.as_secs()))?;
        let status = text
            .lines()
            .find_map(|line| line.trim_end().split_once(ENDED)?.1.parse().ok())
            .with_context(|| format!("the virtual machine stopped before its program ended:\n{text}"))?;
        Ok(Report { status, console: text, took: start.elapsed() })
    }

    fn init(&self, program: &str) -> String {
        let quoted = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
        let arguments: Vec<String> = self.arguments.iter().map(quoted).collect();
        let environment: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect();
        format!(
            "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root {INSIDE}=1
# After the line that the firmware left open.
echo
echo \"{BEGUN}\"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /root /run/netns
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
while read module; do insmod \"/modules/$module\" || echo \"insmod $module failed\"; done < /modules/order
ip link set lo up
# An emulated processor may not get its turn for long: packets that wait for it must find room.
echo 100000 > /proc/sys/net/core/netdev_max_backlog
{environment}cd /root
{PROGRAMS}/{program} {}
echo \"{ENDED}$?\"
poweroff -f
",
            arguments.join(" ")
        )
    }
}
