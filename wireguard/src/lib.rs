//! WireGuard in user space, for nodes whose kernel has none.
//!
//! ```text
//!  pods ── bridge ── tartan-wg0 (TUN) ── noise protocol (gotatun) ── UDP ── peers
//!                    tartan-wg1 (TUN) ── while keys are rotated ──── UDP
//!  tartan-node-agent ── makes the devices;  tartan-wg0.sock ◀── key, port, peers
//! ```
//!
//! Apart from the agent, so that neither's restart stops the other. The agent makes the devices, which stay when this
//! process goes, and with them the routes: packets are dropped then, and never sent in clear. For each device there is
//! a socket at which WireGuard's cross-platform interface is spoken (<https://www.wireguard.com/xplatform/>), so `wg`
//! understands it too. Nothing is kept: who starts anew has no key and no peer until the agent sets them, which it does
//! as soon as the device has a carrier again.
//!
//! It never knows of leases or Kubernetes, and writes no key anywhere.

pub mod cli;
pub mod command;
mod control;
mod device;
mod engine;
mod http;
pub mod metrics;
mod segments;
mod socket;
mod tun;
mod uapi;
