//! Rows about a node: its devices, rights, files and surroundings. The agent answers.

use std::time::{Duration, Instant};

use serde_json::json;
use tartan_lab::eventually;

use super::{
    scene::{Scene, entry},
    table::{Answer, Row},
};

const READY: &str = "condition Ready of the NodeNetwork, /readyz";
const DEGRADED: &str = "condition Degraded of the NodeNetwork";

/// The node's network does not work, or would not on a node that is new.
const fn not_ready() -> Answer {
    Answer::Condition("nodenetwork", "node2", "Ready", "False")
}

const fn degraded() -> Answer {
    Answer::Condition("nodenetwork", "node2", "Degraded", "True")
}

fn run(scene: &Scene, text: &str) {
    scene.node2().script(text).unwrap();
}

/// The same, to provoke something.
fn script(scene: &Scene, text: &str) -> String {
    run(scene, text);
    String::new()
}

/// The same, in a moment in which the agent can't answer.
fn behind(scene: &Scene, text: &str) -> String {
    scene.cluster.script_behind_the_agent("node2", text);
    String::new()
}

pub fn rows() -> Vec<Row> {
    [uplink(), devices(), rights(), surroundings()].into_iter().flatten().collect()
}

fn uplink() -> Vec<Row> {
    vec![
        Row {
            input: "an uplink that does not exist",
            at: READY,
            answer: not_ready(),
            reason: "NoUplink",
            names: "uplink.interface eth9",
            remedy: "the host has eth0",
            provoke: |scene| {
                scene.annotate("tartan.network/uplink", "interface=eth9");
                String::new()
            },
            mend: |scene| scene.annotate("tartan.network/uplink", ""),
        },
        Row {
            input: "a Node without addresses, whose InternalIP is to be the uplink",
            at: READY,
            answer: not_ready(),
            reason: "NoUplink",
            names: "uplink.internalIP",
            remedy: "give it one, or select the uplink in another way",
            provoke: |scene| {
                scene.annotate("tartan.network/uplink", "internal-ip");
                String::new()
            },
            mend: |scene| scene.annotate("tartan.network/uplink", ""),
        },
        Row {
            input: "an MTU that the uplink can't carry",
            at: DEGRADED,
            answer: degraded(),
            reason: "PodMTUExceedsPath",
            names: "uplink eth0 with MTU 1500",
            remedy: "leaves 1450, which is used",
            provoke: |scene| {
                scene.patch_network(&json!({ "mtu": 9000 }));
                String::new()
            },
            mend: |scene| scene.patch_network(&json!({ "mtu": null })),
        },
    ]
}

fn devices() -> Vec<Row> {
    let foreign = |input, at, answer, names, provoke, mend| Row {
        input,
        at,
        answer,
        reason: "ForeignObject",
        names,
        remedy: "remove it",
        provoke,
        mend,
    };
    vec![
        foreign(
            "a foreign VXLAN device has the VNI and the port",
            READY,
            not_ready(),
            "the VXLAN device other already has VNI 1 and port 8472",
            |scene| {
                behind(
                    scene,
                    "ip link del tartan-vxlan; ip link add other type vxlan id 1 dstport 8472 dev eth0",
                )
            },
            |scene| run(scene, "ip link del other"),
        ),
        Row {
            input: "another program has the UDP port of VXLAN",
            at: READY,
            answer: not_ready(),
            reason: "ApplyFailed",
            names: "tartan-vxlan",
            remedy: "stop that, or set another backends.vxlan.port in the ClusterNetwork while no subnet is leased",
            provoke: |scene| {
                scene.cluster.stop_agent("node2");
                run(scene, "ip link del tartan-vxlan");
                scene.take_port(8472);
                scene.cluster.start_agent("node2");
                String::new()
            },
            mend: Scene::end_programs,
        },
        foreign(
            "a foreign device has our name",
            READY,
            not_ready(),
            "link tartan-vxlan is in the way",
            |scene| behind(scene, "ip link del tartan-vxlan; ip link add tartan-vxlan type bridge"),
            |scene| run(scene, "ip link del tartan-vxlan"),
        ),
        foreign(
            "a foreign route leads to a subnet in the pod network",
            DEGRADED,
            degraded(),
            "route 10.244.2.0/24 is in the way",
            |scene| {
                script(scene, "ip route add 10.244.2.0/24 dev eth0 proto static");
                // It gets the next subnet.
                scene
                    .cluster
                    .create(&json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node9" } }));
                String::new()
            },
            |scene| {
                script(scene, "ip route del 10.244.2.0/24");
                scene.kubectl(&["delete", "node", "node9"]);
            },
        ),
        Row {
            input: "a device of flannel is left",
            at: DEGRADED,
            answer: degraded(),
            reason: "LeftoverFlannel",
            names: "link cni0 of an earlier network",
            remedy: "remove it when no pod uses it any more",
            provoke: |scene| script(scene, "ip link add cni0 type bridge"),
            mend: |scene| run(scene, "ip link del cni0"),
        },
        foreign(
            "a subnet.env of flannel is left",
            DEGRADED,
            degraded(),
            "/run/flannel/subnet.env was written by another program",
            |scene| {
                script(
                    scene,
                    "echo FLANNEL_MTU=1400 > /run/flannel/subnet.env; ip link add tick type bridge; ip link del tick",
                )
            },
            |scene| run(scene, "rm /run/flannel/subnet.env; ip link add tick type bridge; ip link del tick"),
        ),
        Row {
            input: "a CNI configuration that sorts before ours",
            at: DEGRADED,
            answer: degraded(),
            reason: "CniConfigShadowed",
            names: "00-other.conf",
            remedy: "remove it",
            provoke: |scene| {
                script(
                    scene,
                    "echo '{}' > /etc/cni/net.d/00-other.conf; ip link add tick type bridge; ip link del tick",
                )
            },
            mend: |scene| {
                run(scene, "rm /etc/cni/net.d/00-other.conf; ip link add tick type bridge; ip link del tick");
            },
        },
    ]
}

fn rights() -> Vec<Row> {
    vec![
        Row {
            input: "an agent without NET_ADMIN",
            at: READY,
            answer: not_ready(),
            reason: "PermissionDenied",
            names: "NET_ADMIN",
            remedy: "add it to its securityContext",
            provoke: |scene| {
                scene.restart_agent(&["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]);
                String::new()
            },
            mend: |scene| scene.restart_agent(&[]),
        },
        Row {
            input: "no nft program",
            at: READY,
            answer: not_ready(),
            reason: "NftMissing",
            names: "nft",
            remedy: "install the nftables package",
            provoke: |scene| {
                scene.restart_agent(&["env", "PATH=/nowhere"]);
                String::new()
            },
            mend: |scene| scene.restart_agent(&[]),
        },
        Row {
            input: "a read-only /proc/sys",
            at: DEGRADED,
            answer: degraded(),
            reason: "SysctlReadOnly",
            names: "net.ipv4.conf.tartan0.rp_filter",
            remedy: "mount the host's /proc/sys/net for writing",
            provoke: |scene| {
                let wrap =
                    "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$0\"";
                scene.restart_agent(&["unshare", "--mount", "sh", "-euc", wrap]);
                script(scene, "echo 0 > /proc/sys/net/ipv4/conf/tartan0/rp_filter")
            },
            mend: |scene| scene.restart_agent(&[]),
        },
    ]
}

fn surroundings() -> Vec<Row> {
    vec![
        Row {
            input: "an entry covers the API server's address",
            at: DEGRADED,
            answer: degraded(),
            reason: "GuardRefused",
            names: "(the API server) lies in the pod network",
            remedy: "choose another range in ClusterNetwork.spec.cidrs",
            provoke: |scene| {
                scene.entries(&[around_api_server(scene)]);
                String::new()
            },
            mend: |scene| scene.entries(&[]),
        },
        Row {
            input: "an API server that is away for a minute",
            at: "log of the agent",
            answer: Answer::Log,
            reason: "",
            names: "watching failed",
            remedy: "will try again",
            provoke: |scene| {
                scene.cluster.api.stop().unwrap();
                let since = Instant::now();
                eventually("a minute", Duration::from_secs(120), || {
                    since.elapsed() > Duration::from_secs(60)
                })
                .unwrap();
                assert_eq!(scene.cluster.http("node2", "/readyz"), "ok\n");
                String::new()
            },
            mend: |scene| scene.cluster.api.resume().unwrap(),
        },
    ]
}

fn around_api_server(scene: &Scene) -> serde_json::Value {
    let url = scene.api().url();
    let host = url.trim_start_matches("https://").rsplit_once(':').unwrap().0;
    let address: std::net::Ipv4Addr = host.parse().unwrap();
    let [a, b, c, _] = address.octets();
    entry("around", &format!("{a}.{b}.{c}.0/24"), 28)
}
