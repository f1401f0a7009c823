//! The agent's part in giving a block back: no new pod gets an address of it, and when no pod has one, it says so.
//!
//! Leaving the range out of the CNI configuration is not enough: a pod's start that began before may still get an
//! address by the old one. So the range must have been left out for longer than any start takes, and then the
//! store of host-local is looked at under the lock that the plugin takes for each change. The answer is taken back
//! when an address turns up all the same.
//!
//! How long the range has been left out is known to this process alone; a new one waits anew.

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io,
    path::Path,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{NETWORK, usage::taken};

/// A further lease of this node that is asked back.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub lease: String,
    pub subnet: IpNetwork,
    /// When it was asked; the answer repeats it.
    pub since: Time,
}

/// How soon a store that was locked is looked at again.
const LOCKED: Duration = Duration::from_millis(200);

/// Ranges that the configuration on disk leaves out, and since when.
#[derive(Debug, Default)]
pub struct Vacating {
    left_out: BTreeMap<IpNetwork, Instant>,
}

/// Which requests are met.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Met {
    /// The answers, by lease.
    pub leases: BTreeMap<String, Time>,
    /// When to look again, though nothing else may happen.
    pub again: Option<Duration>,
}

impl Vacating {
    /// The answers to `requests`; none where it is not known that the files on disk leave them out. `limit`: what no
    /// start of a pod takes longer than.
    pub fn answer(&mut self, requests: Option<&[Request]>, data_dir: &Path, limit: Duration) -> Met {
        let Some(requests) = requests else {
            *self = Self::default();
            return Met::default();
        };
        let now = Instant::now();
        self.note(requests, now);
        self.met(requests, data_dir, limit, now).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look into host-local's store");
            Met::default()
        })
    }

    /// Notes that the configuration on disk offers no address of these, and of every other subnet.
    fn note(&mut self, requests: &[Request], now: Instant) {
        self.left_out.retain(|subnet, _| requests.iter().any(|request| request.subnet == *subnet));
        for request in requests {
            self.left_out.entry(request.subnet).or_insert(now);
        }
    }

    /// Looks which requests are met. `limit`: what no start of a pod takes longer than.
    fn met(&self, requests: &[Request], data_dir: &Path, limit: Duration, now: Instant) -> io::Result<Met> {
        let mut met = Met::default();
        let mut again =
            |wait: Duration| met.again = Some(met.again.map_or(wait, |known: Duration| known.min(wait)));
        let mut due = vec![];
        for request in requests {
            match self.left_out.get(&request.subnet).map(|since| now.saturating_duration_since(*since)) {
                Some(past) if past >= limit => due.push(request),
                Some(past) => again(limit - past),
                None => {}
            }
        }
        if due.is_empty() {
            return Ok(met);
        }
        let Some(_lock) = lock(data_dir)? else {
            again(LOCKED);
            return Ok(met);
        };
        let taken = taken(&data_dir.join(NETWORK))?;
        let empty = due.into_iter().filter(|request| !taken.iter().any(|ip| request.subnet.contains(*ip)));
        met.leases = empty.map(|request| (request.lease.clone(), request.since.clone())).collect();
        Ok(met)
    }
}

/// The lock of host-local's store, as the plugin takes it (flock of the file `lock` in the network's directory);
/// `None` while a plugin holds it.
fn lock(data_dir: &Path) -> io::Result<Option<File>> {
    let directory = data_dir.join(NETWORK);
    // As the plugin would: the first pod finds it made.
    std::fs::create_dir_all(&directory)?;
    let file = File::options().create(true).append(true).open(directory.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    fn request() -> Request {
        Request {
            lease: "10.244.9.0-28".into(),
            subnet: "10.244.9.0/28".parse().unwrap(),
            since: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        }
    }

    #[test]
    fn a_request_is_met_when_the_range_was_left_out_for_long_enough_and_no_pod_has_an_address() {
        let store = tempfile::tempdir().unwrap();
        let asked = [request()];
        let mut vacating = Vacating::default();
        let start = Instant::now();
        let met = |vacating: &Vacating, after: u64| {
            vacating.met(&asked, store.path(), LIMIT, start + Duration::from_secs(after)).unwrap()
        };
        assert_eq!(met(&vacating, 1000), Met::default(), "the files were never written without it");
        vacating.note(&asked, start);
        vacating.note(&asked, start + Duration::from_secs(100));
        assert_eq!(met(&vacating, 299), Met { again: Some(Duration::from_secs(1)), ..Met::default() });
        let answer = BTreeMap::from([("10.244.9.0-28".to_owned(), request().since)]);
        assert_eq!(met(&vacating, 300), Met { leases: answer, again: None });

        // A late start got an address all the same, and the answer is taken back.
        let address = store.path().join("tartan/10.244.9.3");
        std::fs::write(&address, "").unwrap();
        std::fs::write(store.path().join("tartan/10.244.1.3"), "").unwrap();
        assert_eq!(met(&vacating, 400), Met::default());
        std::fs::remove_file(&address).unwrap();
        assert_eq!(met(&vacating, 401).leases.len(), 1);

        // Offered again in between: the time begins anew.
        vacating.note(&[], start + Duration::from_secs(500));
        vacating.note(&asked, start + Duration::from_secs(501));
        assert!(met(&vacating, 700).leases.is_empty());
    }

    #[test]
    fn a_store_that_a_plugin_has_locked_is_not_believed() {
        let store = tempfile::tempdir().unwrap();
        let asked = [request()];
        let mut vacating = Vacating::default();
        let start = Instant::now();
        vacating.note(&asked, start);
        let plugin = lock(store.path()).unwrap();
        assert!(plugin.is_some());
        let look = || vacating.met(&asked, store.path(), Duration::ZERO, start).unwrap();
        assert_eq!(look(), Met { leases: BTreeMap::new(), again: Some(LOCKED) });
        drop(plugin);
        assert_eq!(look().leases.len(), 1);
    }
}
