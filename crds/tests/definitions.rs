//! What holds for all definitions, whatever the types become.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use serde_json::Value;
use tartan_crds::{crd_yaml, crds};

/// Calls `look` with each schema below `schema`, and its path.
fn walk(schema: &Value, path: &str, look: &mut impl FnMut(&str, &Value)) {
    look(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), look);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}[]"), look);
        }
    }
}

fn each(mut look: impl FnMut(&str, &Value)) {
    for definition in crds() {
        let value = crd_yaml(&definition).unwrap();
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(schema, &definition.spec.names.kind, &mut look);
    }
}

/// Every reason is explained to those who meet it.
#[test]
fn each_reason_has_its_remedy_in_the_operations_guide() {
    let constants = include_str!("../src/conditions.rs");
    let guide = include_str!("../../docs/operations.md");
    let words: Vec<&str> = constants
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1))
        .collect();
    assert!(words.len() > 30, "only {words:?} were found");
    let missing: Vec<&&str> = words.iter().filter(|word| !guide.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "docs/operations.md does not explain {missing:?}");
}

fn rules(schema: &Value) -> impl Iterator<Item = &Value> {
    schema["x-kubernetes-validations"].as_array().into_iter().flatten()
}

/// An object that breaks a rule at the root, or in `spec`, can be changed nowhere: not even a finalizer can be taken
/// from it. A name never changes, and what compares with the old object refuses only a change: such rules are safe. All
/// others belong deeper.
#[test]
fn rules_at_the_root_are_about_the_name_or_a_change() {
    each(|path, schema| match path.matches('.').count() {
        0 => {
            for rule in rules(schema) {
                let text = rule["rule"].as_str().unwrap();
                let of_a_change = text.starts_with("self.spec.backends == oldSelf.spec.backends || ");
                assert!(text.contains("self.metadata.name") || of_a_change, "{path}: {rule}");
                let field = if of_a_change { ".spec.backends.vxlan" } else { ".metadata.name" };
                assert_eq!(rule["fieldPath"], field, "{path}: {rule}");
            }
        }
        1 => assert_eq!(rules(schema).count(), 0, "{path} has a rule of its own: move it to the field"),
        _ => {}
    });
}

#[test]
fn every_rule_says_what_to_do() {
    let mut count = 0;
    each(|path, schema| {
        for rule in rules(schema) {
            count += 1;
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && !message.ends_with('.'), "{path}: {rule}");
        }
    });
    assert!(count > 10, "only {count} rules were found");
}

/// The server warns about formats that it doesn't know.
#[test]
fn formats_are_those_that_the_server_knows() {
    each(|path, schema| {
        if let Some(format) = schema["format"].as_str() {
            assert!(["int32", "int64", "date-time"].contains(&format), "{path} has the format {format}");
        }
    });
}

/// A rule's cost is bounded by the bounds of what it looks at.
#[test]
fn what_rules_look_at_is_bounded() {
    each(|path, schema| {
        if rules(schema).next().is_none() {
            return;
        }
        match schema["type"].as_str() {
            Some("array") => assert!(schema["maxItems"].is_u64(), "{path} has no maxItems"),
            Some("string") if schema.get("enum").is_none() => {
                assert!(schema["maxLength"].is_u64(), "{path} has no maxLength");
            }
            _ => {}
        }
    });
}

/// Without words of the field `kubectl explain` leaves the reader alone.
#[test]
fn every_field_is_explained() {
    let mut mute = Vec::new();
    each(|path, schema| {
        // The names of a label selector are the API server's own.
        let ours = path.contains(".spec.") && !path.ends_with("[]") && !path.contains(".nodeSelector.");
        if ours && !schema["description"].is_string() {
            mute.push(path.to_owned());
        }
    });
    assert_eq!(mute, Vec::<String>::new());
}
