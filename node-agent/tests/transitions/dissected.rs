//! What each backend puts on the wire, as Wireshark reads it: its layers, its identifiers, and inside of it the packets
//! of pods; of ipsec with the keys that the kernel holds, of WireGuard only that it is WireGuard, since its keys are
//! the kernel's own.

use std::{collections::BTreeSet, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tartan_crds::BackendType;
use tartan_lab::{Capture, vm};

use super::scene::{PODS, PORT, Scene};

/// A machine has no dissectors, and prints what its host is to read after this word.
pub const WORD: &str = "captured: ";

/// Those that are looked at, by backend. Only small ones: they go over a machine's console.
const PACKETS: usize = 8;
const SMALL: &str = "less 300";

/// Ethernet, IPv4 and UDP without options.
const OUTSIDE_OF_UDP: usize = 14 + 20 + 8;

const FIELDS: [&str; 7] =
    ["frame.protocols", "ip.src", "ip.dst", "vxlan.vni", "wg.type", "wg.counter", "_ws.malformed"];

#[derive(Serialize, Deserialize)]
struct Captured {
    kind: BackendType,
    /// A pcap file in base64.
    packets: String,
    /// What `ip xfrm state` says before and after the packets.
    associations: String,
}

impl Scene {
    /// Takes some packets of the standing traffic from node1's cable. What is wrong with them; in a machine the host
    /// says that ([`faults_on`]).
    pub fn dissect(&self, kind: BackendType) -> Vec<String> {
        let captured = self.capture(kind);
        if vm::is_inside() {
            println!("{WORD}{}", serde_json::to_string(&captured).unwrap());
            return vec![];
        }
        captured.faults()
    }

    fn capture(&self, kind: BackendType) -> Captured {
        let which = match kind {
            BackendType::Vxlan => "udp dst port 8472",
            BackendType::Udp => "udp dst port 8285",
            BackendType::Ipip => "ip proto 4",
            BackendType::Wireguard => "udp portrange 51820-51829",
            BackendType::Ipsec => "(esp or udp port 4500)",
            _ => &format!("net {PODS}"),
        };
        let file = "/run/dissect.pcap";
        let script = format!(
            "timeout 60 tcpdump -Z root -ni eth0 -c {PACKETS} -w {file} '{which} and {SMALL}' && base64 -w 0 {file} && rm {file}"
        );
        let node = self.fabric.node("node1");
        let associations = || match kind {
            BackendType::Ipsec => node.exec(&["ip", "xfrm", "state"]).unwrap().ok().unwrap().stdout,
            _ => String::new(),
        };
        // Where both ends began, one of two associations is taken away soon after: perhaps between two packets.
        let before = associations();
        let packets = node.script(&script).unwrap().stdout;
        Captured { kind, packets: packets.trim().to_owned(), associations: before + &associations() }
    }
}

/// What is wrong with the packets that a machine printed, and of which backends they were.
pub fn faults_on(console: &str) -> (Vec<BackendType>, Vec<String>) {
    let all: Vec<Captured> = console
        .lines()
        .filter_map(|line| line.trim().split_once(WORD))
        .map(|(_, captured)| serde_json::from_str(captured).unwrap())
        .collect();
    let faults = all.iter().flat_map(Captured::faults).collect();
    (all.iter().map(|captured| captured.kind).collect(), faults)
}

impl Captured {
    fn faults(&self) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("packets");
        fs::write(&file, STANDARD.decode(&self.packets).unwrap()).unwrap();
        let mut capture = Capture::of(file).unwrap();
        // The other port is any, and may be one that a protocol has.
        let mut options = vec!["-d".to_owned(), format!("udp.port=={PORT},data")];
        match self.kind {
            BackendType::Vxlan => options.extend(["-d", "udp.port==8472,vxlan"].map(str::to_owned)),
            BackendType::Ipsec => options.extend(decryption(&self.associations)),
            // Of an IP packet that is all that a datagram holds no port tells.
            BackendType::Udp => {
                let said = capture.read(&[], &["udp.dstport", "ip.hdr_len"]).unwrap();
                assert!(said.iter().all(|packet| *packet == ["8285", "20"]), "{said:?}");
                capture = capture.inside(OUTSIDE_OF_UDP, &place.path().join("inside")).unwrap();
            }
            _ => {}
        }
        let packets = capture.read(&options, &FIELDS).unwrap();
        println!(
            "{}, as it was read: {}",
            self.kind,
            packets.first().map(|one| one.join(" ")).unwrap_or_default()
        );
        let mut faults: Vec<String> = packets
            .iter()
            .filter(|packet| !self.is_right(packet))
            .map(|packet| format!("{} is no packet of {}", packet.join(" "), self.kind))
            .collect();
        if packets.len() != PACKETS {
            faults.push(format!("{} packets of {} were read", packets.len(), self.kind));
        }
        faults
    }

    fn is_right(&self, packet: &[String]) -> bool {
        let [layers, from, to, vni, kind, counter, malformed] = packet else { return false };
        // The innermost, which is the pods' packet where it can be read.
        let is_pods = |addresses: &str| addresses.rsplit(',').next().is_some_and(is_of_pods);
        let holds = |prefixes: &[&str]| {
            let rest = prefixes.iter().find_map(|prefix| layers.strip_prefix(prefix));
            rest.is_some_and(|rest| rest.starts_with("udp") || rest.starts_with("tcp"))
        };
        let inside = |prefixes: &[&str]| holds(prefixes) && is_pods(from) && is_pods(to);
        let right = match self.kind {
            BackendType::Vxlan => inside(&["eth:ethertype:ip:udp:vxlan:eth:ethertype:ip:"]) && vni == "1",
            BackendType::Ipip => inside(&["eth:ethertype:ip:ip:"]),
            BackendType::Udp => inside(&["raw:ip:"]),
            // Handshakes have types 1 to 3; what carries packets has a counter, and nothing in it is read.
            BackendType::Wireguard => {
                layers == "eth:ethertype:ip:udp:wg" && (kind != "4" || counter.parse::<u64>().is_ok())
            }
            BackendType::Ipsec => {
                inside(&["eth:ethertype:ip:esp:ip:", "eth:ethertype:ip:udp:udpencap:esp:ip:"])
            }
            // What comes for a NodePort has the node's own address by then.
            _ => holds(&["eth:ethertype:ip:"]) && (is_pods(from) || is_pods(to)),
        };
        right && malformed.is_empty()
    }
}

fn is_of_pods(address: &str) -> bool {
    let pods: tartan_crds::Cidr = PODS.parse().unwrap();
    address.parse().is_ok_and(|address| pods.contains(address))
}

/// tshark's options for what `ip xfrm state` says: `src A dst B`, `proto esp spi 0xN …`, `aead rfc4106(gcm(aes)) 0xKEY BITS`.
fn decryption(associations: &str) -> Vec<String> {
    let mut options = vec!["-o".to_owned(), "esp.enable_encryption_decode:TRUE".to_owned()];
    let mut known = BTreeSet::new();
    let (mut ends, mut spi) = (None, None);
    for line in associations.lines() {
        match *line.split_whitespace().collect::<Vec<_>>() {
            ["src", from, "dst", to, ..] => ends = Some((from, to)),
            ["proto", "esp", "spi", number, ..] => spi = Some(number),
            ["aead", "rfc4106(gcm(aes))", key, "128"] => {
                let ((from, to), spi) = (ends.unwrap(), spi.unwrap());
                if known.insert((to, spi)) {
                    options.push("-o".to_owned());
                    options.push(format!(
                        r#"uat:esp_sa:"IPv4","{from}","{to}","{spi}","AES-GCM with 16 octet ICV [RFC4106]","{key}","NULL","""#
                    ));
                }
            }
            _ => {}
        }
    }
    options
}
