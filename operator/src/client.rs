//! How this operator uses its connections to the API server.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject},
};
pub use tartan_daemon::connection::{reason, text};

/// A cluster-scoped kind of ours, as objects that need not parse.
pub fn untyped<K>(client: &Client) -> Api<DynamicObject>
where
    K: kube::Resource<DynamicType = ()>,
{
    Api::all_with(client.clone(), &ApiResource::erase::<K>(&()))
}

/// Whether the request may have been carried out although no good answer came.
pub fn may_have_happened(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500,
        _ => true,
    }
}
