//! The API server as the scenarios see it: their own on the host, the host's in a virtual machine.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, Once},
};

use futures::StreamExt as _;
use kube::{
    Api, Client, Config,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use kube_runtime::{WatchStreamExt as _, watcher};
use serde_json::Value;
use tartan_crds::{NetworkPool, TransitionPhase};
use tartan_lab::{ApiServer, ApiServerOptions, Fabric, vm};
use tokio::runtime::Runtime;

use super::wait_for;

/// What a pool's status said, in order, by the pool's name.
type Told = Arc<Mutex<Vec<(String, Option<TransitionPhase>)>>>;

pub struct Server {
    pub kubeconfig: PathBuf,
    runtime: Runtime,
    client: Client,
    told: Told,
    _own: Option<ApiServer>,
}

impl Server {
    /// One with our CRDs that every node of `fabric` reaches.
    pub fn start(fabric: &mut Fabric) -> Self {
        static TLS: Once = Once::new();
        TLS.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
        let own = (!vm::is_inside()).then(|| fabric.api_server(ApiServerOptions::default()).unwrap());
        let kubeconfig =
            own.as_ref().map_or_else(|| fabric.host_api_server().unwrap(), ApiServer::kubeconfig);
        let runtime = Runtime::new().unwrap();
        let file = Kubeconfig::read_from(&kubeconfig).unwrap();
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        let server = Self { kubeconfig, runtime, client, told: Told::default(), _own: own };
        server.create_crds();
        server.follow_pools();
        server
    }

    fn create_crds(&self) {
        for definition in tartan_crds::crds() {
            let text = tartan_crds::crd_yaml(&definition).unwrap();
            self.apply(&serde_json::to_value(text).unwrap());
        }
        wait_for("the new kinds to be served", || Ok(self.try_list::<NetworkPool>()?));
    }

    /// Phases follow each other within milliseconds: who asks now and then would miss some.
    fn follow_pools(&self) {
        let pools = watcher(Api::<NetworkPool>::all(self.client.clone()), watcher::Config::default());
        let told = Arc::clone(&self.told);
        self.runtime.spawn(async move {
            let mut pools = pools.default_backoff().applied_objects().boxed();
            while let Some(pool) = pools.next().await {
                let Ok(pool) = pool else { continue };
                let phase = pool.status.and_then(|status| status.transition).map(|now| now.phase);
                told.lock().unwrap().push((pool.metadata.name.unwrap_or_default(), phase));
            }
        });
    }

    /// What this pool's status has told since the last question.
    pub fn phases(&self, pool: &str) -> Vec<TransitionPhase> {
        let mut phases: Vec<_> = self
            .told
            .lock()
            .unwrap()
            .extract_if(.., |(name, _)| name == pool)
            .filter_map(|(_, phase)| phase)
            .collect();
        phases.dedup();
        phases
    }

    /// Server-side apply, without force: these fields are ours alone.
    pub fn apply(&self, object: &Value) {
        self.patch(object, &Patch::Apply(object), &PatchParams::apply("scenario"), "");
    }

    /// The same of a status.
    pub fn apply_status(&self, object: &Value) {
        self.patch(object, &Patch::Apply(object), &PatchParams::apply("scenario"), "status");
    }

    pub fn merge(&self, object: &Value) {
        self.patch(object, &Patch::Merge(object), &PatchParams::default(), "");
    }

    pub fn merge_status(&self, object: &Value) {
        self.patch(object, &Patch::Merge(object), &PatchParams::default(), "status");
    }

    fn patch(&self, object: &Value, patch: &Patch<&Value>, params: &PatchParams, part: &str) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
        let api: Api<DynamicObject> = match group {
            // The only kinds in a namespace that the scenarios make.
            "discovery.k8s.io" => Api::default_namespaced_with(self.client.clone(), &resource),
            "" if text("/kind") == "Service" => Api::default_namespaced_with(self.client.clone(), &resource),
            _ => Api::all_with(self.client.clone(), &resource),
        };
        let name = text("/metadata/name");
        let done = self.runtime.block_on(async {
            match part {
                "" => api.patch(name, params, patch).await,
                _ => api.patch_status(name, params, patch).await,
            }
        });
        done.unwrap_or_else(|error| panic!("{}/{name}: {error}", text("/kind")));
    }

    pub fn get<K>(&self, name: &str) -> Option<K>
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.runtime.block_on(Api::all(self.client.clone()).get_opt(name)).unwrap()
    }

    pub fn list<K>(&self) -> Vec<K>
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        self.try_list().unwrap()
    }

    fn try_list<K>(&self) -> kube::Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        Ok(self.runtime.block_on(Api::all(self.client.clone()).list(&ListParams::default()))?.items)
    }
}
