//! The table of values in the chart's README, made from `values.yaml`: each key with its default and the comment
//! above it.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Generated;
use crate::workspace::root;

const README: &str = "charts/tartan/README.md";
const BEGIN: &str = "<!-- values: written by `cargo xtask codegen` -->\n";
const END: &str = "<!-- end of values -->\n";

pub(super) fn generate() -> Result<Generated> {
    let values = fs::read_to_string(root().join("charts/tartan/values.yaml")).context("read values.yaml")?;
    let readme = fs::read_to_string(root().join(README)).context("read the chart's README")?;
    let (head, rest) = readme.split_once(BEGIN).context("the chart's README has no place for the values")?;
    let (_, tail) = rest.split_once(END).context("the chart's README has no end of the values")?;
    Ok(Generated { path: README.into(), text: format!("{head}{BEGIN}\n{}\n{END}{tail}", table(&values)?) })
}

fn table(text: &str) -> Result<String> {
    let values: Value = serde_saphyr::from_str(text).context("values.yaml is no YAML")?;
    let mut table = "| value | default | what it is |\n| --- | --- | --- |\n".to_owned();
    for Key { path, comment } in keys(text) {
        let value =
            path.iter().try_fold(&values, |value, key| value.get(key)).context("a key has a value")?;
        // A group is told by what is in it; an empty map is a value.
        let group = value.as_object().is_some_and(|map| !map.is_empty()) && !is_free_form(&path);
        ensure!(group || !comment.is_empty(), "{} has no comment in values.yaml", path.join("."));
        if !group {
            let default = value.to_string().replace('|', "\\|");
            writeln!(table, "| `{}` | `{default}` | {} |", path.join("."), comment.replace('|', "\\|"))?;
        }
    }
    Ok(table)
}

/// Maps whose keys are not the chart's.
fn is_free_form(path: &[String]) -> bool {
    path.last().is_some_and(|key| ["nodeSelector", "resources"].contains(&key.as_str()))
}

struct Key {
    path: Vec<String>,
    comment: String,
}

/// The keys of `values.yaml` in their order. Reads what this file uses of YAML: block maps, comments above keys.
fn keys(text: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    // Deeper lines than this belong to a list or a free-form map.
    let mut skip_below: Option<usize> = None;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if content.is_empty() {
            comment.clear();
            continue;
        }
        if skip_below.is_some_and(|limit| indent > limit) {
            continue;
        }
        skip_below = None;
        if let Some(words) = content.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let Some((key, value)) = content.split_once(':') else { continue };
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, key.to_owned()));
        let names: Vec<String> = path.iter().map(|(_, key)| key.clone()).collect();
        if is_free_form(&names) || (value.trim().is_empty() && is_list(text, line)) {
            skip_below = Some(indent);
        }
        keys.push(Key { path: names, comment: comment.join(" ") });
        comment.clear();
    }
    keys
}

/// Whether the lines after `line` are items of a list.
fn is_list(text: &str, line: &str) -> bool {
    let end = line.as_ptr() as usize - text.as_ptr() as usize + line.len();
    text.get(end..).and_then(|rest| rest.trim_start().chars().next()) == Some('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_with_its_default_and_the_comment_above_it() {
        let text = "\n# A group.\na:\n  # One\n  # and one.\n  b: 1 \n  # Two.\n  c:\n    - d: 2\n      e: 3\n# Free.\nnodeSelector:\n  x: z\n";
        assert_eq!(
            table(text).unwrap(),
            "| value | default | what it is |\n| --- | --- | --- |\n| `a.b` | `1` | One and one. |\n\
             | `a.c` | `[{\"d\":2,\"e\":3}]` | Two. |\n| `nodeSelector` | `{\"x\":\"z\"}` | Free. |\n"
        );
    }

    #[test]
    fn a_value_without_a_comment_is_an_error() {
        assert_eq!(table("a: 1\n").unwrap_err().to_string(), "a has no comment in values.yaml");
    }
}
