//! What tartan has put on hosts, held against docs/host-footprint.md.
//!
//! The document is the list: an object that no row of it explains is a fault, and so is a row that nothing on any host
//! bears out. What a comparison shows besides is what this cluster's own parts do meanwhile: [`OTHERS`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use tartan_lab::{Cluster, HostView, eventually};
use xtask::{cluster::PATIENCE, workspace};

const DIRECTORIES: [&str; 4] = ["/etc/cni", "/opt", "/run", "/var/lib/cni"];

/// (kind, part of a line): the container runtime, the kubelet and kube-proxy at work.
const OTHERS: [(&str, &str); 9] = [
    ("file", " /run/containerd"),
    ("file", " /run/netns"),
    ("file", " /run/xtables.lock"),
    // The runtime's own record of the pods that it has wired.
    ("file", " /var/lib/cni"),
    ("nft", "table ip kube-proxy"),
    ("nft", "table ip6 kube-proxy"),
    ("process", "containerd-shim"),
    ("process", "/agnhost pause"),
    ("process", "containerd "),
];

/// How each node looked before tartan came.
pub struct Before(BTreeMap<String, HostView>);

impl Before {
    /// Waits until the nodes have come to rest, and looks at them.
    pub fn of(cluster: &Cluster) -> Self {
        for node in cluster.nodes() {
            // Something to do for the chart and for the agent.
            node.script("rm /opt/cni/bin/portmap; echo 0 > /proc/sys/net/ipv4/ip_forward").unwrap();
            eventually(&format!("kube-proxy on {}", node.name()), PATIENCE, || {
                node.exec(&["nft", "list", "table", "ip", "kube-proxy"]).unwrap().stdout.contains("10.96.0.1")
            })
            .unwrap();
        }
        Self(Self::look(cluster))
    }

    fn look(cluster: &Cluster) -> BTreeMap<String, HostView> {
        let view = |node: &tartan_lab::Node| HostView::of(node, &DIRECTORIES).unwrap();
        cluster.nodes().iter().map(|node| (node.name().to_owned(), view(node))).collect()
    }

    /// What is on the hosts now and not in the document, and what is in the document and on no host.
    pub fn compare(&self, cluster: &Cluster) -> Vec<String> {
        let document = Document::read();
        let mut faults = vec![];
        let mut seen = BTreeSet::new();
        for (node, now) in &Self::look(cluster) {
            let links = document.links_of_ours(now);
            let difference = self.0[node].diff(now);
            let changes = [("removed", &difference.removed), ("added", &difference.added)];
            for (what, (kind, line)) in
                changes.iter().flat_map(|(what, lines)| lines.iter().map(move |line| (what, line)))
            {
                if OTHERS.iter().any(|(of, part)| of == kind && format!(" {line}").contains(part)) {
                    continue;
                }
                match document.rows.iter().find(|row| row.explains(kind, line, &links)) {
                    Some(row) => {
                        seen.insert(row.cells[0].clone());
                    }
                    None => {
                        faults
                            .push(format!("{node}: no row of the document explains: {what} {kind}: {line}"));
                    }
                }
            }
        }
        let required = document.rows.iter().filter(|row| !row.is_conditional());
        faults.extend(
            required
                .filter(|row| !seen.contains(&row.cells[0]))
                .map(|row| format!("the document's row {:?} is borne out by no host", row.cells[0])),
        );
        faults
    }
}

/// The tables of docs/host-footprint.md.
struct Document {
    rows: Vec<Row>,
}

struct Row {
    section: String,
    cells: Vec<String>,
}

impl Document {
    fn read() -> Self {
        let text = fs::read_to_string(workspace::root().join("docs/host-footprint.md")).unwrap();
        let (mut section, mut rows, mut in_table) = (String::new(), vec![], false);
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title.to_owned();
            }
            let is_row = line.starts_with('|');
            // A table begins with its heads.
            if is_row && in_table && !line.starts_with("| ---") {
                let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
                rows.push(Row { section: section.clone(), cells });
            }
            in_table = is_row;
        }
        assert!(rows.len() > 20, "the document has lost its tables");
        Self { rows }
    }

    /// Names of the links that a row explains: what is on them is explained with them.
    fn links_of_ours(&self, view: &HostView) -> BTreeSet<String> {
        let none = BTreeSet::new();
        let ours =
            view.lines("link").filter(|line| self.rows.iter().any(|row| row.explains("link", line, &none)));
        ours.filter_map(device).map(str::to_owned).collect()
    }
}

impl Row {
    /// Whether a difference of this kind is what the row speaks of. `links` are those that are ours.
    fn explains(&self, kind: &str, line: &str, links: &BTreeSet<String>) -> bool {
        let names = spans(&self.cells[0]);
        match self.section.as_str() {
            "Kernel" => {
                let line = &plain(line);
                let marks = spans(&self.cells[2]);
                let is = |words: &[String]| words.is_empty() || words.iter().any(|word| has(line, word));
                let on_a_link = self.cells[2].contains("on a link of ours");
                let on_ours = !on_a_link || device(line).is_some_and(|name| links.contains(name));
                // Of the routes on a link of ours, those that come with its addresses.
                let by_kernel = !on_a_link || !kind.starts_with("route") || has(line, "protocol kernel");
                self.kinds().contains(&kind) && is(&names) && is(&marks) && on_ours && by_kernel
            }
            "Kernel settings" => {
                let mut names = self.cells.iter().flat_map(|cell| spans(cell));
                kind == "sysctl" && names.any(|name| setting_is(&name, line))
            }
            "Files" => {
                let path = line.split(' ').find(|word| word.starts_with('/')).unwrap_or_default();
                // A directory is there for what is in it.
                let is = |name: &String| {
                    path == name
                        || name.ends_with('/') && path.starts_with(name)
                        || name.starts_with(&format!("{path}/"))
                };
                kind == "file" && names.iter().any(is)
            }
            "Processes and ports" => {
                let program =
                    line.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
                let ports = spans(&self.cells[1]);
                kind == "process" && names.iter().any(|name| name == program)
                    || kind == "listener" && ports.iter().any(|port| listens(line, port))
            }
            _ => false,
        }
    }

    /// The kinds of a host view that an object of the kernel is seen in.
    fn kinds(&self) -> &'static [&'static str] {
        match self.cells[0].split(' ').next().unwrap_or_default() {
            "link" | "veth" => &["link"],
            "addresses," => &["address", "neighbour", "fdb", "route", "route6"],
            "routes" => &["route", "route6"],
            "nft" => &["nft"],
            "rules" => &["nft", "iptables", "ip6tables"],
            _ => &[],
        }
    }

    /// Whether it is there only under a condition that this cluster doesn't meet.
    fn is_conditional(&self) -> bool {
        let says = |words| self.cells.iter().any(|cell| has(cell, words));
        // What goes with a link is not told beside the link by a comparison.
        says("only") || says("goes with the link")
    }
}

/// The texts in backquotes.
fn spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A line of a view as its tool writes it: `dev=x` as `dev x`, nft's path of table and chain as words.
fn plain(line: &str) -> String {
    line.replace('=', " ").replace("table ", "").replace(" / chain ", " ").replace(" / ", " ")
}

/// Whether `word` stands in `line` and is not part of a longer one.
fn has(line: &str, word: &str) -> bool {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "-_.".contains(c));
    line.match_indices(word).any(|(at, _)| {
        !inside(line[..at].chars().next_back()) && !inside(line[at + word.len()..].chars().next())
    })
}

fn device(line: &str) -> Option<&str> {
    let line = line.split([' ', '=']).collect::<Vec<_>>();
    let at = line.iter().position(|word| ["ifname", "dev"].contains(word))?;
    line.get(at + 1).copied()
}

/// `net.ipv4.conf.UPLINK.x` and `net.ipv4.conf.LINK.x` are those of any device.
fn setting_is(name: &str, line: &str) -> bool {
    let setting = line.split(" = ").next().unwrap_or_default();
    match name.split_once("UPLINK").or_else(|| name.split_once("LINK")) {
        Some((begin, end)) => {
            let middle = setting.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
            middle.is_some_and(|device| !device.is_empty() && !device.contains('.'))
        }
        None => setting == name,
    }
}

/// `TCP 9472` is `tcp 0.0.0.0:9472` on any address.
fn listens(line: &str, port: &str) -> bool {
    let (protocol, number) = port.split_once(' ').unwrap_or_default();
    line.starts_with(&protocol.to_lowercase()) && line.ends_with(&format!(":{number}"))
}
