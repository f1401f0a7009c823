//! The node agent: makes the kernel of one node equal to what the leases say.
//!
//! ```text
//! API ──watch──► inputs ─► intent ─► data path: desired, observe, plan, apply ─► publish, metrics, files
//! ```
//!
//! [`run`] waits for a reason and calls [`round`]; [`round`] is the line above. [`intent`], [`brakes`],
//! [`assess`] and the texts of [`cni`] and [`publish`] are pure; the rest are edges. One task decides;
//! another writes to the API, so that a silent API server never keeps a node from repairing itself.

mod api_server;
pub mod assess;
pub mod brakes;
pub mod cleanup;
pub mod cli;
pub mod cni;
pub mod command;
pub mod companions;
pub mod diff;
pub mod extension;
pub mod ground;
pub mod http;
pub mod inputs;
pub mod intent;
pub mod lock;
pub mod metrics;
mod other_family;
pub mod presence;
pub mod publish;
pub mod round;
pub mod run;
mod sources;
#[cfg(test)]
mod testing;
