//! What each backend costs, beside the path between the nodes themselves in the same run: for backends that no kernel
//! at hand has but an emulated machine's.

use tartan_crds::BackendType;
use tartan_lab::traffic::{Amount, Costs, Target, compare};

use super::{
    beside::nodes_have,
    matrix::{MEASURED, NODES},
    scene::{Pool, Scene},
};

const POOL: &str = "all";
const ROUNDS: usize = 5;
const AMOUNT: Amount = Amount { seconds: 5, round_trips: 500 };

/// What a row begins with on the console.
pub const MARK: &str = "figures ";

#[test]
#[ignore = "minutes, and nothing in it fails: cargo xtask bench --part machine"]
fn every_backend_beside_the_path_between_nodes() {
    let kinds: Vec<BackendType> = MEASURED.iter().copied().filter(|kind| nodes_have(*kind)).collect();
    let scene = Scene::start(&[NODES.len()], &[Pool { name: POOL, nodes: &NODES, backend: kinds[0] }]);
    let (one, two) = (scene.fabric.node("node1"), scene.fabric.node("node2"));
    let (from, to) = (scene.end("node1"), scene.end("node2"));
    let targets = [
        (&*from.pod, Target::start(&to.pod, to.address()).unwrap()),
        (&**one, Target::start(two, two.address().into()).unwrap()),
    ];
    let mut before = kinds[0];
    for kind in kinds {
        if kind != before {
            scene.change(POOL, before, kind);
        }
        before = kind;
        let costs = compare(&targets, ROUNDS, AMOUNT).unwrap();
        let of = |figure: fn(&Costs) -> &Vec<f64>, digits: usize| -> String {
            let cells = costs.iter().map(|costs| spread(figure(costs), digits));
            cells.collect::<Vec<_>>().join(" | ")
        };
        let cells = [
            of(|costs| &costs.throughput, 3),
            of(|costs| &costs.processor, 0),
            of(|costs| &costs.tcp, 0),
            of(|costs| &costs.udp, 0),
        ];
        println!("{MARK}| {kind} | {} |", cells.join(" | "));
    }
}

/// The median, the least and the greatest.
fn spread(values: &[f64], digits: usize) -> String {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (least, median, greatest) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{median:.digits$} ({least:.digits$} to {greatest:.digits$})")
}
