//! What a router says to the sender of a packet that it can't pass on (RFC 792, RFC 1191, RFC 1812). No IO but for
//! the clock of the limit.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use crate::packet::{self, Header, ICMP, IP_HEADER};

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// No peer has the address.
    NetUnreachable,
    TimeExceeded,
    /// It would not fit, and may not be cut: this is what fits.
    TooBig {
        mtu: u16,
    },
}

/// The longest that we say: RFC 1812 section 4.3.2.3.
pub const LONGEST: usize = 576;
const ICMP_HEADER: usize = 8;

/// Writes the complaint about `packet` from `source` into `to` and returns its length. `None` where none may be
/// made: of an error message, a fragment that isn't the first, or to something that is no single host.
pub fn complain(
    complaint: Complaint,
    packet: &[u8],
    ip: &Header,
    source: Ipv4Addr,
    to: &mut [u8; LONGEST],
) -> Option<usize> {
    let sender = ip.source;
    let unsuitable =
        sender.is_unspecified() || sender.is_multicast() || sender.is_broadcast() || sender.is_loopback();
    let later_fragment = packet::read16(packet, 6) & 0x1fff != 0;
    if unsuitable || ip.destination.is_multicast() || later_fragment || is_error(packet, ip) {
        return None;
    }
    let quoted = packet.get(..ip.total.min(LONGEST - IP_HEADER - ICMP_HEADER))?;
    let total = IP_HEADER + ICMP_HEADER + quoted.len();
    let message = to.get_mut(..total)?;
    let (kind, code, mtu) = match complaint {
        Complaint::NetUnreachable => (3, 0, 0),
        Complaint::TooBig { mtu } => (3, 4, mtu),
        Complaint::TimeExceeded => (11, 0, 0),
    };
    let [a, b, c, d] = source.octets();
    let [e, f, g, h] = sender.octets();
    // Precedence 6, as RFC 1812 section 4.3.2.5 asks of routers.
    let fixed =
        [0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0, a, b, c, d, e, f, g, h, kind, code, 0, 0, 0, 0, 0, 0];
    message.get_mut(..fixed.len())?.copy_from_slice(&fixed);
    message.get_mut(fixed.len()..)?.copy_from_slice(quoted);
    packet::set_length_and_id(message, IP_HEADER, total, 0);
    let icmp = message.get_mut(IP_HEADER..)?;
    packet::write16(icmp, 6, mtu);
    let sum = !packet::fold(packet::sum(icmp));
    packet::write16(icmp, 2, sum);
    Some(total)
}

/// Errors: destination unreachable, source quench, redirect, time exceeded, parameter problem.
fn is_error(packet: &[u8], ip: &Header) -> bool {
    ip.protocol == ICMP && packet.get(ip.length).is_none_or(|kind| [3, 4, 5, 11, 12].contains(kind))
}

/// So many at once, and so many a second.
const BURST: u32 = 50;
const EACH: Duration = Duration::from_millis(10);

/// Holds back complaints: one who sends nonsense shall not make us busy.
#[derive(Debug)]
pub struct Limit {
    left: u32,
    since: Instant,
}

impl Limit {
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    pub fn allows(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_nanos() / EACH.as_nanos();
        if earned > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)));
            self.since = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_packet() -> [u8; 40] {
        let mut packet = [7; 40];
        packet[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 1, 0, 0, 1, packet::UDP, 0, 0]);
        packet[12..20].copy_from_slice(&[10, 1, 0, 2, 10, 2, 0, 2]);
        packet
    }

    #[test]
    fn a_complaint_quotes_the_packet_to_its_sender() {
        let packet = udp_packet();
        let (ip, mut to) = (packet::header(&packet).unwrap(), [0; LONGEST]);
        let source = Ipv4Addr::new(10, 1, 0, 0);
        for (complaint, expected) in [
            (Complaint::NetUnreachable, [3, 0, 0, 0]),
            (Complaint::TimeExceeded, [11, 0, 0, 0]),
            (Complaint::TooBig { mtu: 0x0502 }, [3, 4, 5, 2]),
        ] {
            let length = complain(complaint, &packet, &ip, source, &mut to).unwrap();
            let answer = packet::header(&to[..length]).unwrap();
            assert_eq!((answer.source, answer.destination, answer.total), (source, ip.source, 68));
            assert_eq!([to[20], to[21], to[26], to[27]], expected);
            assert_eq!(to[28..68], packet);
            assert_eq!(packet::fold(packet::sum(&to[..20])), 0xffff);
            assert_eq!(packet::fold(packet::sum(&to[20..length])), 0xffff);
        }
    }

    #[test]
    fn nobody_complains_about_complaints_fragments_and_groups() {
        let complains = |change: fn(&mut [u8; 40])| {
            let mut packet = udp_packet();
            change(&mut packet);
            let ip = packet::header(&packet).unwrap();
            complain(Complaint::NetUnreachable, &packet, &ip, Ipv4Addr::LOCALHOST, &mut [0; LONGEST])
                .is_some()
        };
        assert!(complains(|_| {}));
        assert!(complains(|packet| (packet[9], packet[20]) = (ICMP, 8)), "an echo request is no error");
        assert!(!complains(|packet| (packet[9], packet[20]) = (ICMP, 11)));
        assert!(!complains(|packet| packet[7] = 1));
        assert!(!complains(|packet| packet[16] = 224));
        assert!(!complains(|packet| packet[12..16].fill(0)));
    }

    #[test]
    fn complaints_are_held_back_and_come_again() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let allowed = (0..100).filter(|_| limit.allows(start)).count();
        assert_eq!(allowed, 50);
        assert!(limit.allows(start + EACH));
        assert!(!limit.allows(start + EACH));
    }
}
