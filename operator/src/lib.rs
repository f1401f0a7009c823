//! The operator: every node that should have pod addresses holds a lease, and no two leases overlap.
//!
//! ```text
//! watch ──► World ──► decide (pure) ──► execute ──► API server
//!             ▲                            │
//!             └──── answers to writes ─────┘
//! ```
//!
//! [`watch`] follows every kind of object and feeds one [`world::World`]. One [`allocator`] task owns it:
//! it lets [`decide`] say what differs from what should be, and [`execute`] write that. Leader election is for
//! economy; what makes two operators at once safe is that a lease's name is its block and that every other
//! write carries the version that it was decided on.
//!
//! Nothing here knows of links, routes or any other thing of a host.

pub mod allocator;
pub mod chart_values;
pub mod cli;
pub mod client;
pub mod command;
pub mod decide;
pub mod election;
pub mod events;
pub mod execute;
pub mod explain;
pub mod http;
pub mod metrics;
pub mod run;
pub mod watch;
pub mod world;
