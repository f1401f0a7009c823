//! The CustomResourceDefinitions as the API server takes them without a warning.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{ClusterNetwork, NetworkPool, NodeNetwork, SubnetLease};

/// All definitions, in the order in which an administrator meets them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![ClusterNetwork::crd(), NetworkPool::crd(), SubnetLease::crd(), NodeNetwork::crd()]
}

/// A definition as JSON, without the formats that the API server doesn't know (it would answer
/// `unrecognized format "ip"` on each apply) and with what the derive cannot say.
pub fn crd_yaml(definition: &CustomResourceDefinition) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(definition)?;
    drop_unknown_formats(&mut value);
    write_whole_bounds(&mut value);
    declare_metadata_name(&mut value);
    Ok(value)
}

/// Formats without which nothing is lost: the type and the bounds say the same.
const UNKNOWN_FORMATS: [&str; 9] =
    ["uint8", "uint16", "uint32", "uint64", "uint", "int8", "int16", "int", "ip"];

fn drop_unknown_formats(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map
                .get("format")
                .and_then(Value::as_str)
                .is_some_and(|format| UNKNOWN_FORMATS.contains(&format))
            {
                map.remove("format");
                if map.get("type").and_then(Value::as_str) == Some("string") {
                    // Was an IP address: 45 is the longest text form (RFC 4291 2.2).
                    map.insert("maxLength".into(), 45.into());
                    map.insert(
                        "x-kubernetes-validations".into(),
                        serde_json::json!([{ "rule": "isIP(self) && ip.isCanonical(self)", "message": "must be an IP address in canonical form" }]),
                    );
                }
            }
            map.values_mut().for_each(drop_unknown_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unknown_formats),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Bounds of integers as integers: a bound is kept as a float, and `65535.0` is no port.
fn write_whole_bounds(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_f64() {
                    #[expect(clippy::cast_possible_truncation, reason = "bounds are far below 2^53")]
                    Some(bound) if matches!(key.as_str(), "minimum" | "maximum") && bound.fract() == 0.0 => {
                        *value = (bound as i64).into();
                    }
                    _ => write_whole_bounds(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_bounds),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Root rules about the name can point at it only where the schema declares it.
fn declare_metadata_name(value: &mut Value) {
    let versions = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten() {
        let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema").and_then(Value::as_object_mut)
        else {
            continue;
        };
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert(
                "metadata".into(),
                serde_json::json!({ "type": "object", "properties": { "name": { "type": "string" } } }),
            );
        }
        for rule in
            schema.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if let Some(rule) = rule.as_object_mut() {
                rule.entry("fieldPath").or_insert_with(|| ".metadata.name".into());
            }
        }
    }
}
