//! What this process has told the API. A watch brings it later, and what is decided meanwhile must not be decided by what
//! the API said before: a thing that is taken back and said again would look as if it stood there still.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tartan_crds::{NodeNetworkStatus, ObservedLease, SubnetLeaseStatus};

/// What was said last of each object; of what was never said, nothing is known. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Statuses>>);

#[derive(Debug, Default)]
struct Statuses {
    leases: BTreeMap<String, Saying<SubnetLeaseStatus>>,
    node_network: Option<Saying<NodeNetworkStatus>>,
}

#[derive(Debug)]
struct Saying<T> {
    status: T,
    /// Otherwise it may have arrived or not.
    arrived: bool,
}

impl<T: PartialEq> Saying<T> {
    fn stands(&self, wanted: &T) -> bool {
        self.arrived && self.status == *wanted
    }
}

impl Told {
    fn statuses(&self) -> MutexGuard<'_, Statuses> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before it is sent, and again when the API has answered.
    pub fn lease(&self, name: &str, status: &SubnetLeaseStatus, arrived: bool) {
        let saying = Saying { status: status.clone(), arrived };
        self.statuses().leases.insert(name.to_owned(), saying);
    }

    /// The same of the NodeNetwork.
    pub fn node_network(&self, status: &NodeNetworkStatus, arrived: bool) {
        self.statuses().node_network = Some(Saying { status: status.clone(), arrived });
    }

    /// Whether the API may have been told something else of the lease.
    pub(super) fn lease_may_differ(&self, name: &str, wanted: &SubnetLeaseStatus) -> bool {
        self.statuses().leases.get(name).is_some_and(|saying| !saying.stands(wanted))
    }

    /// What was said of a lease last, whether it arrived or not, as `f` sees it.
    pub(super) fn of_lease(&self, name: &str, f: impl FnOnce(&SubnetLeaseStatus) -> bool) -> bool {
        self.statuses().leases.get(name).is_some_and(|saying| f(&saying.status))
    }

    /// Which lease we were said to go by.
    pub(super) fn observed_lease(&self) -> Option<ObservedLease> {
        self.statuses().node_network.as_ref()?.status.observed_lease.clone()
    }

    pub(super) fn node_network_may_differ(&self, wanted: &NodeNetworkStatus) -> bool {
        self.statuses().node_network.as_ref().is_some_and(|saying| !saying.stands(wanted))
    }

    /// What was said of the NodeNetwork last, whether it arrived or not, as `f` sees it.
    pub(super) fn of_node_network(&self, f: impl FnOnce(&NodeNetworkStatus) -> bool) -> bool {
        self.statuses().node_network.as_ref().is_some_and(|saying| f(&saying.status))
    }
}
