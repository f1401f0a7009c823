//! On the real kernel: what is desired gets there, and what others alter or remove comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{assert_clean, in_namespace, intent, json, kernel, neighbour, remote, round, run, settle};
use tartan_datapath::{kernel::Notice, model::Deletions, plan::plan_cleanup};

#[test]
fn what_is_desired_is_what_iproute2_and_nft_show() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        settle(&mut kernel, &intent(vec![remote(1), neighbour(12)])).await;

        let vxlan = &json("ip -json -details link show tartan-vxlan")[0];
        let data = &vxlan["linkinfo"]["info_data"];
        assert_eq!(
            (&data["id"], &data["port"], &data["local"]),
            (&1.into(), &8472.into(), &"192.0.2.11".into())
        );
        assert_eq!((&data["learning"], &vxlan["mtu"]), (&false.into(), &1450.into()));
        assert_eq!(vxlan["ifalias"], "tartan: managed by tartan-node-agent");
        assert_eq!(vxlan["address"], "02:00:00:fe:00:01");
        let addresses = |link: &str| {
            let listed = json(&format!("ip -json -4 address show dev {link}"));
            let all = listed[0]["addr_info"].as_array().unwrap().clone();
            all.iter()
                .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(addresses("tartan0"), ["10.251.1.0/32", "10.251.1.1/24"]);
        let far = &json("ip -json -details route show 10.64.1.0/24")[0];
        assert_eq!((&far["gateway"], &far["dev"]), (&"10.64.1.0".into(), &"tartan-vxlan".into()));
        assert_eq!((&far["prefsrc"], &far["protocol"]), (&"10.251.1.0".into(), &"84".into()));
        assert_eq!((&far["metrics"][0]["mtu"], &far["flags"][0]), (&1450.into(), &"onlink".into()));
        let near = &json("ip -json route show 10.250.12.0/24")[0];
        assert_eq!((&near["gateway"], &near["dev"]), (&"192.0.2.12".into(), &"eth0".into()));
        assert_eq!(near["metrics"][0]["mtu"], 1400);
        let neighbours = run("ip neighbour show dev tartan-vxlan nud permanent");
        assert_eq!(neighbours.trim(), "10.64.1.0 lladdr 02:00:00:00:00:01 PERMANENT");
        let fdb = run("bridge fdb show dev tartan-vxlan");
        assert!(fdb.contains("02:00:00:00:00:01 dst 198.51.0.1 self permanent"), "{fdb}");
        let nft = run("nft list table inet tartan");
        assert!(nft.contains("10.250.12.0/24") && nft.contains("masquerade fully-random"), "{nft}");
        assert_eq!(run("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    });
}

/// Each line is what somebody does to a node that works.
const DAMAGE: [&str; 29] = [
    "ip link delete tartan-vxlan",
    "ip link delete tartan0",
    "ip link set tartan-vxlan down",
    "ip link set tartan-vxlan mtu 1200",
    "ip link set tartan-vxlan address 02:99:99:99:99:99",
    "ip link set tartan0 down",
    "ip link set tartan0 mtu 1300",
    "ip address delete 10.251.1.0/32 dev tartan0",
    "ip address delete 10.251.1.1/24 dev tartan0",
    "ip address add 10.251.77.1/24 dev tartan0",
    "ip route delete 10.64.1.0/24",
    "ip route delete 10.250.12.0/24",
    "ip route change 10.64.1.0/24 via 10.64.1.0 dev tartan-vxlan onlink proto 84 mtu 1000",
    "ip route add 10.88.0.0/16 via 192.0.2.99 proto 84",
    "ip neighbour delete 10.64.1.0 dev tartan-vxlan",
    "ip neighbour replace 10.64.1.0 lladdr 02:99:99:99:99:99 dev tartan-vxlan nud permanent",
    "ip neighbour change 10.64.1.0 lladdr 02:00:00:00:00:01 dev tartan-vxlan nud reachable",
    "ip address delete 127.84.84.84/32 dev tartan-vxlan",
    "bridge fdb delete 02:00:00:00:00:01 dev tartan-vxlan dst 198.51.0.1",
    "bridge fdb replace 02:00:00:00:00:01 dev tartan-vxlan dst 198.51.0.99 self permanent",
    "nft delete table inet tartan",
    "nft flush ruleset",
    "nft flush chain inet tartan outside",
    "nft insert rule inet tartan guard accept",
    "nft delete element inet tartan direct4 '{ 10.250.12.0/24 }'",
    "nft add element inet tartan direct4 '{ 10.9.0.0/24 }'",
    "sysctl -qw net.ipv4.ip_forward=0",
    "sysctl -qw net.ipv4.conf.tartan0.rp_filter=1",
    "ethtool -K tartan-vxlan tx off",
];

#[test]
fn whatever_is_altered_or_removed_comes_back_and_the_kernel_says_so_within_a_second() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let intent = intent(vec![remote(1), remote(2), neighbour(12)]);
        settle(&mut kernel, &intent).await;
        for damage in DAMAGE {
            // Take the notifications of our own steps.
            while tokio::time::timeout(std::time::Duration::from_millis(30), kernel.changed()).await.is_ok() {
            }
            run(damage);
            // Not every kernel tells of offloads; looking each second finds these.
            if !damage.starts_with("ethtool") {
                let notice = tokio::time::timeout(std::time::Duration::from_secs(1), kernel.changed()).await;
                assert!(notice.is_ok(), "no notification of `{damage}`");
                let foreign = damage.starts_with("sysctl");
                let expected = if foreign { Notice::Other } else { Notice::Ours };
                assert_eq!(notice.unwrap().unwrap(), expected, "of `{damage}`");
            }
            let repair = round(&mut kernel, &intent, Deletions::Allowed).await;
            assert!(
                repair.2.failures.is_empty(),
                "after `{damage}`: {:?}\n{}",
                repair.2.failures,
                run("bridge fdb show")
            );
            assert_clean(&repair);
            assert!(!repair.1.steps.is_empty(), "`{damage}` was not seen");
            settle(&mut kernel, &intent).await;
        }
    });
}

#[test]
fn a_peer_that_goes_leaves_nothing_and_frozen_deletions_keep_it() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        settle(&mut kernel, &intent(vec![remote(1), remote(2), neighbour(12)])).await;
        let fewer = intent(vec![remote(2)]);
        let frozen = round(&mut kernel, &fewer, Deletions::Frozen).await;
        assert_clean(&frozen);
        assert_eq!(
            frozen.1.held_back, 5,
            "route, neighbour and fdb of one, the route of the other and its place in the guard"
        );
        assert!(run("ip route").contains("10.64.1.0/24"));
        settle(&mut kernel, &fewer).await;
        let routes = run("ip route show proto 84");
        assert_eq!(routes.lines().count(), 1, "{routes}");
        assert_eq!(
            run("bridge fdb show dev tartan-vxlan").lines().filter(|line| line.contains("dst")).count(),
            1
        );
    });
}

#[test]
fn a_vxlan_device_with_another_vni_is_made_anew_with_all_that_hung_on_it() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = intent(vec![remote(1), remote(2)]);
        settle(&mut kernel, &intent).await;
        intent.vxlan.vni = 77;
        settle(&mut kernel, &intent).await;
        assert_eq!(json("ip -json -details link show tartan-vxlan")[0]["linkinfo"]["info_data"]["id"], 77);
        assert_eq!(run("ip route show proto 84").lines().count(), 2);
    });
}

#[test]
fn counters_survive_a_change_of_peers_and_of_rules() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        settle(&mut kernel, &intent(vec![neighbour(12)])).await;
        run("ping -c 3 -W 0.1 -i 0.01 10.77.0.1 || true");
        let counted = kernel.nft_counters().await.unwrap()["stray"];
        assert!(counted.0 > 0, "the guard counts packets to the pod network that would leave it");
        settle(&mut kernel, &intent(vec![neighbour(12), neighbour(13)])).await;
        assert_eq!(kernel.nft_counters().await.unwrap()["stray"], counted);
        let mut other = intent(vec![neighbour(12)]);
        other.masquerade = None;
        settle(&mut kernel, &other).await;
        assert_eq!(kernel.nft_counters().await.unwrap()["stray"], counted);
    });
}

#[test]
fn cleaning_up_leaves_the_host_as_it_was() {
    in_namespace(|| async {
        let look = || {
            [
                "ip link | grep -v 'qlen'",
                "ip -4 address",
                "ip route show table all",
                "ip neighbour",
                "nft list ruleset",
                "sysctl -a 2>/dev/null | grep -E 'ip_forward|rp_filter' | grep -v '\\.default\\.'",
            ]
            .map(run)
        };
        let before = look();
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let mut intent = intent(vec![remote(1), neighbour(12)]);
        intent.host.uplink_strict_rp_filter = true;
        settle(&mut kernel, &intent).await;
        let seen = kernel.observe(&tartan_datapath::desired::desired(&intent).elements).await;
        let outcome = kernel.apply(&plan_cleanup(&seen.observed)).await;
        assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        let kept = run(&format!("ls {}", folder.path().join("restore").display()));
        assert!(kept.contains("rp_filter") && !kept.contains("tartan"), "settings of others alone: {kept}");
        kernel.restore_sysctls().unwrap();
        assert_eq!(look(), before);
    });
}

#[test]
fn two_thousand_peers_come_and_go() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        settle(&mut kernel, &intent((1..=2000).map(remote).collect())).await;
        assert_eq!(run("ip route show proto 84").lines().count(), 2000);
        settle(&mut kernel, &intent(vec![])).await;
        assert_eq!(run("ip route show proto 84").lines().count(), 0);
    });
}

#[test]
fn links_of_running_pods_come_back_to_the_bridge_also_after_a_restart() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut first = kernel(&folder);
        let mut intent = intent(vec![]);
        settle(&mut first, &intent).await;
        run("ip link add pod1 type veth peer name inside1 && ip link set pod1 master tartan0 up");
        run("ip link add stranger type veth peer name inside2");
        run("ip link add named type veth peer name inside3");
        run("ip link set named master tartan0 alias 'mine' up");
        intent.host.ports = first.facts().await.unwrap().ports;
        assert_eq!(intent.host.ports.iter().collect::<Vec<_>>(), ["pod1"]);
        settle(&mut first, &intent).await;
        for damage in [
            "ip link set pod1 nomaster",
            "bridge link set dev pod1 hairpin off",
            "ip link delete tartan0",
            "ip link delete tartan0; ip link add other type bridge; ip link set named master other",
        ] {
            run(damage);
            // Another process: only the kernel can tell it which links were ports.
            let mut kernel = kernel(&folder);
            intent.host.ports = kernel.facts().await.unwrap().ports;
            settle(&mut kernel, &intent).await;
            assert_eq!(json("ip -json link show pod1")[0]["master"], "tartan0", "after `{damage}`");
            assert!(run("bridge -d link show dev pod1").contains("hairpin on"), "after `{damage}`");
            assert!(json("ip -json link show stranger")[0]["master"].is_null());
        }
        assert_eq!(json("ip -json link show named")[0]["master"], "other");
        assert_eq!(json("ip -json link show named")[0]["ifalias"], "mine");
        let seen = first.observe(&tartan_datapath::desired::desired(&intent).elements).await;
        first.apply(&plan_cleanup(&seen.observed)).await;
        assert!(json("ip -json link show pod1")[0]["ifalias"].is_null(), "cleaning up leaves the mark");
        // Gone between two looks: nothing to do, nothing to complain about.
        run("ip link delete pod1");
        assert_clean(&round(&mut first, &intent, Deletions::Allowed).await);
    });
}

#[test]
fn altered_settings_are_seen_without_a_notification_and_those_that_cannot_be_set_are_not_news() {
    in_namespace(|| async {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        let intent = intent(vec![]);
        settle(&mut kernel, &intent).await;
        assert!(!kernel.settings_altered());
        for damage in ["sysctl -qw net.ipv4.ip_forward=0", "ethtool -K tartan-vxlan tx off"] {
            run(damage);
            assert!(kernel.settings_altered(), "`{damage}` was not seen");
            // Looked at and not repaired, as when it can't be: that is known.
            let desired = tartan_datapath::desired::desired(&intent).elements;
            kernel.observe(&desired).await;
            assert!(!kernel.settings_altered(), "`{damage}` is news for ever");
            settle(&mut kernel, &intent).await;
            assert!(!kernel.settings_altered());
        }
    });
}
