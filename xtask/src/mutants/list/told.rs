//! Faults in what one hears of another, and when.

use super::{Mutant, edit, mutant, of_agent};

pub const MUTANTS: &[Mutant] = &[
    mutant(
        "who tells the operator that it receives is sent to before its peers know how",
        &[edit(
            "operator/src/decide/transition.rs",
            "is_known && self.report",
            "(is_known || true) && self.report",
        )],
        "rules",
        &["published::nobody_is_sent_to_by_what_only_the_operator_has_heard_of"],
    ),
    mutant(
        "the same, whoever is behind",
        &[edit(
            "operator/src/decide/transition.rs",
            "is_known && self.report",
            "(is_known || true) && self.report",
        )],
        "behind",
        &["nothing_is_lost_whoever_is_behind"],
    ),
    of_agent(
        "what the watch has not brought yet was never said",
        &[edit(
            "node-agent/src/publish/told.rs",
            "self.arrived && same(&self.status)",
            "true || self.arrived && same(&self.status)",
        )],
        &["publish::tests::what_was_taken_back_is_said_again_though_the_watch_has_brought_neither"],
    ),
];
