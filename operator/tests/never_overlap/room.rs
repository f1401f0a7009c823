//! Where a node's blocks come from, reckoned from the plan alone: whether one that is said to find no block could have
//! got one, and whether one that is chosen is of an entry of its pool.

use std::collections::BTreeSet;

use serde_json::Value;
use tartan_crds::{Cidr, Family};
use tartan_operator::{decide::Action, world::Choice};

use super::{plan::Plan, store::Store};

/// Blocks are looked at one by one up to here; the entries of these histories have fewer.
const MOST: u64 = 256;

/// No node waits for want of a block of a family that has one: free, or held for a Node that is gone.
pub fn assert_nobody_waits_in_vain(store: &Store, plan: &Plan) {
    for node in store.nodes.values() {
        let name = node.meta.name.as_str();
        if store.leased_condition(name) != "False Exhausted" {
            continue;
        }
        let held: BTreeSet<Family> = store
            .leases
            .values()
            .filter(|lease| lease.node() == Some(name) && lease.released_at().is_none())
            .map(|lease| lease.subnet.family())
            .collect();
        let missing: Vec<&Value> =
            reach(store, plan, name).filter(|entry| !held.contains(&cidr(&entry["cidr"]).family())).collect();
        let families: BTreeSet<Family> = missing.iter().map(|entry| cidr(&entry["cidr"]).family()).collect();
        let all_have_one = families
            .iter()
            .all(|family| missing.iter().any(|entry| has_block(store, plan, name, entry, *family)));
        assert!(
            families.is_empty() || !all_have_one,
            "{name} waits though there are blocks of {families:?}:\n{}\n{}",
            store.leased(),
            plan.spec()
        );
    }
}

/// A block that we choose is one of an entry of the node's pool, and of its size.
pub fn assert_of_its_pool(store: &Store, plan: &Plan, action: &Action) {
    let Action::CreateLease { spec, chosen, .. } = action else { return };
    if matches!(chosen, Choice::PodCidr | Choice::Restored) {
        return;
    }
    let is_of = |entry: &Value| {
        let (range, mask) = (cidr(&entry["cidr"]), entry["nodeMaskSize"].as_u64());
        mask == Some(spec.subnet.prefix_len().into()) && range.overlaps(spec.subnet)
    };
    let node = &spec.node_name;
    assert!(
        reach(store, plan, node).any(is_of),
        "{} is no block of an entry of {node}:\n{}",
        spec.subnet,
        plan.spec()
    );
}

/// Entries that new blocks of this node come from.
fn reach<'p>(store: &Store, plan: &'p Plan, node: &str) -> impl Iterator<Item = &'p Value> {
    let claims = store.pools.get("odd").is_some_and(|pool| {
        pool.spec.as_ref().is_ok_and(|spec| spec.cidrs.iter().any(|claimed| claimed == CLAIMED))
    });
    let is_odd = store.nodes[node].labels.get("odd").is_some_and(|odd| odd == "1");
    let in_pool = store.pools.contains_key("odd") && is_odd;
    plan.entries.iter().filter(move |entry| {
        let reached = !claims || (in_pool == (entry["name"] == CLAIMED));
        reached && entry.get("drain").is_none()
    })
}

/// What the pool of the odd nodes claims, where it claims anything.
const CLAIMED: &str = "e0";

fn has_block(store: &Store, plan: &Plan, node: &str, entry: &Value, family: Family) -> bool {
    let (range, mask) = (cidr(&entry["cidr"]), entry["nodeMaskSize"].as_u64().unwrap());
    let mask = u8::try_from(mask).unwrap();
    let told: Vec<Cidr> =
        store.nodes.values().flat_map(|node| &node.pod_cidrs).flat_map(|of| of.parse()).collect();
    let is_free = |block: Cidr| {
        let leased = store.leases.values().any(|lease| {
            let is_left = lease.subnet == block
                && lease.released_at().is_some()
                && lease.node().is_none_or(|holder| !store.nodes.contains_key(holder));
            lease.subnet.overlaps(block) && !is_left
        });
        // What is kept for a node and is no whole block goes to nobody.
        let is_part = plan.reserved.iter().any(|(kept, _)| {
            let kept: Cidr = kept.parse().unwrap();
            kept.overlaps(block) && kept != block
        });
        !leased
            && !plan.is_kept_from(node, block)
            && !is_part
            && !told.iter().any(|other| other.overlaps(block))
    };
    range.family() == family
        && (0..range.block_count(mask).min(MOST)).any(|index| is_free(range.block(mask, index).unwrap()))
}

fn cidr(text: &Value) -> Cidr {
    text.as_str().unwrap().parse().unwrap()
}
