//! Watches of an API server whose store was put back to a backup.
//!
//! A watch goes on from the last version that it has seen. After a restore that version is ahead of all that the
//! server has, and the server then tells nothing until it has counted up to it, which can take hours; it refuses
//! only versions that are too old. So whenever the server could not be reached, the first watch of each path asks
//! first for the server's version. Where that is lower, the watch is answered as one that is too old, and the
//! watcher lists anew.
//!
//! Versions are compared as numbers, which the API promises since Kubernetes 1.35 and etcd has always given.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use kube::{
    Client,
    client::{Body, DynBody},
};
use tower::{BoxError, Layer, Service};

/// With this message a watch ends whose server's store was put back.
pub const WENT_BACK: &str = "the store has gone back behind the version of this watch";

/// Makes the requests of a client go through [`Rewound`].
pub struct RewindLayer {
    /// Of the same server.
    asking: Client,
}

impl RewindLayer {
    pub fn new(asking: Client) -> Self {
        Self { asking }
    }
}

impl<S> Layer<S> for RewindLayer {
    type Service = Rewound<S>;

    fn layer(&self, inner: S) -> Rewound<S> {
        Rewound { inner, asking: self.asking.clone(), outages: Arc::default() }
    }
}

/// Ends a watch before it begins where it would go on from a version that the server has not reached.
pub struct Rewound<S> {
    inner: S,
    asking: Client,
    outages: Arc<Mutex<Outages>>,
}

/// How often the server could not be reached, and after how many of them each path was asked about.
#[derive(Default)]
struct Outages {
    count: u64,
    settled: BTreeMap<String, u64>,
}

impl<S> Service<Request<Body>> for Rewound<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let resumed = Resumed::of(request.uri());
        // A future that is never polled sends nothing.
        let answer = self.inner.call(request);
        let (asking, outages) = (self.asking.clone(), self.outages.clone());
        Box::pin(async move {
            let unsettled = resumed.and_then(|resumed| {
                let count = lock(&outages).unsettled(&resumed.path)?;
                Some((resumed, count))
            });
            if let Some((resumed, count)) = unsettled {
                let now = resumed.version_now(&asking).await;
                if now.is_some() {
                    lock(&outages).settled.insert(resumed.path.clone(), count);
                }
                if let Some(now) = now.filter(|now| *now < resumed.version) {
                    tracing::warn!(
                        path = resumed.path,
                        seen = resumed.version,
                        now,
                        "the API server's store has gone back, as after the restore of a backup: reading all anew"
                    );
                    return Ok(too_old());
                }
            }
            let answer = answer.await;
            if answer.as_ref().map_or(true, |answer| answer.status().is_server_error()) {
                lock(&outages).count += 1;
            }
            answer
        })
    }
}

fn lock(outages: &Mutex<Outages>) -> std::sync::MutexGuard<'_, Outages> {
    outages.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outages {
    /// The number of outages, where there was one since the path was asked about.
    fn unsettled(&self, path: &str) -> Option<u64> {
        (self.settled.get(path).copied().unwrap_or(0) < self.count).then_some(self.count)
    }
}

/// A watch that goes on from a version.
#[derive(Debug, PartialEq, Eq)]
struct Resumed {
    /// Of a list of one object of what is watched.
    path: String,
    version: u64,
}

impl Resumed {
    fn of(uri: &Uri) -> Option<Self> {
        let query = uri.query()?;
        let mut parts = query.split('&');
        parts.clone().find(|part| matches!(*part, "watch=true" | "watch=1"))?;
        let version = parts.clone().find_map(|part| part.strip_prefix("resourceVersion="))?.parse().ok()?;
        let selector = parts.find(|part| part.starts_with("fieldSelector="));
        let selector = selector.map_or_else(String::new, |selector| format!("&{selector}"));
        (version > 0).then(|| Self { path: format!("{}?limit=1{selector}", uri.path()), version })
    }

    /// The server's version, if it can be had.
    async fn version_now(&self, asking: &Client) -> Option<u64> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: String,
        }
        #[derive(serde::Deserialize)]
        struct List {
            metadata: Metadata,
        }
        let request = Request::get(&self.path).body(vec![]).ok()?;
        let list: List = asking.request(request).await.ok()?;
        list.metadata.resource_version.parse().ok()
    }
}

/// What the API server says in the stream of a watch whose version it has forgotten.
fn too_old() -> Response<Box<DynBody>> {
    let event = format!(
        r#"{{"type":"ERROR","object":{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{WENT_BACK}","reason":"Expired","code":410}}}}"#
    );
    let body = Full::from(format!("{event}\n")).map_err(|never| -> BoxError { match never {} });
    Response::new(Box::new(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resumed(uri: &str) -> Option<(String, u64)> {
        Resumed::of(&uri.parse().unwrap()).map(|resumed| (resumed.path, resumed.version))
    }

    #[test]
    fn only_a_watch_from_a_version_on_is_resumed() {
        let leases = "/apis/tartan.network/v1alpha1/subnetleases";
        let watch = |rest: &str| resumed(&format!("http://a{leases}?&watch=true&timeoutSeconds=50{rest}"));
        let list = format!("{leases}?limit=1");
        assert_eq!(watch("&resourceVersion=17"), Some((list.clone(), 17)));
        assert_eq!(
            watch("&fieldSelector=metadata.name%3Da&resourceVersion=17"),
            Some((format!("{list}&fieldSelector=metadata.name%3Da"), 17))
        );
        assert_eq!(watch("&resourceVersion=0"), None);
        assert_eq!(watch("&resourceVersion=odd"), None);
        assert_eq!(watch(""), None);
        assert_eq!(resumed(&format!("http://a{leases}?limit=500&resourceVersion=17")), None);
        assert_eq!(resumed(&format!("http://a{leases}/one")), None);
    }

    #[test]
    fn each_path_is_asked_about_once_after_each_outage() {
        let mut outages = Outages::default();
        assert_eq!(outages.unsettled("a"), None);
        outages.count = 2;
        assert_eq!((outages.unsettled("a"), outages.unsettled("b")), (Some(2), Some(2)));
        outages.settled.insert("a".into(), 2);
        assert_eq!((outages.unsettled("a"), outages.unsettled("b")), (None, Some(2)));
        outages.count = 3;
        assert_eq!(outages.unsettled("a"), Some(3));
    }
}
