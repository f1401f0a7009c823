//! The node agent: makes the kernel of one node equal to what the leases say.
//!
//! ```text
//! API ──watch──> inputs ─> intent ─> datapath (desired, observe, plan, apply) ─> publish, metrics
//! ```
//!
//! `inputs`, `publish`, `cni::files`, `http` are the edges; `intent`, `brakes` and the texts of `cni` are
//! pure. One task, `run`, decides; another writes to the API, so that a silent API server never keeps a
//! node from repairing itself.

pub mod brakes;
pub mod client;
pub mod cni;
pub mod inputs;
pub mod intent;
pub mod metrics;
pub mod publish;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod testing;
