//! Each node's pod behind Services of its own: so each flow through one has one end that is known.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::{
    scene::{End, PORT, Scene},
    wait_for,
};

/// The first NodePort of each policy; each node's pod has its own.
const ANY_NODE: usize = 30100;
const OWN_NODE: usize = 30200;

impl Scene {
    /// For the node's pod as it is now.
    pub(super) fn add_services(&self, node: &str) {
        let (number, pod) = (self.end(node).number, &self.end(node).pod);
        for (name, policy, port) in [("any", "Cluster", ANY_NODE), ("own", "Local", OWN_NODE)] {
            let name = format!("{name}-{node}");
            let port = |protocol: &str| {
                json!({
                    "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT,
                    "nodePort": port + number,
                })
            };
            self.api.apply(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": {
                    "type": "NodePort", "externalTrafficPolicy": policy,
                    "clusterIP": (policy == "Cluster").then(|| service(number)),
                    "ports": [port("UDP"), port("TCP")],
                },
            }));
            let port = |protocol: &str| json!({ "name": protocol.to_lowercase(), "protocol": protocol, "port": PORT });
            self.api.apply(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4", "ports": [port("UDP"), port("TCP")],
                "endpoints": [{ "addresses": [pod.ip()], "nodeName": node, "conditions": { "ready": true } }],
            }));
        }
    }

    /// kube-proxy brings all ports of a moment in one transaction. A UDP packet before it would be remembered as one
    /// to nobody, and so would all that follow it.
    pub fn wait_until_services_are_known(&self) {
        for node in self.fabric.nodes() {
            wait_for(&format!("kube-proxy on {} to know all Services", node.name()), || {
                // Protocols as numbers: names take a file that not every host has.
                let command = ["nft", "-p", "list", "map", "ip", "kube-proxy", "service-nodeports"];
                let map = node.exec(&command)?.ok()?.stdout;
                for end in self.ends.values() {
                    for port in [ANY_NODE + end.number, OWN_NODE + end.number] {
                        for protocol in [6, 17] {
                            let key = format!("{protocol} . {port} ");
                            anyhow::ensure!(map.contains(&key), "{key} is missing in {map}");
                        }
                    }
                }
                Ok(())
            });
        }
    }
}

impl End {
    pub fn service(&self) -> IpAddr {
        service(self.number).into()
    }

    /// By which every node leads to this pod.
    pub fn port_of_any_node(&self) -> u16 {
        u16::try_from(ANY_NODE + self.number).unwrap()
    }

    /// By which only its own node does.
    pub fn port_of_own_node(&self) -> u16 {
        u16::try_from(OWN_NODE + self.number).unwrap()
    }
}

fn service(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 77, u8::try_from(number).unwrap())
}
