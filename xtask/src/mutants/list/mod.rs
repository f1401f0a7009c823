//! The faults.

mod proofs;
mod rules;
mod told;

use super::{Edit, End, Mutant};

const OPERATOR: &str = "tartan-operator";
const AGENT: &str = "tartan-node-agent";
const ALLOCATION: &str = "operator/src/decide/allocation.rs";
const RECLAIM: &str = "operator/src/decide/reclaim.rs";
const DRAFT: &str = "operator/src/decide/draft.rs";
const ENDING: &str = "operator/src/decide/ending.rs";
const RESTORE: &str = "operator/src/decide/restore.rs";
const WITHHELD: &str = "operator/src/decide/withheld.rs";
const BLOCKS: &str = "operator/src/decide/blocks.rs";
const VACATE: &str = "node-agent/src/cni/vacate.rs";
const HELD: &str = "operator/src/decide/held.rs";
const NODE: &str = "operator/src/decide/node.rs";
const GROWTH: &str = "operator/src/decide/growth.rs";
const LEASES: &str = "operator/src/execute/leases.rs";

const fn mutant(
    name: &'static str,
    edits: &'static [Edit],
    target: &'static str,
    tests: &'static [&'static str],
) -> Mutant {
    Mutant { name, edits, package: OPERATOR, target, tests, end: End::Fails, says: None }
}

/// Of the node agent, which tests beside its code notice.
const fn of_agent(name: &'static str, edits: &'static [Edit], tests: &'static [&'static str]) -> Mutant {
    Mutant { package: AGENT, ..mutant(name, edits, "--lib", tests) }
}

impl Mutant {
    const fn saying(self, text: &'static str) -> Self {
        Self { says: Some(text), ..self }
    }
}

const fn edit(file: &'static str, old: &'static str, new: &'static str) -> Edit {
    Edit { file, old, new }
}

pub fn all() -> impl Iterator<Item = &'static Mutant> {
    proofs::MUTANTS.iter().chain(rules::MUTANTS).chain(told::MUTANTS)
}
