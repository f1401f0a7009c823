//! `cleanup`: leaves the node as it was before us. The only code that takes away what is still wanted.
//!
//! Files go first, so that the runtime starts no pod on a network that is going; settings come last, when
//! the links that they were for are gone.

use std::{collections::BTreeSet, fs, io, path::Path};

use anyhow::Context as _;
use tartan_daemon::chain;
use tartan_datapath::{kernel::Kernel, model::Elements, plan::plan_cleanup};

use crate::{cli::Options, cni, extension, lock};

/// Removes what is ours. A failure doesn't keep the rest from being tried.
pub async fn cleanup(options: &Options, force: bool) -> anyhow::Result<()> {
    let lock = lock::try_lock(&options.run_dir)?;
    if lock.is_none() && !force {
        anyhow::bail!(
            "an agent runs on this node and would put everything back: stop it first, or use --force"
        );
    }
    let mut failures: Vec<String> = Vec::new();
    match options.places().remove() {
        Ok(removed) => {
            for path in removed {
                tracing::info!(path = %path.display(), "removed");
            }
        }
        Err(error) => failures.push(chain(&error)),
    }
    let mut kernel = Kernel::open(options.kernel()).context("cannot talk to the kernel")?;
    let seen = kernel.observe(&Elements::new()).await;
    failures.extend(seen.failures.iter().map(|error| chain(error)));
    let outcome = kernel.apply(&plan_cleanup(&seen.observed)).await;
    let removed: usize = outcome.applied.values().sum();
    tracing::info!(removed, "removed kernel objects");
    failures.extend(
        outcome.failures.iter().map(|failure| format!("{}: {}", failure.step, chain(&failure.error))),
    );
    match kernel.restore_sysctls() {
        Ok(restored) => tracing::info!(restored, "put settings back"),
        Err(error) => failures.push(format!("cannot put settings back: {error}")),
    }
    if let Err(error) = kernel.forget_wireguard_keys(&BTreeSet::new()).await {
        failures.push(format!("cannot remove WireGuard keys: {error}"));
    }
    if let Err(error) = remove_run_dir(options, lock.is_some()) {
        failures.push(format!("cannot remove {}: {error}", options.run_dir.display()));
    }
    drop(lock);
    if failures.is_empty() {
        Ok(())
    } else {
        anyhow::bail!("not everything could be removed: {}", failures.join("; "))
    }
}

/// What we put into it, and the directory itself if nothing else is in it.
/// A lock that another agent holds is its own: without the file a third could start beside it.
fn remove_run_dir(options: &Options, locked_by_us: bool) -> io::Result<()> {
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let directory: &Path = &options.run_dir;
    let store = options.places().data_dir();
    let in_use = cni::addresses_in_use(&store)?;
    if in_use == 0 {
        absent_is_fine(fs::remove_dir_all(&store))?;
    } else {
        // Removing these pods will look for their addresses there.
        tracing::warn!(path = %store.display(), pods = in_use, "left, since pods still hold addresses: run cleanup again without them");
    }
    for file in extension::task::files(&options.extension().file) {
        absent_is_fine(fs::remove_file(file))?;
    }
    // Sockets of a process whose devices are gone.
    absent_is_fine(fs::remove_dir_all(options.user_wireguard_sockets()))?;
    if locked_by_us {
        absent_is_fine(fs::remove_file(lock::path(directory)))?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(path = %directory.display(), "left, since files of others are in it");
            Ok(())
        }
        // A mount of its own, as in a container; the kernel asks first whether what it is in can be written to.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            Ok(())
        }
        other => absent_is_fine(other),
    }
}
