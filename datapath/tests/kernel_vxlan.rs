//! VXLAN's own settings on the real kernel, with packets: learning, group policy, an underlay of IPv6 alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{assert_clean, in_namespace, intent, ip, json, kernel, neighbour, net, round, run, settle};
use tartan_datapath::{
    model::{Backend, Deletions, Intent, Peer},
    mtu,
};

/// A node at the far end of `eth0` that was set up by hand: pod 10.250.12.2, tunnel `vx` with these options.
fn far(address: &str, here: &str, options: &str) {
    run(&format!(
        "mkdir -p /run/netns; mount -t tmpfs netns /run/netns; ip netns add far; ip link set far netns far
         ip -n far address add {address} dev far nodad 2>/dev/null || ip -n far address add {address} dev far
         ip -n far link set far up
         ip -n far link set lo up
         ip -n far address add 10.250.12.2/32 dev lo
         ip -n far link add vx type vxlan id 1 dev far local {} dstport 8472 nolearning {options}
         ip -n far link set vx address 02:00:00:ff:00:0c up
         ip -n far route add 10.251.1.0/24 via 10.251.1.0 dev vx onlink src 10.250.12.2
         ip -n far neighbour add 10.251.1.0 lladdr 02:00:00:fe:00:01 dev vx nud permanent
         bridge -n far fdb add 02:00:00:fe:00:01 dev vx dst {here} self permanent",
        address.split('/').next().unwrap()
    ));
}

fn by_vxlan(mut peer: Peer) -> Peer {
    peer.side.backend = Backend::Vxlan;
    peer
}

fn with_peer() -> Intent {
    let mut intent = intent(vec![by_vxlan(neighbour(12))]);
    intent.local.side.backend = Backend::Vxlan;
    intent
}

fn settings() -> (serde_json::Value, serde_json::Value) {
    let data = json("ip -json -details link show tartan-vxlan")[0]["linkinfo"]["info_data"].clone();
    (data["learning"].clone(), data.get("gbp").cloned().unwrap_or(false.into()))
}

const PING: &str = "ping -c2 -i 0.2 -W1 10.250.12.2";

#[test]
fn learning_and_group_policy_are_set_as_they_are_asked_for_and_put_back() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = with_peer();
        for (learning, gbp) in [(false, false), (true, true), (true, false), (false, true)] {
            (intent.vxlan.learning, intent.vxlan.gbp) = (learning, gbp);
            settle(&mut kernel, &intent).await;
            assert_eq!(settings(), (learning.into(), gbp.into()));
            assert!(
                run("ip route show proto 84").contains("10.250.12.0/24"),
                "what hangs on it is there again"
            );
            let (learns, groups) = (if learning { "no" } else { "" }, if gbp { "" } else { "gbp" });
            run(&format!(
                "ip link delete tartan-vxlan
                 ip link add tartan-vxlan type vxlan id 1 dev eth0 local 192.0.2.11 dstport 8472 {learns}learning {groups}
                 ip link set tartan-vxlan address 02:00:00:fe:00:01 alias 'tartan: managed by tartan-node-agent' up"
            ));
            assert_eq!(settings(), ((!learning).into(), (!gbp).into()), "somebody altered both");
            settle(&mut kernel, &intent).await;
            assert_eq!(settings(), (learning.into(), gbp.into()));
        }
    });
}

#[test]
fn the_group_of_a_packet_arrives_with_group_policy_and_not_without() {
    for gbp in [true, false] {
        in_namespace(move || async move {
            far("192.0.2.12/24", "192.0.2.11", if gbp { "gbp" } else { "" });
            run(
                "ip netns exec far nft 'table inet probe { counter grouped { }; chain c { type filter hook prerouting priority raw; meta mark 51 icmp type echo-request counter name grouped; }; }'",
            );
            let folder = tempfile::tempdir().unwrap();
            let mut intent = with_peer();
            intent.vxlan.gbp = gbp;
            settle(&mut kernel(&folder), &intent).await;
            run(&format!("{PING} -m 51"));
            let listing = json("ip netns exec far nft -j list counter inet probe grouped");
            let counters = listing["nftables"].as_array().unwrap();
            let packets = counters.iter().find_map(|item| item["counter"]["packets"].as_u64());
            assert_eq!(packets, Some(if gbp { 2 } else { 0 }));
        });
    }
}

#[test]
fn what_the_device_learned_is_nobodys_business() {
    in_namespace(|| async {
        far("192.0.2.12/24", "192.0.2.11", "");
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = with_peer();
        intent.vxlan.learning = true;
        settle(&mut kernel, &intent).await;
        // With another address the kernel forgets the neighbours.
        run("ip -n far link set vx address 02:00:00:00:77:77
             ip -n far neighbour replace 10.251.1.0 lladdr 02:00:00:fe:00:01 dev vx nud permanent");
        run("ip netns exec far ping -c1 -W1 -I 10.250.12.2 10.251.1.1 || true");
        let learned = || run("bridge fdb show dev tartan-vxlan").contains("02:00:00:00:77:77 dst 192.0.2.12");
        assert!(learned(), "{}", run("bridge fdb show dev tartan-vxlan"));
        let again = round(&mut kernel, &intent, Deletions::Allowed).await;
        assert_clean(&again);
        assert!(again.1.steps.is_empty(), "{:?}", again.1.steps);
        assert!(learned());
    });
}

#[test]
fn an_underlay_of_ipv6_alone_carries_pods_of_ipv4() {
    in_namespace(|| async {
        run("ip address delete 192.0.2.11/24 dev eth0; ip address add 2001:db8::11/64 dev eth0 nodad");
        far("2001:db8::12/64", "2001:db8::11", "");
        run(
            "ip netns exec far nft 'table inet probe { counter outer { }; chain c { type filter hook input priority 0; ip6 saddr 2001:db8::11 udp dport 8472 udp checksum != 0 counter name outer; }; }'",
        );
        let mut intent = with_peer();
        let side = &mut intent.local.side;
        (side.public_ips, side.uplink_prefixes) = (vec![ip("2001:db8::11")], vec![net("2001:db8::/64")]);
        intent.local.uplink.addresses = vec![net("2001:db8::11/64")];
        intent.local.uplink.prefixes = vec![net("2001:db8::/64")];
        let underlay = tartan_datapath::model::Family::V6;
        intent.local.mtu = mtu::pod_mtu(1500, underlay, [Backend::Vxlan], None, mtu::LEAST);
        let peer = &mut intent.peers[0];
        (peer.side.public_ips, peer.mtu) = (vec![ip("2001:db8::12")], None);
        let folder = tempfile::tempdir().unwrap();
        settle(&mut kernel(&folder), &intent).await;
        let link = &json("ip -json -details link show tartan-vxlan6")[0];
        let data = &link["linkinfo"]["info_data"];
        assert_eq!((&link["mtu"], &data["local6"]), (&1430.into(), &"2001:db8::11".into()));
        // RFC 6935 allows it to tunnels; nothing on the way would notice a damaged header.
        assert_eq!((&data["udp_zero_csum6_tx"], &data["udp_zero_csum6_rx"]), (&false.into(), &false.into()));
        let fdb = run("bridge fdb show dev tartan-vxlan6");
        assert!(fdb.contains("dst 2001:db8::12 self permanent"), "{fdb}");
        assert!(run("ip route show 10.250.12.0/24").contains("mtu 1430"));
        run(PING);
        // As large as the path takes, and not a byte more.
        run("ping -c1 -W1 -M do -s 1402 10.250.12.2");
        run("! ping -c1 -W1 -M do -s 1403 10.250.12.2");
        let listing = json("ip netns exec far nft -j list counter inet probe outer");
        let counters = listing["nftables"].as_array().unwrap();
        assert_eq!(counters.iter().find_map(|item| item["counter"]["packets"].as_u64()), Some(3));
    });
}
