//! The processes beside each agent, as the chart starts them: the forwarder of the udp backend, where the kernel has ESP
//! strongSwan's daemon, and where it has no WireGuard a process that does it.

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
pub const CERTIFICATES: &str = "/run/secrets/ipsec";
pub const WIREGUARD_KEY_FILE: &str = "/run/secrets/wireguard";
pub const KEY: &str = "a key that is long enough for this test, and the same on all nodes";

#[derive(Default)]
pub struct Beside {
    forwarder: Option<Process>,
    wireguard: Option<Process>,
    daemon: Option<Process>,
}

impl Scene {
    /// Those that this kernel has a use for.
    pub fn start_beside(&mut self, node: &str, daemon: bool) -> Beside {
        Beside {
            forwarder: nodes_have(BackendType::Udp).then(|| self.start_program(node, "tartan-forwarder")),
            wireguard: wireguard_is_a_process().then(|| self.start_program(node, "tartan-wireguard")),
            daemon: (daemon && has_daemon()).then(|| self.start_daemon(node, KEY)),
        }
    }

    fn start_program(&mut self, node: &str, name: &str) -> Process {
        let path = lab_program(name, || program(name).unwrap());
        let command = self.fabric.node(node).command(&path);
        self.start_on(node, name, &command)
    }

    /// It dies, and another takes its place.
    pub fn replace_forwarder(&mut self, node: &str) {
        self.of(node).forwarder.take().unwrap().kill().unwrap();
        let next = self.start_program(node, "tartan-forwarder");
        self.of(node).forwarder = Some(next);
    }

    /// The same of the process that does WireGuard.
    pub fn replace_wireguard(&mut self, node: &str) {
        self.of(node).wireguard.take().unwrap().kill().unwrap();
        let next = self.start_program(node, "tartan-wireguard");
        self.of(node).wireguard = Some(next);
    }

    pub fn kill_daemon(&mut self, node: &str) {
        self.of(node).daemon.take().unwrap().kill().unwrap();
    }

    pub fn start_daemon_again(&mut self, node: &str) {
        self.start_daemon_with(node, KEY);
    }

    pub fn start_daemon_with(&mut self, node: &str, key: &str) {
        let daemon = self.start_daemon(node, key);
        self.of(node).daemon = Some(daemon);
    }

    fn of(&mut self, node: &str) -> &mut Beside {
        self.beside.get_mut(node).unwrap()
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

/// Whether nodes here do WireGuard, but not in the kernel.
pub fn wireguard_is_a_process() -> bool {
    !vm::is_inside() && !kernel_has(BackendType::Wireguard)
}

/// Whether nodes here can send by it.
pub fn nodes_have(kind: BackendType) -> bool {
    kernel_has(kind) || (kind == BackendType::Wireguard && wireguard_is_a_process())
}

/// In the virtual machine nothing is missing; on a host it is no one's to install.
pub fn has_daemon() -> bool {
    vm::is_inside() || std::path::Path::new("/usr/sbin").join(DAEMON).exists()
}
