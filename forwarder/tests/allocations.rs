//! No packet costs an allocation: the queues of two nodes run in this process, whose allocator counts. What else the
//! process does while it counts is to send and to receive, by sockets that were there before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]

#[allow(dead_code, reason = "a part is used here")]
#[path = "forwarding/lab.rs"]
mod lab;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{self, Read as _, Write as _},
    net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use lab::{Lab, eventually, netns, run, socket, succeeds};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use tartan_datapath::kernel::udp::UdpWatch;
use tartan_forwarder::{
    counters::{Drop, Sum},
    table::Table,
    workers::{Pair, Workers},
};
use tartan_lab::within;
use tokio::sync::mpsc;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator; counts how often any thread asks it for memory.
struct Counting;

// SAFETY: each call is the system allocator's, with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: what the caller promises is what the system's allocator asks for; so below.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A node's queues, as the program has them.
struct Forwarder {
    counters: Vec<Pair>,
    _workers: Workers,
    _ended: mpsc::UnboundedReceiver<io::Error>,
}

impl Forwarder {
    fn start(node: u8) -> Self {
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let orders = runtime.block_on(async { UdpWatch::open().unwrap().read().await.unwrap().unwrap() });
            let counters: Vec<Pair> = (0..2).map(|_| Pair::default()).collect();
            let table = Arc::new(ArcSwap::from_pointee(Table::new(&orders.routes)));
            let (ended, listener) = mpsc::unbounded_channel();
            let workers = Workers::start(&orders, &table, &counters, &ended).unwrap();
            Self { counters, _workers: workers, _ended: listener }
        };
        within(&netns(&format!("node{node}")), start).unwrap()
    }

    /// Outward, inward.
    fn sums(&self) -> [Sum; 2] {
        let mut sums = [Sum::default(); 2];
        for pair in &self.counters {
            sums.iter_mut().zip(pair).for_each(|(sum, counters)| counters.add_to(sum));
        }
        sums
    }
}

/// Open sockets of pods and of a stranger, and room for what they receive.
struct Traffic {
    stream: [TcpStream; 2],
    datagrams: [UdpSocket; 2],
    to: SocketAddrV4,
    stranger: UdpSocket,
    buffer: Vec<u8>,
}

/// Bytes that are under way at once, and in each datagram.
const CHUNK: usize = 32_768;
const DATAGRAM: usize = 600;
/// Nobody has these: a pod's address in the network, and the source of an IPv4 packet (RFC 791).
const NOWHERE: &str = "10.244.9.9:7001";
const FOREIGN: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 244, 9, 9, 10, 244, 1, 2];

impl Traffic {
    fn open() -> Self {
        let listener = within(&netns("pod2"), || TcpListener::bind("10.244.2.2:7000").unwrap()).unwrap();
        let client = within(&netns("pod1"), || TcpStream::connect("10.244.2.2:7000").unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let datagrams = ["10.244.1.2:7001", "10.244.2.2:7001"];
        let datagrams = [1, 2].map(|node| {
            let bind = || UdpSocket::bind(datagrams[node - 1]).unwrap();
            let socket = within(&netns(&format!("pod{node}")), bind).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        });
        // What the kernel passes on as one packet, for a card to cut.
        setsockopt(&datagrams[0], UdpGsoSegment, &i32::try_from(DATAGRAM).unwrap()).unwrap();
        Self {
            stream: [client, server],
            to: "10.244.2.2:7001".parse().unwrap(),
            datagrams,
            stranger: socket(3, "192.0.2.3:8285"),
            buffer: vec![0; CHUNK],
        }
    }

    /// A stream there and back, datagrams in large packets, and what is dropped.
    fn pass(&mut self) {
        let nowhere: SocketAddrV4 = NOWHERE.parse().unwrap();
        let ([client, server], [sender, receiver]) = (&mut self.stream, &self.datagrams);
        for _ in 0..200 {
            client.write_all(&self.buffer).unwrap();
            server.read_exact(&mut self.buffer).unwrap();
            server.write_all(&self.buffer).unwrap();
            client.read_exact(&mut self.buffer).unwrap();
            sender.send_to(&self.buffer[..10 * DATAGRAM], self.to).unwrap();
            for _ in 0..10 {
                assert_eq!(receiver.recv(&mut self.buffer).unwrap(), DATAGRAM);
            }
            sender.send_to(&self.buffer[..DATAGRAM], nowhere).unwrap();
            self.stranger.send_to(&FOREIGN, "192.0.2.1:8285".parse::<SocketAddrV4>().unwrap()).unwrap();
        }
    }
}

#[test]
fn no_packet_allocates() {
    let _lab = Lab::start();
    run("ip -n node1 route add 10.244.9.0/24 dev tartan-udp");
    let forwarders = [1, 2].map(Forwarder::start);
    eventually("a way between the pods", || succeeds("ip netns exec pod1 ping -c1 -W1 10.244.2.2"));
    let mut traffic = Traffic::open();
    // What is made once, at a thread's first packet, is made here.
    traffic.pass();
    let (before, allocations) =
        (forwarders.each_ref().map(Forwarder::sums), ALLOCATIONS.load(Ordering::Relaxed));
    traffic.pass();
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let after = forwarders.each_ref().map(Forwarder::sums);
    let more = |node: usize, direction: usize, what: fn(&Sum) -> u64| {
        what(&after[node][direction]) - what(&before[node][direction])
    };
    for node in 0..2 {
        for direction in 0..2 {
            let packets = more(node, direction, |sum| sum.packets);
            println!("node {}: {packets} packets", node + 1);
            assert!(packets > 4_000, "what the stream alone must be: {packets}");
        }
    }
    assert!(more(0, 0, |sum| sum.dropped[Drop::NoRoute as usize]) > 0);
    assert!(more(0, 0, |sum| sum.complaints) > 0, "senders are told");
    assert!(more(0, 1, |sum| sum.dropped[Drop::ForeignSource as usize]) > 0);
    assert_eq!(allocations, 0, "allocations");
}
