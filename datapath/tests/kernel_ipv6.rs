//! What IPv6 asks of a host beside IPv4, on the real kernel: forwarding under advertised routes, two underlays at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    net::SocketAddrV6,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use common::{assert_clean, in_namespace, intent, ip, kernel, net, remote, round, run, settle};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
    sockopt,
};
use tartan_datapath::model::{Backend, Deletions, Intent, Peer, Subnet};

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A router advertisement (RFC 4861 section 4.2) of a default router for half an hour, from `far` to all nodes.
fn advertise() -> bool {
    let socket =
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
    // Anything less was forwarded and is not believed.
    setsockopt(&socket, sockopt::Ipv6MulticastHops, &255).unwrap();
    let [high, low] = 1800_u16.to_be_bytes();
    let message = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    let index = nix::net::if_::if_nametoindex("far").unwrap();
    let all = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    // Not while the far end's own address is new.
    sendto(socket.as_raw_fd(), &message, &SockaddrIn6::from(all), MsgFlags::empty()).is_ok()
}

/// A node whose pods have both families.
fn dual() -> Intent {
    let mut intent = intent(vec![by_vxlan(1), by_vxlan(2)]);
    intent.entries.push(net("fd00:10::/32"));
    intent.local.subnets.push(Subnet { prefix: net("fd00:10:1::/64"), primary: true, regular: true });
    intent
}

fn by_vxlan(number: u32) -> Peer {
    let mut peer = remote(number);
    let prefix = net(&format!("fd00:10:6{number}::/64"));
    peer.subnets.push(Subnet { prefix, primary: true, regular: true });
    peer
}

#[test]
fn a_host_that_gives_new_links_no_ipv6_is_no_hindrance() {
    in_namespace(|| async {
        run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        settle(&mut kernel, &dual()).await;
        assert!(run("ip -6 address show dev tartan0").contains("fd00:10:1::1/64"));
        assert!(run("ip -6 route show proto 84").contains("dev tartan-vxlan "));
        assert_eq!(run("sysctl -n net.ipv6.conf.eth0.disable_ipv6").trim(), "1", "the host's own link");
    });
}

fn advertised() -> bool {
    run("ip -6 route show default").contains("proto ra")
}

#[test]
fn a_default_route_that_a_router_advertised_outlives_the_start_of_forwarding() {
    in_namespace(|| async {
        run("sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.accept_ra_from_local=1
             ip address add 2001:db8::11/64 dev eth0 nodad");
        until("the far end has its own address", || run("ip -6 address show dev far").contains("fe80::"))
            .await;
        until("an advertised default route", || advertise() && advertised()).await;
        let folder = tempfile::tempdir().unwrap();
        settle(&mut kernel(&folder), &dual()).await;
        assert_eq!(run("sysctl -n net.ipv6.conf.all.forwarding").trim(), "1");
        assert!(advertised(), "{}", run("ip -6 route show"));
        // Where the order is the other one it is lost. The kernel looks only after a router was heard for the first time.
        run("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv6.conf.eth0.accept_ra=1
             ip -6 route delete default");
        until("an advertised default route again", || advertise() && advertised()).await;
        run("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_ra=2");
        assert!(!advertised(), "this kernel forgets no route: the test proves nothing");
    });
}

#[test]
fn a_node_of_both_underlays_has_a_device_for_each_and_leaves_anothers_of_the_other_family_alone() {
    in_namespace(|| async {
        run("ip address add 2001:db8::11/64 dev eth0 nodad
             ip link add theirs type vxlan id 1 dev eth0 local 2001:db8::11 dstport 8472");
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = intent(vec![remote(1), remote(2)]);
        intent.local.uplink.addresses.push(net("2001:db8::11/64"));
        intent.local.side.public_ips.push(ip("2001:db8::11"));
        settle(&mut kernel, &intent).await;

        intent.peers[0].side.public_ips = vec![ip("2001:db8::1")];
        let (_, plan, _) = round(&mut kernel, &intent, Deletions::Allowed).await;
        assert_eq!(plan.conflicts.len(), 1, "{:?}", plan.conflicts);
        let text = plan.conflicts[0].to_string();
        assert!(text.contains("tartan-vxlan6") && text.contains("theirs"), "{text}");
        assert!(run("ip route show 10.64.2.0/24").contains("dev tartan-vxlan "), "the other peer is reached");

        run("ip link delete theirs");
        settle(&mut kernel, &intent).await;
        assert!(run("ip route show 10.64.1.0/24").contains("dev tartan-vxlan6 "));
        assert!(run("bridge fdb show dev tartan-vxlan6").contains("dst 2001:db8::1 "));
        intent.peers[0].side.public_ips = remote(1).side.public_ips;
        let moved = round(&mut kernel, &intent, Deletions::Allowed).await;
        assert_clean(&moved);
        settle(&mut kernel, &intent).await;
        assert!(!run("ip link").contains("tartan-vxlan6"));
        assert!(run("ip route show 10.64.1.0/24").contains("dev tartan-vxlan "));
    });
}

#[test]
fn a_subnets_route_moves_between_plain_and_either_tunnel_and_back() {
    in_namespace(|| async {
        run("ip address add 2001:db8::11/64 dev eth0 nodad");
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = dual();
        intent.peers.truncate(1);
        intent.local.uplink.addresses.push(net("2001:db8::11/64"));
        for side in [&mut intent.local.side, &mut intent.peers[0].side] {
            side.backend = Backend::HostGw;
            side.uplink_prefixes = vec![net("2001:db8::/64")];
        }
        let four = intent.peers[0].side.public_ips.clone();
        let six = vec![ip("2001:db8::1")];
        let ways = [
            (Backend::HostGw, [&four[..], &six[..]].concat(), "dev eth0 "),
            (Backend::Vxlan, four.clone(), "dev tartan-vxlan "),
            (Backend::Vxlan, six.clone(), "dev tartan-vxlan6 "),
        ];
        intent.local.side.public_ips.push(ip("2001:db8::11"));
        for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
            for place in [from, to] {
                let (backend, addresses, device) = &ways[place];
                intent.local.side.backend = *backend;
                intent.peers[0].side.backend = *backend;
                intent.peers[0].side.public_ips.clone_from(addresses);
                settle(&mut kernel, &intent).await;
                let route = run("ip -6 route show fd00:10:61::/64");
                assert!(route.contains(device), "{from} to {to}: {route}");
            }
        }
        let hop = run("ip -6 neighbour show dev tartan-vxlan6 || true");
        assert!(!hop.contains("fd00"), "{hop}");
    });
}
