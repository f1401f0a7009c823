//! Leader election: which replica writes. For economy only; two that write at once do no harm.
//!
//! The lease manager goes on calling itself the leader while the API server can't be reached. So each failure
//! starts a new one, and when none could be had for as long as a lease lasts, this replica stands back until
//! one says that it leads.

use std::time::{Duration, Instant};

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tartan_crds::wellknown::field_manager;
use tokio::sync::watch;

/// Name of the Lease.
pub const LEASE: &str = "tartan-operator";

const DURATION: Duration = Duration::from_secs(15);
const GRACE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// Runs for leadership until `stop`, then gives it back.
pub async fn run(
    client: Client,
    namespace: String,
    identity: String,
    leads: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let mut last_good = Instant::now();
    loop {
        let term = serve_a_term(&client, &namespace, &identity, &leads, &mut last_good);
        let stopped = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => true,
            () = term => false,
        };
        if stopped {
            break;
        }
        if last_good.elapsed() > DURATION - GRACE && *leads.borrow() {
            tracing::warn!("leadership lost: the lease could not be renewed");
            leads.send_replace(false);
        }
        tokio::time::sleep(PAUSE).await;
    }
    if leads.send_replace(false) {
        release(&client, &namespace, &identity).await;
    }
}

/// Follows one lease manager until it fails.
async fn serve_a_term(
    client: &Client,
    namespace: &str,
    identity: &str,
    leads: &watch::Sender<bool>,
    last_good: &mut Instant,
) {
    let manager = match manager(client, namespace, identity).await {
        Ok(manager) => manager,
        Err(error) => {
            tracing::warn!(%error, "cannot run for leadership, trying again");
            return;
        }
    };
    let mut confirmed = !*leads.borrow();
    loop {
        // A new manager reports that it leads, but not that it doesn't: so a leader asks for a while.
        let changed = match tokio::time::timeout(PAUSE * 2, manager.changed()).await {
            Ok(changed) => changed,
            Err(_) if confirmed => manager.changed().await,
            Err(_) => Ok(false),
        };
        confirmed = true;
        match changed {
            Ok(leading) => {
                *last_good = Instant::now();
                if leads.send_replace(leading) != leading {
                    tracing::info!(leading, identity, "leadership changed");
                }
            }
            Err(error) => {
                // The lease was good until shortly before: renewals are made within the manager.
                if *leads.borrow() && last_good.elapsed() > DURATION {
                    *last_good = Instant::now().checked_sub(GRACE).unwrap_or(*last_good);
                }
                tracing::warn!(%error, "leader election failed, trying again");
                return;
            }
        }
    }
}

async fn release(client: &Client, namespace: &str, identity: &str) {
    let released = async { manager(client, namespace, identity).await?.release().await };
    match tokio::time::timeout(Duration::from_secs(3), released).await {
        Ok(Ok(())) => tracing::info!("leadership released"),
        Ok(Err(error)) => tracing::warn!(%error, "leadership not released, it expires by itself"),
        Err(_) => tracing::warn!("leadership not released in time, it expires by itself"),
    }
}

async fn manager(
    client: &Client,
    namespace: &str,
    identity: &str,
) -> Result<LeaseManager, kube_lease_manager::LeaseManagerError> {
    LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(namespace)
        .with_identity(identity)
        .with_duration(DURATION.as_secs())
        .with_grace(GRACE.as_secs())
        .with_field_manager(format!("{}-{identity}", field_manager::OPERATOR))
        .build()
        .await
}
