//! The faults.

use super::{Edit, End, Mutant};

const OPERATOR: &str = "tartan-operator";
const AGENT: &str = "tartan-node-agent";
const RECLAIM: &str = "operator/src/decide/reclaim.rs";
const DRAFT: &str = "operator/src/decide/draft.rs";
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

/// A law of the model.
const USED_STAYS: &str = "broken: what a living node uses stays its own";

const NODES_KEEP_THEIRS: &str = "whatever_happens_to_three_nodes_leases_stay_disjoint_and_nodes_get_theirs";
const TOLD_NODES_KEEP_THEIRS: &str = "whatever_happens_while_nodes_are_told_their_blocks_they_keep_them";
const BACK_AGAIN: &str = "a_node_that_goes_and_comes_back_while_writes_get_lost_has_its_block_again";
const CUT_ANEW: &str = "a_range_that_is_cut_anew_under_delayed_creates_holds_no_overlap";
const FURTHER_STAYS: &str = "found::a_further_block_that_comes_back_before_the_first_one_stays_a_further_one";
const GROWS: &str = "a_node_that_grows_keeps_every_block_of_which_a_pod_has_an_address";
const KEPT_BLOCK: &str = "a_node_gets_the_block_that_is_kept_for_it_once_nobody_holds_it";
const LAGGING_VIEW: &str =
    "found::a_view_of_nodes_that_lags_does_not_give_a_lease_back_to_a_node_that_is_gone";
const BETWEEN_READS: &str = "found::a_node_that_comes_back_between_two_reads_keeps_its_lease";

pub const MUTANTS: &[Mutant] = &[
    // The model, which runs decisions and requests.
    mutant(
        "a lease is given back by a view of Nodes that lags",
        &[edit(LEASES, "if why == UpdateReason::Returned {", "if false && why == UpdateReason::Returned {")],
        "model",
        &[LAGGING_VIEW, TOLD_NODES_KEEP_THEIRS],
    ),
    mutant(
        "the Node is asked for before the lease is read",
        &[
            edit(
                LEASES,
                "        let Some(lease) = self.reread_lease(&decided.name, news).await? else {
            return Ok(Outcome::Overtaken);
        };
        // After the lease",
                "        let live_node = self.reread_node(node, news).await?;
        let Some(lease) = self.reread_lease(&decided.name, news).await? else {
            return Ok(Outcome::Overtaken);
        };
        // After the lease",
            ),
            edit(
                LEASES,
                "        let live_node = self.reread_node(node, news).await?;
        if lease.meta.uid",
                "        if lease.meta.uid",
            ),
        ],
        "model",
        &[BETWEEN_READS],
    ),
    mutant(
        "a lease is released although its node may be back",
        &[edit(
            RECLAIM,
            "        && node.map(|node| node.meta.uid.as_str()) == successor
        && node.is_none_or(|node| node.meta.uid != spec.node_uid && !names(node, lease))",
            "        && (successor.is_none() || node.is_none_or(|node| !names(node, lease)))",
        )],
        "model",
        &[NODES_KEEP_THEIRS],
    ),
    mutant(
        "a lease is patched in whatever version it is",
        &[edit(
            LEASES,
            r#"json!({ "uid": lease.uid, "resourceVersion": lease.version, "labels": labels })"#,
            r#"json!({ "uid": lease.uid, "labels": labels })"#,
        )],
        "model",
        &[BACK_AGAIN],
    ),
    mutant(
        "a create does not say by which ClusterNetwork it was cut",
        &[edit(
            LEASES,
            "            (annotation::CUT_BY.to_owned(), self.decided_by.to_string()),\n",
            "",
        )],
        "model",
        &[CUT_ANEW],
    ),
    mutant(
        "leases are not listed before a range is cut anew",
        &[edit("operator/src/execute/ground.rs", "if *listed_for != live {", "if false {")],
        "model",
        &[CUT_ANEW],
    ),
    mutant(
        "a block goes back although the answer was taken back",
        &[edit(RECLAIM, "spec.returning.is_some() && spec.returning == lease.emptied;", "spec.returning.is_some();")],
        "model",
        &[GROWS],
    )
    .saying(USED_STAYS),
    mutant(
        "a further lease in force is taken for the node's first",
        &[edit(
            "operator/src/decide/allocation.rs",
            "(lease.deleting && released, !primary, released,",
            "(lease.deleting && released, released, !primary,",
        )],
        "model",
        &[FURTHER_STAYS],
    ),
    mutant(
        "a lease is deleted in whatever version it is",
        &[edit(LEASES, "resource_version: Some(lease.meta.version.clone()),", "resource_version: None,")],
        "model",
        &[GROWS],
    )
    .saying(USED_STAYS),
    mutant(
        "a node gets any block though one is kept for it",
        &[edit(
            "operator/src/decide/allocation.rs",
            "membership, family) {\n        return obtain_kept",
            "membership, family).filter(|_| false) {\n        return obtain_kept",
        )],
        "model",
        &[KEPT_BLOCK],
    ),
    mutant(
        "the model sees no overlap",
        &[edit("operator/tests/model/state.rs", "parts(one) & parts(other) != 0", "parts(one) & parts(other) > 15")],
        "model",
        &["without_the_policy_that_leases_are_blocks_of_an_entry_two_operators_can_overlap"],
    ),
    // Random histories.
    mutant(
        "only leases of entries count as taken",
        &[edit(
            DRAFT,
            "let leased: Taken = world.leases.iter().map(|lease| lease.subnet).chain(names).collect();",
            "let known = |block: &Cidr| layout.entry_of(*block).is_some();
        let leased: Taken = world.leases.iter().map(|lease| lease.subnet).filter(known).chain(names).collect();",
        )],
        "never_overlap",
        &[
            "leases_never_overlap_when_the_mode_is_auto",
            "leases_never_overlap_when_we_own_pod_cidrs",
            "leases_never_overlap_when_nodes_are_not_told",
            "large::leases_of_hundreds_of_nodes_never_overlap_when_we_own_pod_cidrs",
            "large::leases_of_hundreds_of_nodes_never_overlap_when_nodes_are_not_told",
        ],
    ),
    mutant(
        "a block is not held",
        &[edit(
            RECLAIM,
            "SignedDuration::try_from(hold).unwrap_or(SignedDuration::MAX)",
            "SignedDuration::try_from(hold).unwrap_or(SignedDuration::MAX) / 1000",
        )],
        "never_overlap",
        &["with_room_for_all_a_node_that_comes_back_in_time_gets_its_subnet"],
    ),
    mutant(
        "the lowest held block is taken first",
        &[edit(
            HELD,
            "held.sort_by_key(|lease| (lease.released_at(), lease.subnet));",
            "held.sort_by_key(|lease| lease.subnet);",
        )],
        "never_overlap",
        &["under_exhaustion_the_oldest_release_goes_first"],
    ),
    mutant(
        "a node that is gone keeps its lease",
        &[edit(RECLAIM, "=> draft.release(lease),", "=> draft.leave(lease),")],
        "never_overlap",
        &["leases_never_overlap_when_nodes_are_not_told"],
    )
    .saying("of a gone node is not released"),
    mutant(
        "a block goes back whatever its agent says",
        &[
            edit(GROWTH, "                && asked == lease.emptied.as_ref()\n", ""),
            edit(RECLAIM, "spec.returning.is_some() && spec.returning == lease.emptied;", "spec.returning.is_some();"),
        ],
        "never_overlap",
        &["leases_never_overlap_when_nodes_are_not_told"],
    )
    .saying("was taken from"),
    mutant(
        "a block that is kept back is free",
        &[edit(DRAFT, "layout.kept_back().for_each(|cidr| blocked.insert(cidr));", "")],
        "never_overlap",
        &["leases_never_overlap_when_nodes_are_not_told"],
    )
    .saying("is kept back and given to"),
    // Bugs that others have shipped.
    mutant(
        "a block that this round gives out is not taken yet",
        &[edit(DRAFT, "        self.unfit.insert(block);\n        self.blocked.insert(block);", "        // Not yet.")],
        "regressions",
        &["eight_hundred_nodes_at_once_get_blocks_of_their_own_from_two_operators"],
    ),
    mutant(
        "decisions begin when Nodes are listed",
        &[edit("operator/src/decide/mod.rs", "if !world.is_complete() {", "if !world.nodes.is_complete() {")],
        "regressions",
        &["a_restarted_operator_decides_nothing_before_all_lists_are_complete"],
    ),
    mutant(
        "a Node that is marked for deletion counts as gone",
        &[
            edit(
                "operator/src/world/objects.rs",
                "            meta: meta(&metadata),
            pod_cidrs,",
                r#"            meta: if metadata.deletion_timestamp.is_some() { Meta::default() } else { meta(&metadata) },
            pod_cidrs,"#,
            ),
            edit(
                RECLAIM,
                "node.map(|node| node.meta.uid.as_str()) == successor
        && node.is_none_or(|node| ",
                "node.map(|node| node.meta.uid.as_str()).filter(|uid| !uid.is_empty()) == successor
        && node.is_none_or(|node| node.meta.uid.is_empty() || ",
            ),
        ],
        "regressions",
        &["a_node_that_is_only_marked_for_deletion_keeps_its_lease"],
    ),
    mutant(
        "a condition is written whether or not it is there",
        &[edit("operator/src/decide/node_networks.rs", "    if same {\n        return;", "    if same && draft.wake_at.is_some() {\n        return;")],
        "regressions",
        &["an_exhausted_pool_stalls_only_its_own_nodes_and_is_told_once"],
    ),
    mutant(
        "a node that waits ends the round of all",
        &[edit(
            "operator/src/decide/mod.rs",
            "        node::decide_node(&mut draft, node);\n",
            "        node::decide_node(&mut draft, node);
        let verdict = draft.verdicts.get(node.meta.name.as_str());
        if verdict.is_some_and(|(_, verdict)| matches!(verdict, draft::Verdict::Waiting(_))) {
            break;
        }
",
        )],
        "regressions",
        &["an_exhausted_pool_stalls_only_its_own_nodes_and_is_told_once"],
    ),
    mutant(
        "a lease beside another IPAM's podCIDR stays",
        &[edit(
            NODE,
            "        } else if !lease.in_use {
            draft.delete(lease, DeleteReason::BackedOut);",
            "        } else if !lease.in_use && pinned.is_empty() {
            draft.delete(lease, DeleteReason::BackedOut);",
        )],
        "regressions",
        &["a_second_ipam_that_is_faster_wins_and_our_unused_lease_goes_back"],
    ),
    mutant(
        "a node that was replaced under its name keeps the old UID",
        &[edit(
            DRAFT,
            "        let mut spec = self.spec(node, membership, lease.subnet, primary);",
            "        let mut spec = self.spec(node, membership, lease.subnet, primary);
        spec.node_uid.clone_from(&current.node_uid);",
        )],
        "regressions",
        &["a_node_replaced_under_its_name_keeps_one_lease_with_the_new_uid"],
    ),
    mutant(
        "a node is gone whatever Node has its name now",
        &[edit(
            RECLAIM,
            "        && node.map(|node| node.meta.uid.as_str()) == successor
        && node.is_none_or(|node| node.meta.uid != spec.node_uid && !names(node, lease))",
            "        && (successor.is_none() || node.is_some())
        && node.is_none_or(|node| !names(node, lease))",
        )],
        "regressions",
        &["a_node_replaced_under_its_name_keeps_one_lease_with_the_new_uid"],
    )
    .saying("its new holder keeps it"),
    mutant(
        "blocks of nodes that are gone are held for ever",
        &[edit(RECLAIM, "if due <= draft.now {", "if due == Timestamp::MAX {")],
        "regressions",
        &["after_a_thousand_nodes_came_and_went_nothing_of_theirs_is_left"],
    ),
    mutant(
        "what a node last had is remembered for ever",
        &[edit(
            "operator/src/world/mod.rs",
            "self.wishes.retain(|(node, _), _| nodes.contains(node));",
            "self.wishes.retain(|(node, _), _| nodes.contains(node) || !node.is_empty());",
        )],
        "regressions",
        &["after_a_thousand_nodes_came_and_went_nothing_of_theirs_is_left"],
    ),
    Mutant {
        end: End::Hangs,
        ..mutant(
            "the search for a block stands still",
            &[edit(
                BLOCKS,
                ".max(self.next).saturating_add(1);",
                ".max(self.next);",
            )],
            "--lib",
            &["decide::blocks::tests::a_search_in_a_full_or_odd_range_ends"],
        )
    },
    // What the others don't have: growth, reservations, what others break.
    mutant(
        "blocks that pods use are given to the next node",
        &[edit("operator/src/decide/mod.rs", "    restore::restore(&mut draft);\n", "")],
        "rules",
        &["restore::a_lease_that_was_deleted_under_pods_is_their_nodes_again_and_nobody_elses"],
    ),
    mutant(
        "a further block becomes the first while the first comes back",
        &[edit(
            "operator/src/decide/allocation.rs",
            "if restore::is_under_way(draft, node, family) {",
            "if false && restore::is_under_way(draft, node, family) {",
        )],
        "rules",
        &["restore::a_lease_that_was_deleted_under_pods_is_their_nodes_again_and_nobody_elses"],
    ),
    mutant(
        "an agent that lies gets every block that it names",
        &[edit(
            RESTORE,
            "if held.len() + before >= most {",
            "if held.len() + before == usize::MAX {",
        )],
        "rules",
        &["restore::an_agent_that_lies_gets_no_more_than_it_could_have"],
    ),
    mutant(
        "a block with pods that its node may not have again is free",
        &[edit(RESTORE, "    for (node, block, why) in left {", "    for (node, block, why) in left.into_iter().skip(99) {")],
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
            "!self.unfit.overlaps(block) && !self.is_told(block);",
            "!self.unfit.overlaps(block);",
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
        &[edit(GROWTH, "            !reported_in_use\n                && asked.is_some()", "            asked.is_some()")],
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
        &[edit(DRAFT, "layout.kept_back().for_each(|cidr| blocked.insert(cidr));", "")],
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
        "nobody gets a block before its time",
        &[edit(
            HELD,
            "    held.sort_by_key(|lease| (lease.released_at(), lease.subnet));",
            "    held.clear();",
        )],
        "never_overlap",
        &["leases_never_overlap_when_nodes_are_not_told"],
    )
    .saying("waits though there are blocks"),
    mutant(
        "what a node has left behind is given away for a reservation under its pods",
        &[edit(HELD, "lease.released_at().is_some() && !has_pods(world, lease)", "lease.released_at().is_some()")],
        "rules",
        &["reclaim::what_a_node_has_left_behind_and_its_pods_use_is_not_taken_for_a_reservation_either"],
    ),
    mutant(
        "what a node has left behind is given away",
        &[edit(HELD, ".filter(|(node, _)| !world.nodes.contains(node))", ".filter(|_| true)")],
        "rules",
        &["reclaim::what_a_node_has_left_behind_is_held_as_long_as_that_may_be_and_is_no_room"],
    ),
    mutant(
        "a block that two taken ranges meet counts twice",
        &[edit(BLOCKS, "let from = index((*start).max(first)).max(next);", "let from = index((*start).max(first));")],
        "--lib",
        &["decide::blocks::tests::what_is_found_is_free_and_nothing_below_it_is"],
    ),
    mutant(
        "a node gets a block of any entry, whatever its pool claims",
        &[edit(
            "operator/src/decide/layout.rs",
            "membership.reach.iter().filter_map(|place| Some((*place, *self.entries.get(*place)?)))",
            "self.entries.iter().copied().enumerate().filter(move |_| !membership.reach.is_empty())",
        )],
        "never_overlap",
        &["leases_never_overlap_when_nodes_are_not_told"],
    )
    .saying("is no block of an entry of"),
    // The agent's half of giving a block back.
    of_agent(
        "the agent gives a block back under its pods",
        &[edit(
            VACATE,
            "due.into_iter().filter(|request| !taken.iter().any(|ip| request.subnet.contains(*ip)));",
            "due.into_iter().filter(|_| !taken.is_empty() || taken.is_empty());",
        )],
        &["cni::vacate::tests::a_request_is_met_when_the_range_was_left_out_for_long_enough_and_no_pod_has_an_address"],
    ),
    of_agent(
        "the agent gives a block back before the last start of a pod is over",
        &[edit(VACATE, "Some(past) if past >= limit => due", "Some(past) if past >= limit.min(past) => due")],
        &["cni::vacate::tests::a_request_is_met_when_the_range_was_left_out_for_long_enough_and_no_pod_has_an_address"],
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
];
