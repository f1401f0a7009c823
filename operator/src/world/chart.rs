//! The objects that the chart's values ask for, as they lie in a ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;
use serde_json::Value;

use super::{
    objects::{Unreadable, meta},
    table::Meta,
};

/// What the chart's values ask for; applied as they are, so that a field which this version does not know
/// is refused by the API server and not lost here.
#[derive(Clone, Debug, PartialEq)]
pub struct ChartValues {
    pub meta: Meta,
    pub namespace: String,
    pub network: Option<Value>,
    pub pools: Vec<PoolValues>,
    pub error: Option<Unreadable>,
}

/// A pool of the chart's values.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolValues {
    pub name: String,
    pub spec: Value,
}

impl ChartValues {
    pub fn parse(object: ConfigMap) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Document {
            cluster_network: Option<Value>,
            #[serde(default)]
            pools: Option<Vec<PoolValues>>,
        }
        let text = object.data.unwrap_or_default().remove(crate::chart_values::KEY);
        let document: Result<Document, String> = match text.as_deref().map(str::trim) {
            None | Some("") => Ok(Document::default()),
            Some(text) => serde_saphyr::from_str(text).map_err(|error| error.to_string()),
        };
        let (document, error) = match document {
            Ok(document) => (document, None),
            Err(error) => (Document::default(), Some(error)),
        };
        Self {
            meta: meta(&object.metadata),
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            network: document.cluster_network,
            pools: document.pools.unwrap_or_default(),
            error,
        }
    }
}
