//! Faults in what one hears of another, and when.

use super::{Mutant, edit, mutant, of_agent};

pub const MUTANTS: &[Mutant] = &[
    mutant(
        "who tells the operator that it receives is sent to before its peers know how",
        &[edit(
            "operator/src/decide/transition.rs",
            "is_known && self.is_set_up(kind)",
            "(is_known || true) && self.is_set_up(kind)",
        )],
        "rules",
        &["published::nobody_is_sent_to_by_what_only_the_operator_has_heard_of"],
    ),
    mutant(
        "the same, whoever is behind",
        &[edit(
            "operator/src/decide/transition.rs",
            "is_known && self.is_set_up(kind)",
            "(is_known || true) && self.is_set_up(kind)",
        )],
        "behind",
        &["nothing_is_lost_whoever_is_behind"],
    ),
    mutant(
        "one lease of a node stands for all of them",
        &[edit(
            "operator/src/decide/transition.rs",
            "self.endpoints.iter().all(",
            "self.endpoints.iter().take(1).all(",
        )],
        "rules",
        &["published::of_a_node_with_two_primary_leases_both_must_say_it"],
    ),
    mutant(
        "a node to which nobody sends is waited for",
        &[edit(
            "operator/src/decide/transition.rs",
            "&& member.has_paths() &&",
            "&& (true || member.has_paths()) &&",
        )],
        "rules",
        &["published::a_node_of_another_pool_to_which_nobody_sends_is_not_waited_for"],
    ),
    of_agent(
        "what the watch has not brought yet was never said",
        &[edit(
            "node-agent/src/publish/told.rs",
            "self.arrived && self.status == *wanted",
            "true || self.arrived && self.status == *wanted",
        )],
        &["publish::tests::what_was_taken_back_is_said_again_though_the_watch_has_brought_neither"],
    ),
];
