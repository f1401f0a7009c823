//! Who owns `Node.spec.podCIDRs`.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use tartan_crds::{Cidr, ClusterNetworkStatus, PodCidrMode, PodCidrModeInForce};

use crate::world::{Node, World};

/// The mode in force: what was asked for, or for `Auto` what the cluster shows.
///
/// `Auto` never goes back from Adopt: a Node whose foreign podCIDRs were seen may be gone, and the other
/// IPAM that wrote them may not.
pub fn mode_in_force(
    asked: PodCidrMode,
    before: Option<PodCidrModeInForce>,
    world: &World,
) -> PodCidrModeInForce {
    match asked {
        PodCidrMode::Adopt => PodCidrModeInForce::Adopt,
        PodCidrMode::Mirror => PodCidrModeInForce::Mirror,
        PodCidrMode::Ignore => PodCidrModeInForce::Ignore,
        PodCidrMode::Auto => {
            // What was leased under Mirror was leased first: a Node that has just that was told by us, whatever became
            // of the annotation that says so.
            let is_explained = |is_leased: bool| before == Some(PodCidrModeInForce::Mirror) && is_leased;
            if before == Some(PodCidrModeInForce::Adopt)
                || foreign(world).iter().any(|(_, is_leased)| !is_explained(*is_leased))
            {
                PodCidrModeInForce::Adopt
            } else {
                PodCidrModeInForce::Mirror
            }
        }
    }
}

/// Since when it is in force, as the status is to say.
pub fn in_force_since(mode: PodCidrModeInForce, before: &ClusterNetworkStatus, now: Timestamp) -> Timestamp {
    let since = before.pod_cidr_mode_since.as_ref().filter(|_| before.pod_cidr_mode == Some(mode));
    since.map_or(now, |since| since.0)
}

/// Nodes that another IPAM told their blocks although that is ours to do. What leases agree with on a Node that is older
/// than the mode is no harm: such are all Nodes of a cluster that was taken over, and no Node's podCIDRs can be changed.
pub fn second_ipam(world: &World, since: Timestamp) -> Vec<&str> {
    let foreign = foreign(world).into_iter();
    let at_work = foreign.filter(|(node, is_leased)| node.created >= since || !is_leased);
    at_work.map(|(node, _)| node.meta.name.as_str()).collect()
}

/// Nodes with podCIDRs that don't bear our annotation, and whether they are its primary leases.
fn foreign(world: &World) -> Vec<(&Node, bool)> {
    let mut foreign = world.nodes.iter().filter(|node| node.has_foreign_pod_cidrs()).peekable();
    if foreign.peek().is_none() {
        return vec![];
    }
    let specs = world.leases.iter().filter_map(|lease| lease.spec.as_ref().ok());
    let leased: BTreeSet<(&str, Cidr)> = specs
        .filter(|spec| spec.primary && spec.released_at.is_none())
        .map(|spec| (spec.node_uid.as_str(), spec.subnet))
        .collect();
    let is_leased = |node: &Node| {
        let mut cidrs = node.pod_cidrs.iter().map(|text| text.parse::<Cidr>());
        cidrs.all(|cidr| cidr.is_ok_and(|cidr| leased.contains(&(node.meta.uid.as_str(), cidr))))
    };
    foreign.map(|node| (node, is_leased(node))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::world::Meta;
    use PodCidrModeInForce::{Adopt, Ignore, Mirror};

    fn node(pod_cidrs: &[&str], mirrored: Option<&str>) -> Node {
        Node {
            pod_cidrs: pod_cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
            mirrored: mirrored.map(str::to_owned),
            ..Node::default()
        }
    }

    #[test]
    fn auto_adopts_for_good_once_it_has_seen_podcidrs_that_we_did_not_write() {
        let empty = node(&[], None);
        let ours = node(&["10.0.0.0/24", "fd00::/64"], Some("10.0.0.0/24,fd00::/64"));
        let foreign = node(&["10.0.1.0/24"], None);
        let changed = node(&["10.0.1.0/24"], Some("10.0.0.0/24"));
        let check = |asked, before, nodes: &[&Node], expected| {
            let mut world = World::default();
            for (number, node) in nodes.iter().enumerate() {
                let meta = Meta { name: number.to_string(), ..Meta::default() };
                world.nodes.learn(Node { meta, ..(*node).clone() }, Instant::now());
            }
            assert_eq!(mode_in_force(asked, before, &world), expected, "{asked:?} {nodes:?}");
        };
        check(PodCidrMode::Auto, None, &[], Mirror);
        check(PodCidrMode::Auto, None, &[&empty, &ours], Mirror);
        check(PodCidrMode::Auto, None, &[&ours, &foreign], Adopt);
        check(PodCidrMode::Auto, Some(Mirror), &[&changed], Adopt);
        check(PodCidrMode::Auto, Some(Adopt), &[&empty, &ours], Adopt);
        check(PodCidrMode::Auto, Some(Ignore), &[&empty], Mirror);
        check(PodCidrMode::Mirror, Some(Adopt), &[&foreign], Mirror);
        check(PodCidrMode::Adopt, None, &[&empty], Adopt);
        check(PodCidrMode::Ignore, None, &[&foreign], Ignore);
    }
}
