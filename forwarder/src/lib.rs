//! The udp path in user space: bare IPv4 packets in UDP datagrams, as flannel's udp backend sends them.
//!
//! ```text
//!  pods ── bridge ── tartan-udp (TUN) ─┬─ queue 0: outward ─▶ split, table ─▶ sendmmsg ─┬─ UDP ── peers
//!                                      │           inward  ◀─ join,  table ◀─ recvmmsg ─┤
//!                                      └─ queue 1: …                                    ┘
//!  tartan-node-agent ── device, alias, routing table 84 ──▶ control ── publishes the table
//! ```
//!
//! Apart from the agent, so that neither's restart stops the other. The kernel is all that they have in common: the
//! agent makes the device, writes into its alias where to receive, and keeps the peers' subnets in a routing table
//! of their own; this process reads these, and writes nothing. So it needs no file, no API and no other process, and
//! may be killed at any time; the device stays, with the routes to it.
//!
//! It never knows of leases or Kubernetes.

pub mod batch;
pub mod cli;
pub mod command;
mod control;
pub mod counters;
mod http;
pub mod icmp;
pub mod join;
pub mod metrics;
pub mod packet;
pub mod queue;
mod socket;
pub mod split;
pub mod table;
pub mod workers;
