//! Between the model's small values and the objects that the operator reads and writes.

use std::{cell::RefCell, collections::HashMap};

use k8s_openapi::{
    api::core::v1::Node as KubeNode,
    apimachinery::pkg::apis::meta::v1::Time as MetaTime,
    jiff::{SignedDuration, Timestamp},
};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use tartan_crds::{
    BackendType, Cidr, LeaseBackend, SubnetLeaseSpec,
    wellknown::{NO_POOL, annotation, label},
};
use tartan_operator::{
    decide::{Action, DeleteGrounds, DeleteReason, UpdateReason},
    execute::NetworkVersion,
    world::{self, Choice, Meta, Network, NodeNet},
};

use super::{
    agent::bit,
    state::{Act, Asked, BLOCKS, Block, Known, Lease, Node, Report, SUBNETS, Set, Stage, Time},
};

const REASONS: [DeleteReason; 6] = [
    DeleteReason::Expired,
    DeleteReason::TakenEarly,
    DeleteReason::Reassigned,
    DeleteReason::BackedOut,
    DeleteReason::Duplicate,
    DeleteReason::Emptied,
];

pub fn timestamp(time: Time) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(time.into())
}

fn time(timestamp: Timestamp) -> Time {
    let since = timestamp.duration_since("2026-01-01T00:00:00Z".parse().unwrap());
    Time::try_from(since.as_hours()).unwrap()
}

/// When a request was made: of different seconds, long before all else. Nothing hangs on the time between.
fn asked_at(number: Asked) -> Timestamp {
    "2025-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(number.into())
}

/// A request that was made only now has no number yet: 0.
fn asked(at: Timestamp) -> Asked {
    let since = at.duration_since(asked_at(0));
    Asked::try_from(since.as_secs()).unwrap_or(0)
}

pub fn subnet(block: Block) -> Cidr {
    SUBNETS[usize::from(block)].parse().unwrap()
}

/// The block of this subnet, or of the lease of this name.
pub fn block_of(subnet: &str) -> Block {
    let same =
        |known: &&str| known.bytes().zip(subnet.bytes()).all(|(one, other)| one == other || one == b'/');
    let place = SUBNETS.iter().position(|known| known.len() == subnet.len() && same(known));
    u8::try_from(place.unwrap_or_else(|| panic!("{subnet} is no block of the model"))).unwrap()
}

pub fn node_name(node: u8) -> String {
    format!("n{node}")
}

/// Unlike the numbers of the model, UIDs are of one Node alone.
fn node_uid(node: u8, uid: u8) -> String {
    format!("u{}", 10 * node + uid)
}

pub fn uid_number(uid: &str) -> u8 {
    number(uid) % 10
}

/// The number in a name or UID of the model: `n1`, `u2`, `l3`.
pub fn number(name: &str) -> u8 {
    name.get(1..)
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_else(|| panic!("{name:?} is not the model's"))
}

pub fn network(stage: Stage, mode: &str) -> Value {
    let first = |name: &str, drain: bool| json!({ "name": name, "cidr": "10.0.0.0/22", "nodeMaskSize": 24, "drain": drain });
    let second =
        |drain: bool| json!({ "name": "second", "cidr": "10.0.0.0/22", "nodeMaskSize": 23, "drain": drain });
    let mut entry = match stage {
        Stage::First | Stage::Kept => first("first", false),
        Stage::FirstDrained => first("first", true),
        Stage::Narrow => json!({ "name": "narrow", "cidr": "10.0.0.0/23", "nodeMaskSize": 24 }),
        Stage::Second => second(false),
        Stage::SecondDrained => second(true),
        Stage::FirstAgain => first("again", false),
    };
    if stage == Stage::Kept {
        let (block, node) = Stage::RESERVED;
        let node = node_name(u8::try_from(node).unwrap());
        entry["reserved"] = json!([{ "cidr": SUBNETS[usize::from(block)], "nodeName": node }]);
    }
    let growth = json!({ "maxBlocksPerNode": 2, "coolDown": "1h", "returnEmptyAfter": "1h" });
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork",
        "metadata": { "name": "default", "uid": "c1", "resourceVersion": (stage as u8 + 1).to_string(), "generation": stage as u8 + 1 },
        "spec": { "cidrs": [entry], "podCIDRMode": mode, "reclaimAfter": "1h", "growth": growth },
    })
}

pub fn parsed_network(stage: Stage, mode: &'static str) -> Network {
    let parse = || Network::parse(serde_json::from_value(network(stage, mode)).unwrap());
    NETWORKS.with_borrow_mut(|known| known.entry((stage, mode)).or_insert_with(parse).clone())
}

const STAGES: [Stage; 7] = [
    Stage::First,
    Stage::FirstDrained,
    Stage::Second,
    Stage::SecondDrained,
    Stage::FirstAgain,
    Stage::Kept,
    Stage::Narrow,
];

pub fn version(stage: Stage) -> NetworkVersion {
    NetworkVersion { uid: "c1".to_owned(), generation: Some(stage as i64 + 1) }
}

pub fn stage(version: &NetworkVersion) -> Stage {
    STAGES[usize::try_from(version.generation.unwrap() - 1).unwrap()]
}

/// The stage that an annotation tells.
pub fn cut_by(text: &str) -> Stage {
    let found = STAGES.into_iter().find(|stage| version(*stage).to_string() == text);
    found.unwrap_or_else(|| panic!("{text:?} is no version of the model's ClusterNetwork"))
}

pub fn node_json(name: u8, node: Node) -> Value {
    let pod_cidrs: Vec<&str> = node.pod_cidr.iter().map(|block| SUBNETS[usize::from(*block)]).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node_name(name), "uid": node_uid(name, node.uid), "resourceVersion": node.version().to_string(),
            "deletionTimestamp": node.marked.then_some("2026-01-01T00:00:00Z"),
            "annotations": node.pod_cidr.map(|block| json!({ annotation::MIRRORED: SUBNETS[usize::from(block)] })),
        },
        "spec": { "podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs },
    })
}

thread_local! {
    static NETWORKS: RefCell<HashMap<(Stage, &'static str), Network>> = RefCell::default();
    static NODES: RefCell<HashMap<(u8, Node), world::Node>> = RefCell::default();
    static LEASES: RefCell<HashMap<(Block, Lease), world::Lease>> = RefCell::default();
}

pub fn node(name: u8, node: Node) -> world::Node {
    let parse = || world::Node::parse(serde_json::from_value::<KubeNode>(node_json(name, node)).unwrap());
    NODES.with_borrow_mut(|known| known.entry((name, node)).or_insert_with(parse).clone())
}

/// What the model keeps of a Node, and its number. Whether it is marked decides nothing: the model knows.
pub fn small_node(node: &world::Node) -> (u8, Node) {
    let pod_cidr = node.pod_cidrs.first().map(|subnet| block_of(subnet));
    let version: u8 = node.meta.version.parse().unwrap();
    let marked = version - 2 * u8::from(pod_cidr.is_some()) == 2;
    (number(&node.meta.name), Node { uid: uid_number(&node.meta.uid), marked, pod_cidr })
}

pub fn node_network(name: u8, report: Report) -> NodeNet {
    NodeNet::parse(serde_json::from_value(node_network_json(name, report)).unwrap())
}

/// What the model keeps of it, which its version tells.
pub fn small_report(said: &NodeNet) -> Report {
    let number: u32 = said.meta.version.parse().unwrap();
    let [owner, blocks, used, since] = number.to_be_bytes();
    Report { owner, blocks, used, empty_since: Time::from_be_bytes([since]) }
}

/// What the agent of a node has said of its blocks.
pub fn node_network_json(name: u8, report: Report) -> Value {
    let of = |block: Block| {
        let used = report.used & bit(block) != 0;
        let empty = (!used).then(|| timestamp(report.empty_since).to_string());
        json!({ "subnet": SUBNETS[usize::from(block)], "capacity": 1, "used": u8::from(used), "emptySince": empty })
    };
    let blocks = (0..BLOCKS).map(|block| u8::try_from(block).unwrap());
    let address_use: Vec<Value> = blocks.filter(|block| report.blocks & bit(*block) != 0).map(of).collect();
    let owner = json!({ "apiVersion": "v1", "kind": "Node", "name": node_name(name), "uid": node_uid(name, report.owner) });
    let [since] = report.empty_since.to_be_bytes();
    let version = u32::from_be_bytes([report.owner, report.blocks, report.used, since]).to_string();
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "NodeNetwork",
        "metadata": { "name": node_name(name), "uid": "r1", "resourceVersion": version, "ownerReferences": [owner] },
        "status": { "addressUse": address_use },
    })
}

pub fn lease_json(block: Block, lease: Lease) -> Value {
    let mut spec = json!(spec(block, lease.node, lease.node_uid, lease.primary, lease.returning));
    let public_ips = lease.in_use.then_some(["192.0.2.1"]);
    let emptied = lease.emptied.map(|number| asked_at(number).to_string());
    if let Some(released) = lease.released {
        spec["releasedAt"] = json!(timestamp(released).to_string());
    }
    let labels = json!({ label::NODE: node_name(lease.node), label::POOL: NO_POOL, label::FAMILY: "IPv4" });
    json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "SubnetLease",
        "metadata": {
            "name": subnet(block).object_name(), "uid": format!("l{}", lease.uid), "resourceVersion": lease.version.to_string(),
            "creationTimestamp": timestamp(lease.created).to_string(), "labels": labels,
        },
        "spec": spec,
        "status": { "publicIPs": public_ips.iter().flatten().collect::<Vec<_>>(), "emptied": emptied },
    })
}

pub fn lease(block: Block, lease: Lease) -> world::Lease {
    let parse = || {
        let object: DynamicObject = serde_json::from_value(lease_json(block, lease)).unwrap();
        world::Lease::parse(object).unwrap()
    };
    LEASES.with_borrow_mut(|known| known.entry((block, lease)).or_insert_with(parse).clone())
}

pub fn small_lease(lease: &world::Lease) -> (Block, Lease) {
    let spec = lease.spec.as_ref().unwrap();
    let small = Lease {
        uid: number(&lease.meta.uid),
        version: lease.meta.version.parse().unwrap(),
        node: number(&spec.node_name),
        node_uid: uid_number(&spec.node_uid),
        primary: spec.primary,
        released: lease.released_at().map(time),
        in_use: lease.in_use,
        created: time(lease.created),
        returning: spec.returning.as_ref().map(|at| asked(at.0)),
        emptied: lease.emptied.as_ref().map(|at| asked(at.0)),
    };
    (block_of(&lease.meta.name), small)
}

fn spec(block: Block, node: u8, node_uid: u8, primary: bool, returning: Option<Asked>) -> SubnetLeaseSpec {
    SubnetLeaseSpec {
        node_name: node_name(node),
        node_uid: self::node_uid(node, node_uid),
        subnet: subnet(block),
        pool: NO_POOL.to_owned(),
        primary,
        backend: LeaseBackend {
            kind: BackendType::Vxlan,
            accepts: vec![BackendType::Vxlan],
            direct_routing: false,
            sealed: false,
            ending: vec![],
        },
        node_addresses: vec![],
        wireguard_keys: vec![],
        mtu: None,
        released_at: None,
        returning: returning.map(|number| MetaTime(asked_at(number))),
    }
}

fn known(meta: &Meta) -> Known {
    Known { block: block_of(&meta.name), uid: number(&meta.uid), version: meta.version.parse().unwrap() }
}

fn meta(lease: Known) -> Meta {
    Meta {
        name: subnet(lease.block).object_name(),
        uid: format!("l{}", lease.uid),
        version: lease.version.to_string(),
    }
}

/// `None` for what concerns no lease and no podCIDR: reports wait on nothing and nothing waits on them.
pub fn small_act(action: &Action, cut_by: Stage) -> Option<Act> {
    let successor = |uid: &Option<String>| uid.as_deref().map(uid_number);
    Some(match action {
        Action::CreateLease { spec, .. } => Act::Create {
            block: block_of(&spec.subnet.to_string()),
            node: number(&spec.node_name),
            node_uid: uid_number(&spec.node_uid),
            primary: spec.primary,
            cut_by,
        },
        Action::UpdateLease { lease, spec, why, .. } => Act::Update {
            returned: *why == UpdateReason::Returned,
            lease: known(lease),
            node: number(&spec.node_name),
            node_uid: uid_number(&spec.node_uid),
            primary: spec.primary,
            returning: spec.returning.as_ref().map(|at| asked(at.0)),
        },
        Action::ReleaseLease { lease, node, successor: after, .. } => {
            Act::Release { lease: known(lease), node: number(node), successor: successor(after) }
        }
        Action::DeleteLease { lease, node, grounds, .. } => Act::Delete {
            lease: known(lease),
            node: number(node),
            why: u8::try_from(REASONS.iter().position(|why| *why == grounds.why).unwrap()).unwrap(),
            successor: successor(&grounds.successor),
            bound: grounds.pod_cidrs_bind,
        },
        Action::RereadLease { name } => Act::Reread(block_of(name)),
        Action::MirrorPodCidrs { node, cidrs } => Act::Mirror {
            node: number(&node.name),
            uid: uid_number(&node.uid),
            version: node.version.parse().unwrap(),
            block: block_of(&cidrs[0].to_string()),
        },
        Action::ApplyNodeNetwork { .. } | Action::DeleteNodeNetwork { .. } | Action::ReportLeased { .. } => {
            return None;
        }
    })
}

/// The same with what was left out.
pub fn action(act: Act) -> Action {
    let labels = |node: u8| lease(0, Lease::new((1, 1), (node, 1), true, 0)).labels;
    match act {
        Act::Create { block, node, node_uid, primary, .. } => {
            let spec = Box::new(spec(block, node, node_uid, primary, None));
            Action::CreateLease { spec, labels: labels(node), chosen: Choice::LowestFree }
        }
        Act::Update { lease, node, node_uid, primary, returning, returned } => Action::UpdateLease {
            lease: meta(lease),
            spec: Box::new(spec(lease.block, node, node_uid, primary, returning)),
            labels: labels(node),
            why: if returned { UpdateReason::Returned } else { UpdateReason::Demoted },
        },
        Act::Release { lease, node, successor } => Action::ReleaseLease {
            lease: meta(lease),
            subnet: subnet(lease.block),
            node: node_name(node),
            // By which pauses alone are reckoned.
            node_uid: String::new(),
            successor: successor.map(|uid| node_uid(node, uid)),
        },
        Act::Delete { lease, node, why, successor, bound } => Action::DeleteLease {
            lease: meta(lease),
            subnet: subnet(lease.block),
            node: node_name(node),
            grounds: DeleteGrounds {
                why: REASONS[usize::from(why)],
                successor: successor.map(|uid| node_uid(node, uid)),
                pod_cidrs_bind: bound,
            },
            wanted_by: None,
        },
        Act::Reread(block) => Action::RereadLease { name: subnet(block).object_name() },
        Act::Mirror { node, uid, version, block } => Action::MirrorPodCidrs {
            node: Meta { name: node_name(node), uid: node_uid(node, uid), version: version.to_string() },
            cidrs: vec![subnet(block)],
        },
    }
}

/// What a merge patch of a lease sets.
pub fn set(spec: &Value, now: Time) -> Set {
    if spec.get("nodeName").is_none() {
        assert!(spec["releasedAt"].is_string(), "{spec}");
        return Set::Released(now);
    }
    Set::Spec {
        node: number(spec["nodeName"].as_str().unwrap()),
        node_uid: uid_number(spec["nodeUID"].as_str().unwrap()),
        primary: spec["primary"].as_bool().unwrap(),
        returning: spec["returning"].as_str().map(|at| asked(at.parse().unwrap())),
    }
}
