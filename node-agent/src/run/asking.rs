//! Asks whether leases that vanished from the watch are really gone.

use std::{collections::BTreeSet, time::Duration};

use kube::{Api, api::ListParams};
use tartan_crds::SubnetLease;
use tartan_daemon::chain;
use tokio::task::JoinHandle;

const CONFIRM: Duration = Duration::from_secs(10);

/// Asks the API server itself, past every cache, which of `vanished` are really gone. `None` where it does
/// not answer.
pub(super) async fn ask(api: Api<SubnetLease>, vanished: BTreeSet<String>) -> Option<BTreeSet<String>> {
    match tokio::time::timeout(CONFIRM, names(&api)).await {
        Ok(Ok(there)) => {
            let gone: BTreeSet<String> = vanished.difference(&there).cloned().collect();
            tracing::warn!(gone = gone.len(), asked = vanished.len(), "leases are gone, by a direct list");
            Some(gone)
        }
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "cannot ask whether the leases are gone");
            None
        }
        Err(_) => {
            tracing::warn!("no answer whether the leases are gone");
            None
        }
    }
}

/// The end of a question; never, where none was asked. Cancel-safe.
pub(super) async fn answered(
    asking: &mut Option<JoinHandle<Option<BTreeSet<String>>>>,
) -> Option<BTreeSet<String>> {
    match asking {
        Some(task) => task.await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Names of all leases that are not released. A list without a resource version is answered by a quorum.
async fn names(api: &Api<SubnetLease>) -> Result<BTreeSet<String>, kube::Error> {
    let mut names = BTreeSet::new();
    let mut page = ListParams::default().limit(500);
    loop {
        let list = api.list(&page).await?;
        let held = list.items.into_iter().filter(|lease| lease.spec.released_at.is_none());
        names.extend(held.filter_map(|lease| lease.metadata.name));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(names),
        }
    }
}
