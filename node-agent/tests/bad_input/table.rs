//! What a row is, and the page that shows all of them.

use std::{fmt::Write as _, path::PathBuf};

use super::{
    elsewhere::Told,
    scene::{Scene, nothing},
};

/// Where the answer is.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The API server refuses the change: these words are in what it says.
    Refused,
    /// A condition of this object: kind, name, type, status.
    Condition(&'static str, &'static str, &'static str, &'static str),
    /// An event about an object of this kind, where there is no condition, since what was done was undone.
    Event(&'static str),
    /// The agent of node2 says so in its log.
    Log,
}

/// Something done wrong.
#[derive(Clone)]
pub struct Row {
    /// What is done wrong.
    pub input: &'static str,
    /// The object that the answer stands on, for people.
    pub at: &'static str,
    pub answer: Answer,
    /// The reason of the condition or event; empty where there is none.
    pub reason: &'static str,
    /// What the answer names: the field or the object.
    pub names: &'static str,
    /// What the answer says is to be done.
    pub remedy: &'static str,
    /// Does it; the answer of the API server, where that refused.
    pub provoke: fn(&mut Scene) -> String,
    /// Puts it right again.
    pub mend: fn(&mut Scene),
}

/// A request that the API server refuses: `provoke` returns what it says.
pub const fn refused(
    input: &'static str,
    names: &'static str,
    remedy: &'static str,
    provoke: fn(&mut Scene) -> String,
) -> Row {
    Row {
        input,
        at: "refused by the API server",
        answer: Answer::Refused,
        reason: "",
        names,
        remedy,
        provoke,
        mend: nothing,
    }
}

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/bad-input.md")
}

/// Asserts that the page shows these rows, or writes it where `TARTAN_BLESS` is set.
pub fn check_page(rows: &[Row], elsewhere: &[(&str, &[&Told])]) {
    let mut text = "# Bad input: where the answer is, and what to do\n\n\
        Made from the rows of `node-agent/tests/bad_input`, which provokes each of them on a running cluster with the chart's \
        admission policies while packets flow, and asserts that none is lost; the last ones by other tests, which are named. Of a message, the part that names the field or object and the part that says what to do are quoted.\n\n\
        | what is wrong | where it is answered | reason | names | what to do |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    for row in rows {
        let reason = if row.reason.is_empty() { "–".to_owned() } else { format!("`{}`", row.reason) };
        writeln!(text, "| {} | {} | {reason} | {} | {} |", row.input, row.at, row.names, row.remedy).unwrap();
    }
    for (file, rows) in elsewhere {
        for Told { input, reason, names, remedy } in *rows {
            writeln!(
                text,
                "| {input} | condition Degraded of the NodeNetwork ([{file}](../node-agent/tests/{file})) | `{reason}` | {names} | {remedy} |"
            )
            .unwrap();
        }
    }
    if std::env::var_os("TARTAN_BLESS").is_some() {
        std::fs::write(page(), &text).unwrap();
    }
    let there = std::fs::read_to_string(page()).unwrap_or_default();
    assert!(
        there == text,
        "docs/bad-input.md is not what the rows say: TARTAN_BLESS=1 cargo test -p tartan-node-agent --test bad_input"
    );
}
