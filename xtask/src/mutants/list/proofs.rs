//! Faults that the proof of the allocator notices: the model, random histories, and bugs that others have shipped.

use super::{ALLOCATION, BLOCKS, DRAFT, End, GROWTH, HELD, LEASES, Mutant, NODE, RECLAIM, edit, mutant};

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
            ALLOCATION,
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
            ALLOCATION,
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
        &[edit(DRAFT, "layout.kept_back().chain(world.vanished.blocks())", "world.vanished.blocks()")],
        "never_overlap",
        &["leases_never_overlap_when_nodes_are_not_told"],
    )
    .saying("is kept back and given to"),
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
            "        } else if !is_used(draft.world, lease) {
            draft.delete(lease, DeleteReason::BackedOut);",
            "        } else if !is_used(draft.world, lease) && pinned.is_empty() {
            draft.delete(lease, DeleteReason::BackedOut);",
        )],
        "regressions",
        &["a_second_ipam_that_is_faster_wins_and_our_unused_lease_goes_back"],
    ),
    mutant(
        "a node that was replaced under its name keeps the old UID",
        &[edit(
            "operator/src/decide/draft/leases.rs",
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
];
