//! What a node's agent would write.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tartan_crds::{NodeNetwork, SubnetLease, wellknown::field_manager};

use super::Lab;

impl Lab {
    /// What the agent says of its blocks: subnet, used, and since when it is empty.
    pub fn report(&self, node: &str, uses: &[(&str, i64, Option<&str>)]) {
        let uses: Vec<Value> = uses
            .iter()
            .map(|(subnet, used, since)| {
                let mut figures = json!({ "subnet": subnet, "capacity": 13, "used": used });
                if let Some(since) = since {
                    figures["emptySince"] = json!(since);
                }
                figures
            })
            .collect();
        self.apply_status::<NodeNetwork>("NodeNetwork", node, &json!({ "addressUse": uses }));
    }

    /// The agent answers a request, or (`None`) takes its answer back.
    pub fn answer(&self, lease: &str, since: Option<Value>) {
        let mut status = json!({ "pairingVersion": 0 });
        if let Some(since) = since {
            status["emptied"] = since;
        }
        self.apply_status::<SubnetLease>("SubnetLease", lease, &status);
    }

    fn apply_status<K>(&self, kind: &str, name: &str, status: &Value)
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    {
        let object = json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": kind, "metadata": { "name": name }, "status": status,
        });
        let params = PatchParams::apply(field_manager::AGENT).force();
        self.runtime.block_on(self.all::<K>().patch_status(name, &params, &Patch::Apply(&object))).unwrap();
    }
}
