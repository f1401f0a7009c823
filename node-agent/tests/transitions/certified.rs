//! Nodes that prove to each other by certificates who they are: one that has none yet, one whose certificate is renewed,
//! and one whose certificate nobody believes.

use std::{path::Path, time::Duration};

use serde_json::json;
use tartan_crds::BackendType::{Ipsec, Vxlan};
use tartan_lab::certificates::{Certificate, VARIABLE};

use super::{
    beside::CERTIFICATES,
    elsewhere::{AUTHORITIES_DIFFER, CERTIFICATE_ABSENT, CERTIFICATE_OF_ANOTHER},
    interrupted::POOL,
    ring::may_lose,
    scene::{self, Pool, Scene},
    sealed::assert_sealed,
    standing::{Standing, let_flow},
    unfit::NODE,
    wait_for,
};

/// By the names of their directories.
pub const ALL: [Certificate; 5] = [
    Certificate::new("node1", "node1", "one"),
    Certificate::new("node2", "node2", "one"),
    Certificate::new("node3", "node3", "one"),
    Certificate::new("renewed", NODE, "one"),
    Certificate::new("foreign", NODE, "two"),
];

#[test]
#[ignore = "needs a kernel with IPsec: machine.rs runs it in one"]
fn nodes_are_believed_by_their_certificates_and_by_them_alone() {
    let mut scene = Scene::start(&[3], &[Pool { name: POOL, nodes: &[1, 2, 3], backend: Vxlan }]);
    scene.api.merge(&json!({
        "apiVersion": "tartan.network/v1alpha1", "kind": "ClusterNetwork", "metadata": { "name": "default" },
        "spec": { "backends": { "ipsec": { "authentication": "Certificate" } } },
    }));
    for node in ["node1", "node3"] {
        scene.install(node, node);
    }
    let mut faults = vec![];

    println!("-- {NODE} has no certificate, and then one that is for another");
    let standing = Standing::start(&scene, &scene.names());
    scene.api.merge(&scene::backend(POOL, Ipsec));
    scene.says(&CERTIFICATE_ABSENT, "true");
    scene.install(NODE, "node3");
    scene.says(&CERTIFICATE_OF_ANOTHER, "true");
    let_flow(Duration::from_secs(2));
    faults.extend(scene.wire_faults(Vxlan));

    println!("-- {NODE} has its own");
    scene.install(NODE, NODE);
    scene.says_no_more(&CERTIFICATE_OF_ANOTHER, "true");
    scene.wait_until_settled(POOL, Vxlan, Ipsec);
    faults.extend(scene.wire_faults(Ipsec));
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(may_lose((Vxlan, Ipsec))));

    println!("-- that is renewed: what stands goes on, and what begins anew goes by it");
    scene.fabric.tap(scene.pods).unwrap();
    let standing = Standing::start(&scene, &scene.names());
    let before = scene.serial();
    assert_eq!(before.lines().count(), 1, "{before}");
    scene.install(NODE, "renewed");
    wait_for("the daemon to have the renewed certificate", || {
        let now = scene.serial();
        anyhow::ensure!(now.lines().count() == 1 && now != before, "{before} {now}");
        Ok(())
    });
    let_flow(Duration::from_secs(2));
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(Duration::ZERO));
    scene.begin_anew();
    scene.wait_for_answers(true);
    assert_sealed(&scene, Ipsec, "with another certificate");

    println!("-- one of another authority is believed by nobody, and the others go on");
    let others: Vec<String> = ["node1", "node3"].map(str::to_owned).into();
    let standing = Standing::start(&scene, &others);
    scene.fabric.tap(scene.pods).unwrap();
    let before = scene.serial();
    scene.install(NODE, "foreign");
    wait_for("the daemon to have the foreign certificate", || {
        let now = scene.serial();
        anyhow::ensure!(now.lines().count() == 1 && now != before, "{before} {now}");
        Ok(())
    });
    scene.begin_anew();
    scene.says(&AUTHORITIES_DIFFER, "true");
    scene.wait_for_answers(false);
    for name in scene.names() {
        let seen = scene.fabric.tapped(&name).unwrap();
        if seen.clear() > 0 {
            faults.push(format!("{name} sent in clear: {seen}"));
        }
    }
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(Duration::ZERO));

    println!("-- its own again");
    scene.install(NODE, NODE);
    // No packet is on its way that would ask for it: the agents do.
    scene.says_no_more(&AUTHORITIES_DIFFER, "true");
    wait_for("associations with both others", || {
        let all = scene.swanctl("--list-sas");
        anyhow::ensure!(all.matches("INSTALLED").count() >= 2, "{all}");
        Ok(())
    });
    scene.wait_for_answers(true);
    let standing = Standing::start(&scene, &scene.names());
    faults.extend(scene.wire_faults(Ipsec));
    let outcome = standing.finish();
    print!("{outcome}");
    faults.extend(outcome.faults(Duration::ZERO));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("certified: nothing in clear, and nobody believed but by a certificate");
}

impl Scene {
    /// As something that renews certificates does: the key is there before the certificate.
    fn install(&self, node: &str, directory: &str) {
        let all = std::env::var(VARIABLE).expect("machine.rs makes certificates");
        let place = self.fabric.node(node);
        place.script(&format!("mkdir -p {CERTIFICATES}")).unwrap();
        for (file, mode) in [("ca.crt", "444"), ("tls.key", "400"), ("tls.crt", "444")] {
            let text = std::fs::read_to_string(Path::new(&all).join(directory).join(file)).unwrap();
            place.write(&format!("{CERTIFICATES}/{file}.new"), &text).unwrap();
            let put = format!("cd {CERTIFICATES}; chmod {mode} {file}.new; mv {file}.new {file}");
            place.script(&put).unwrap();
        }
        self.notice(node);
    }

    /// Of the certificate that the daemon has for [`NODE`].
    fn serial(&self) -> String {
        let told = self.swanctl(&format!("--list-certs --type x509 --subject {NODE}"));
        told.lines()
            .filter(|line| line.contains("serial:"))
            .map(|line| format!("{}\n", line.trim()))
            .collect()
    }

    /// What swanctl tells of the daemon of [`NODE`].
    fn swanctl(&self, words: &str) -> String {
        let place = self.fabric.node(NODE);
        place.write("/run/swanctl.conf", "swanctl { load = nonce openssl pem x509 pkcs1 pkcs8 }\n").unwrap();
        let socket = "unix:///run/tartan/ipsec/charon.vici";
        let ask = format!("STRONGSWAN_CONF=/run/swanctl.conf swanctl {words} --uri {socket}");
        place.script(&ask).unwrap().stdout
    }

    /// Nothing is left of what the node had negotiated, as after a reboot.
    fn begin_anew(&mut self) {
        self.kill_daemon(NODE);
        self.fabric.node(NODE).script("ip xfrm state flush").unwrap();
        self.start_daemon_again(NODE);
        self.notice(NODE);
    }

    /// Whether pods of [`NODE`] and of the others reach each other.
    fn wait_for_answers(&self, expected: bool) {
        let what = if expected { "answers of all" } else { "no answer" };
        wait_for(what, || {
            for other in [1, 3] {
                for (from, to) in [(2, other), (other, 2)] {
                    anyhow::ensure!(self.reaches(from, to) == expected, "from node{from} to node{to}");
                }
            }
            Ok(())
        });
    }
}
