//! An agent tells its peers by its lease and the operator by its NodeNetwork, and one may come later than the other.

use tartan_crds::BackendType::{Ipip, Vxlan};

use super::*;
use transition::{backend_of, pool_of_three, publish, report, set_backend};

const POOL: [&str; 3] = ["a", "b", "c"];

#[test]
fn nobody_is_sent_to_by_what_only_the_operator_has_heard_of() {
    let mut store = pool_of_three("vxlan", json!({}));
    let both = [Vxlan, Ipip];
    for node in ["a", "b", "c", "d"] {
        report(&mut store, node, Vxlan, &both);
    }
    publish(&mut store, "b", &[Vxlan]);
    // Of another pool, which must receive an overlay too.
    publish(&mut store, "d", &[Vxlan]);
    set_backend(&mut store, "ipip", json!({ "maxInFlight": 50 }));
    store.settle();
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Vxlan; 3]);
    let transition = store.pools["p"].status.transition.clone().unwrap();
    assert_eq!((transition.receiving, transition.waiting_for), (2, vec!["b".to_owned(), "d".to_owned()]));
    for node in ["b", "d"] {
        assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Vxlan; 3]);
        publish(&mut store, node, &both);
        store.settle();
    }
    assert_eq!(POOL.map(|node| backend_of(&store, node).0), [Ipip; 3]);
}
