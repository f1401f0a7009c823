//! Faults that other tests notice: growth, reservations, what others break, and the agent's half of giving a block back.

use super::{
    ALLOCATION, BLOCKS, DRAFT, ENDING, GROWTH, HELD, Mutant, RECLAIM, RESTORE, VACATE, WITHHELD, edit,
    mutant, of_agent,
};

pub const MUTANTS: &[Mutant] = &[
    mutant(
        "blocks that pods use are given to the next node",
        &[edit("operator/src/decide/mod.rs", "    restore::restore(&mut draft);\n", "")],
        "rules",
        &["restore::a_lease_that_was_deleted_under_pods_is_their_nodes_again_and_nobody_elses"],
    ),
    mutant(
        "a further block becomes the first while the first comes back",
        &[edit(
            ALLOCATION,
            "if restore::is_under_way(draft, node, family) {",
            "if false && restore::is_under_way(draft, node, family) {",
        )],
        "rules",
        &["restore::a_lease_that_was_deleted_under_pods_is_their_nodes_again_and_nobody_elses"],
    ),
    mutant(
        "an agent that lies gets every block that it names",
        &[edit(RESTORE, "if held.len() + before >= most {", "if held.len() + before == usize::MAX {")],
        "rules",
        &["restore::an_agent_that_lies_gets_no_more_than_it_could_have"],
    ),
    mutant(
        "a block with pods that its node may not have again is free",
        &[edit(
            RESTORE,
            "    for (node, block, why) in left {",
            "    for (node, block, why) in left.into_iter().skip(99) {",
        )],
        "rules",
        &["restore::a_block_with_pods_that_its_node_may_not_have_again_goes_to_nobody_and_is_told"],
    ),
    mutant(
        "a block that pods use is given away while its create is in doubt",
        &[edit(RESTORE, "        draft.take(block);\n        return Ok(());", "        return Ok(());")],
        "rules",
        &["restore::a_lease_that_is_restored_and_whose_create_fails_leaves_its_block_to_no_other"],
    ),
    mutant(
        "a reservation takes what a Node is told",
        &[edit(
            DRAFT,
            "!self.unfit.overlaps(block) && !self.is_told(block) && !self.is_anothers(node, block);",
            "!self.unfit.overlaps(block) && !self.is_anothers(node, block);",
        )],
        "rules",
        &["restore::a_block_that_a_node_is_told_is_not_given_to_the_node_that_it_is_reserved_for"],
    ),
    mutant(
        "a block that is held goes when its time is over, whatever pods are there",
        &[edit(RECLAIM, "if held::has_pods(world, lease) {", "if false && held::has_pods(world, lease) {")],
        "rules",
        &["reclaim::what_a_node_has_left_behind_and_its_pods_use_is_not_taken_for_a_reservation_either"],
    ),
    mutant(
        "an agent that lies withholds every block that it names",
        &[edit(WITHHELD, "before.saturating_add(met) <= MOST", "met <= MOST")],
        "rules",
        &["restore::of_an_agents_word_no_more_than_sixteen_blocks_are_withheld"],
    ),
    mutant(
        "a block goes back although its agent has not met the request",
        &[edit(GROWTH, "                && asked == lease.emptied.as_ref()\n", "")],
        "rules",
        &["growth::an_answer_to_an_earlier_request_or_one_that_is_taken_back_releases_nothing"],
    ),
    mutant(
        "a block that goes back by an answer which is newer than the report is leased again",
        &[edit(
            GROWTH,
            "            !reported_in_use\n                && asked.is_some()",
            "            asked.is_some()",
        )],
        "rules",
        &["growth::after_a_move_to_another_pool_a_further_block_is_asked_back_and_the_next_comes_from_there"],
    ),
    mutant(
        "a node that waits for one family does not grow in the other",
        &[edit(GROWTH, "let _ = grant(draft, node, membership, family);", "let _ = family;")],
        "rules",
        &["restore::a_node_that_waits_for_one_family_grows_in_the_other"],
    ),
    mutant(
        "a reserved range is given out",
        &[edit(DRAFT, "layout.kept_back().chain(world.vanished.blocks())", "world.vanished.blocks()")],
        "rules",
        &["reservations::a_reserved_range_is_given_to_nobody_and_counts_as_such"],
    ),
    mutant(
        "overlapping leases are not told",
        &[edit(
            "operator/src/decide/invariants.rs",
            "if !usage.overlaps.is_empty() {",
            "if false && !usage.overlaps.is_empty() {",
        )],
        "rules",
        &["edits::leases_that_overlap_are_named_and_both_nodes_keep_theirs"],
    ),
    mutant(
        "the newest claim to a key wins",
        &[edit(
            "operator/src/decide/node_keys.rs",
            "(held.contains(&(node, key)), Reverse(lease.created), Reverse(node))",
            "(false, Reverse(lease.created), Reverse(node))",
        )],
        "rules",
        &["keys::a_key_is_that_of_who_published_it_first_as_long_as_it_does"],
    ),
    mutant(
        "what a node has left behind is given away for a reservation under its pods",
        &[edit(
            HELD,
            "report.is_some_and(|report| report.knows_leases) && !has_pods(world, lease)",
            "report.is_some_and(|report| report.knows_leases)",
        )],
        "rules",
        &["reclaim::what_a_node_has_left_behind_and_its_pods_use_is_not_taken_for_a_reservation_either"],
    ),
    mutant(
        "what a node has left behind is given away for a reservation before its agent could tell of pods",
        &[edit(HELD, "SignedDuration::from_secs(60)", "SignedDuration::from_secs(0)")],
        "rules",
        &["reclaim::what_is_reserved_for_another_is_not_given_up_in_the_moment_in_which_its_node_comes_back"],
    ),
    mutant(
        "an agent's word that comes after the decision is not heard",
        &[edit(RECLAIM, "if grounds.why.asks_for_pods()", "if false && grounds.why.asks_for_pods()")],
        "rules",
        &["reclaim::a_lease_is_not_deleted_of_which_the_agent_tells_by_then"],
    ),
    mutant(
        "a node waits for the finalizer of its old lease",
        &[edit(ALLOCATION, ".filter(|lease| !is_lost(lease, node))", ".filter(|_| true)")],
        "rules",
        &["reclaim::a_node_that_comes_back_while_its_old_lease_cannot_go_gets_another_block"],
    ),
    mutant(
        "a node that joins again gets the family back that it was to lose",
        &[edit(ALLOCATION, "!wanted.is_empty() && !wanted.contains(&family);", "false;")],
        "rules",
        &[
            "families::a_family_that_the_cluster_loses_stays_with_the_nodes_that_have_it_until_they_join_again",
        ],
    ),
    mutant(
        "what a restored store knows nothing of is given to the next node",
        &[edit(DRAFT, "layout.kept_back().chain(world.vanished.blocks())", "layout.kept_back()")],
        "rules",
        &["backup::what_nodes_had_that_a_restored_store_knows_nothing_of_is_kept_for_them"],
    ),
    mutant(
        "what a restored store knows nothing of goes to the node that it is reserved for",
        &[edit(DRAFT, "is_some_and(|keeper| keeper != node)", "is_some_and(|_| false)")],
        "rules",
        &["backup::a_reservation_does_not_take_what_a_restored_store_knows_nothing_of"],
    ),
    mutant(
        "what a backup has as released long ago is deleted at once",
        &[edit(RECLAIM, "kept.map_or(due, |kept| kept.max(due))", "kept.map_or(due, |_| due)")],
        "rules",
        &["backup::a_lease_that_was_released_in_the_backup_is_not_given_up_before_its_node_could_come_back"],
    ),
    mutant(
        "a further block is granted before another node has its first",
        &[edit(
            "operator/src/decide/mod.rs",
            "        node::decide_node(&mut draft, node);
    }
    for node in world.nodes.iter() {
",
            "        node::decide_node(&mut draft, node);
",
        )],
        "rules",
        &["growth::blocks_that_are_held_for_others_are_no_further_blocks_and_that_is_said"],
    ),
    mutant(
        "what a node has left behind is given away",
        &[edit(HELD, ".filter(|(node, _)| !world.nodes.contains(node))", ".filter(|_| true)")],
        "rules",
        &["reclaim::what_a_node_has_left_behind_is_held_as_long_as_that_may_be_and_is_no_room"],
    ),
    mutant(
        "a block that two taken ranges meet counts twice",
        &[edit(
            BLOCKS,
            "let from = index((*start).max(first)).max(next);",
            "let from = index((*start).max(first));",
        )],
        "--lib",
        &["decide::blocks::tests::what_is_found_is_free_and_nothing_below_it_is"],
    ),
    // The agent's half of giving a block back.
    of_agent(
        "the agent gives a block back under its pods",
        &[edit(
            VACATE,
            "due.into_iter().filter(|request| !taken.iter().any(|ip| request.subnet.contains(*ip)));",
            "due.into_iter().filter(|_| !taken.is_empty() || taken.is_empty());",
        )],
        &[
            "cni::vacate::tests::a_request_is_met_when_the_range_was_left_out_for_long_enough_and_no_pod_has_an_address",
        ],
    ),
    of_agent(
        "the agent gives a block back before the last start of a pod is over",
        &[edit(VACATE, "Some(past) if past >= limit => due", "Some(past) if past >= limit.min(past) => due")],
        &[
            "cni::vacate::tests::a_request_is_met_when_the_range_was_left_out_for_long_enough_and_no_pod_has_an_address",
        ],
    ),
    of_agent(
        "the agent looks into a store that a plugin is changing",
        &[edit(
            VACATE,
            "        Err(TryLockError::WouldBlock) => Ok(None),",
            "        Err(TryLockError::WouldBlock) => Ok(Some(file)),",
        )],
        &["cni::vacate::tests::a_store_that_a_plugin_has_locked_is_not_believed"],
    ),
    mutant(
        "reception ends though an agent has not heard that nobody sends by it",
        &[edit(
            ENDING,
            ".filter(|(_, seen)| !is_aware(seen))",
            ".filter(|(_, seen)| false && !is_aware(seen))",
        )],
        "rules",
        &["transition::what_was_taken_back_is_received_until_every_agent_has_heard_so"],
    ),
    mutant(
        "an agent has heard of an end whichever version of its lease it goes by",
        &[edit(
            ENDING,
            "lease.generation == Some(seen.generation)",
            "lease.generation >= Some(seen.generation)",
        )],
        "rules",
        &["transition::what_was_taken_back_is_received_until_every_agent_has_heard_so"],
    ),
    mutant(
        "a pool is sealed before every agent has heard that all of it encrypt",
        &[edit(
            "operator/src/decide/sealing.rs",
            "through = encrypts && has_followed && awaited.is_empty();",
            "through = encrypts && has_followed;",
        )],
        "rules",
        &["sealing::a_pool_is_sealed_when_every_agent_has_heard_that_all_of_it_encrypt"],
    ),
    mutant(
        "what was heard of one end counts for the next",
        &[edit(
            "operator/src/decide/transition.rs",
            "held.is_empty() && naming.is_empty();",
            "held.is_empty();",
        )],
        "rules",
        &["transition::what_is_asked_for_again_while_it_ends_waits_until_no_lease_names_the_end"],
    ),
    mutant(
        "nodes send in clear before every agent has heard that nobody is sealed",
        &[edit(
            "operator/src/decide/transition.rs",
            "held.extend(self.unsealing.awaited());",
            "held.extend(self.unsealing.awaited().iter().take(0));",
        )],
        "rules",
        &[
            "sealing::nothing_is_sent_in_clear_before_every_agent_has_heard_that_the_pool_is_unsealed",
            "unsealing::where_a_pool_is_deleted_its_nodes_leave_encryption_as_if_it_were_not",
            "unsealing::who_is_unsealed_meanwhile_is_to_be_heard_of_too",
        ],
    ),
    mutant(
        "who heard of some that are unsealed counts as one who heard of all",
        &[edit(
            "operator/src/decide/unsealing.rs",
            "name_of(members.iter().filter(is_one), ENDS, facts)",
            "name_of(members.iter().filter(is_one).take(0), ENDS, facts)",
        )],
        "rules",
        &["unsealing::one_that_left_has_heard_of_those_before_it_and_not_of_those_after"],
    ),
    mutant(
        "who left encryption counts as one who heard of all that leave later",
        &[edit(
            "operator/src/decide/unsealing.rs",
            "left.is_some() && left == self.end.as_deref()",
            "left.is_some()",
        )],
        "rules",
        &["unsealing::one_that_left_has_heard_of_those_before_it_and_not_of_those_after"],
    ),
    mutant(
        "who was passed over counts as one who heard",
        &[edit(
            "operator/src/decide/unsealing.rs",
            "self.end.as_ref().filter(|_| !self.awaited.contains(node))",
            "self.end.as_ref()",
        )],
        "rules",
        &["unsealing::one_that_left_without_having_heard_is_waited_for_by_others"],
    ),
    mutant(
        "who has said so once is not heard of when it left encryption",
        &[edit(
            "operator/src/decide/unsealing.rs",
            "left.is_some() && left == self.end.as_deref()",
            "left.is_some() && false",
        )],
        "rules",
        &["unsealing::one_that_was_told_to_leave_holds_nobody_up_that_it_had_heard_of"],
    ),
    mutant(
        "who heard that a pool encrypts counts as one who heard that of its next node",
        &[edit(
            "operator/src/decide/sealing.rs",
            "name_of(of_pool().filter(is_one), CLOSES, facts)",
            "name_of(of_pool().filter(is_one).take(0), CLOSES, facts)",
        )],
        "rules",
        &["unsealing::a_node_that_comes_into_a_pool_before_it_is_sealed_is_to_be_heard_of_too"],
    ),
    mutant(
        "who heard of a seal that was taken back counts as one who heard of the next",
        &[edit("operator/src/decide/unsealing.rs", "Some(format!(\"{ENTERED}{generation}\"))", "None")],
        "rules",
        &["unsealing::who_heard_of_a_seal_that_was_to_come_has_not_heard_of_the_next_one"],
    ),
    mutant(
        "with each that goes the others have another name",
        &[edit(
            "operator/src/decide/ending.rs",
            "one_of(member.ending, mark)",
            "one_of(member.ending, \"none\")",
        )],
        "rules",
        &["unsealing::where_there_are_fewer_than_were_heard_of_nobody_is_asked_anew"],
    ),
    mutant(
        "the end of seals is told of before the last one has ended",
        &[edit("operator/src/decide/unsealing.rs", "(is_to_go && awaited.is_empty()).then", "is_to_go.then")],
        "rules",
        &["unsealing::the_end_of_seals_is_told_of_when_the_last_one_is_unsealed"],
    ),
    mutant(
        "who must take packets in clear has no longer than the change has had",
        &[edit(
            "operator/src/decide/transition.rs",
            "unsealed_at.map_or(since, |at| at.max(since))",
            "unsealed_at.map_or(since, |at| at.min(since))",
        )],
        "rules",
        &["unsealing::who_comes_into_a_pool_whose_deadline_has_passed_is_heard_of_all_the_same"],
    ),
    mutant(
        "a node that nobody sends to is not waited for though it does not know that",
        &[edit(
            "operator/src/decide/ending.rs",
            "|| (found.is_none() && sends.is_none_or(BackendType::has_paths))",
            "|| (false && found.is_none() && sends.is_none_or(BackendType::has_paths))",
        )],
        "rules",
        &["unsealing::a_node_that_nobody_sends_to_is_waited_for_until_it_knows_that"],
    ),
];
