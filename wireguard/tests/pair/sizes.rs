//! Packets of every length that there is: what the process takes and gives by one system call is as many as it was.

use super::{
    apart,
    lab::{Lab, eventually, inner, reaches, run, stream, stream_to, succeeds},
    started,
};

/// Longer than the engine's own buffers.
#[test]
fn packets_as_long_as_a_large_uplink_takes_pass_and_one_by_one_too() {
    apart(|| {
        let mut lab = Lab::start();
        lab.set_mtu(9000);
        for node in [1, 2] {
            lab.serve(node);
        }
        let mut intents = lab.both(&[0]);
        for (node, intent) in (1..).zip(&mut intents) {
            (intent.local.uplink.mtu, intent.local.mtu) = (9000, 8940);
            intent.peers[0].mtu = Some(8940);
            lab.settle_soon(node, intent);
        }
        assert!(run("ip -n node1 link show tartan-wg0").contains("mtu 8940"));
        eventually("a way between the nodes", || reaches(1, 2) && reaches(2, 1));
        for (from, to) in [(1, 2), (2, 1)] {
            let ping = "ping -qc3 -i0.05 -W1 -M do -s";
            assert!(succeeds(&format!("ip netns exec node{from} {ping} 8912 {}", inner(to))), "from {from}");
            stream(from, to, 20_000_000).unwrap();
        }
        // Of a connection whose segments are short, more come by one read than there are of usual length.
        run(&format!(
            "ip -n node1 route replace 10.244.2.0/24 dev tartan-wg0 src {} advmss 88 mtu lock 576",
            inner(1)
        ));
        stream(1, 2, 2_000_000).unwrap();
        stream(2, 1, 2_000_000).unwrap();
    });
}

/// Of datagrams that are joined on their way to a pod, one may have a tunnel of the pods' own inside.
#[test]
fn a_tunnel_of_the_pods_own_passes() {
    apart(|| {
        let _lab = started();
        for (node, other) in [(1, 2), (2, 1)] {
            run(&format!(
                "ip -n node{node} link add own type vxlan id 7 dstport 4789 local {} remote {}
                 ip -n node{node} address add 172.30.0.{node}/24 dev own
                 ip -n node{node} link set own mtu 1390 up",
                inner(node),
                inner(other)
            ));
        }
        eventually("a way through it", || succeeds("ip netns exec node1 ping -qc1 -W1 172.30.0.2"));
        for (from, to) in [(1, 2), (2, 1)] {
            stream_to(from, to, &format!("172.30.0.{to}"), 5_000_000).unwrap();
        }
    });
}
