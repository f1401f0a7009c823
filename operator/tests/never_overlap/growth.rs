//! What agents say of their blocks, and what must hold of blocks that come and go.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::SignedDuration};
use tartan_crds::AddressUse;
use tartan_operator::{
    decide::Action,
    world::{Change, Delta, Lease, UsedAddresses},
};

use super::store::Store;

/// The agent of a node reports all of its blocks: full, or empty but for some pods in the first.
pub fn report(store: &mut Store, node: &str, full: bool) {
    let long_ago = Time(store.now - SignedDuration::from_secs(7200));
    let figures =
        store.leases.values().filter(|lease| lease.node() == Some(node) && lease.released_at().is_none());
    let figures = figures.map(|lease| AddressUse {
        subnet: lease.subnet,
        capacity: 10,
        used: if full { 10 } else { i64::from(is_primary(lease)) },
        empty_since: (!full && !is_primary(lease)).then(|| long_ago.clone()),
    });
    let figures = UsedAddresses(figures.collect());
    let Some(object) = store.node_networks.get_mut(node) else { return };
    object.report.address_use = figures;
    let news = Delta::NodeNetworks(Change::Seen(object.clone()));
    store.log.push(news);
}

/// The agent meets the request for one of the blocks that are asked back, or takes its answer back.
pub fn answer(store: &mut Store, number: u8) {
    let asked = |lease: &&Lease| lease.spec.as_ref().is_ok_and(|spec| spec.returning.is_some());
    let names: Vec<String> =
        store.leases.values().filter(asked).map(|lease| lease.meta.name.clone()).collect();
    let Some(name) = names.get(usize::from(number) % names.len().max(1)) else { return };
    store.change_lease(name, |lease| {
        lease.emptied = match lease.emptied {
            Some(_) => None,
            None => lease.spec.as_ref().ok().and_then(|spec| spec.returning.clone()),
        };
    });
}

/// The lease that an action would delete, as it is now.
pub fn at_stake(store: &Store, action: &Action) -> Option<Lease> {
    match action {
        Action::DeleteLease { lease, .. } => store.leases.get(&lease.name).cloned(),
        _ => None,
    }
}

/// A further block of a node that is there goes only when its agent has met the request that stands.
#[track_caller]
pub fn assert_met(store: &Store, before: Option<Lease>) {
    let Some(lease) = before.filter(|lease| !store.leases.contains_key(&lease.meta.name)) else { return };
    let Ok(spec) = &lease.spec else { return };
    let lives = store.nodes.get(&spec.node_name).is_some_and(|node| node.meta.uid == spec.node_uid);
    if lives && !spec.primary && spec.released_at.is_none() {
        assert!(
            spec.returning.is_some() && spec.returning == lease.emptied,
            "{} was taken from {}, asked {:?}, answered {:?}",
            lease.subnet,
            spec.node_name,
            spec.returning,
            lease.emptied
        );
    }
}

fn is_primary(lease: &Lease) -> bool {
    lease.spec.as_ref().is_ok_and(|spec| spec.primary)
}
