//! What a node's kernel should hold for the pod network, and how to make it so.
//!
//! ```text
//! Intent --desired()--> Desired ┐
//!                               ├--plan()--> Plan --apply()--> Outcome
//! kernel --observe()--> Observed┘
//! ```
//!
//! The middle (`pair`, `desired`, `plan`, `mtu`, …) is pure: no async, clock, environment, log or IO. The
//! edges (`kernel`) speak netlink, nft and `/proc/sys`. This crate knows nothing of Kubernetes.

pub mod desired;
pub mod kernel;
pub mod mark;
pub mod model;
pub mod mtu;
pub mod nft;
pub mod pair;
pub mod plan;
pub mod problem;
pub mod rotation;
pub mod uplink;
