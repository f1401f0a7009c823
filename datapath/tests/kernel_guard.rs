//! The guard against strays on the real kernel: what a node itself sends to a Service is judged by its end point.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{in_namespace, intent, json, kernel, remote, run, settle};

fn strays() -> u64 {
    let listing = json("nft -j list counter inet tartan stray");
    listing["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|item| item["counter"]["packets"].as_u64())
        .unwrap()
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
        let sent = json("nft -j list counter inet probe tunnel");
        let sent =
            sent["nftables"].as_array().unwrap().iter().find_map(|item| item["counter"]["packets"].as_u64());
        assert_eq!((sent, strays()), (Some(1), 0), "it leaves by the tunnel");
        ask("198.51.100.2");
        assert!(strays() > 0, "it would leave by the default route");
        let direct = strays();
        ask("10.99.0.6");
        assert!(strays() > direct, "so would a packet that needs no translation");
    });
}
