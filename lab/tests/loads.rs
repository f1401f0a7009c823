//! Standing traffic counts what is lost, and only that.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

use std::time::{Duration, Instant};

use tartan_lab::traffic::{Echo, Load, LoadOptions, round_trips};
use tartan_lab::{Fabric, FabricOptions, eventually};

fn let_flow(time: Duration) {
    let start = Instant::now();
    eventually("enough traffic", time * 2, || start.elapsed() >= time).unwrap();
}

#[test]
fn an_undisturbed_load_loses_nothing_in_either_family() {
    let fabric = Fabric::start(FabricOptions::with_segments(&[1, 1])).unwrap();
    let (one, two) = (fabric.node("node1"), fabric.node("node2"));
    let _echo = Echo::start(two, 7000).unwrap();
    let options = LoadOptions { tcp_bulk: 64 << 10, ..LoadOptions::default() };
    let v4 = Load::start(one, "v4", (two.address(), 7000), &options).unwrap();
    let v6 = Load::start(one, "v6", (two.address_v6(), 7000), &options).unwrap();
    let_flow(Duration::from_secs(2));

    for load in [v4, v6] {
        let report = load.finish().unwrap();
        assert_eq!((report.lost(), report.connections_lost()), (0, 0), "{report}");
        assert_eq!((report.flows.len(), report.segments_lost()), (10, 0), "{report}");
        let udp = &report.flows[0];
        assert!(udp.sent > 1500 && udp.received == udp.sent && udp.duplicated == 0, "{report}");
        assert!(report.flows[1..9].iter().all(|tcp| tcp.protocol == "tcp" && tcp.received > 50), "{report}");
        assert!(report.flows[9].protocol == "bulk" && report.flows[9].received > 20, "{report}");
    }
}

#[test]
fn an_interruption_is_counted_packet_by_packet() {
    let fabric = Fabric::start(FabricOptions::with_segments(&[2])).unwrap();
    let (one, two) = (fabric.node("node1"), fabric.node("node2"));
    let _echo = Echo::start(two, 7000).unwrap();
    let options = LoadOptions { tcp_bulk: 64 << 10, ..LoadOptions::default() };
    let load = Load::start(one, "cut", (two.address(), 7000), &options).unwrap();
    let_flow(Duration::from_millis(500));
    fabric.disconnect("node2").unwrap();
    let_flow(Duration::from_millis(500));
    fabric.reconnect("node2").unwrap();
    let_flow(Duration::from_secs(2));

    let report = load.finish().unwrap();

    let udp = &report.flows[0];
    assert!((300..2000).contains(&udp.lost), "{report}");
    assert!(udp.max_gap_ms >= 400, "{report}");
    // TCP repeats what was lost.
    assert_eq!(report.lost(), udp.lost, "{report}");
    assert_eq!(report.connections_lost(), 0, "{report}");
    assert!(report.segments_lost() > 0, "{report}");
}

#[test]
fn one_packet_in_ten_is_full_and_lost_where_it_does_not_fit() {
    let fabric = Fabric::start(FabricOptions::with_segments(&[2])).unwrap();
    let (one, two) = (fabric.node("node1"), fabric.node("node2"));
    let _echo = Echo::start(two, 7000).unwrap();
    // The cables' MTU is 1500.
    for (mtu, fits) in [(1500, true), (1501, false)] {
        for address in two.addresses() {
            let options = LoadOptions { udp_mtu: Some(mtu), tcp_flows: 0, ..LoadOptions::default() };
            let load = Load::start(one, &format!("{mtu}-{address}"), (address, 7000), &options).unwrap();
            let_flow(Duration::from_millis(500));

            let report = load.finish().unwrap();

            let udp = &report.flows[0];
            let expected = if fits { 0 } else { udp.sent.div_ceil(10) };
            assert!(udp.sent > 300, "{report}");
            assert_eq!((udp.lost, udp.refused), (expected, expected), "{report}");
        }
    }
}

#[test]
fn round_trips_are_timed_by_both_protocols() {
    let fabric = Fabric::start(FabricOptions::with_segments(&[2])).unwrap();
    let (one, two) = (fabric.node("node1"), fabric.node("node2"));
    let _echo = Echo::start_pinned(two, 7000).unwrap();
    for udp in [false, true] {
        let times = round_trips(one, (two.address(), 7000), udp, 200).unwrap();
        assert!(times.median > 0.0 && times.median <= times.p99 && times.p99 < 1e6, "{times:?}");
    }
}
