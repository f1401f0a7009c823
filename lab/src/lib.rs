//! A real multi-node Kubernetes, or only parts of it, on one machine.
//!
//! Tests and `cargo xtask` stand on this crate; product code never does. From small to large:
//!
//! * [`ApiServer`]: etcd and kube-apiserver, ready in seconds, for every test that talks to an API;
//! * [`Fabric`]: nodes and simulated pods on real kernels, segments, a router, without Kubernetes;
//! * [`Cluster`]: all of Kubernetes, by node containerd, kubelet, kube-proxy;
//! * [`images`]: what runs in it, without a registry;
//! * [`traffic`]: standing traffic with packet accounting;
//! * [`vm`]: a program on another kernel, for what this one lacks;
//! * [`Capture`]: packets as Wireshark reads them;
//! * [`HostView`]: what a host looks like, for comparisons of before and after.
//!
//! What every part obeys: it installs what is missing (`prerequisites`); everything it starts dies with the process
//! that started it, also by `kill -9`, unless it was asked to keep it; what a killed process leaves on disk is removed
//! by the next start; the host's own addresses, routes, rules and sysctls stay as they were.

mod apiserver;
mod built;
pub mod certificates;
mod cluster;
mod dissect;
mod fabric;
mod home;
mod hostview;
pub mod images;
mod kubeconfig;
mod namespace;
mod pki;
pub mod prerequisites;
mod process;
mod progress;
mod proxy;
mod run;
pub mod traffic;
pub mod vm;
mod wait;

pub use apiserver::{ApiServer, ApiServerOptions, Backup, Place};
pub use built::{SHIPPED, forget_own_package, program, shipped, shipped_path, shipping, test_program};
pub use cluster::{Cluster, ClusterOptions, Families};
pub use dissect::Capture;
pub use fabric::{Fabric, FabricOptions, Node, Pod, PodOptions, Segment, Tapped};
pub use home::{Lifetime, remove_leftovers};
pub use hostview::{Difference, HostView};
pub use namespace::{Namespace, within};
pub use process::Process;
pub use proxy::POD_BRIDGE;
pub use run::{Output, run, run_with_input};
pub use wait::{eventually, eventually_ok};
