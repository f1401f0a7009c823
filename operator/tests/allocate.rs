//! The operator against a real API server: allocation in every mode.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod lab;

use k8s_openapi::api::core::v1::Node;
use lab::{Lab, entry, node_networks};
use serde_json::json;
use tartan_crds::{ClusterNetwork, NodeNetwork};

#[test]
fn every_node_gets_a_lease_a_node_network_and_its_pod_cidr() {
    let lab = Lab::start();
    let mut operator = lab.operator();
    lab.until("the operator is ready", || operator.is_ready());
    for name in ["a", "b", "c"] {
        lab.node(name, json!({}));
    }
    lab.stays("without a ClusterNetwork nothing is leased", || lab.leases());
    lab.network(json!({ "cidrs": [entry("main", "10.244.0.0/16", 24)] }));
    for (node, subnet) in [("a", "10.244.0.0/24"), ("b", "10.244.1.0/24"), ("c", "10.244.2.0/24")] {
        lab.until_leased(node, subnet);
        lab.until("the podCIDR is written", || {
            let spec = lab.get::<Node>(node).unwrap().spec.unwrap();
            spec.pod_cidr.as_deref() == Some(subnet) && spec.pod_cidrs == Some(vec![subnet.to_owned()])
        });
        lab.until("the NodeNetwork says so", || {
            lab.condition::<NodeNetwork>(node, "Leased") == "True AsExpected"
        });
    }
    assert_eq!(node_networks(&lab), ["a", "b", "c"]);
    lab.until("status has the figures", || {
        let status = lab.get::<ClusterNetwork>("default").unwrap().status.unwrap_or_default();
        (status.capacity, status.used, status.held, status.free) == (256, 3, 0, 253)
    });
    for kind in ["Accepted", "Allocated", "Consistent"] {
        assert_eq!(lab.condition::<ClusterNetwork>("default", kind), "True AsExpected");
    }
    let used = "tartan_cidr_blocks_used{entry=\"main\",cidr=\"10.244.0.0/16\"}";
    assert_eq!(operator.metric(used), Some(3.0));
    let versions = || {
        let network = lab.get::<ClusterNetwork>("default").unwrap();
        (network.metadata.resource_version, lab.list::<NodeNetwork>().len())
    };
    lab.stays("a quiet cluster is left alone", versions);
    let (took, good) = operator.terminate();
    assert!(good && took.as_secs() < 3, "SIGTERM took {took:?}, ended well: {good}");
}
