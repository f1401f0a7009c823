//! The processes beside each agent, as the chart starts them: the forwarder of the udp backend, and, where the kernel
//! has ESP, strongSwan's daemon.

use std::process::Command;

use tartan_crds::BackendType;
use tartan_lab::{Process, program, vm};

use super::{
    scene::{Scene, kernel_has, lab_program},
    wait_for,
};

const DAEMON: &str = "charon-systemd";
const CONFIGURATION: &str = include_str!("../../../charts/tartan/files/strongswan.conf");
/// Where the chart mounts the Secret is no directory of the node's own.
pub const KEY_FILE: &str = "/run/secrets/presharedKey";
pub const WIREGUARD_KEY_FILE: &str = "/run/secrets/wireguard";
pub const KEY: &str = "a key that is long enough for this test, and the same on all nodes";

impl Scene {
    /// It dies, and another takes its place.
    pub fn replace_forwarder(&mut self, node: &str) {
        let mut beside = self.beside.remove(node).unwrap();
        beside.remove(0).kill().unwrap();
        beside.insert(0, self.start_forwarder(node));
        self.beside.insert(node.to_owned(), beside);
    }

    fn start_forwarder(&mut self, node: &str) -> Process {
        let forwarder = lab_program("tartan-forwarder", || program("tartan-forwarder").unwrap());
        let command = self.fabric.node(node).command(&forwarder);
        self.start_on(node, "forwarder", &command)
    }

    /// Those that this kernel has a use for, the forwarder first.
    pub fn start_beside(&mut self, node: &str, daemon: bool) -> Vec<Process> {
        let mut started = vec![];
        if kernel_has(BackendType::Udp) {
            started.push(self.start_forwarder(node));
        }
        if daemon && has_daemon() {
            started.push(self.start_daemon(node, KEY));
        }
        started
    }

    pub fn kill_daemon(&mut self, node: &str) {
        self.beside.get_mut(node).unwrap().remove(1).kill().unwrap();
    }

    pub fn start_daemon_again(&mut self, node: &str) {
        self.start_daemon_with(node, KEY);
    }

    pub fn start_daemon_with(&mut self, node: &str, key: &str) {
        let daemon = self.start_daemon(node, key);
        self.beside.get_mut(node).unwrap().push(daemon);
    }

    fn start_daemon(&mut self, node: &str, key: &str) -> Process {
        let place = self.fabric.node(node);
        place.write("/run/tartan/ipsec/strongswan.conf", CONFIGURATION).unwrap();
        place.write(KEY_FILE, key).unwrap();
        place.script(&format!("chmod 600 {KEY_FILE}")).unwrap();
        // With the rights that the chart gives its container.
        let mut command: Command = place.command("setpriv");
        command.args(["--bounding-set=-all,+net_admin,+net_bind_service", "--no-new-privs", DAEMON]);
        command.env("STRONGSWAN_CONF", "/run/tartan/ipsec/strongswan.conf");
        let daemon = self.start_on(node, "charon", &command);
        wait_for(&format!("the IKE daemon of {node}"), || {
            self.fabric.node(node).exec(&["test", "-S", "/run/tartan/ipsec/charon.vici"])?.ok()
        });
        daemon
    }
}

/// In the virtual machine nothing is missing; on a host it is no one's to install.
pub fn has_daemon() -> bool {
    vm::is_inside() || std::path::Path::new("/usr/sbin").join(DAEMON).exists()
}
