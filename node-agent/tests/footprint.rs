//! What a running agent puts on its host is what docs/host-footprint.md says, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod cluster;

use cluster::{Cluster, host_gw, vxlan};
use tartan_lab::HostView;

const PAGE: &str = include_str!("../../docs/host-footprint.md");

const DIRECTORIES: [&str; 4] = ["/etc/cni", "/run", "/var/lib/cni", "/opt/cni"];

/// Names and marks: what stands between backquotes on the page.
fn marks() -> Vec<String> {
    let spans = PAGE.split('`').skip(1).step_by(2);
    let marks = spans.map(|span| span.trim_start_matches('…').replace("UPLINK", "eth0"));
    // A name, not a word.
    marks.filter(|mark| mark.len() >= 7 && mark.contains(['.', '-', '/', '0', ':'])).collect()
}

/// Whether a line of a view is about something on the page.
fn is_explained(kind: &str, line: &str, marks: &[String]) -> bool {
    match kind {
        // A directory is there for what is in it.
        "file" => {
            let path = line.split_whitespace().find(|word| word.starts_with('/')).unwrap_or_default();
            marks.iter().any(|mark| path.starts_with(mark.as_str()) || mark.starts_with(&format!("{path}/")))
        }
        "nft" => line.contains("table inet tartan") || line.contains("comment \"tartan\""),
        "listener" => {
            let (protocol, port) = (line.split(' ').next(), line.rsplit(':').next());
            let port =
                format!("`{} {}`", protocol.unwrap_or_default().to_uppercase(), port.unwrap_or_default());
            PAGE.contains(&port)
        }
        "route" | "route6" if line.contains(" protocol=84 ") => true,
        _ => marks.iter().any(|mark| is_in(line, mark)),
    }
}

/// `LINK` in a name on the page stands for every link.
fn is_in(line: &str, mark: &str) -> bool {
    match mark.split_once("LINK") {
        Some((start, end)) => line
            .split_once(start)
            .is_some_and(|(_, rest)| rest.split_once(end).is_some_and(|(link, _)| !link.contains(' '))),
        None => line.contains(mark),
    }
}

#[test]
fn every_difference_on_a_host_where_the_agent_runs_is_on_the_page() {
    let mut cluster =
        Cluster::leased(&[2, 1], |number| if number < 3 { host_gw(number) } else { vxlan(number) });
    let node = cluster.node("node1");
    // A host on which there is something to do for each line of the page.
    node.script(
        "echo 1 > /proc/sys/net/ipv4/conf/eth0/rp_filter; echo 0 > /proc/sys/net/ipv4/ip_forward
         nft add table ip filter; nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
    )
    .unwrap();
    let before = HostView::of(node, &DIRECTORIES).unwrap();
    cluster.start_all();
    cluster.wait_until_joined();
    let difference = before.diff(&HostView::of(cluster.node("node1"), &DIRECTORIES).unwrap());
    let marks = marks();
    let all = difference.added.iter().chain(&difference.removed);
    let unexplained: Vec<String> = all
        .filter(|(kind, line)| !is_explained(kind, line, &marks))
        .map(|(kind, line)| format!("{kind}: {line}"))
        .collect();
    assert!(unexplained.is_empty(), "not in docs/host-footprint.md:\n{}", unexplained.join("\n"));
    // And the other way: a page of things that are not there would pass as well.
    for (kind, part) in [
        ("link", "tartan0"),
        ("link", "tartan-vxlan"),
        ("address", "127.84.84.84"),
        ("route", "10.244.2.0/24"),
        ("route", "10.244.3.0/24"),
        ("neighbour", "10.244.3.0"),
        ("fdb", "tartan-vxlan"),
        ("nft", "tartan"),
        ("sysctl", "net.ipv4.ip_forward = 1"),
        ("sysctl", "net.ipv4.conf.eth0.rp_filter = 2"),
        ("file", "/etc/cni/net.d/05-tartan.conflist"),
        ("file", "/run/flannel/subnet.env"),
        ("file", "/run/tartan/restore/"),
        ("process", "tartan-node-agent"),
        ("listener", "udp 0.0.0.0:8472"),
    ] {
        let there = difference.added.iter().any(|(found, line)| *found == kind && line.contains(part));
        assert!(there, "no {kind} with {part} among:\n{difference}");
    }
}
