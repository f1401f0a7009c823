//! The schema of the chart's values: what stands in `values.schema.json` beside this file, with `network` and `pools` as
//! the API's definitions have them. So what `kubectl` takes, `helm` takes, and no other.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use tartan_crds::{ClusterNetwork, NetworkPool};

use super::Generated;
use crate::workspace::root;

/// Keywords that mean the same in a definition (OpenAPI 3.0, structural) and in JSON Schema draft 7.
const COMMON: [&str; 16] = [
    "description",
    "type",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "items",
    "properties",
    "additionalProperties",
];

pub(super) fn generate() -> Result<Generated> {
    let own = root().join("xtask/src/codegen/values.schema.json");
    let own = fs::read_to_string(own).context("read the schema of the chart's own values")?;
    let mut schema: Value = serde_json::from_str(&own).context("the schema is no JSON")?;
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    let properties = properties.context("the schema has properties")?;
    properties.insert("network".to_owned(), network()?);
    properties.insert("pools".to_owned(), pools()?);
    let text = serde_json::to_string_pretty(&schema)? + "\n";
    Ok(Generated { path: "charts/tartan/values.schema.json".into(), text })
}

/// A value that is null or empty is left to the API's default.
fn network() -> Result<Value> {
    let mut network = closed(&spec::<ClusterNetwork>()?);
    let required: Vec<Value> = network.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let properties = network.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.context("a ClusterNetwork's spec has properties")? {
        if let (false, Some(property)) = (required.contains(&name.as_str().into()), property.as_object_mut())
        {
            or_nothing(property);
        }
    }
    Ok(network)
}

fn or_nothing(property: &mut Map<String, Value>) {
    if let Some(kind) = property.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
    if let Some(values) = property.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    if let Some(required) = property.remove("required") {
        property.insert("anyOf".to_owned(), json!([{ "maxProperties": 0 }, { "required": required }]));
    }
}

fn pools() -> Result<Value> {
    Ok(json!({
        "type": "object",
        // Names of pools are labels of leases; `default` is that of nodes in no pool.
        "propertyNames": {
            "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
            "maxLength": 63,
            "not": { "const": "default" },
        },
        "additionalProperties": closed(&spec::<NetworkPool>()?),
    }))
}

fn spec<K: kube::CustomResourceExt>() -> Result<Value> {
    let definition = tartan_crds::crd_yaml(&K::crd())?;
    let spec = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    spec.cloned().context("a definition has a spec")
}

/// A part of a definition, in which what is unknown is an error: the API server drops it with a warning.
fn closed(part: &Value) -> Value {
    let Some(part) = part.as_object() else { return part.clone() };
    let mut closed: Map<String, Value> = part
        .iter()
        .filter(|(key, _)| COMMON.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = closed.get_mut(key) {
            *inner = self::closed(inner);
        }
    }
    if let Some(properties) = closed.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|inner| *inner = self::closed(inner));
        closed.entry("additionalProperties").or_insert(false.into());
    }
    if part.get("x-kubernetes-list-type") == Some(&"set".into()) {
        closed.insert("uniqueItems".to_owned(), true.into());
    }
    let rules = part.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
    for rule in rules.filter_map(|rule| rule.get("rule")?.as_str()) {
        if let Some(only) = rule.strip_prefix("self == '").and_then(|rest| rest.strip_suffix('\'')) {
            closed.insert("enum".to_owned(), json!([only]));
        }
        if let Some(pattern) = pattern(rule) {
            closed.entry("pattern").or_insert(pattern.into());
        }
    }
    if part.get("nullable") == Some(&true.into()) {
        return json!({ "anyOf": [closed, { "type": "null" }] });
    }
    closed.into()
}

/// What can be told without CEL; the API server tells the rest.
fn pattern(rule: &str) -> Option<&str> {
    if rule.starts_with("isCIDR(self)") {
        return Some("^[0-9a-f:.]+/[0-9]{1,3}$");
    }
    rule.strip_prefix("self.matches('")?.split_once("')").map(|(pattern, _)| pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_a_single_text_become_patterns() {
        assert_eq!(pattern("self.matches('^a+$') && duration(self) > duration('1s')"), Some("^a+$"));
        assert_eq!(
            pattern("isCIDR(self) && string(cidr(self).masked()) == self"),
            Some("^[0-9a-f:.]+/[0-9]{1,3}$")
        );
        assert_eq!(pattern("self.a.matches('^a$')"), None);
        assert_eq!(pattern("oldSelf == self"), None);
    }

    #[test]
    fn what_is_unknown_is_refused_at_every_depth() {
        let part = json!({
            "type": "object", "default": {},
            "properties": { "list": { "type": "array", "items": { "type": "object", "properties": {} } } },
        });
        let expected = json!({
            "type": "object", "additionalProperties": false,
            "properties": {
                "list": {
                    "type": "array",
                    "items": { "type": "object", "properties": {}, "additionalProperties": false },
                },
            },
        });
        assert_eq!(closed(&part), expected);
    }
}
