//! Rows that take what the cluster of this table has not, which other test programs provoke: a kernel with IPsec, or one
//! that a module can be taken from (`transitions`, in a virtual machine), and pods that have IPv6 (`families`). Here are
//! their words, for them and for the page.
#![allow(dead_code, reason = "the page asks for all, each scenario for its own")]

/// What is wrong with a node, as the condition Degraded of its NodeNetwork tells it.
#[derive(Debug)]
pub struct Told {
    pub input: &'static str,
    pub reason: &'static str,
    pub names: &'static str,
    pub remedy: &'static str,
}

pub const NO_MODULE: Told = Told {
    input: "a backend that the node's kernel has no module of",
    reason: "BackendUnavailable",
    names: "link tartan-ipip",
    remedy: "install its module ipip, or choose another backend",
};

pub const KEY_ABSENT: Told = Told {
    input: "the Secret of ipsec's preshared key is taken away",
    reason: "BackendUnavailable",
    names: "/presharedKey is not there",
    remedy: "make the Secret that the chart names",
};

pub const KEY_SHORT: Told = Told {
    input: "a preshared key of ipsec that could be found by trying",
    reason: "BackendUnavailable",
    names: "/presharedKey must hold a text",
    remedy: "of at least 32 characters in one line",
};

pub const KEY_OPEN: Told = Told {
    input: "a preshared key of ipsec that others may read",
    reason: "BackendUnavailable",
    names: "/presharedKey may be read by others (mode 644)",
    remedy: "give it mode 400",
};

pub const PORT_BLOCKED: Told = Told {
    input: "a firewall that blocks WireGuard, when a pool changes to it",
    reason: "WireguardUnanswered",
    names: "no WireGuard handshake with node node1",
    remedy: "let the UDP port of backends.wireguard through between the nodes",
};

pub const PRESHARED_KEY_CHANGED: Told = Told {
    input: "the preshared key of WireGuard is changed while sessions live",
    reason: "PresharedKeyChanged",
    names: "not in force yet with 1 of the peers",
    remedy: "change backends.wireguard.rotate in the ClusterNetwork",
};

pub const DAEMON_ENDED: Told = Told {
    input: "the IKE daemon dies",
    reason: "BackendUnavailable",
    names: "the IKE daemon has ended or hangs",
    remedy: "look at the logs of its container",
};

pub const KEYS_DIFFER: Told = Told {
    input: "the preshared keys of ipsec of two nodes differ",
    reason: "IkeUnanswered",
    names: "no IPsec association with node node1",
    remedy: "give both the same preshared key (Secret tartan-ipsec)",
};

pub const CERTIFICATE_ABSENT: Told = Told {
    input: "certificates are asked for where the node has none",
    reason: "BackendUnavailable",
    names: "/ca.crt is not there",
    remedy: "let the chart's ipsec.certificatesFrom name the nodes' directory of certificates",
};

pub const CERTIFICATE_OF_ANOTHER: Told = Told {
    input: "a certificate that is for another node",
    reason: "BackendUnavailable",
    names: "/tls.crt must be for this node",
    remedy: "DNS:node2 among its subject alternative names, of which it has node3",
};

pub const AUTHORITIES_DIFFER: Told = Told {
    input: "a certificate of an authority that the other nodes don't believe",
    reason: "IkeUnanswered",
    names: "no IPsec association with node",
    remedy: "certificates of one authority",
};

pub const PORTS_TAKEN: Told = Told {
    input: "another program has the UDP ports of IKE",
    reason: "IkeUnanswered",
    names: "no IPsec association with node node1",
    remedy: "let UDP ports 500 and 4500 and ESP through",
};

pub const MTU_TOO_SMALL: Told = Told {
    input: "a pod MTU that IPv6 cannot live with",
    reason: "PodMTUTooSmall",
    names: "1000 is asked for (mtu of the ClusterNetwork or the pool), but IPv6 takes 1280",
    remedy: "raise it",
};

/// With the file that provokes each.
pub const ALL: [(&str, &[&Told]); 3] = [
    ("families.rs", &[&MTU_TOO_SMALL]),
    ("transitions/unfit.rs", &IN_A_MACHINE),
    ("transitions/certified.rs", &[&CERTIFICATE_ABSENT, &CERTIFICATE_OF_ANOTHER, &AUTHORITIES_DIFFER]),
];

const IN_A_MACHINE: [&Told; 9] = [
    &NO_MODULE,
    &KEY_ABSENT,
    &KEY_SHORT,
    &KEY_OPEN,
    &PORT_BLOCKED,
    &PRESHARED_KEY_CHANGED,
    &DAEMON_ENDED,
    &KEYS_DIFFER,
    &PORTS_TAKEN,
];
