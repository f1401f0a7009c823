//! What can be wrong with ipsec on a node, and with its kernel: told in the right place, while packets flow and none is
//! lost. The rows belong to the table of bad input.

use std::time::Duration;

use serde_json::{Value, json};
use tartan_crds::{BackendType, NetworkPool, NetworkPoolStatus, TransitionPhase, conditions::kind};
use tartan_lab::traffic::Echo;

use super::{
    beside::{KEY, KEY_FILE, WIREGUARD_KEY_FILE},
    elsewhere::{
        DAEMON_ENDED, KEY_ABSENT, KEY_OPEN, KEY_SHORT, KEYS_DIFFER, NO_MODULE, PORT_BLOCKED, PORTS_TAKEN,
        PRESHARED_KEY_CHANGED, Told,
    },
    scene::{self, Pool, Scene},
    standing::{Standing, let_flow},
    wait_for,
};

const POOL: &str = "all";
pub const NODE: &str = "node2";

#[test]
#[ignore = "needs a kernel with IPsec: machine.rs runs it in one"]
fn what_is_wrong_with_ipsec_or_the_kernel_is_told_and_what_worked_goes_on() {
    let pool = |name, nodes, backend| Pool { name, nodes, backend };
    let mut scene = Scene::start(
        &[2],
        &[
            pool(POOL, &[1, 2], BackendType::Vxlan),
            pool("encrypted", &[8], BackendType::Ipsec),
            pool("tunnelled", &[9], BackendType::Ipip),
        ],
    );
    // There is no more of these than the Node: the others must be ready to receive from them.
    scene.create_node("node8", Some("encrypted"));
    scene.create_node("node9", Some("tunnelled"));
    wait_for("both nodes to receive ipsec and ipip", || {
        for name in scene.names() {
            let receives = scene.node_network(&name).status.unwrap_or_default().receives;
            let both = [BackendType::Ipsec, BackendType::Ipip].iter().all(|kind| receives.contains(kind));
            anyhow::ensure!(both, "{name} receives {receives:?}");
        }
        Ok(())
    });
    let mut faults = vec![];

    let standing = Standing::start(&scene, &scene.names());
    scene.says(&NO_MODULE, "rmmod ipip");
    scene.says_no_more(&NO_MODULE, "insmod /modules/ipip.ko");
    scene.says(&KEY_ABSENT, &format!("rm {KEY_FILE}"));
    scene.says(&KEY_SHORT, &format!("(umask 077; echo short > {KEY_FILE})"));
    scene.says(&KEY_OPEN, &format!("echo '{KEY}' > {KEY_FILE}; chmod 644 {KEY_FILE}"));
    scene.says_no_more(&KEY_OPEN, &format!("chmod 600 {KEY_FILE}"));
    faults.extend(standing.finish().faults(Duration::ZERO));

    // Packets go as before, the pool says for whom it waits, and nothing is sealed.
    let standing = Standing::start(&scene, &scene.names());
    scene.on_node("nft 'table inet wall { chain c { type filter hook prerouting priority -350; udp dport 51820 drop; }; }'");
    scene.api.merge(&scene::backend(POOL, BackendType::Wireguard));
    scene.says(&PORT_BLOCKED, "true");
    let transition = scene.pool().transition.unwrap();
    assert_eq!(transition.phase, TransitionPhase::Finishing, "{transition:?}");
    assert_eq!(transition.waiting_for, scene.names());
    scene.on_node("nft delete table inet wall");
    scene.wait_until_all_go_by(BackendType::Wireguard);
    scene.says_no_more(&PORT_BLOCKED, "true");
    faults.extend(standing.finish().faults(Duration::ZERO));

    // Asked for, then changed; in force with the next keys.
    let standing = Standing::start(&scene, &scene.names());
    for (generation, text, key) in [
        (1, "asked for", "bm9ib2R5IG5lZWRzIHRvIGd1ZXNzIHRoaXMga2V5ISE="),
        (2, "another", "bm9ib2R5IG5lZWRzIHRvIGd1ZXNzIHRoaXMgb25lISE="),
    ] {
        for node in scene.fabric.nodes() {
            node.script(&format!("(umask 077; echo {key} > {WIREGUARD_KEY_FILE})")).unwrap();
        }
        scene.wireguard(&json!({ "presharedKey": true }));
        scene.says(&PRESHARED_KEY_CHANGED, "true");
        scene.wireguard(&json!({ "rotate": text }));
        scene.wait_until_rotated(generation, text);
        scene.says_no_more(&PRESHARED_KEY_CHANGED, "true");
        let held = scene.fabric.node(NODE).script("wg show all preshared-keys").unwrap().stdout;
        assert!(held.contains(key), "{held}");
    }
    faults.extend(standing.finish().faults(Duration::ZERO));

    scene.api.merge(&scene::backend(POOL, BackendType::Ipsec));
    scene.wait_until_all_go_by(BackendType::Ipsec);
    let standing = Standing::start(&scene, &scene.names());
    scene.kill_daemon(NODE);
    scene.says(&DAEMON_ENDED, "true");
    scene.start_daemon_again(NODE);
    scene.says_no_more(&DAEMON_ENDED, "true");
    faults.extend(standing.finish().faults(Duration::from_millis(200)));

    // What was negotiated goes on: so it is forgotten, as by a node that starts anew.
    scene.kill_daemon(NODE);
    scene.on_node("ip xfrm state flush");
    scene.start_daemon_with(NODE, &format!("another, and long enough: {KEY}"));
    scene.says(&KEYS_DIFFER, "true");
    scene.says_no_more(&KEYS_DIFFER, &format!("(umask 077; echo '{KEY}' > {KEY_FILE})"));

    scene.kill_daemon(NODE);
    scene.on_node("ip xfrm state flush");
    let ports = [500, 4500].map(|port| Echo::start(scene.fabric.node(NODE), port).unwrap());
    scene.start_daemon_again(NODE);
    scene.says(&PORTS_TAKEN, "true");
    drop(ports);
    scene.kill_daemon(NODE);
    scene.start_daemon_again(NODE);
    scene.says_no_more(&PORTS_TAKEN, "true");

    // The Secret is replaced: what stands goes on, and a node that starts anew begins by the new one.
    let standing = Standing::start(&scene, &scene.names());
    let another = format!("of another Secret, and long enough: {KEY}");
    for name in scene.names() {
        let node = scene.fabric.node(&name);
        node.script(&format!("(umask 077; echo '{another}' > {KEY_FILE})")).unwrap();
        let before = scene.credentials_loaded(&name);
        scene.notice(&name);
        wait_for(&format!("{name} to load another key"), || {
            let now = scene.credentials_loaded(&name);
            anyhow::ensure!(now > before, "{now} times");
            Ok(())
        });
    }
    faults.extend(standing.finish().faults(Duration::ZERO));
    scene.kill_daemon(NODE);
    scene.on_node("ip xfrm state flush");
    scene.start_daemon_with(NODE, &another);
    let standing = Standing::start(&scene, &scene.names());
    let_flow(Duration::from_secs(1));
    faults.extend(standing.finish().faults(Duration::ZERO));
    scene.says_no_more(&KEYS_DIFFER, "true");

    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("unfit: all told");
}

impl Scene {
    fn on_node(&self, script: &str) {
        self.fabric.node(NODE).script(script).unwrap();
    }

    /// An edit of the network's settings of it.
    fn wireguard(&self, settings: &Value) {
        self.api.merge(&json!({
            "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
            "spec": { "backends": { "wireguard": settings } },
        }));
    }

    /// How often the agent of this node gave its IKE daemon a key, as its metrics say.
    fn credentials_loaded(&self, node: &str) -> u64 {
        let ask = "busybox wget -q -O - http://127.0.0.1:9472/metrics";
        let metrics = self.fabric.node(node).script(ask).unwrap().stdout;
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("tartan_agent_steps_total") && line.contains("ike-credentials"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    fn pool(&self) -> NetworkPoolStatus {
        self.api.get::<NetworkPool>(POOL).unwrap().status.unwrap_or_default()
    }

    fn wait_until_all_go_by(&self, kind: BackendType) {
        wait_for(&format!("all pairs to go by {kind}"), || {
            let transition = self.pool().transition;
            anyhow::ensure!(transition.is_none(), "{transition:?}");
            for name in self.names() {
                let status = self.node_network(&name).status.unwrap_or_default();
                anyhow::ensure!(status.backend == Some(kind), "{name}: {status:?}");
            }
            Ok(())
        });
    }

    /// Does something to the node, of which its condition must tell.
    pub fn says(&self, row: &Told, script: &str) {
        self.do_and_be_noticed(script);
        wait_for(row.input, || {
            let (status, reason, message) = self.degraded(NODE);
            let told = [row.names, row.remedy].iter().all(|part| message.contains(part));
            anyhow::ensure!(status == "True" && told, "Degraded is {status}: {reason}: {message}");
            anyhow::ensure!(reason == row.reason, "{reason}: {message}");
            Ok(())
        });
        self.tell(row.input);
    }

    pub fn says_no_more(&self, row: &Told, script: &str) {
        self.do_and_be_noticed(script);
        wait_for(&format!("{}, mended", row.input), || {
            let (_, reason, message) = self.degraded(NODE);
            anyhow::ensure!(!message.contains(row.names), "{reason}: {message}");
            Ok(())
        });
    }

    fn do_and_be_noticed(&self, script: &str) {
        self.on_node(script);
        self.notice(NODE);
    }

    /// No one tells the agent of a file that a Secret is mounted as: it looks at it once a minute, or when something
    /// else happens.
    pub fn notice(&self, node: &str) {
        let happens = "ip link add happens type dummy; ip link del happens";
        self.fabric.node(node).script(happens).unwrap();
    }

    /// Status, reason and message of the node's condition.
    pub fn degraded(&self, node: &str) -> (String, String, String) {
        let conditions = self.node_network(node).status.unwrap_or_default().conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == kind::DEGRADED);
        found.map(|found| (found.status, found.reason, found.message)).unwrap_or_default()
    }
}
