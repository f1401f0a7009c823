//! Virtual machines: both kernels boot and have what this host may lack; failure and delay are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests")]

use std::time::Duration;

use tartan_lab::{
    traffic::{self, Report},
    vm::{Kernel, Machine},
};

/// Many times what a machine takes on a quiet host.
const LIMIT: Duration = Duration::from_secs(120);

const EVERYTHING: &str = "
set -ex
uname -r
ip link add d0 type dummy
ip link add w0 type wireguard
ip link add i0 type ipip local 192.0.2.1
ip link add v0 type vxlan id 7 dstport 8472 nolearning
ip link add x0 type xfrm dev d0 if_id 7
ip link add b0 type bridge
ip link add p0 type veth peer name p1
ip tuntap add t0 mode tun
tc qdisc add dev d0 root netem delay 1ms
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel aead 'rfc4106(gcm(aes))' 0x0000000000000000000000000000000000000000 128
wg show w0
nft add table inet t
nft add chain inet t c '{ type nat hook postrouting priority srcnat; }'
nft add rule inet t c masquerade fully-random
ip netns add n
ip netns exec n ip link set lo up
ip netns exec n ping -c1 -W1 127.0.0.1
";

fn shell(kernel: Kernel, script: &str) -> Machine {
    Machine::new(kernel, "/bin/dash").arguments(&["-c", script])
}

#[test]
fn both_kernels_have_what_pod_networks_need() {
    for kernel in Kernel::ALL {
        let report = shell(kernel, EVERYTHING).run(LIMIT, |_| {}).unwrap().ok().unwrap();
        assert!(report.console.contains(&format!("{}.", kernel.series())), "{}", report.console);
        eprintln!("a machine with Linux {} took {:.1} s", kernel.series(), report.took.as_secs_f64());
    }
}

#[test]
fn what_goes_wrong_in_a_machine_is_told() {
    let failed = shell(Kernel::V6_12, "echo some words; exit 7").run(LIMIT, |_| {}).unwrap();
    assert_eq!(failed.status, 7);
    // Time enough to load modules and to print a line, on a host as busy as this one is.
    let limit = Duration::from_secs(20 + failed.took.as_secs());
    let error = failed.ok().unwrap_err().to_string();
    assert!(error.contains("ended with 7") && error.contains("some words"), "{error}");

    let mut lines = vec![];
    let slow = shell(Kernel::V6_12, "echo \"it's $WORD\"; sleep 600").environment("WORD", "here");
    let error = slow.run(limit, |line| lines.push(line.to_owned())).unwrap_err();
    let told = format!("still running after {} s", limit.as_secs());
    assert!(format!("{error:#}").contains(&told), "{error:#}");
    assert!(lines.iter().any(|line| line == "it's here"), "{lines:?}");

    let died = shell(Kernel::V6_12, "poweroff -f").run(LIMIT, |_| {}).unwrap_err();
    assert!(died.to_string().contains("before its program ended"), "{died}");
}

/// Here and not beside the other loads, since the host may have no qdisc that delays packets or drops them.
const LATE_AND_LOST: &str = "
ip link set lo mtu 1500
tc qdisc add dev lo root netem
tartan-lab-traffic serve --port 7000 &
sleep 1
for disturbance in 'delay 700ms' 'loss 20%'; do
    tartan-lab-traffic load --to 127.0.0.1:7000 --udp-rate 0 --tcp-flows 4 --tcp-bulk 20000 --seconds 8 &
    load=$!
    sleep 3
    tc qdisc change dev lo root netem $disturbance
    sleep 3
    # Without the qdisc what waits in it would be lost.
    tc qdisc change dev lo root netem
    wait $load
done
";

#[test]
fn a_segment_that_is_late_does_not_count_as_lost() {
    let machine = shell(Kernel::V6_12, LATE_AND_LOST);
    let machine = machine.program(traffic::program().unwrap(), "/usr/sbin/tartan-lab-traffic");

    let report = machine.run(LIMIT, |_| {}).unwrap().ok().unwrap();

    let reports = report.console.lines().filter(|line| line.starts_with('{'));
    let reports: Vec<Report> = reports.map(|line| serde_json::from_str(line.trim_end()).unwrap()).collect();
    let [late, lost] = &reports[..] else { panic!("{}", report.console) };
    for report in [late, lost] {
        assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
    }
    assert!(late.max_delay_ms() > 1000, "both ways: {late}");
    assert_eq!(late.segments_lost(), 0, "{late}");
    assert!(lost.segments_lost() > 3, "{lost}");
}
