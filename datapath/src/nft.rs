//! The text of our nft table. Pure: golden tests hold it, the kernel edge loads it.
//!
//! | chain | hook | does |
//! | --- | --- | --- |
//! | `forward`, `output` | filter; before destinations are translated | jump to `guard` |
//! | `packed` | – | drop tunnel packets that pods make: they would reach peers as if this node had sent them |
//! | `guard` | – | reject strays: packets to the pod network that would leave it |
//! | `leaving` | postrouting | jump to `translated` with what was translated |
//! | `translated` | – | as `guard`, but drop, since nothing can be rejected there |
//! | `unpacked` | prerouting, raw | drop what comes out of an ipip tunnel and is not for our pods, wherever it came from |
//! | `received` | input | drop what comes for our tunnels from an address that is no peer's, or in clear from a sealed one |
//! | `sealed` | prerouting, raw | drop what comes in clear from the pods of a sealed peer ([`sealed`]) |
//! | `base` | postrouting, srcnat − 10 | what kube-proxy marked for masquerade and goes to a peer gets the base address |
//! | `outside` | postrouting, srcnat | pod addresses of this node towards the outside |
//!
//! Sets are declared without elements; these come apart, so that a change of peers leaves rules and
//! counters as they are.

mod sealed;

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{
    mark,
    model::{Backend, Intent, NftTable},
};

/// Bit that kube-proxy sets on packets to be masqueraded (`masqueradeBit: 14`, its default).
const KUBE_MASQUERADE_MARK: &str = "0x4000";

/// The table for `intent`; `direct` are the subnets that plain routes lead to, `sealed` those of sealed peers.
pub fn table(intent: &Intent, direct: &[IpNetwork], sealed: &[IpNetwork]) -> NftTable {
    let mut text = String::new();
    let mut elements = BTreeMap::new();
    let families: Vec<Words> = [V4, V6]
        .into_iter()
        .filter(|words| intent.local.subnets.iter().any(|subnet| words.has(&subnet.prefix)))
        .collect();
    let local: Vec<IpNetwork> = intent.local.subnets.iter().map(|subnet| subnet.prefix).collect();
    let protected: Vec<IpNetwork> =
        intent.protected.iter().map(|protected| IpNetwork::from(protected.address)).collect();
    let peers: Vec<IpNetwork> = sources(intent).map(IpNetwork::from).collect();
    let none = vec![];
    let except = intent.masquerade.as_ref().map_or(&none, |masquerade| &masquerade.except);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "table inet {} {{", mark::NFT_TABLE);
    for counter in
        ["stray", "masqueraded", "foreign_vxlan", "foreign_ipip", "foreign_udp", "pod_tunnel", "sealed_clear"]
    {
        let _ = writeln!(text, "  counter {counter} {{\n  }}");
    }
    // Nodes may have addresses of a family that pods don't have.
    for words in [V4, V6] {
        let name = format!("peers{}", words.digit);
        let _ = writeln!(text, "  set {name} {{\n    type {};\n  }}", words.set_type);
        elements.insert(name, words.members(&peers));
    }
    for words in &families {
        let sets: [(&str, &[IpNetwork]); 5] = [
            ("entries", &intent.entries),
            ("local", &local),
            ("direct", direct),
            ("protected", &protected),
            ("except", except),
        ];
        for (name, members) in sets {
            let name = format!("{name}{}", words.digit);
            let _ =
                writeln!(text, "  set {name} {{\n    type {};\n    flags interval;\n  }}", words.set_type);
            elements.insert(name, words.members(members));
        }
    }
    sealed::declare_sets(intent, &families, sealed, (&mut text, &mut elements));
    text.push_str(
        "  chain forward {\n    type filter hook forward priority filter; policy accept;\n    iifname \"tartan0\" jump packed\n    jump guard\n  }\n\
         \x20 chain output {\n    type filter hook output priority -110; policy accept;\n    jump guard\n  }\n",
    );
    add_packed(intent, &families, &mut text);
    text.push_str("  chain guard {\n");
    add_guard(intent, &families, |words| format!("reject with {}", words.reject), &mut text);
    // In `output` a packet whose destination is translated keeps the device of before (`state->out`), so a node's
    // packet to a Service would be judged by the default route's. (What IPsec wraps passes `postrouting` once more, by
    // the uplink's device, but has no connection then.)
    text.push_str(
        "  }\n  chain leaving {\n    type filter hook postrouting priority filter; policy accept;\n    ct status dnat jump translated\n  }\n  chain translated {\n",
    );
    add_guard(intent, &families, |_| "drop".to_owned(), &mut text);
    text.push_str("  }\n");
    add_received(intent, &mut text);
    sealed::add_chain(intent, &families, &mut text);
    text.push_str("  chain base {\n    type nat hook postrouting priority srcnat - 10; policy accept;\n");
    for words in &families {
        let Some(base) = base_address(intent, words) else { continue };
        let Words { ip, digit, .. } = words;
        let marked = format!("meta mark & {KUBE_MASQUERADE_MARK} == {KUBE_MASQUERADE_MARK}");
        // The mark has had its effect. The tunnel's own packet would inherit it, be masqueraded by kube-proxy and
        // arrive with a wrong checksum: the first packet of each connection was lost, and sent again a second later.
        let snat = format!("meta mark set meta mark ^ {KUBE_MASQUERADE_MARK} snat {ip} to {base}");
        let _ = writeln!(
            text,
            "    {marked} oifname {{ {} }} {ip} daddr @entries{digit} {snat}\n    \
             {marked} {ip} daddr @direct{digit} {snat}",
            tunnels()
        );
    }
    text.push_str("  }\n  chain outside {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    if let Some(masquerade) = &intent.masquerade {
        let random = if masquerade.fully_random { " fully-random" } else { "" };
        for Words { ip, digit, multicast, v4, .. } in &families {
            if !(if *v4 { masquerade.v4 } else { masquerade.v6 }) {
                continue;
            }
            let _ = writeln!(
                text,
                "    {ip} saddr @local{digit} {ip} daddr != @entries{digit} {ip} daddr != @except{digit} \
                 {ip} daddr != {multicast} counter name \"masqueraded\" masquerade{random}"
            );
        }
    }
    text.push_str("  }\n}\n");
    NftTable { declaration: text, elements }
}

/// What must not leave by the device that it would leave by; `verdict` says what becomes of it.
fn add_guard(intent: &Intent, families: &[Words], verdict: impl Fn(&Words) -> String, text: &mut String) {
    sealed::add_guard(intent, families, &verdict, text);
    let _ = writeln!(text, "    oifname {{ \"lo\", \"{}\", {} }} return", mark::BRIDGE, tunnels());
    for words in families {
        let (Words { ip, digit, .. }, verdict) = (words, verdict(words));
        let _ = writeln!(
            text,
            "    {ip} daddr @entries{digit} {ip} daddr != @local{digit} {ip} daddr != @direct{digit} \
             {ip} daddr != @protected{digit} counter name \"stray\" {verdict}"
        );
    }
}

/// Masquerading gives a pod's packet to a node the address of this node, which peers believe, whichever of their addresses
/// it is for. Only what they would take for a tunnel's is dropped: with our VNI, or by a backend that is in use. Between
/// pods, which nobody masquerades, such packets are their own business.
fn add_packed(intent: &Intent, families: &[Words], text: &mut String) {
    let peers = || intent.peers.iter().map(|peer| &peer.side).chain([&intent.local.side]);
    let in_use = |backend: Backend| peers().any(|side| side.accepts.contains(&backend));
    text.push_str("  chain packed {\n");
    let drop = "counter name \"pod_tunnel\" drop";
    for Words { ip, digit, v4, .. } in families {
        let (port, vni) = (intent.vxlan.port, intent.vxlan.vni);
        let _ = writeln!(text, "    {ip} daddr != @entries{digit} udp dport {port} @th,96,24 {vni} {drop}");
        if *v4 && in_use(Backend::Udp) {
            let _ = writeln!(text, "    ip daddr != @entries4 udp dport {} {drop}", intent.udp.port);
        }
        if *v4 && in_use(Backend::Ipip) {
            let _ = writeln!(text, "    ip daddr != @entries4 ip protocol 4 {drop}");
        }
    }
    text.push_str("  }\n");
}

/// IP in IP is protocol 4 (RFC 2003 section 3.1); names of protocols take a file that images lack.
///
/// Neither protocol authenticates: who may send into a tunnel is told by the addresses that nodes publish. Tunnels
/// of other programs are none of our business, so only packets that would reach ours are judged.
fn add_received(intent: &Intent, text: &mut String) {
    let receives = |backend: Backend| intent.local.side.accepts.contains(&backend);
    text.push_str("  chain received {\n    type filter hook input priority filter; policy accept;\n");
    if receives(Backend::Vxlan) {
        // The VNI is in the second word after the UDP header (RFC 7348 section 5).
        let ours = format!("udp dport {} @th,96,24 {}", intent.vxlan.port, intent.vxlan.vni);
        for Words { ip, digit, .. } in [V4, V6] {
            let _ =
                writeln!(text, "    {ip} saddr != @peers{digit} {ours} counter name \"foreign_vxlan\" drop");
        }
        sealed::add_received(intent, &ours, &[V4, V6], text);
    }
    if receives(Backend::Udp) {
        // The forwarder asks the same; here it costs a stranger's flood no system call.
        let local = intent.local.uplink.addresses.iter().map(IpNetwork::ip).find(IpAddr::is_ipv4);
        if let Some(local) = local {
            let ours = format!("ip daddr {local} udp dport {}", intent.udp.port);
            let _ = writeln!(text, "    ip saddr != @peers4 {ours} counter name \"foreign_udp\" drop");
            sealed::add_received(intent, &ours, &[V4], text);
        }
    }
    if receives(Backend::Ipip) {
        for subnet in &intent.local.subnets {
            let IpNetwork::V4(subnet) = subnet.prefix else { continue };
            // The inner destination: 16 bytes into the header that follows the outer one.
            let (mask, network) = (u32::from(subnet.mask()), u32::from(subnet.network()));
            let ours = format!("ip protocol 4 @th,128,32 & {mask:#x} == {network:#x}");
            let _ = writeln!(text, "    ip saddr != @peers4 {ours} counter name \"foreign_ipip\" drop");
            sealed::add_received(intent, &ours, &[V4], text);
        }
    }
    text.push_str("  }\n");
    // Any other packet would be unpacked all the same, by the device that takes what no other tunnel does, and could be
    // for a Service, or for this node. Where it came from can't be seen any more.
    if receives(Backend::Ipip) && intent.local.subnets.iter().any(|subnet| subnet.prefix.is_ipv4()) {
        let _ = writeln!(
            text,
            "  chain unpacked {{\n    type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{}\" ip daddr != @local4 counter name \"foreign_ipip\" drop\n  }}",
            mark::IPIP
        );
    }
}

/// Where peers' tunnel packets come from.
fn sources(intent: &Intent) -> impl Iterator<Item = IpAddr> {
    intent.peers.iter().flat_map(|peer| peer.side.public_ips.iter().chain(&peer.side.tunnel_sources)).copied()
}

/// Our tunnel devices in nft's form.
fn tunnels() -> String {
    mark::TUNNELS.map(|name| format!("\"{name}\"")).join(", ")
}

fn base_address(intent: &Intent, words: &Words) -> Option<IpAddr> {
    let primary = intent.local.subnets.iter().find(|subnet| subnet.primary && words.has(&subnet.prefix))?;
    Some(crate::desired::host::base(primary.prefix))
}

/// How nft writes a family.
struct Words {
    v4: bool,
    ip: &'static str,
    digit: char,
    set_type: &'static str,
    multicast: &'static str,
    reject: &'static str,
}

const V4: Words = Words {
    v4: true,
    ip: "ip",
    digit: '4',
    set_type: "ipv4_addr",
    multicast: "224.0.0.0/4",
    reject: "icmp type net-unreachable",
};

const V6: Words = Words {
    v4: false,
    ip: "ip6",
    digit: '6',
    set_type: "ipv6_addr",
    multicast: "ff00::/8",
    reject: "icmpv6 type no-route",
};

impl Words {
    fn has(&self, prefix: &IpNetwork) -> bool {
        prefix.is_ipv4() == self.v4
    }

    /// Members of the family in nft's form: a host prefix is written as an address. A prefix inside of
    /// another is left out, since an interval set refuses overlaps.
    fn members(&self, prefixes: &[IpNetwork]) -> Vec<String> {
        let mut sorted: Vec<IpNetwork> = prefixes.iter().filter(|prefix| self.has(prefix)).copied().collect();
        sorted.sort();
        let mut covered_by: Option<IpNetwork> = None;
        sorted.retain(|prefix| {
            let keep = !covered_by.is_some_and(|outer| outer.contains(prefix.network()));
            if keep {
                covered_by = Some(*prefix);
            }
            keep
        });
        let mut members: Vec<String> = sorted
            .iter()
            .map(|prefix| {
                let host = prefix.prefix() == if self.v4 { 32 } else { 128 };
                if host {
                    prefix.ip().to_string()
                } else {
                    format!("{}/{}", prefix.network(), prefix.prefix())
                }
            })
            .collect();
        members.sort();
        members
    }
}
