//! Rows about the programs beside the agent: the forwarder of udp, WireGuard in user space and its keys, the IKE daemon.

use tartan_lab::eventually_ok;

use super::{
    cluster::PATIENCE,
    scene::Scene,
    table::{Answer, Row},
};

const USER_WIREGUARD: &[&str] = &["env", "TARTAN_USER_WIREGUARD=auto"];
const AT: &str = "condition Degraded of the NodeNetwork";

const fn degraded() -> Answer {
    Answer::Condition("nodenetwork", "node2", "Degraded", "True")
}

fn ask(scene: &Scene, backend: &str) -> String {
    scene.ask_for(backend);
    String::new()
}

fn ask_no_more(scene: &mut Scene) {
    scene.end_programs();
    scene.ask_no_more();
}

/// An agent that is started anew has this file as its key, `$f`, in the place of one that it made itself.
fn with_key(scene: &mut Scene, make: &str) -> String {
    scene.start_program("tartan-wireguard");
    in_user_space(scene);
    let made = "ip -br link show tartan-wg0 | grep -q LOWER_UP && test -e /run/tartan/wireguard-0.key";
    eventually_ok("a key in use", PATIENCE, || scene.node2().script(made)).unwrap();
    scene.node2().script(&format!("f=/run/tartan/wireguard-0.key; rm $f; {make}")).unwrap();
    scene.restart_agent(USER_WIREGUARD);
    String::new()
}

fn in_user_space(scene: &mut Scene) -> String {
    scene.restart_agent(USER_WIREGUARD);
    ask(scene, "wireguard")
}

fn in_the_kernel_again(scene: &mut Scene) {
    ask_no_more(scene);
    scene.cluster.stop_agent("node2");
    scene.node2().script("rm -f /run/tartan/wireguard-0.key").unwrap();
    scene.cluster.start_agent("node2");
}

pub fn rows() -> Vec<Row> {
    [forwarder(), wireguard(), daemon()].into_iter().flatten().collect()
}

fn forwarder() -> Vec<Row> {
    let missing = |input, remedy, provoke| Row {
        input,
        at: AT,
        answer: degraded(),
        reason: "ForwarderNotRunning",
        names: "no process forwards the packets of tartan-udp",
        remedy,
        provoke,
        mend: |scene| ask_no_more(scene),
    };
    vec![
        missing(
            "udp is asked for, and no forwarder runs",
            "install the forwarder (forwarder.enabled of the chart)",
            |scene| ask(scene, "udp"),
        ),
        missing(
            "another program has the UDP port of the forwarder",
            "see the log of its pod on this node",
            |scene| {
                scene.take_port(8285);
                scene.start_program("tartan-forwarder");
                ask(scene, "udp")
            },
        ),
    ]
}

fn wireguard() -> Vec<Row> {
    let key = |input, names, remedy, provoke| Row {
        input,
        at: AT,
        answer: degraded(),
        reason: "BackendUnavailable",
        names,
        remedy,
        provoke,
        mend: in_the_kernel_again,
    };
    vec![
        Row {
            reason: "WireguardNotRunning",
            ..key(
                "WireGuard is to be done in user space, and no process does it",
                "no process answers for the user-space WireGuard device",
                "wireguard.userspace",
                in_user_space,
            )
        },
        key(
            "another program has the UDP port of WireGuard",
            "wireguard tartan-wg0",
            "stop that, or set another backends.wireguard.port in the ClusterNetwork",
            |scene| {
                scene.take_port(51820);
                scene.start_program("tartan-wireguard");
                in_user_space(scene)
            },
        ),
        key(
            "a WireGuard key file that others may read",
            "/run/tartan/wireguard-0.key may be read by others (mode 644)",
            "or set its mode to 600",
            |scene| with_key(scene, "head -c 32 /dev/urandom | base64 > $f; chmod 644 $f"),
        ),
        key(
            "a WireGuard key file without a key",
            "/run/tartan/wireguard-0.key holds no WireGuard private key",
            "remove it, and a new one is made",
            |scene| with_key(scene, "(umask 077; echo key > $f)"),
        ),
        key(
            "a link in the place of a WireGuard key file",
            "/run/tartan/wireguard-0.key is a link or no plain file",
            "remove it, and a new key is made",
            |scene| with_key(scene, "ln -s /etc/hostname $f"),
        ),
    ]
}

fn daemon() -> Vec<Row> {
    vec![Row {
        input: "ipsec is asked for, and no IKE daemon runs",
        at: AT,
        answer: degraded(),
        reason: "BackendUnavailable",
        names: "IKE daemon",
        remedy: "ipsec.enabled",
        provoke: |scene| ask(scene, "ipsec"),
        mend: ask_no_more,
    }]
}
