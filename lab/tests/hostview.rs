//! A view of a host is the same until somebody touches it, and says what was touched.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use tartan_lab::{Fabric, FabricOptions, HostView};

const DIRECTORIES: [&str; 3] = ["/etc/cni", "/run", "/var/lib"];

#[test]
fn a_view_shows_each_kind_of_object_that_appears_and_that_goes() {
    let fabric = Fabric::start(FabricOptions::with_segments(&[1])).unwrap();
    let node = fabric.node("node1");
    let before = HostView::of(node, &DIRECTORIES).unwrap();
    let untouched = before.diff(&HostView::of(node, &DIRECTORIES).unwrap());
    assert!(untouched.is_empty(), "{untouched}");

    node.script(
        "ip link add vx type vxlan id 1 dstport 8472 local 198.18.0.11 nolearning
         ip address add 10.244.0.0/32 dev vx
         ip link set vx up
         ip route add 10.244.1.0/24 via 10.244.1.0 dev vx onlink
         ip rule add from 10.0.0.1 table 7
         ip neighbour add 10.244.1.0 lladdr 02:00:00:00:00:01 dev vx nud permanent
         bridge fdb add 02:00:00:00:00:01 dev vx dst 198.18.0.12
         nft 'table ip foreign { chain c { type filter hook input priority 0; tcp dport 99 counter drop; }; }'
         echo 1 > /proc/sys/net/ipv4/ip_forward",
    )
    .unwrap();
    node.write("/etc/cni/net.d/x", "y").unwrap();
    let sleeper = node.spawn("sleeper", &["sleep", "4711"]).unwrap();

    let diff = before.diff(&HostView::of(node, &DIRECTORIES).unwrap());
    for (kind, text) in [
        ("link", "vx"),
        ("address", "10.244.0.0"),
        ("route", "10.244.1.0/24"),
        ("rule", "10.0.0.1"),
        ("neighbour", "02:00:00:00:00:01"),
        ("fdb", "198.18.0.12"),
        ("nft", "tcp dport 99"),
        ("sysctl", "net.ipv4.ip_forward = 1"),
        ("file", "/etc/cni/net.d/x"),
        ("process", "sleep 4711"),
        ("listener", "udp 0.0.0.0:8472"),
    ] {
        let found = diff.added.iter().any(|(of, line)| *of == kind && line.contains(text));
        assert!(found, "no {kind} with {text} in\n{diff}");
    }

    drop(sleeper);
    node.script(
        "ip rule del from 10.0.0.1 table 7
         ip link del vx
         nft delete table ip foreign
         rm /etc/cni/net.d/x
         echo 0 > /proc/sys/net/ipv4/ip_forward",
    )
    .unwrap();
    let after = before.diff(&HostView::of(node, &DIRECTORIES).unwrap());
    assert!(after.is_empty(), "{after}");
}
