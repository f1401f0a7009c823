//! Backends in the API's words and in the data path's. Pure.

use std::collections::BTreeSet;

use tartan_crds::{BackendType, LeaseBackend};
use tartan_datapath::model::Backend;

/// What a node receives: as its lease says, and plain routes where it uses them itself.
pub(super) fn accepts(lease: &LeaseBackend) -> BTreeSet<Backend> {
    let mut accepts: BTreeSet<Backend> = lease.accepts.iter().map(|kind| backend(*kind)).collect();
    accepts.insert(backend(lease.kind));
    if lease.direct_routing {
        accepts.insert(Backend::HostGw);
    }
    accepts
}

/// The API's word for a backend as the data path's.
pub fn backend(kind: BackendType) -> Backend {
    match kind {
        BackendType::Vxlan => Backend::Vxlan,
        BackendType::Ipip => Backend::Ipip,
        BackendType::Wireguard => Backend::Wireguard,
        BackendType::Ipsec => Backend::Ipsec,
        BackendType::Udp => Backend::Udp,
        BackendType::HostGw => Backend::HostGw,
        BackendType::Alloc => Backend::Alloc,
        BackendType::Extension => Backend::Extension,
    }
}

/// The data path's word for a backend as the API's.
pub fn backend_type(backend: Backend) -> BackendType {
    match backend {
        Backend::Vxlan => BackendType::Vxlan,
        Backend::Ipip => BackendType::Ipip,
        Backend::Wireguard => BackendType::Wireguard,
        Backend::Ipsec => BackendType::Ipsec,
        Backend::Udp => BackendType::Udp,
        Backend::HostGw => BackendType::HostGw,
        Backend::Alloc => BackendType::Alloc,
        Backend::Extension => BackendType::Extension,
    }
}
