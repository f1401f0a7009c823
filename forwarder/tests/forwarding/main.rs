//! The forwarder between real TUN devices and real sockets: what pods see, what is on the wire, and what an
//! administrator does to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod lab;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lab::{Lab, answer, eventually, is_answered, make_device, netns, pause, run, socket, succeeds};
use serde_json::Value;

/// Each test has mounts of its own.
fn apart(test: fn()) {
    std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn started() -> Lab {
    let mut lab = Lab::start();
    (1..=2).for_each(|node| lab.forward(node));
    eventually("a way between the pods", || succeeds("ip netns exec pod1 ping -c1 -W1 10.244.2.2"));
    lab
}

/// As flannel's own backend makes it, by the bytes of RFC 791 and 792 and no code of ours: an echo request.
fn echo_request(source: [u8; 4], destination: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 48, 0x12, 0x34, 0, 0, ttl, 1, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    let mut message = vec![8, 0, 0, 0, 0xab, 0xcd, 0, 1];
    message.extend(*b"bare IPv4 in UDP....");
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    packet.extend(message);
    packet
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[test]
fn a_peer_that_speaks_flannels_format_is_understood() {
    apart(|| {
        let lab = started();
        let peer = socket(3, "192.0.2.3:8285");
        let (pod, own) = ([10, 244, 1, 2], [10, 244, 3, 2]);
        // One hop is the forwarder's, one is the kernel's, and the pod's answer goes the same way back.
        for (ttl, expected) in [(64, Some((0, pod))), (3, Some((0, pod))), (2, Some((11, [10, 244, 1, 0])))] {
            peer.send_to(&echo_request(own, pod, ttl), "192.0.2.1:8285").unwrap();
            let packet = answer(&peer);
            let seen = (packet[20], [packet[12], packet[13], packet[14], packet[15]]);
            assert_eq!(Some(seen), expected, "time to live {ttl}");
            assert_eq!(packet[0], 0x45, "the datagram is an IPv4 packet and nothing else");
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            assert_eq!(checksum(&packet[..20]), [0, 0]);
            assert_eq!(checksum(&packet[20..]), [0, 0]);
            if seen.0 == 0 {
                assert_eq!((packet[8], &packet[24..]), (62, &echo_request(own, pod, 9)[24..]));
            }
        }
        // With the last hop it is the forwarder that says so, from the node's own address among the pods'.
        let expired =
            || lab.metric(1, "tartan_forwarder_dropped_packets_total", "direction=\"in\",reason=\"expired\"");
        assert_eq!(expired(), 0, "the one before was the kernel's");
        peer.send_to(&echo_request(own, pod, 1), "192.0.2.1:8285").unwrap();
        let packet = answer(&peer);
        assert_eq!((packet[20], &packet[12..16]), (11, &[10, 244, 1, 0][..]));
        assert_eq!(&packet[28..48], &echo_request(own, pod, 1)[..20], "it quotes the packet");
        eventually("one to be counted", || expired() == 1);
    });
}

#[test]
fn what_leaves_is_ipv4_in_udp_to_another_eye() {
    apart(|| {
        let _lab = started();
        let peer = socket(3, "192.0.2.3:8285");
        let capture = Command::new("ip")
            .args(["netns", "exec", "node3", "tcpdump", "-ni", "eth0", "-c1", "-w", "-", "udp port 8285"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ping = Command::new("sh")
            .args(["-c", "ip netns exec pod1 ping -q -i0.2 -c20 -W1 10.244.3.2 > /dev/null; true"])
            .spawn();
        let output = capture.wait_with_output().unwrap();
        ping.unwrap().wait().unwrap();
        // pcap's file header, the record's, Ethernet, IPv4, UDP; what is left is told to tcpdump as raw IP.
        let (file, frame) = (&output.stdout[..24], &output.stdout[40..]);
        let payload = &frame[14 + 20 + 8..];
        let mut raw = file.to_vec();
        raw[20..24].copy_from_slice(&101u32.to_ne_bytes());
        raw.extend([0; 8]);
        raw.extend((payload.len() as u32).to_ne_bytes());
        raw.extend((payload.len() as u32).to_ne_bytes());
        raw.extend(payload);
        let folder = run("mktemp -d").trim().to_owned();
        std::fs::write(format!("{folder}/raw.pcap"), raw).unwrap();
        let told = run(&format!("tcpdump -nvvr {folder}/raw.pcap 2> /dev/null; rm -r {folder}"));
        assert!(
            told.contains("ttl 62") && told.contains("10.244.1.2 > 10.244.3.2: ICMP echo request"),
            "{told}"
        );
        assert!(!told.contains("bad cksum") && !told.contains("wrong"), "{told}");
        assert!(is_answered(&peer));
    });
}

#[test]
fn strangers_are_dropped_and_counted() {
    apart(|| {
        let lab = started();
        run("ip -n node3 address add 192.0.2.99/24 dev eth0");
        let (pod, own) = ([10, 244, 1, 2], [10, 244, 3, 2]);
        let dropped = |reason: &str| {
            let labels = format!("direction=\"in\",reason=\"{reason}\"");
            lab.metric(1, "tartan_forwarder_dropped_packets_total", &labels)
        };
        for (from, source, reason) in [
            ("192.0.2.99:8285", own, "foreign_peer"),
            ("192.0.2.3:8285", [10, 244, 2, 2], "foreign_source"),
            ("192.0.2.3:8285", [10, 244, 1, 1], "foreign_source"),
        ] {
            let (peer, before) = (socket(3, from), dropped(reason));
            peer.send_to(&echo_request(source, pod, 64), "192.0.2.1:8285").unwrap();
            eventually(&format!("{from} as {source:?} to be counted"), || dropped(reason) == before + 1);
            assert!(!is_answered(&peer), "from {from} as {source:?}");
        }
        let peer = socket(3, "192.0.2.3:8285");
        for broken in [&[][..], &[0x45], &[0; 60], &[0x60; 60], &echo_request(own, pod, 64)[..40]] {
            peer.send_to(broken, "192.0.2.1:8285").unwrap();
        }
        // One of no bytes holds no packet.
        eventually("four to be counted", || dropped("malformed") == 4);
        assert!(!is_answered(&peer));
    });
}

#[test]
fn who_can_not_be_served_is_told_why() {
    apart(|| {
        let _lab = started();
        let told = |line: &str| {
            let output =
                Command::new("sh").args(["-c", &format!("ip netns exec pod1 {line}")]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        run("ip -n node1 route add 10.244.9.0/24 dev tartan-udp");
        let answer = told("ping -c1 -W2 10.244.9.9");
        assert!(answer.contains("From 10.244.1.0 icmp_seq=1 Destination Net Unreachable"), "{answer}");
        let answer = told("ping -c1 -W2 -t2 10.244.2.2");
        assert!(answer.contains("From 10.244.1.0 icmp_seq=1 Time to live exceeded"), "{answer}");
        // The path has become narrower than the link.
        run("ip -n node1 route add 192.0.2.2/32 dev eth0 mtu 1300");
        let answer = told("ping -c1 -W2 -M do -s1400 10.244.2.2");
        assert!(answer.contains("Frag needed and DF set (mtu = 1272)"), "{answer}");
        let answer = told("ping -c1 -W2 -M dont -s1400 10.244.2.2");
        assert!(answer.contains(" 0% packet loss"), "{answer}");
    });
}

#[test]
fn a_stream_passes_in_large_pieces_and_whole() {
    apart(|| {
        let lab = started();
        run(
            "ip netns exec pod2 nft 'table ip t { chain c { type filter hook input priority 0; meta l4proto tcp counter; }; }'",
        );
        let stream = |from: u8, to: u8| {
            let [one, other] = [from, to].map(|node| netns(&format!("pod{node}")));
            let address = format!("10.244.{to}.2").parse().unwrap();
            tartan_lab::traffic::stream(&one, &other, address, 50_000_000).unwrap();
        };
        stream(1, 2);
        let counted = run("ip netns exec pod2 nft -j list ruleset");
        stream(2, 1);
        for direction in ["out", "in"] {
            let label = format!("direction=\"{direction}\"");
            let packets = lab.metric(1, "tartan_forwarder_packets_total", &label);
            let batches = lab.metric(1, "tartan_forwarder_batches_total", &label);
            assert!(packets > 4 * batches, "{direction}: {packets} packets in {batches} batches");
        }
        // What the pod is handed is joined again.
        let counted: Value = serde_json::from_str(&counted).unwrap();
        let counter = counted.pointer("/nftables/3/rule/expr/1/counter").unwrap();
        let size = counter["bytes"].as_u64().unwrap() / counter["packets"].as_u64().unwrap();
        assert!(size > 3000, "the pod gets packets of {size} bytes on average");
        // UDP in many small pieces, some of them in one system call.
        let mut server = Command::new("ip")
            .args(["netns", "exec", "pod2", "iperf3", "--server", "--one-off"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("iperf3's server", || succeeds("ip netns exec pod2 ss -ltn | grep -q :5201"));
        let answer = run(
            "ip netns exec pod1 iperf3 --client 10.244.2.2 --json --udp --length 600 --bitrate 1M --time 2",
        );
        server.wait().unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let (lost, sent) = (&answer["end"]["sum"]["lost_packets"], &answer["end"]["sum"]["packets"]);
        assert!(lost.as_u64().unwrap() * 20 < sent.as_u64().unwrap(), "{lost} of {sent} lost");
        for node in [1, 2] {
            // The kernel's own words about IPv6 are none for peers, and so only what came in is looked at.
            let labels = "direction=\"in\",reason=\"malformed\"";
            assert_eq!(lab.metric(node, "tartan_forwarder_dropped_packets_total", labels), 0);
        }
    });
}

/// Sends one packet after another and tells the longest time in which none was answered.
fn longest_gap(during: impl FnOnce()) -> Duration {
    let ping = Command::new("ip")
        .args(["netns", "exec", "pod1", "ping", "-D", "-i", "0.005", "-W", "1", "10.244.2.2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(ping.id().try_into().unwrap());
    pause(Duration::from_millis(500));
    during();
    pause(Duration::from_secs(2));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    let times: Vec<f64> = output
        .lines()
        .filter(|line| line.contains("bytes from"))
        .filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse().ok())
        .collect();
    assert!(times.len() > 100, "{output}");
    Duration::from_secs_f64(times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max))
}

#[test]
fn the_next_process_goes_on_where_the_killed_one_stopped() {
    apart(|| {
        let mut lab = started();
        let flags = || run("ip -n node1 link show tartan-udp");
        assert!(flags().contains("LOWER_UP"));
        let gap = longest_gap(|| {
            lab.kill(1);
            lab.forward(1);
        });
        println!("killed and started anew: {} ms without an answer", gap.as_millis());
        assert!(gap < Duration::from_secs(2), "{gap:?}");
        // One that is started before the old one ends leaves no gap but what is in the old one's hands.
        let sockets = || run("ip netns exec node1 ss -Hlun 'sport = :8285'").lines().count();
        let own = sockets();
        let gap = longest_gap(|| {
            lab.forward(1);
            eventually("the next one's sockets", || sockets() == 2 * own);
            // It attaches to the device right after.
            pause(Duration::from_millis(500));
            lab.kill(1);
        });
        println!("started beside the old one: {} ms without an answer", gap.as_millis());
        assert!(gap < Duration::from_secs(2), "{gap:?}");
        lab.kill(1);
        eventually("a device without a carrier", || flags().contains("NO-CARRIER"));
        assert!(run("ip -n node1 route show table 84").contains("10.244.2.0/24 via 192.0.2.2"));
    });
}

#[test]
fn a_device_that_is_made_anew_is_found() {
    apart(|| {
        let lab = started();
        for _ in 0..2 {
            run("ip -n node1 link delete tartan-udp");
            make_device(1);
            let start = Instant::now();
            eventually("a way between the pods", || succeeds("ip netns exec pod1 ping -c1 -W1 10.244.2.2"));
            println!("found after {} ms", start.elapsed().as_millis());
        }
        assert_eq!(lab.metric(1, "tartan_forwarder_forwarding", ""), 1);
    });
}

#[test]
fn routes_that_come_and_go_are_followed() {
    apart(|| {
        let lab = started();
        let subnets = || lab.metric(1, "tartan_forwarder_subnets", "");
        assert_eq!(subnets(), 2);
        let mut routes = String::new();
        for number in 0..2000u32 {
            let (a, b) = (number / 250, number % 250);
            routes.push_str(&format!(
                "route add 10.{}.{b}.0/24 via 198.18.{a}.{b} dev tartan-udp onlink proto 84 table 84\n",
                100 + a
            ));
        }
        std::fs::write("/run/netns/batch", routes).unwrap();
        run("ip -n node1 -batch /run/netns/batch");
        eventually("all routes", || subnets() == 2002);
        run("ip -n node1 route add 10.244.7.0/24 via 192.0.2.2 dev tartan-udp onlink table 84");
        run("ip -n node1 route flush table 84 proto 84");
        eventually("no routes", || subnets() == 0);
    });
}
