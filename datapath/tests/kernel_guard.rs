//! The guards on the real kernel: against strays, where what a node itself sends to a Service is judged by its end point;
//! and against tunnel packets of strangers and pods.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{net::UdpSocket, path::Path, time::Duration};

use common::{in_namespace, intent, ip, json, kernel, neighbour, net, remote, run, settle};
use tartan_datapath::model::Backend;
use tartan_lab::within;

/// Packets that a counter of a table has seen.
fn counted(table: &str, counter: &str) -> u64 {
    let listing = json(&format!("nft -j list counter inet {table} {counter}"));
    listing["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|item| item["counter"]["packets"].as_u64())
        .unwrap()
}

fn strays() -> u64 {
    counted("tartan", "stray")
}

/// Named network namespaces that go with this test.
const NAMESPACES: &str = "mkdir -p /run/netns; mount -t tmpfs netns /run/netns";

/// A host at the far end of `eth0`, in the namespace `other`, at an address that no lease has.
fn stranger() {
    run(NAMESPACES);
    run("ip netns add other
         ip link set far netns other
         ip -n other link set far up
         ip -n other address add 192.0.2.21/24 dev far
         ip -n other address add 2001:db8::21/64 dev far nodad");
    // A cable carries nothing for some time after it was plugged in.
    run("for _ in $(seq 50); do ip netns exec other ping -q -c1 -W0.2 192.0.2.11 && exit; done; exit 1");
}

#[test]
fn a_nodes_packet_to_a_service_is_judged_by_where_its_end_point_is() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        settle(&mut kernel(&folder), &intent(vec![remote(1)])).await;
        // As kube-proxy: one end point behind the tunnel, one of a lease that nobody knows here.
        run("nft 'table ip services { chain out { type nat hook output priority -100;
                 ip daddr 198.51.100.1 dnat to 10.64.1.5; ip daddr 198.51.100.2 dnat to 10.99.0.5; }; }'
             nft 'table inet probe { counter tunnel { }; chain c { type filter hook postrouting priority 50;
                 oifname tartan-vxlan ip daddr 10.64.1.5 counter name tunnel; }; }'
             ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:99 dev eth0");
        let ask =
            |service: &str| run(&format!("timeout 0.3 bash -c '</dev/tcp/{service}/80' 2>/dev/null || true"));
        ask("198.51.100.1");
        assert_eq!((counted("probe", "tunnel"), strays()), (1, 0), "it leaves by the tunnel");
        ask("198.51.100.2");
        assert!(strays() > 0, "it would leave by the default route");
        let direct = strays();
        ask("10.99.0.6");
        assert!(strays() > direct, "so would a packet that needs no translation");
    });
}

#[test]
fn a_pod_can_not_send_into_a_tunnel_in_its_nodes_name() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut intent = intent(vec![remote(1)]);
        intent.peers[0].side.accepts.insert(Backend::Udp);
        settle(&mut kernel(&folder), &intent).await;
        run(NAMESPACES);
        run("ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:99 dev eth0
             ip netns add pod
             ip link add port type veth peer name eth0 netns pod
             ip link set port master tartan0 up
             ip -n pod address add 10.251.1.9/24 dev eth0
             ip -n pod link set eth0 up
             ip -n pod route add default via 10.251.1.1
             nft 'table inet probe { counter left { }; chain c { type filter hook postrouting priority 50;
                 oifname eth0 ip daddr 198.51.0.1 udp dport { 8472, 8285, 9000 } counter name left; }; }'");
        // The header of RFC 7348 with a VNI.
        let send = |port: u16, vni: u8| {
            let bytes = format!(r"printf '\x08\x00\x00\x00\x00\x00\x0{vni}\x00frame'");
            run(&format!("ip netns exec pod bash -c \"{bytes} > /dev/udp/198.51.0.1/{port}\""));
            (counted("tartan", "pod_tunnel"), counted("probe", "left"))
        };
        assert_eq!(send(9000, 1), (0, 1), "what is no tunnel's leaves");
        assert_eq!(send(8472, 2), (0, 2), "so does another's tunnel");
        assert_eq!(send(8472, 1), (1, 2), "into our vxlan");
        assert_eq!(send(8285, 1), (2, 2), "to a peer's forwarder");
    });
}

#[test]
fn vxlan_comes_from_peers_alone_over_either_underlay() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        // Two peers, for each of which there is a device.
        let mut intent = intent(vec![remote(1), remote(2)]);
        run("ip address add 2001:db8::11/64 dev eth0 nodad");
        intent.local.uplink.addresses.push(net("2001:db8::11/64"));
        intent.local.side.public_ips.push(ip("2001:db8::11"));
        intent.peers[1].side.public_ips = vec![ip("2001:db8::1")];
        settle(&mut kernel, &intent).await;
        stranger();
        // Its tunnels have no IPv6 themselves, so that nothing but these pings is in them.
        run("ip netns exec other sysctl -qw net.ipv6.conf.default.disable_ipv6=1
             nft 'table inet probe { counter four { }; counter six { }; chain c { type filter hook prerouting priority -150;
                 iifname tartan-vxlan counter name four; iifname tartan-vxlan6 counter name six; }; }'");
        for (name, local, here, pod, target) in [
            ("four", "192.0.2.21", "192.0.2.11", "10.64.1.9", "10.251.1.4"),
            ("six", "2001:db8::21", "2001:db8::11", "10.64.2.9", "10.251.1.6"),
        ] {
            run(&format!(
                "ip -n other link add {name} type vxlan id 1 dev far local {local} remote {here} dstport 8472
                 ip -n other link set {name} up
                 ip -n other address add {pod}/32 dev {name}
                 ip -n other route add {target}/32 dev {name} src {pod}
                 ip -n other neighbour add {target} lladdr 02:00:00:fe:00:01 dev {name} nud permanent"
            ));
        }
        let ping = |to: &str| {
            run(&format!("ip netns exec other ping -q -c1 -W1 {to} || true"));
            (counted("tartan", "foreign_vxlan"), counted("probe", "four"), counted("probe", "six"))
        };
        assert_eq!(ping("10.251.1.4"), (1, 0, 0), "a stranger's, over IPv4");
        assert_eq!(ping("10.251.1.6"), (2, 0, 0), "over IPv6");
        // They are peers' now.
        intent.peers[0].side.tunnel_sources = vec![ip("192.0.2.21")];
        intent.peers[1].side.tunnel_sources = vec![ip("2001:db8::21")];
        settle(&mut kernel, &intent).await;
        assert_eq!(ping("10.251.1.4"), (2, 1, 0));
        assert_eq!(ping("10.251.1.6"), (2, 1, 1));
    });
}

/// An IPv4 packet (RFC 791) without payload, from a peer's pod to one of this node.
const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0x63, 0x63, 10, 64, 1, 9, 10, 251, 1, 9];

/// The forwarder judges for itself. Here a socket is in its place, so that what doesn't arrive is what the guard dropped.
#[test]
fn the_forwarder_gets_datagrams_of_peers_alone() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = intent(vec![remote(1)]);
        intent.local.side.accepts.insert(Backend::Udp);
        settle(&mut kernel, &intent).await;
        stranger();
        let forwarder = UdpSocket::bind("192.0.2.11:8285").unwrap();
        let another = UdpSocket::bind("192.0.2.11:9000").unwrap();
        for socket in [&forwarder, &another] {
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
        let other = Path::new("/run/netns/other");
        let far = within(other, || UdpSocket::bind("192.0.2.21:8285").unwrap()).unwrap();
        // What comes of a packet, and how many the guard has dropped by then.
        let send = |to: &UdpSocket| {
            far.send_to(&PACKET, to.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 100];
            let came = to.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec());
            (came, counted("tartan", "foreign_udp"))
        };
        let whole = Some(PACKET.to_vec());
        assert_eq!(send(&forwarder), (None, 1), "a stranger's");
        assert_eq!(send(&another), (whole.clone(), 1), "to somebody else's port");
        // It is a peer's now.
        intent.peers[0].side.tunnel_sources = vec![ip("192.0.2.21")];
        settle(&mut kernel, &intent).await;
        assert_eq!(send(&forwarder), (whole, 1));
    });
}

/// Its device takes every packet that no other tunnel takes.
#[test]
#[ignore = "needs a kernel with ipip: tests/vm.rs runs it"]
fn nothing_comes_out_of_an_ipip_tunnel_but_peers_packets_to_pods() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut intent = intent(vec![neighbour(12)]);
        intent.local.side.accepts.insert(Backend::Ipip);
        let mut kernel = kernel(&folder);
        settle(&mut kernel, &intent).await;
        stranger();
        run("ip -n other link add tunnel type ipip local 192.0.2.21 remote 192.0.2.11
             ip -n other address add 10.250.12.7/32 dev tunnel
             ip -n other link set tunnel up
             ip -n other route add 10.251.1.0/24 dev tunnel src 10.250.12.7
             ip -n other route add 10.96.0.1/32 dev tunnel src 10.250.12.7
             ip -n other route add 203.0.113.1/32 dev tunnel src 10.250.12.7
             ip address add 203.0.113.1/32 dev lo
             nft 'table inet probe { counter inside { }; chain c { type filter hook prerouting priority -150;
                 iifname tartan-ipip counter name inside; }; }'");
        let ping = |to: &str| {
            run(&format!("ip netns exec other ping -q -c1 -W1 {to} || true"));
            (counted("tartan", "foreign_ipip"), counted("probe", "inside"))
        };
        assert_eq!(ping("10.251.1.9"), (1, 0), "a stranger to a pod");
        assert_eq!(ping("10.96.0.1"), (2, 0), "to a Service");
        assert_eq!(ping("203.0.113.1"), (3, 0), "to the node");
        // It is a peer's now.
        intent.peers[0].side.tunnel_sources = vec![ip("192.0.2.21")];
        settle(&mut kernel, &intent).await;
        assert_eq!(ping("10.251.1.9"), (3, 1));
        assert_eq!(ping("10.96.0.1"), (4, 1), "nobody's packets are to a Service when they come out");
    });
}
