//! The order in which the guards learn of plain routes and of peers.
//!
//! A subnet must be in the `direct` sets as long as a plain route leads to it: it comes in before the
//! route and goes out after it, or packets in between would be rejected as strays. So it is with the addresses that
//! peers send from. With sealed peers it is the other way round: they come into their sets when their routes lead to
//! the encrypting device, and go out before these lead elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::model::{Action, Deletions, Elements, Key, NftTable, Observed, Plan, Step, Value};

const SETS: [&str; 4] = ["direct4", "direct6", "peers4", "peers6"];
const SEALED: [&str; 4] = ["sealed4", "sealed6", "sealednets4", "sealednets6"];

/// The table while routes change: as wanted, and with the direct subnets that are still in use.
pub(super) fn widened(wanted: &NftTable, before: Option<&Value>) -> NftTable {
    let Some(Value::NftTable(before)) = before else { return wanted.clone() };
    let mut elements: BTreeMap<String, Vec<String>> = wanted.elements.clone();
    for set in SETS {
        let (Some(new), Some(old)) = (elements.get_mut(set), before.elements.get(set)) else { continue };
        let there: BTreeSet<&String> = new.iter().collect();
        // An interval set refuses overlaps, so one that was cut otherwise gives way at once.
        let prefixes: Vec<IpNetwork> = new.iter().filter_map(|text| text.parse().ok()).collect();
        let leaving: Vec<String> = old
            .iter()
            .filter(|text| !there.contains(text))
            .filter(|text| text.parse().is_ok_and(|old| !prefixes.iter().any(|new| overlap(*new, old))))
            .cloned()
            .collect();
        new.extend(leaving);
        new.sort();
    }
    for set in SEALED {
        let Some(new) = elements.get_mut(set) else { continue };
        new.retain(|member| before.elements.get(set).is_some_and(|old| old.contains(member)));
    }
    NftTable { declaration: wanted.declaration.clone(), elements }
}

/// The last step: subnets without a plain route leave the sets, sealed peers come in. While deletions are frozen
/// routes stay, and so do their subnets.
pub(super) fn narrow(desired: &Elements, observed: &Observed, deletions: Deletions, plan: &mut Plan) {
    let Some(Value::NftTable(wanted)) = desired.get(&Key::NftTable) else { return };
    if observed.foreign.contains_key(&Key::NftTable) {
        return;
    }
    let wide = widened(wanted, observed.ours.get(&Key::NftTable));
    let mut last = wanted.clone();
    if deletions == Deletions::Frozen {
        plan.held_back +=
            usize::from(SETS.iter().any(|set| wide.elements.get(*set) != wanted.elements.get(*set)));
        for set in SETS {
            if let (Some(kept), Some(held)) = (wide.elements.get(set), last.elements.get_mut(set)) {
                held.clone_from(kept);
            }
        }
    }
    if wide != last {
        plan.steps.push(Step {
            action: Action::Replace,
            key: Key::NftTable,
            value: Value::NftTable(last),
            before: Some(Value::NftTable(wide)),
        });
    }
}

fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}
