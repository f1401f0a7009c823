//! A simulated pod: a network namespace wired by the real CNI plugins, as a container runtime would do it.
//!
//! The protocol is that of the CNI specification 1.0: every plugin of the list in turn, each given the result of the
//! one before; deletion in reverse order with the final result.

use std::net::IpAddr;
use std::ops::Deref;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::node::Node;
use crate::namespace::Namespace;
use crate::run::{Output, run_with_input};

const INTERFACE: &str = "eth0";

/// What a runtime would tell the plugins about a pod.
#[derive(Debug, Clone, Default)]
pub struct PodOptions {
    /// Host ports: (port of the node, port of the pod, `tcp` or `udp`).
    pub host_ports: Vec<(u16, u16, &'static str)>,
}

/// A running simulated pod. It is also a [`Namespace`]. Dropping it is a crash; [`Pod::remove`] tells the plugins.
#[derive(Debug)]
pub struct Pod {
    namespace: Namespace,
    list: List,
    addresses: Vec<IpAddr>,
    result: Value,
}

/// A network configuration list, with all that is the same for each of its plugins.
#[derive(Debug)]
struct List {
    name: String,
    version: String,
    plugins: Vec<Value>,
    container: String,
    runtime: Value,
}

impl Pod {
    pub(super) fn add(node: &Node, name: &str, options: &PodOptions) -> Result<Self> {
        let list = List::read(node, name, options)?;
        let namespace = Namespace::create(node.home(), &format!("{}.pod-{name}", node.name()), Some(node))?;
        let mut result = Value::Null;
        for plugin in &list.plugins {
            let output = list.call(node, &namespace, "ADD", plugin, &result)?;
            result = serde_json::from_str(&output.ok()?.stdout).context("the result of a CNI plugin")?;
        }
        let addresses = addresses(&result)?;
        Ok(Self { namespace, list, addresses, result })
    }

    /// Its first address.
    pub fn ip(&self) -> IpAddr {
        self.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    pub fn ips(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What the last plugin answered.
    pub fn result(&self) -> &Value {
        &self.result
    }

    /// Lets the plugins undo what they did on `node`, and ends the pod.
    pub fn remove(mut self, node: &Node) -> Result<()> {
        for plugin in self.list.plugins.iter().rev() {
            self.list.call(node, &self.namespace, "DEL", plugin, &self.result)?.ok()?;
        }
        self.namespace.kill()
    }
}

impl Deref for Pod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl List {
    fn read(node: &Node, pod: &str, options: &PodOptions) -> Result<Self> {
        // As a container runtime: the first file by name.
        let script = "for f in /etc/cni/net.d/*.conflist; do [ -e \"$f\" ] && exec cat \"$f\"; done; exit 4";
        let output = node.exec(&["sh", "-c", script])?;
        if output.status.code() == Some(4) {
            bail!("{} has no CNI configuration list in /etc/cni/net.d", node.name());
        }
        let list: Value = serde_json::from_str(&output.ok()?.stdout).context("a CNI configuration list")?;
        let text = |field: &str| list.get(field).and_then(Value::as_str).map(str::to_owned);
        let ports: Vec<Value> = options
            .host_ports
            .iter()
            .map(
                |(host, pod, protocol)| json!({"hostPort": host, "containerPort": pod, "protocol": protocol}),
            )
            .collect();
        Ok(Self {
            name: text("name").context("a CNI configuration list has a name")?,
            version: text("cniVersion").unwrap_or_else(|| "1.0.0".to_owned()),
            plugins: list.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default(),
            container: format!("{}-{pod}", node.name()),
            runtime: json!({ "portMappings": ports }),
        })
    }

    fn call(
        &self,
        node: &Node,
        pod: &Namespace,
        verb: &str,
        plugin: &Value,
        before: &Value,
    ) -> Result<Output> {
        let program = plugin.get("type").and_then(Value::as_str).context("a CNI plugin has a type")?;
        let mut config = plugin.clone();
        let fields = config.as_object_mut().context("a CNI plugin is an object")?;
        fields.insert("name".to_owned(), json!(self.name));
        fields.insert("cniVersion".to_owned(), json!(self.version));
        if !before.is_null() {
            fields.insert("prevResult".to_owned(), before.clone());
        }
        let has_ports = fields.get("capabilities").and_then(|all| all.get("portMappings")).is_some();
        if has_ports {
            fields.insert("runtimeConfig".to_owned(), self.runtime.clone());
        }
        let mut command = node.command(&format!("/opt/cni/bin/{program}"));
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &self.container);
        command.env("CNI_NETNS", pod.netns()).env("CNI_IFNAME", INTERFACE).env("CNI_PATH", "/opt/cni/bin");
        run_with_input(&mut command, &config.to_string())
    }
}

fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result.get("ips").and_then(Value::as_array).context("the CNI result has no addresses")?;
    ips.iter()
        .map(|ip| {
            let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
            let address = text.split('/').next().unwrap_or_default();
            address.parse().with_context(|| format!("the address `{text}` of a CNI result"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_prefix_length() {
        let result = json!({"ips": [{"address": "10.244.1.2/24"}, {"address": "fd00::2/64"}]});
        let expected: Vec<IpAddr> = vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(addresses(&result).unwrap(), expected);
    }
}
