//! etcd and kube-apiserver, and on request kube-controller-manager: the real API in seconds, without nodes.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tartan_lab::{ApiServer, ApiServerOptions};
//!
//! let api = ApiServer::start(ApiServerOptions::default())?;
//! api.kubectl(&["create", "namespace", "tartan-system"])?.ok()?;
//! let admin = api.kubeconfig(); // a path, for kube::Config or KUBECONFIG
//! let viewer = api.kubeconfig_for("jane", &["viewers"])?; // RBAC decides what jane may do
//! # let _ = (admin, viewer);
//! # Ok(())
//! # }
//! ```
//!
//! It authorizes by Node and RBAC, has NodeRestriction and admission policies, and issues service-account tokens
//! (`kubectl create token`). etcd listens on a Unix socket, the API on one free port, so any number run side by side.
//! It needs no root unless it is put into a namespace.

mod backup;
mod helm;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::home::Home;
use crate::kubeconfig::{self, Credentials};
use crate::pki::{Authority, Leaf};
use crate::prerequisites::{Program, Tool, require};
use crate::process::Process;
use crate::run::{Output, run, run_with_input};
use crate::wait::eventually_ok;

pub use backup::Backup;

/// kube-apiserver is ready in two seconds; a machine that compiles at the same time is slower.
const READY: Duration = Duration::from_secs(120);

/// How an API server is started. The default is what most tests want.
#[derive(Debug, Clone, Default)]
pub struct ApiServerOptions {
    /// More arguments for kube-apiserver; a repeated flag wins over the lab's.
    pub arguments: Vec<String>,
    /// Run kube-controller-manager with these arguments: garbage collection, default service accounts, and the rest.
    pub controller_manager: Option<Vec<String>>,
    /// Where it runs; without it in the namespace of the caller, on loopback.
    pub place: Option<Place>,
}

/// A namespace that the control plane runs in, and the address there that everybody reaches it by.
#[derive(Debug, Clone)]
pub struct Place {
    /// What to put before a command so that it runs there.
    pub enter: Vec<String>,
    pub address: IpAddr,
}

/// A running API server. Dropping it removes everything that it consists of.
#[derive(Debug)]
pub struct ApiServer {
    // Fields are dropped in this order: processes before the directory that they write to.
    controllers: Option<Process>,
    server: Option<Process>,
    etcd: Process,
    settings: Settings,
    home: Arc<Home>,
    _port: Option<Port>,
}

/// What a later start of the same server needs.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Settings {
    address: IpAddr,
    port: u16,
    enter: Vec<String>,
    arguments: Vec<String>,
}

impl ApiServer {
    /// Starts one with a directory of its own and waits until it is ready.
    pub fn start(options: ApiServerOptions) -> Result<Self> {
        Self::start_in(Arc::new(Home::create_unique("api")?), options)
    }

    pub(crate) fn start_in(home: Arc<Home>, options: ApiServerOptions) -> Result<Self> {
        require(&[Tool::Kubernetes])?;
        let ApiServerOptions { arguments, controller_manager, place } = options;
        let (address, enter, reserved) = match place {
            Some(Place { enter, address }) => (address, enter, None),
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), Vec::new(), Some(reserve_port()?)),
        };
        // Alone in a namespace it has every port for itself.
        let port = reserved.as_ref().map_or(6443, |port| port.number);
        let settings = Settings { address, port, enter, arguments };
        let etcd = start_etcd(&home)?;
        make_identities(&home, &settings)?;
        fs::write(home.join("apiserver.json"), serde_json::to_string(&settings)?)?;
        let mut api = Self { controllers: None, server: None, etcd, settings, home, _port: reserved };
        api.resume()?;
        if let Some(arguments) = controller_manager {
            api.start_controllers(&arguments)?;
        }
        Ok(api)
    }

    /// The API server of a kept lab.
    pub(crate) fn attach(home: Arc<Home>) -> Result<Self> {
        let text = fs::read_to_string(home.join("apiserver.json")).context("this lab has no API server")?;
        let etcd = home.find("etcd").context("the etcd of this lab has died")?;
        Ok(Self {
            controllers: home.find("kube-controller-manager"),
            server: home.find("kube-apiserver"),
            etcd,
            settings: serde_json::from_str(&text)?,
            home,
            _port: None,
        })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home.join("admin.kubeconfig")
    }

    /// `https://address:port`.
    pub fn url(&self) -> String {
        self.settings.url()
    }

    /// The authority that signed the server's certificate, as a PEM file.
    pub fn ca(&self) -> PathBuf {
        self.authority().certificate()
    }

    /// A kubeconfig with a client certificate for this user and these groups.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let file = file_name(user);
        let leaf = self.authority().sign(&file, user, groups, &[])?;
        self.write_kubeconfig(&file, &Credentials::Certificate(leaf))
    }

    /// A kubeconfig with a bearer token, such as `kubectl create token` prints.
    pub fn kubeconfig_for_token(&self, name: &str, token: &str) -> Result<PathBuf> {
        self.write_kubeconfig(&file_name(name), &Credentials::Token(token.trim().to_owned()))
    }

    /// The administrator's, for a virtual machine of this host's.
    pub(crate) fn kubeconfig_for_machines(&self) -> Result<PathBuf> {
        if !self.settings.address.is_loopback() {
            bail!("a virtual machine reaches what listens on the host's loopback, not {}", self.url());
        }
        let path = self.home.join("machines.kubeconfig");
        let pki = self.home.join("pki");
        let admin = Leaf { certificate: pki.join("admin.crt"), key: pki.join("admin.key") };
        let url = format!("https://{}:{}", crate::vm::HOST, self.settings.port);
        kubeconfig::write(&path, &url, &self.ca(), &Credentials::Certificate(admin))?;
        Ok(path)
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_as(&self.kubeconfig(), arguments)
    }

    /// Runs kubectl with one of the other kubeconfigs.
    pub fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<Output> {
        run(kubectl_command(kubeconfig)?.args(arguments))
    }

    /// `kubectl apply --server-side` of a manifest.
    pub fn apply(&self, manifest: &str) -> Result<Output> {
        let mut kubectl = kubectl_command(&self.kubeconfig())?;
        kubectl.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
        run_with_input(&mut kubectl, manifest)
    }

    /// Kills kube-apiserver at once, as a crash would. Its data stays.
    pub fn stop(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.kill(),
            None => Ok(()),
        }
    }

    /// Starts a stopped kube-apiserver again, at the same address with the same data, and waits until it is ready.
    pub fn resume(&mut self) -> Result<()> {
        if self.server.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        let server = self.home.start("kube-apiserver", &self.server_command()?)?;
        let kubeconfig = self.kubeconfig();
        let ready = eventually_ok("a ready API server", READY, || {
            if !server.is_running() {
                return Ok(Err(anyhow::anyhow!("kube-apiserver ended:\n{}", last_lines(&server.output()))));
            }
            run(kubectl_command(&kubeconfig)?.args(["get", "--raw", "/readyz"]))?.ok()?;
            run(kubectl_command(&kubeconfig)?.args(["get", "namespace", "default", "kube-system"]))?.ok()?;
            Ok(Ok(()))
        });
        self.server = Some(server);
        ready?
    }

    /// [`ApiServer::stop`] and [`ApiServer::resume`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.resume()
    }

    /// Starts kube-controller-manager with these arguments beside a server that has run without.
    pub fn start_controller_manager(&mut self, arguments: &[String]) -> Result<()> {
        self.start_controllers(arguments)
    }

    /// The processes, for signals and logs: kube-apiserver and kube-controller-manager, those that run.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.server.iter().chain(&self.controllers)
    }

    /// Where this server keeps its files and logs.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.home.join("pki"))
    }

    /// What to put before a command so that it runs beside the API server.
    pub(crate) fn program(&self, name: &str) -> Result<Command> {
        self.settings.command(&Program::kubernetes(name)?)
    }

    pub(crate) fn write_kubeconfig(&self, file: &str, credentials: &Credentials) -> Result<PathBuf> {
        let path = self.home.join(format!("{file}.kubeconfig"));
        kubeconfig::write(&path, &self.url(), &self.ca(), credentials)?;
        Ok(path)
    }

    fn start_controllers(&mut self, arguments: &[String]) -> Result<()> {
        let kubeconfig = self.kubeconfig_for("system:kube-controller-manager", &[])?;
        let mut command = self.program("kube-controller-manager")?;
        command.arg("--kubeconfig").arg(kubeconfig);
        command.arg("--root-ca-file").arg(self.ca());
        command.arg("--service-account-private-key-file").arg(self.home.join("pki/sa.key"));
        command.args(["--use-service-account-credentials=true", "--leader-elect=false"]);
        if self.settings.enter.is_empty() {
            command.arg("--secure-port=0");
        }
        command.args(arguments);
        self.controllers = Some(self.home.start("kube-controller-manager", &command)?);
        let kubeconfig = self.kubeconfig();
        eventually_ok("the default service account", READY, || {
            run(kubectl_command(&kubeconfig)?.args(["get", "serviceaccount", "default"]))?.ok()
        })?;
        Ok(())
    }

    fn server_command(&self) -> Result<Command> {
        let pki = self.home.join("pki");
        let Settings { address, port, arguments, .. } = &self.settings;
        let etcd = self.home.join("etcd/client:1");
        let mut command = self.program("kube-apiserver")?;
        command.arg(format!("--etcd-servers=unix://{}", etcd.display()));
        command.arg(format!("--bind-address={address}")).arg(format!("--secure-port={port}"));
        if !address.is_loopback() {
            command.arg(format!("--advertise-address={address}"));
        }
        for (flag, file) in [
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("client-ca-file", "ca.crt"),
            ("kubelet-client-certificate", "admin.crt"),
            ("kubelet-client-key", "admin.key"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
        ] {
            command.arg(format!("--{flag}={}", pki.join(file).display()));
        }
        command.args([
            "--kubelet-preferred-address-types=InternalIP,Hostname",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            // Nobody waits for the requests of a test's server that is told to end.
            "--shutdown-watch-termination-grace-period=0s",
        ]);
        // Of the family by which it is reached.
        let services = if address.is_ipv4() { "10.96.0.0/16" } else { "fd00:10:96::/112" };
        command.arg(format!("--service-cluster-ip-range={services}"));
        command.args(arguments);
        Ok(command)
    }
}

impl Settings {
    fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.address, self.port))
    }

    fn command(&self, program: &Path) -> Result<Command> {
        let Some((enter, arguments)) = self.enter.split_first() else { return Ok(Command::new(program)) };
        let mut command = Command::new(enter);
        command.args(arguments).arg(program);
        Ok(command)
    }
}

pub(crate) fn kubectl_command(kubeconfig: &Path) -> Result<Command> {
    let mut command = Command::new(Program::kubernetes("kubectl")?);
    // Not the user's: neither settings nor a cache in the home directory.
    command.env("KUBECTL_KUBERC", "false").env_remove("KUBECONFIG");
    command.arg("--kubeconfig").arg(kubeconfig);
    if let Some(directory) = kubeconfig.parent() {
        command.arg("--cache-dir").arg(directory.join("kubectl-cache"));
    }
    Ok(command)
}

fn start_etcd(home: &Home) -> Result<Process> {
    let data = home.join("etcd");
    fs::create_dir_all(&data)?;
    let mut command = Command::new(Program::Etcd.path()?);
    command.arg("-data").arg(&data);
    home.start("etcd", &command)
}

fn make_identities(home: &Home, settings: &Settings) -> Result<()> {
    let authority = Authority::create(&home.join("pki"))?;
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(dns).into();
    // The Service `kubernetes`, of the ranges that the lab's clusters have.
    names.extend(["127.0.0.1", "10.96.0.1", "fd00:10:96::1"].map(|address| format!("IP:{address}")));
    names.push(format!("IP:{}", settings.address));
    names.push(format!("IP:{}", crate::vm::HOST));
    authority.sign("apiserver", "kube-apiserver", &[], &names)?;
    authority.signing_key()?;
    let admin: Leaf = authority.sign("admin", "admin", &["system:masters"], &[])?;
    let path = home.join("admin.kubeconfig");
    kubeconfig::write(&path, &settings.url(), &authority.certificate(), &Credentials::Certificate(admin))
}

fn dns(name: &str) -> String {
    format!("DNS:{name}")
}

fn file_name(user: &str) -> String {
    user.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}

/// A port that no other API server of the lab takes while this one lives, not even while it is stopped.
#[derive(Debug)]
struct Port {
    number: u16,
    /// A socket with an abstract name, of which the kernel allows one, and which ends with this process.
    _reservation: UnixListener,
}

/// A port that nobody listens on, below the range from which the kernel takes ports for outgoing connections: there it
/// would be taken away while the server is being restarted.
fn reserve_port() -> Result<Port> {
    let start = u16::try_from(std::process::id() % 10_000)?;
    for step in 0..10_000 {
        let number = 20_000 + (start + step) % 10_000;
        let name = UnixAddress::from_abstract_name(format!("tartan-lab-port-{number}"))?;
        if let Ok(_reservation) = UnixListener::bind_addr(&name)
            && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
        {
            return Ok(Port { number, _reservation });
        }
    }
    bail!("no port between 20000 and 30000 is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_do_not_get_the_same_port() {
        let (one, two) = (reserve_port().unwrap(), reserve_port().unwrap());
        assert_ne!(one.number, two.number);
    }
}
