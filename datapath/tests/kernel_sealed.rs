//! Sealed pairs on the real kernel: what comes or would go in clear is dropped and counted, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{in_namespace, intent, kernel, neighbour, run, settle};
use tartan_datapath::{
    kernel::Kernel,
    model::{Backend, Intent},
};

/// At the far end of `eth0`: a node 192.0.2.12 with a pod 10.250.12.2, which sends as it likes. Its pod's packets
/// are counted where they come in, and ours where they arrive there.
const FAR: &str = r#"
mkdir -p /run/netns; mount -t tmpfs netns /run/netns; ip netns add far; ip link set far netns far
ip -n far address add 192.0.2.12/24 dev far
ip -n far address add 10.250.12.2/24 dev far
ip -n far link set far up
ip -n far link set lo up
ip -n far route add 10.251.1.0/24 via 192.0.2.11
ip address add 192.0.2.1/24 dev eth0
ip route replace default via 192.0.2.12
nft -f - <<'NFT'
table inet probe {
  counter arrived {
  }
  chain input {
    type filter hook input priority 100; policy accept;
    ip saddr 10.250.12.2 icmp type echo-request counter name "arrived"
  }
}
NFT
ip netns exec far nft -f - <<'NFT'
table inet probe {
  counter arrived {
  }
  chain prerouting {
    type filter hook prerouting priority raw; policy accept;
    ip daddr 10.250.12.0/24 counter name "arrived"
  }
}
NFT
"#;

const PING_HERE: &str = "ip netns exec far ping -c1 -W1 -I 10.250.12.2 10.251.1.1 || true";
const PING_THERE: &str = "ping -c1 -W1 10.250.12.2 || true";

/// With a peer that sends encrypted. There is no key here, so no path leads to it.
fn with_encrypted_peer(sealed: bool) -> Intent {
    let mut peer = neighbour(12);
    (peer.side.backend, peer.side.sealed) = (Backend::Wireguard, sealed);
    let mut intent = intent(vec![peer]);
    intent.local.side.accepts.insert(Backend::Wireguard);
    intent
}

async fn counted(kernel: &mut Kernel) -> (u64, u64) {
    let counters = kernel.nft_counters().await.unwrap();
    (counters["sealed_clear"].0, counters["stray"].0)
}

fn arrived(place: &str) -> u64 {
    let listing = run(&format!("{place} nft -j list counter inet probe arrived"));
    let listing: serde_json::Value = serde_json::from_str(&listing).unwrap();
    let counters = listing["nftables"].as_array().unwrap();
    counters.iter().find_map(|item| item["counter"]["packets"].as_u64()).unwrap()
}

const THERE: &str = "ip netns exec far";

#[test]
fn what_comes_in_clear_from_a_sealed_peer_is_dropped_and_counted() {
    in_namespace(|| async {
        run(FAR);
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        // The header of RFC 7348 with VNI 1, and one with VNI 2, which is another's business.
        let tunnel = |vni: u8| {
            run(&format!(
                r"ip netns exec far bash -c 'printf \\x08\\x00\\x00\\x00\\x00\\x00\\x0{vni}\\x00frame > /dev/udp/192.0.2.11/8472'"
            ));
        };
        settle(&mut kernel, &with_encrypted_peer(false)).await;
        run(PING_HERE);
        tunnel(1);
        assert_eq!(arrived(""), 1, "before: what comes is taken");
        assert_eq!(counted(&mut kernel).await.0, 0);

        settle(&mut kernel, &with_encrypted_peer(true)).await;
        run(PING_HERE);
        assert_eq!((arrived(""), counted(&mut kernel).await.0), (1, 1), "a plain packet");
        tunnel(1);
        assert_eq!(counted(&mut kernel).await.0, 2, "one in the tunnel");
        tunnel(2);
        // A node's address is not the pod network's: a pod's packet to it is in clear by design.
        run("ip netns exec far ping -c1 -W1 -I 10.250.12.2 192.0.2.11 || true");
        assert_eq!((arrived(""), counted(&mut kernel).await.0), (2, 2));

        settle(&mut kernel, &with_encrypted_peer(false)).await;
        run(PING_HERE);
        assert_eq!((arrived(""), counted(&mut kernel).await.0), (3, 2), "and after");
    });
}

/// Each line leads the sealed peer's packets elsewhere while nobody repairs it.
const ASTRAY: [&str; 4] = [
    "ip route delete 10.250.12.0/24",
    "ip route replace 10.250.12.0/24 via 192.0.2.12 dev eth0 proto 84",
    "ip route replace 10.250.12.0/25 via 192.0.2.12 dev eth0",
    "ip route replace 10.250.12.0/24 via 10.250.12.0 dev tartan-vxlan onlink src 10.251.1.0; ip neighbour replace 10.250.12.0 lladdr 02:00:00:00:00:12 dev tartan-vxlan nud permanent; bridge fdb replace 02:00:00:00:00:12 dev tartan-vxlan dst 192.0.2.12",
];

#[test]
fn nothing_goes_in_clear_to_a_sealed_peer_wherever_its_route_leads() {
    in_namespace(|| async {
        run(FAR);
        run("ip -n far link add vx type vxlan id 1 dev far local 192.0.2.12 dstport 8472 nolearning");
        run("ip -n far link set vx address 02:00:00:00:00:12 up");
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = kernel(&folder);
        for astray in ASTRAY {
            settle(&mut kernel, &with_encrypted_peer(true)).await;
            let before = (arrived(THERE), counted(&mut kernel).await.1);
            run(astray);
            run(PING_THERE);
            let after = (arrived(THERE), counted(&mut kernel).await.1);
            assert_eq!(after.0, before.0, "`{astray}`: it left in clear");
            assert!(after.1 > before.1, "`{astray}`: it was not counted");
            // Without the guard the same packet is there to be seen.
            run("nft delete table inet tartan");
            run(PING_THERE);
            assert!(arrived(THERE) > after.0, "`{astray}` leads nowhere: the test shows nothing");
            run("ip route delete 10.250.12.0/25 2>/dev/null || true");
        }
    });
}
