//! One node: a namespace with an uplink, directories of its own, and simulated pods.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::pod::{Pod, PodOptions};
use crate::home::Home;
use crate::namespace::{Namespace, PACKAGED_PLUGINS, own_files};

/// Where everybody looks for CNI plugins.
const PLUGINS: &str = "/opt/cni/bin";

/// A machine of the fabric. It is also a [`Namespace`]: `node.exec`, `node.spawn` and the rest work on it.
#[derive(Debug)]
pub struct Node {
    namespace: Namespace,
    facts: Facts,
    disk: PathBuf,
    home: Arc<Home>,
}

/// What is on the node's disk about it, for whoever attaches.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    number: usize,
    segment: usize,
    mtu: u32,
    #[serde(default)]
    without_v4: bool,
}

impl Node {
    pub(super) fn create(
        home: &Arc<Home>,
        router: &Namespace,
        (number, segment): (usize, usize),
        mtu: u32,
        without_v4: bool,
    ) -> Result<Self> {
        let facts = Facts { number, segment, mtu, without_v4 };
        let disk = home.join(name_of(number));
        fs::create_dir_all(&disk)?;
        fs::write(disk.join("node.json"), serde_json::to_string(&facts)?)?;
        let namespace = Namespace::create(home, &name_of(number), None)?;
        let mut node = Self { namespace, facts, disk, home: Arc::clone(home) };
        node.set_up(router)?;
        Ok(node)
    }

    /// The node of a kept lab whose disk this is, if it is one.
    pub(super) fn attach(home: &Arc<Home>, disk: &Path) -> Result<Option<Self>> {
        let Ok(text) = fs::read_to_string(disk.join("node.json")) else { return Ok(None) };
        let facts: Facts = serde_json::from_str(&text)?;
        let name = name_of(facts.number);
        let namespace = Namespace::find(home, &name).with_context(|| format!("{name} has died"))?;
        Ok(Some(Self { namespace, facts, disk: disk.to_owned(), home: Arc::clone(home) }))
    }

    pub(super) fn power_off(&mut self) -> Result<()> {
        self.kill_everything()?;
        self.namespace.kill()
    }

    pub(super) fn power_on(&mut self, router: &Namespace) -> Result<()> {
        self.namespace = Namespace::create(&self.home, &name_of(self.facts.number), None)?;
        self.set_up(router)
    }

    fn set_up(&mut self, router: &Namespace) -> Result<()> {
        self.namespace.own_directories(&self.disk)?;
        // Its hardware address outlives a reboot, as a machine's does: peers have it in their caches.
        let Facts { segment, mtu, number, without_v4 } = self.facts;
        let (port, pid) = (self.port(), self.namespace.pid());
        // After a power failure the kernel may still be taking down the old end.
        router.script(&format!(
            "ip link delete {port} 2>/dev/null || true
             ip link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pid}
             ip link set {port} master seg{segment} up",
        ))?;
        self.namespace.script(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
             ip link set eth0 address 02:18:00:00:{segment:02x}:{number:02x}
             ip address add {}/64 dev eth0 nodad
             ip link set eth0 up
             ip -6 route add default via fd18:{segment}::1
             mkdir -p /etc/cni/net.d {PLUGINS}
             cp -a {PACKAGED_PLUGINS}/. {PLUGINS}/",
            self.address_v6(),
        ))?;
        if !without_v4 {
            self.namespace.script(&format!(
                "ip address add {}/24 dev eth0
                 ip route add default via 198.18.{segment}.1",
                self.address(),
            ))?;
        }
        self.namespace.wait_up(&["eth0"])?;
        router.wait_up(&[&port, &format!("seg{segment}")])
    }

    /// Kills every process whose network namespace is this node's or one of its pods'.
    fn kill_everything(&self) -> Result<()> {
        let mounts = fs::read_link(format!("/proc/{}/ns/mnt", self.namespace.pid())).ok();
        let mut members = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Everything that runs on a node, and every pod's holder, has the node's mounts.
            if mounts.is_some() && fs::read_link(entry.path().join("ns/mnt")).ok() == mounts {
                members.extend(crate::process::Identity::of(pid));
            }
        }
        crate::process::kill_all(&members)
    }

    pub fn number(&self) -> usize {
        self.facts.number
    }

    pub fn segment(&self) -> usize {
        self.facts.segment
    }

    /// The addresses of `eth0`, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let v4 = (!self.facts.without_v4).then(|| IpAddr::V4(self.address()));
        v4.into_iter().chain([IpAddr::V6(self.address_v6())]).collect()
    }

    /// The IPv4 address of `eth0`, where it has one.
    pub fn address(&self) -> Ipv4Addr {
        let Facts { segment, number, .. } = self.facts;
        Ipv4Addr::from(0xc612_0000 | low_bits(segment) << 8 | low_bits(10 + number))
    }

    /// The IPv6 address of `eth0`.
    pub fn address_v6(&self) -> Ipv6Addr {
        let Facts { segment, number, .. } = self.facts;
        // Written in decimal, as the segment's prefix is in the router's configuration.
        format!("fd18:{segment}::{}", 10 + number).parse().unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// The router's end of this node's cable.
    pub fn port(&self) -> String {
        format!("to-{}", name_of(self.facts.number))
    }

    /// Sets the MTU of `eth0`; the router's end of the cable stays as it is.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        self.namespace.script(&format!("ip link set eth0 mtu {mtu}"))?;
        Ok(())
    }

    /// The node's files, logs aside.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// The files that were written on this node and survive a reboot, as the node names them.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for (directory, layer) in own_files(&self.disk) {
            walk(&layer, Path::new(directory), &mut files)?;
        }
        files.sort();
        Ok(files)
    }

    /// Writes a file of the node, with its parent directories.
    pub fn write(&self, path: &str, content: &str) -> Result<()> {
        let script = "mkdir -p \"$(dirname \"$1\")\" && cat > \"$1\"";
        let mut command = self.namespace.command("sh");
        command.args(["-euc", script, "sh", path]);
        crate::run::run_with_input(&mut command, content)?.ok()?;
        Ok(())
    }

    /// Reads a file of the node.
    pub fn read(&self, path: &str) -> Result<String> {
        Ok(self.namespace.exec(&["cat", path])?.ok()?.stdout)
    }

    /// A pod on this node, wired by the node's first CNI configuration.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.pod_with(name, &PodOptions::default())
    }

    pub fn pod_with(&self, name: &str, options: &PodOptions) -> Result<Pod> {
        Pod::add(self, name, options)
    }

    pub(super) fn home(&self) -> &Arc<Home> {
        &self.home
    }
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

fn name_of(number: usize) -> String {
    format!("node{number}")
}

fn low_bits(number: usize) -> u32 {
    u32::try_from(number & 0xff).unwrap_or(0)
}

fn walk(layer: &Path, shown: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(layer)? {
        let entry = entry?;
        let shown = shown.join(entry.file_name());
        if shown == Path::new(PLUGINS) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &shown, files)?;
        } else {
            files.push(shown);
        }
    }
    Ok(())
}
