//! Reading a pool's label selector. What the API server checks for its own objects it does not check here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

/// A selector that can be evaluated, or what is wrong with it.
pub fn parse_selector(selector: &LabelSelector) -> Result<Selector, String> {
    for (key, value) in selector.match_labels.iter().flatten() {
        check_key(key)?;
        check_value(key, value)?;
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let key = &requirement.key;
        check_key(key)?;
        let values = requirement.values.as_deref().unwrap_or_default();
        match (requirement.operator.as_str(), values) {
            ("In" | "NotIn", []) => {
                return Err(format!("{key}: {} needs at least one value", requirement.operator));
            }
            ("In" | "NotIn", values) => values.iter().try_for_each(|value| check_value(key, value))?,
            ("Exists" | "DoesNotExist", []) => {}
            ("Exists" | "DoesNotExist", _) => {
                return Err(format!("{key}: {} takes no values", requirement.operator));
            }
            (operator, _) => {
                return Err(format!(
                    "{key}: operator {operator:?} is none of In, NotIn, Exists and DoesNotExist"
                ));
            }
        }
    }
    Selector::try_from(selector.clone()).map_err(|error| error.to_string())
}

/// A label name: at most 63 characters, with an optional DNS prefix (Kubernetes, "Labels and Selectors").
fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_good = prefix.is_none_or(|prefix| {
        (1..=253).contains(&prefix.len())
            && prefix.split('.').all(|part| {
                is_bounded_by_alphanumerics(part)
                    && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            })
    });
    if prefix_is_good && !name.is_empty() && is_label_text(name) {
        Ok(())
    } else {
        Err(format!("{key:?} is not the name of a label"))
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) {
        Ok(())
    } else {
        Err(format!("{key}: {value:?} can't be the value of a label"))
    }
}

fn is_label_text(text: &str) -> bool {
    text.len() <= 63
        && is_bounded_by_alphanumerics(text)
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_bounded_by_alphanumerics(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(good) && text.ends_with(good)
}

#[cfg(test)]
mod tests {
    use kube::core::SelectorExt as _;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(selector: serde_json::Value, expected: Result<&[&str], &str>) {
        let nodes = [("bare", ""), ("gpu", "kind=gpu"), ("cpu", "kind=cpu"), ("edge", "kind=gpu,zone=edge")];
        let found = parse_selector(&serde_json::from_value(selector.clone()).unwrap()).map(|parsed| {
            nodes
                .into_iter()
                .filter(|(_, labels)| {
                    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
                    parsed.matches(&pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
                })
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        });
        assert_eq!(found, expected.map(<[&str]>::to_vec).map_err(str::to_owned), "{selector}");
    }

    #[test]
    fn selectors_mean_what_kubernetes_means() {
        check(json!({}), Ok(&["bare", "gpu", "cpu", "edge"]));
        check(json!({"matchLabels": {"kind": "gpu"}}), Ok(&["gpu", "edge"]));
        check(json!({"matchLabels": {"kind": "gpu", "zone": "edge"}}), Ok(&["edge"]));
        let expression = |operator: &str, values: serde_json::Value| json!({"matchExpressions": [{"key": "kind", "operator": operator, "values": values}]});
        check(expression("In", json!(["gpu", "tpu"])), Ok(&["gpu", "edge"]));
        check(expression("NotIn", json!(["gpu"])), Ok(&["bare", "cpu"]));
        check(expression("Exists", json!(null)), Ok(&["gpu", "cpu", "edge"]));
        check(expression("DoesNotExist", json!([])), Ok(&["bare"]));
        check(
            json!({"matchLabels": {"kind": "gpu"}, "matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}),
            Ok(&["gpu"]),
        );
    }

    #[test]
    fn what_is_no_selector_is_refused_with_its_reason() {
        let expression = |key: &str, operator: &str, values: serde_json::Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(expression("kind", "In", json!([])), Err("kind: In needs at least one value"));
        check(expression("kind", "NotIn", json!(null)), Err("kind: NotIn needs at least one value"));
        check(expression("kind", "Exists", json!(["gpu"])), Err("kind: Exists takes no values"));
        check(
            expression("kind", "Gt", json!(["1"])),
            Err("kind: operator \"Gt\" is none of In, NotIn, Exists and DoesNotExist"),
        );
        check(expression("not a key", "Exists", json!([])), Err("\"not a key\" is not the name of a label"));
        check(
            expression("Upper.io/key", "Exists", json!([])),
            Err("\"Upper.io/key\" is not the name of a label"),
        );
        check(
            json!({"matchLabels": {"kind": "g p u"}}),
            Err("kind: \"g p u\" can't be the value of a label"),
        );
    }
}
