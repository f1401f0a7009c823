//! What a host looks like to its administrator, for comparisons of before and after.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # let fabric = tartan_lab::Fabric::start(tartan_lab::FabricOptions::with_segments(&[1]))?;
//! use tartan_lab::HostView;
//!
//! let node = fabric.node("node1");
//! let directories = ["/etc/cni", "/run", "/var/lib/cni", "/opt/cni"];
//! let before = HostView::of(node, &directories)?;
//! // ... run the agent, stop it, clean up ...
//! let diff = before.diff(&HostView::of(node, &directories)?);
//! assert!(diff.is_empty(), "{diff}");
//! # Ok(())
//! # }
//! ```
//!
//! A view is a set of lines by kind, and so is a difference. What changes by itself (counters, timers, the age of a
//! neighbour) is left out, so two views of a host that nobody touched are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::namespace::Namespace;
use crate::process::dying_with_us;
use crate::run::{Output, run};

/// Everything that was seen, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    sections: BTreeMap<&'static str, BTreeSet<String>>,
}

/// What one view has and the other has not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// (kind, line)
    pub added: Vec<(&'static str, String)>,
    pub removed: Vec<(&'static str, String)>,
}

/// Queries whose answer is a JSON array of objects, and the fields that change by themselves or say nothing.
const TABLES: [(&str, &str); 7] = [
    ("link", "ip -d -j link"),
    ("address", "ip -j address"),
    ("route", "ip -4 -d -j route show table all"),
    ("route6", "ip -6 -d -j route show table all"),
    ("rule", "ip -j rule"),
    ("rule6", "ip -6 -j rule"),
    ("fdb", "bridge -d -j fdb"),
];

const VOLATILE: [&str; 21] = [
    "valid_life_time",
    "preferred_life_time",
    "expires",
    "used",
    "updated",
    "refcnt",
    "probes",
    "bridge_id",
    "root_id",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "operstate",
    "ifindex",
    "link_index",
    "stats64",
    "dynamic",
];

impl HostView {
    /// What `place` has, with the files below `directories`.
    pub fn of(place: &Namespace, directories: &[&str]) -> Result<Self> {
        Self::look(&place.enter(), directories)
    }

    /// The host that the lab itself runs on.
    pub fn of_host(directories: &[&str]) -> Result<Self> {
        Self::look(&[], directories)
    }

    fn look(enter: &[String], directories: &[&str]) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for (kind, query) in TABLES {
            sections.insert(kind, table(&ask(enter, query)?.ok()?.stdout).with_context(|| query.to_owned())?);
        }
        // Neighbours that were learnt come and go; what stays was put there by somebody.
        sections.insert("neighbour", table(&ask(enter, "ip -j neighbour show nud permanent")?.ok()?.stdout)?);
        sections.insert("nft", ruleset(&ask(enter, "nft --stateless list ruleset")?.ok()?.stdout));
        for (kind, query) in [("iptables", "iptables-legacy-save"), ("ip6tables", "ip6tables-legacy-save")] {
            // A kernel without the old tables has nothing to show.
            let output = ask(enter, query)?;
            sections.insert(kind, if output.success() { ruleset(&output.stdout) } else { BTreeSet::new() });
        }
        for (kind, query) in
            [("ipsec policy", "ip xfrm policy"), ("ipsec state", "ip xfrm state list nokeys")]
        {
            // A kernel without IPsec has none.
            let output = ask(enter, query)?;
            sections.insert(kind, if output.success() { selectors(&output.stdout) } else { BTreeSet::new() });
        }
        let sysctls = ask(enter, "sysctl --all --ignore --pattern ^net[.]")?.stdout;
        sections
            .insert("sysctl", sysctls.lines().filter(|line| !is_counter(line)).map(str::to_owned).collect());
        sections.insert("file", files(enter, directories)?);
        sections.insert("process", processes(enter)?);
        sections.insert("listener", listeners(&ask(enter, "ss --no-header -lntu")?.ok()?.stdout));
        Ok(Self { sections })
    }

    /// The lines of one kind: `link`, `address`, `route`, `route6`, `rule`, `rule6`, `fdb`, `neighbour`, `nft`,
    /// `iptables`, `ip6tables`, `ipsec policy`, `ipsec state`, `sysctl`, `file`, `process`, `listener`.
    pub fn lines(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.sections.get(kind).into_iter().flatten().map(String::as_str)
    }

    /// What `after` has more and less than this.
    pub fn diff(&self, after: &Self) -> Difference {
        let mut difference = Difference::default();
        let nothing = BTreeSet::new();
        let (old, new) = (self.devices(), after.devices());
        let strange: BTreeSet<&str> = old.symmetric_difference(&new).copied().collect();
        for (kind, before) in &self.sections {
            let after = after.sections.get(kind).unwrap_or(&nothing);
            difference.added.extend(after.difference(before).map(|line| (*kind, line.clone())));
            difference.removed.extend(before.difference(after).map(|line| (*kind, line.clone())));
        }
        // A device brings some two hundred settings of its own; that it came or went is said once, as a link.
        difference.without(|kind, line| {
            kind == "sysctl" && device_of(line).is_some_and(|name| strange.contains(name))
        })
    }

    fn devices(&self) -> BTreeSet<&str> {
        self.lines("link").filter_map(|line| line.split_once("ifname=")?.1.split(' ').next()).collect()
    }
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Without the lines for which `expected(kind, line)` holds.
    pub fn without(mut self, expected: impl Fn(&str, &str) -> bool) -> Self {
        self.added.retain(|(kind, line)| !expected(kind, line));
        self.removed.retain(|(kind, line)| !expected(kind, line));
        self
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "no difference");
        }
        for (sign, lines) in [('-', &self.removed), ('+', &self.added)] {
            for (kind, line) in lines {
                writeln!(f, "{sign} {kind}: {line}")?;
            }
        }
        Ok(())
    }
}

fn ask(enter: &[String], query: &str) -> Result<Output> {
    let mut command = dying_with_us();
    run(command.args(enter).args(query.split(' ')))
}

/// One line for each object, its fields in a fixed order.
fn table(text: &str) -> Result<BTreeSet<String>> {
    if text.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    let objects: Vec<Value> = serde_json::from_str(text)?;
    Ok(objects
        .iter()
        .filter(|object| object.get("ifname").is_none_or(|name| !name.is_null()))
        .map(show)
        .collect())
}

fn show(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, value)| !VOLATILE.contains(&name.as_str()) && !is_nothing(value))
            .map(|(name, value)| format!("{name}={}", show(value)))
            .collect::<Vec<_>>()
            .join(" "),
        Value::Array(values) => format!("[{}]", values.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// A ruleset as lines that carry the table and chain they are in, so that they mean something alone.
fn ruleset(text: &str) -> BTreeSet<String> {
    let mut path: Vec<&str> = Vec::new();
    let mut lines = BTreeSet::new();
    let mut position = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line == "}" {
            path.pop();
        } else if let Some(opened) = line.strip_suffix('{').filter(|opened| !opened.contains('=')) {
            path.push(opened.trim());
            position = 0;
            lines.insert(path.join(" / "));
        } else {
            // The order of rules is part of what they say, and equal rules are two.
            position += 1;
            lines.insert(format!("{} / {position}: {line}", path.join(" / ")));
        }
    }
    lines
}

/// Between whom policies and associations are: the lines of `ip xfrm` that are not indented. What follows each changes
/// whenever keys do.
fn selectors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| line.starts_with("src")).map(|line| line.trim_end().to_owned()).collect()
}

/// Sysctls that the kernel itself moves.
fn is_counter(line: &str) -> bool {
    ["nf_conntrack_count", "route.gc_", "stat_refresh", "netdev_rss_key", "neigh_anycast_delay"]
        .iter()
        .any(|name| line.contains(name))
}

/// The device of `net.ipv4.conf.DEVICE.setting = value`; sysctl writes a dot in its name as a slash.
fn device_of(line: &str) -> Option<&str> {
    let mut words = line.split('.').skip(2);
    matches!(words.next(), Some("conf" | "neigh")).then(|| words.next())?
}

fn files(enter: &[String], directories: &[&str]) -> Result<BTreeSet<String>> {
    if directories.is_empty() {
        return Ok(BTreeSet::new());
    }
    // Type, mode, target and content: a changed file is another line.
    let script = "for d; do [ -d \"$d\" ] && find \"$d\" -xdev -printf '%y %m %p %l\\n'; done
        find \"$@\" -xdev -type f -size -1024k -exec sha256sum {} + 2>/dev/null || true";
    let mut command = dying_with_us();
    command.args(enter).args(["sh", "-c", script, "sh"]).args(directories);
    Ok(run(&mut command)?.stdout.lines().map(|line| line.trim_end().to_owned()).collect())
}

/// The command lines of all processes with the same network namespace, and of how many of each kind there are.
fn processes(enter: &[String]) -> Result<BTreeSet<String>> {
    let script = "own=$(readlink /proc/self/ns/net)
        for p in /proc/[0-9]*; do
            [ \"$(readlink $p/ns/net 2>/dev/null)\" = \"$own\" ] || continue
            [ \"${p#/proc/}\" = $$ ] && continue
            tr '\\0' ' ' < $p/cmdline 2>/dev/null && echo
        done";
    let mut command: Command = dying_with_us();
    command.args(enter).args(["sh", "-c", script]);
    let output = run(&mut command)?;
    let mut counts = BTreeMap::<&str, usize>::new();
    for line in output.stdout.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains(script))
    {
        *counts.entry(line).or_default() += 1;
    }
    Ok(counts
        .into_iter()
        .map(|(line, count)| if count == 1 { line.to_owned() } else { format!("{line} ({count} times)") })
        .collect())
}

/// `udp 0.0.0.0:8472` from the columns of `ss`: protocol, state, two queues, local address.
fn listeners(text: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(format!("{} {}", words.first()?, words.get(4)?))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_carry_their_chain_and_their_order() {
        let text = "table ip t {\n\tchain c {\n\t\ttype filter hook input priority 0; policy accept;\n\t\tdrop\n\t\tdrop\n\t}\n}\n";
        let lines: Vec<String> = ruleset(text).into_iter().collect();
        assert_eq!(
            lines,
            [
                "table ip t",
                "table ip t / chain c",
                "table ip t / chain c / 1: type filter hook input priority 0; policy accept;",
                "table ip t / chain c / 2: drop",
                "table ip t / chain c / 3: drop",
            ]
        );
    }

    #[test]
    fn the_settings_of_a_device_that_came_are_not_listed() {
        let view = |link: &str, sysctls: &[&str]| HostView {
            sections: BTreeMap::from([
                ("link", BTreeSet::from([format!("flags=[UP] ifname={link} mtu=1500")])),
                ("sysctl", sysctls.iter().map(|line| (*line).to_owned()).collect()),
            ]),
        };
        let before = view("eth0", &["net.ipv4.conf.all.rp_filter = 0"]);
        let after = view("vx", &["net.ipv4.conf.all.rp_filter = 2", "net.ipv4.conf.vx.rp_filter = 2"]);
        let text = before.diff(&after).to_string();
        assert!(text.contains("conf.all.rp_filter = 2") && !text.contains("conf.vx."), "{text}");
    }

    #[test]
    fn a_table_forgets_what_changes_by_itself() {
        let line =
            |expires: u32| format!(r#"[{{"dst": "default", "expires": {expires}, "flags": []}}, {{}}]"#);
        assert_eq!(table(&line(1)).unwrap(), table(&line(2)).unwrap());
        assert!(table(&line(1)).unwrap().contains("dst=default"));
    }
}
