//! A pool whose nodes have no IPv4 goes through all backends that IPv6 has, and back to the first.

use std::time::Duration;

use tartan_crds::BackendType;

use super::{
    ring::{may_lose, passable},
    scene::{Pool, Scene},
    standing::{Class, Standing, let_flow},
};

/// udp and ipip carry IPv4 alone, and go over nothing else.
const WAY: [BackendType; 5] =
    [BackendType::Vxlan, BackendType::HostGw, BackendType::Wireguard, BackendType::Ipsec, BackendType::Vxlan];

const POOL: &str = "all";

#[test]
#[ignore = "minutes: cargo xtask test --full"]
fn a_pool_without_ipv4_goes_through_all_backends_of_ipv6() {
    let way = passable(&WAY);
    let scene = Scene::of_ipv6_alone(&[2], &[Pool { name: POOL, nodes: &[1, 2], backend: way[0] }]);
    let mut faults = vec![];
    for (from, to) in way.iter().copied().zip(way.iter().copied().skip(1)) {
        let standing = Standing::of(&[Class::PodToPod, Class::NodeToPod], &scene, &scene.names());
        faults.extend(scene.wire_faults(from));
        let changed = scene.change(POOL, from, to);
        println!("-- {from} to {to}: {:?} in {:.1} s", changed.phases, changed.took.as_secs_f64());
        if changed.phases.is_empty() {
            faults.push(format!("{from} to {to}: the pool's status told nothing of it"));
        }
        faults.extend(scene.wire_faults(to));
        let_flow(Duration::from_millis(500));
        let outcome = standing.finish();
        print!("{outcome}");
        faults.extend(outcome.faults(may_lose((from, to))));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("six: no more lost than may be by {way:?}");
}
